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
    height = max(5.0, 2.0 + 0.19 * len(mixers))
    figure = Figure(figsize=(15, height), dpi=130)
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.055, right=0.86, wspace=0.5, top=1 - 0.75 / height, bottom=1.05 / height)
    for axes, what, unit in zip(panels, ("time", "memory"), ("s, forward + backward", "MB at the peak")):
        curves = {}
        for mixer in mixers:
            points = sorted((r["tokens"], _value(r, what)) for r in records if r["mixer"] == mixer and _value(r, what))
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


def _value(record: Mapping[str, Any], what: str) -> float | None:
    if what == "time":
        return record["time"]["median"] if record.get("time") else None
    return record["memory"] / 2**20 if record.get("memory") else None


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
    figure = axes.get_figure()
    assert figure is not None
    points = axes.get_position().height * figure.get_size_inches()[1] * 72
    heights = {
        mixer: axes.transAxes.inverted().transform(axes.transData.transform(end))[1] for mixer, end in ends.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    places = _apart([heights[mixer] for mixer in order], 1.25 * LABEL_POINTS / points)
    for mixer, place in zip(order, places):
        colour = styles[mixer]["color"]
        axes.annotate(
            mixer,
            xy=ends[mixer],
            xytext=(1.05, place),
            textcoords="axes fraction",
            color=colour,
            fontsize=LABEL_POINTS,
            fontweight="bold" if mixer == BASE else "normal",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places at least `gap` from one another, as near as possible to the ascending ones that are wanted.

    Neighbours that touch form a block, which lies where its members are on average nearest to what they want.
    """
    blocks: list[list[float]] = []  # sum of (wanted - offset inside the block), members
    for place in wanted:
        blocks.append([place, 1])
        while len(blocks) > 1 and blocks[-1][0] / blocks[-1][1] < blocks[-2][0] / blocks[-2][1] + gap * blocks[-2][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total - members * gap * blocks[-1][1]
            blocks[-1][1] += members
    return [total / members + gap * i for total, members in blocks for i in range(int(members))]
