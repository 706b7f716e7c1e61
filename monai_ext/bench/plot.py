"""Curves of time and memory against the number of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from monai_ext.bench.report import BASE, size

# colour-blind safe (Okabe and Ito); softmax is black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
LABEL_POINTS = 8
DPI = 130


def draw(records: Iterable[Mapping[str, Any]], families: Sequence[str], title: str, path: Path) -> Path:
    """Two panels, time and memory, log-log: a line for every mixer, its name beside it, its family in its colour.

    Args:
        records: of one number of dimensions and one allocator.
        families: in the order of the colours.
        title: of the figure.
        path: of the PNG.
    """
    records = list(records)
    mixers = list(dict.fromkeys(record["mixer"] for record in records))
    styles = _styles(records, families)
    height = max(5.0, 2.2 + 0.24 * len(mixers))
    figure = Figure(figsize=(15, height), dpi=DPI)
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.055, right=0.86, wspace=0.5, top=1 - 0.75 / height, bottom=1.05 / height)
    for axes, what, unit in zip(panels, ("time", "memory"), ("s, forward + backward", "MiB at the peak")):
        curves = {}
        for mixer in mixers:
            points = sorted(point for r in records if r["mixer"] == mixer for point in _point(r, what))
            if points:
                curves[mixer] = points
                axes.plot(*zip(*points), zorder=3 if mixer == BASE else 2, **styles[mixer])
        _axes(axes, sorted({record["tokens"] for record in records}), f"{what} ({unit})")
        _label(axes, {mixer: points[-1] for mixer, points in curves.items()}, styles)
    present = {record["family"] for record in records if record["mixer"] != BASE}
    lines = [Line2D([], [], color="black", linewidth=2.2, label="fused softmax attention")]
    lines += [Line2D([], [], color=_colour(f, families), linewidth=2, label=f) for f in families if f in present]
    figure.legend(handles=lines, loc="lower center", ncols=len(lines), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    return path


def _point(record: Mapping[str, Any], what: str) -> list[tuple[float, float]]:
    """The record's point on the curve, if it has one."""
    value = (record.get("time") or {}).get("median") if what == "time" else (record.get("memory") or 0) / 2**20
    return [(record["tokens"], value)] if value else []


def _colour(family: str, families: Sequence[str]) -> str:
    return COLOURS[families.index(family) % len(COLOURS)]


def _styles(records: Sequence[Mapping[str, Any]], families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour for each family; inside it no two mixers have the same marker and line."""
    styles: dict[str, dict[str, Any]] = {}
    members: dict[str, int] = {}
    for record in records:
        mixer, family = record["mixer"], record["family"]
        if mixer == BASE:
            styles[mixer] = {"color": "black", "linewidth": 2.4, "marker": "o", "markersize": 5}
        elif mixer not in styles:
            number = members[family] = members.get(family, -1) + 1
            styles[mixer] = {
                "color": _colour(family, families),
                "linewidth": 1.2,
                "linestyle": LINES[number % len(LINES)],
                "marker": MARKERS[number % len(MARKERS)],
                "markersize": 4,
            }
    return styles


def _axes(axes: Axes, tokens: Sequence[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(tokens[0] / 1.15, tokens[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(tokens))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([size(number) for number in tokens])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("tokens")
    axes.set_title(title, fontsize=10)


def _label(axes: Axes, ends: Mapping[str, tuple[float, float]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Names to the right of the panel, each as near to its line's end as the others allow."""
    line = 1.25 * LABEL_POINTS * DPI / 72 / axes.bbox.height
    heights = {
        mixer: axes.transAxes.inverted().transform(axes.transData.transform(end))[1] for mixer, end in ends.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    for mixer, place in zip(order, _apart([heights[mixer] for mixer in order], line)):
        style = styles[mixer]
        weight = "bold" if mixer == BASE else "normal"
        shared = {"transform": axes.transAxes, "clip_on": False}
        axes.text(
            1.085, place, mixer, fontsize=LABEL_POINTS, weight=weight, color=style["color"], va="center", **shared
        )
        # from the line's end to a piece of the line in front of its name
        start = axes.transAxes.inverted().transform(axes.transData.transform(ends[mixer]))
        leader = {"color": style["color"], "linewidth": 0.5, "alpha": 0.6}
        axes.plot([start[0], 1.03], [start[1], place], **leader, **shared)
        axes.plot([1.03, 1.05, 1.07], [place] * 3, **{**style, "markevery": [1]}, **shared)


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places from 0 to 1, at least `gap` from one another and near to the ascending ones that are wanted.

    Neighbours that touch form a block, which lies where its members are on average nearest to what they want.
    """
    blocks: list[list[float]] = []  # sum of (wanted - offset inside the block), members
    for place in wanted:
        blocks.append([place, 1])
        while len(blocks) > 1 and blocks[-1][0] / blocks[-1][1] < blocks[-2][0] / blocks[-2][1] + gap * blocks[-2][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total - members * gap * blocks[-1][1]
            blocks[-1][1] += members
    places = [total / members + gap * i for total, members in blocks for i in range(int(members))]
    last = len(places) - 1
    places = [min(place, 1 - gap * (last - i)) for i, place in enumerate(places)]
    return [max(place, gap * i) for i, place in enumerate(places)]
