"""Curves of time and memory against the number of tokens, and bars of the ratios of networks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from monai_ext.bench.report import BASE, mebibytes, number, seconds, size

# colour-blind safe (Okabe and Ito); softmax is black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
LABEL_POINTS = 8
TICK_POINTS = 10
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
        log_axes(axes, sorted({record["tokens"] for record in records}), f"{what} ({unit})")
        label_ends(axes, {mixer: points[-1] for mixer, points in curves.items()}, styles, (BASE,))
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


def log_axes(axes: Axes, tokens: Sequence[int], title: str) -> None:
    """Both axes logarithmic, a tick at every one of the ascending numbers of tokens."""
    token_axis(axes, tokens)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, fontsize=10)


def token_axis(axes: Axes, tokens: Sequence[int], label: str = "tokens") -> None:
    """A logarithmic axis with a tick at every number of tokens; names that would run into another one are left out."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(tokens[0] / 1.15, tokens[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(tokens))
    axes.xaxis.set_minor_locator(NullLocator())
    names, end = [], float("-inf")
    for place in tokens:
        name = size(place)
        middle, half = axes.transData.transform((place, 1))[0], 0.36 * TICK_POINTS * DPI / 72 * len(name)
        names.append(name if middle - half > end else "")
        end = middle + half if names[-1] else end
    axes.set_xticklabels(names)
    axes.grid(which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def label_ends(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Mapping[str, Any]],
    bold: Collection[str] = (),
) -> None:
    """Names to the right of the panel, each as near to its line's end as the others allow."""
    line = 1.25 * LABEL_POINTS * DPI / 72 / axes.bbox.height
    axes.get_xlim(), axes.get_ylim()  # settles limits that wait for the drawing
    heights = {
        name: axes.transAxes.inverted().transform(axes.transData.transform(end))[1] for name, end in ends.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    for name, place in zip(order, _apart([heights[name] for name in order], line)):
        style = styles[name]
        weight = "bold" if name in bold else "normal"
        shared = {"transform": axes.transAxes, "clip_on": False}
        axes.text(1.085, place, name, fontsize=LABEL_POINTS, weight=weight, color=style["color"], va="center", **shared)
        # from the line's end to a piece of the line in front of its name
        start = axes.transAxes.inverted().transform(axes.transData.transform(ends[name]))
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


def draw_ratios(records: Iterable[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Two panels, time and memory of ours over MONAI's: bars that begin at 1, to the left where ours takes less.

    Where MONAI's has no figure, ours stands in its place.

    Args:
        records: those that were measured are shown.
        title: of the figure.
        path: of the PNG.
    """
    records = [record for record in records if record["status"] == "measured"]
    kinds = sorted({_kind(record) for record in records}, key=lambda kind: (kind[0] != "float32", kind))
    colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(kinds)}
    # a group for each case, whenever its parts were measured, and a gap between two of them
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(f"{record['label']}, {record['mode']}", []).append(record)
    records = [record for group in groups.values() for record in sorted(group, key=lambda r: kinds.index(_kind(r)))]
    places: list[float] = []
    names: dict[str, list[float]] = {}
    for name, group in groups.items():
        first = (places[-1] if places else 0.0) + 1.6
        names[name] = [first + i for i in range(len(group))]
        places += names[name]
    height = max(2.6, 1.4 + 0.2 * (places[-1] if places else 0))
    figure = Figure(figsize=(15, height), dpi=DPI)
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.26, right=0.985, wspace=0.06, top=1 - 0.7 / height, bottom=0.75 / height)
    for axes, what, text in zip(panels, ("time", "memory"), (seconds, mebibytes)):
        ratios = [record[f"{what}_ratio"] for record in records]
        known = [ratio for ratio in ratios if ratio]
        axes.set_xscale("log")
        axes.set_xlim(min([0.5, *known]) / 1.6, max([1.3, *known]) * 1.4)
        for record, place, ratio in zip(records, places, ratios):
            if ratio:
                axes.barh(place, ratio - 1, left=1, height=0.85, color=colours[_kind(record)])
                less = ratio < 1
                offset = {"xytext": (-3 if less else 3, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(number(ratio), (ratio, place), ha="right" if less else "left", fontsize=7, **offset)
            else:
                unit = " MiB" if what == "memory" else ""
                place_of_text = {"ha": "right", "va": "center", "xytext": (-3, 0), "textcoords": "offset points"}
                words = f"ours alone: {text(record)}{unit}"
                axes.annotate(words, (1, place), fontsize=7, color=colours[_kind(record)], **place_of_text)
        axes.axvline(1, color="black", linewidth=1.2)
        marks = [mark for mark in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)]
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(f"{what}, ours / MONAI's (left of 1: less)", fontsize=10)
    panels[0].set_yticks([sum(rows) / len(rows) for rows in names.values()], list(names), fontsize=8)
    panels[0].set_ylim((places[-1] if places else 0) + 1, 0.6)
    handles = [Patch(color=colours[kind], label=f"{kind[0]}, {kind[1]} allocator") for kind in kinds]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    return path


def _kind(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["precision"], record["allocator"]
