"""The figures of a study: accuracy and cost against context, accuracy against cost, learning curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from monai_ext.bench.plot import COLOURS, DPI, LABEL_POINTS, LINES, MARKERS, label_ends, log_axes, token_axis
from monai_ext.bench.report import size
from monai_ext.files import atomic_write
from monai_ext.study.summary import MEMORY, TIME, Group, Summary

Style = Mapping[str, Any]

MIB = 2**20
CONTEXT = "context (tokens)"
COST_TITLES = {TIME: "time of a training step (s)", MEMORY: "memory of a training step (MiB)"}
# what the spread's bars and the single seeds are shifted by at most, as a share of the gap between two contexts
DODGE = 0.3
# single seeds stand this factor to the right of their mean and its bar
ASIDE = 1.012


def draw_all(summary: Summary, folder: Path) -> list[Path]:
    """Those of `PICTURES` for which there is something to draw."""
    drawn = []
    for name, draw in PICTURES.items():
        figure = draw(summary)
        if figure is not None:
            with atomic_write(folder / name) as file:
                figure.savefig(file, format="png")
            drawn.append(folder / name)
    return drawn


def accuracy(summary: Summary) -> Figure | None:
    """Mean against context, a bar of one standard deviation, single seeds as faint dots."""
    groups = [group for group in summary.groups if group.value.n]
    if not groups:
        return None
    lines = _lines(groups)
    figure, (axes,) = _figure(summary, len(lines), 1, (9.0, 5.0))
    styles, contexts = _styles(summary), sorted({group.context for group in groups})
    shifts = dict(zip(lines, _shifts(len(lines), contexts)))
    curves = {}
    for line in lines:
        own, style = summary.valued(line), styles[line]
        places = [group.context * shifts[line] for group in own]
        curves[line] = [(place, group.value.mean) for place, group in zip(places, own)]
        axes.errorbar(
            places,
            [group.value.mean for group in own],
            yerr=[group.value.sd or 0.0 for group in own],
            capsize=2.5,
            elinewidth=0.9,
            zorder=3,
            **style,
        )
        dots = [(p * ASIDE, v) for p, group in zip(places, own) for v in group.values.values() if group.value.n > 1]
        axes.scatter(
            *(zip(*dots) if dots else ((), ())), s=12, color=style["color"], alpha=0.45, linewidths=0, zorder=2
        )
    token_axis(axes, contexts, CONTEXT)
    axes.set_ylabel(_metric(summary))
    most = max(group.value.n for group in groups)
    what = f"mean ± standard deviation over up to {most} seeds" if most > 1 else "one seed each"
    axes.set_title(f"{summary.study['metric']}, {what}", fontsize=10)
    label_ends(axes, {line: curve[-1] for line, curve in curves.items()}, styles, _bases(summary))
    return figure


def cost(summary: Summary) -> Figure | None:
    """Time and memory of a training step against context, log-log."""
    if not any(what in group.costs for group in summary.groups for what in COST_TITLES):
        return None
    known = [group for group in summary.groups if any(what in group.costs for what in COST_TITLES)]
    figure, panels = _figure(summary, len(_lines(known)), 2, (13.0, 5.0))
    styles, contexts = _styles(summary), sorted({group.context for group in known})
    for axes, (what, title) in zip(panels, COST_TITLES.items()):
        ends = {}
        for line in _lines(known):
            points = [(g.context, _shown(g.costs[what], what)) for g in summary.of(line) if what in g.costs]
            if points:
                ends[line] = points[-1]
                axes.plot(*zip(*points), zorder=3 if line in _bases(summary) else 2, **styles[line])
        log_axes(axes, contexts, title if ends else f"{title}: not measured")
        axes.set_xlabel(CONTEXT)
        _plain_numbers(axes, "y")
        label_ends(axes, ends, styles, _bases(summary))
    return figure


def pareto(summary: Summary) -> Figure | None:
    """Mean against the cost of a training step, points with their context, the front as steps."""
    known = [group for group in summary.groups if group.value.n and any(what in group.costs for what in COST_TITLES)]
    if not known:
        return None
    lines, styles = _lines(known), _styles(summary)
    columns = 4 if max(map(len, lines)) < 30 else 2
    rows = math.ceil((len(lines) + 1) / columns)
    height = 5.0 + 0.22 * rows
    figure = Figure(figsize=(13.0, height), dpi=DPI)
    panels = figure.subplots(1, 2)
    bottom = (0.75 + 0.22 * rows) / height
    figure.subplots_adjust(left=0.065, right=0.985, wspace=0.17, top=1 - 0.45 / height, bottom=bottom)
    for axes, (what, title) in zip(panels, COST_TITLES.items()):
        groups = [group for group in known if what in group.costs]
        axes.set_xscale("log")
        for line in lines:
            points = [(_shown(g.costs[what], what), g.value.mean) for g in summary.valued(line) if what in g.costs]
            if points:
                axes.plot(*zip(*points), **{**styles[line], "linewidth": 0.7})
        edge = [(_shown(g.costs[what], what), g.value.mean) for g in summary.fronts[what]]
        if edge:
            axes.margins(0.08)
            axes.autoscale_view()
            _steps(axes, edge)
        axes.set_xlabel(title if groups else f"{title}: not measured")
        axes.grid(which="major", color="0.9")
        axes.set_axisbelow(True)
        _plain_numbers(axes, "x")
        points = [(_shown(g.costs[what], what), g.value.mean) for g in groups]
        _mark(axes, points, [size(g.context) for g in groups], [styles[g.line]["color"] for g in groups])
    panels[0].set_ylabel(_metric(summary))
    handles = [Line2D([], [], label=line, **styles[line]) for line in lines]
    handles.append(Line2D([], [], color="0.45", linewidth=5, alpha=0.35, label="Pareto front"))
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=LABEL_POINTS + 1)
    _title(figure, summary, "numbers at the points: context in tokens")
    return figure


def learning(summary: Summary) -> Figure | None:
    """Loss and metric against epochs: means over seeds, each line at the longest context at which it has a value."""
    own = {line: groups[-1] for line in summary.lines if (groups := summary.valued(line))}
    curves = {
        what: {line: curve for line, group in own.items() if (curve := _history(group, what))}
        for what in ("loss", "value")
    }
    if not any(curves.values()):
        return None
    shown = [line for line in own if any(line in of for of in curves.values())]
    longest = max(own[line].context for line in shown)
    figure, panels = _figure(summary, len(shown), 2, (13.0, 5.0))
    styles = _styles(summary)
    names = {line: line if own[line].context == longest else f"{line} (at {size(own[line].context)})" for line in shown}
    for axes, what, title in zip(panels, ("loss", "value"), ("training loss", _metric(summary))):
        for line, curve in curves[what].items():
            every = max(1, len(curve) // 8)
            axes.plot(*zip(*curve), **{**styles[line], "markevery": every}, zorder=3 if line in _bases(summary) else 2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="major", color="0.9")
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch")
        where = f"at {size(longest)} tokens" if curves[what] else "not stored"
        axes.set_title(f"{title}, {where}", fontsize=10)
        ends = {names[line]: curve[-1] for line, curve in curves[what].items()}
        bold = [names[line] for line in shown if line in _bases(summary)]
        label_ends(axes, ends, {names[line]: styles[line] for line in shown}, bold)
    return figure


PICTURES: Mapping[str, Callable[[Summary], Figure | None]] = {
    "accuracy.png": accuracy,
    "cost.png": cost,
    "pareto.png": pareto,
    "learning.png": learning,
}


# --- shared parts


def _figure(summary: Summary, lines: int, panels: int, inches: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Panels with room for the names of the lines to the right of each."""
    names = 0.45 + 0.075 * max([len(line) for line in summary.lines] + [8])
    width, height = inches[0] + panels * max(0.0, names - 1.2), max(inches[1], 1.6 + 0.17 * lines)
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    room = {"left": 0.8 / width, "right": 1 - (names + 0.25) / width, "top": 1 - 0.62 / height, "bottom": 0.65 / height}
    panel = (width - 0.8 - names - 0.25 - (panels - 1) * (names + 0.95)) / panels
    figure.subplots_adjust(**room, wspace=(names + 0.95) / panel)
    _title(figure, summary)
    return figure, axes


def _title(figure: Figure, summary: Summary, further: str = "") -> None:
    title = str(summary.study["title"] or summary.study["name"])
    figure.suptitle(f"{title} ({further})" if further else title, fontsize=11)


def _styles(summary: Summary) -> dict[str, Style]:
    """Black for the baselines; no two lines have the same colour and line, or colour and marker."""
    styles: dict[str, Style] = {}
    bases = _bases(summary)
    others = [line for line in summary.lines if line not in bases]
    for kind, lines in ((bases, bases), ((), others)):
        for i, line in enumerate(lines):
            turn = i if kind else i // len(COLOURS)
            styles[line] = {
                "color": "black" if kind else COLOURS[i % len(COLOURS)],
                "linewidth": 2.2 if kind else 1.4,
                "linestyle": LINES[turn % len(LINES)],
                "marker": MARKERS[(turn if kind else i) % len(MARKERS)],
                "markersize": 5,
            }
    return styles


def _bases(summary: Summary) -> list[str]:
    return [line for line in summary.lines if line in summary.baselines.values()]


def _lines(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.line for group in groups))


def _metric(summary: Summary) -> str:
    return f"{summary.study['metric']}, {summary.study['split']}" + (
        "" if summary.study["maximize"] else " (lower is better)"
    )


def _shown(figure: float, what: str) -> float:
    return figure if what == TIME else figure / MIB


def _shifts(lines: int, contexts: Sequence[int]) -> list[float]:
    """Factors by which the lines are moved apart along the contexts' logarithmic axis, inside its limits."""
    gap = min((math.log(b / a) for a, b in itertools.pairwise(contexts)), default=math.inf)
    width = min(0.05 * (lines - 1), DODGE * gap, 0.22)
    return [math.exp(width * (i / max(1, lines - 1) - 0.5)) for i in range(lines)]


def _plain_numbers(axes: Axes, which: str) -> None:
    """0.1 and 100 in place of powers of ten, and as much between them as there is room for."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_tick_params(which="minor", labelsize=LABEL_POINTS)
    if low > 0 and high / low < 4:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_minor_locator(NullLocator())
        return
    marked = (2, 3, 5) if high / low < 30 else (2, 5) if high / low < 300 else ()

    def minor(value: float, _: int) -> str:
        return f"{value:.6g}" if round(value / 10 ** math.floor(math.log10(value)), 6) in marked else ""

    axis.set_minor_formatter(FuncFormatter(minor))


def _steps(axes: Axes, edge: Sequence[tuple[float, float]]) -> None:
    """The best value that a cost allows: from each point of the front on until the next, and to the panel's edge."""
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    start = bottom if edge[0][1] <= edge[-1][1] else top
    costs = [edge[0][0], *(cost for cost, _ in edge), right]
    values = [start, *(value for _, value in edge), edge[-1][1]]
    if len(edge) == 1:
        costs, values = [edge[0][0], right], [edge[0][1]] * 2
    limits = axes.get_xlim(), axes.get_ylim()
    axes.plot(costs, values, drawstyle="steps-post", color="0.45", linewidth=5, alpha=0.35, zorder=1)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _mark(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], colours: Sequence[str]) -> None:
    """A text at each point, on that side of it where the fewest points and texts stand."""
    if not points:
        return
    unit = DPI / 72
    pixels = [axes.transData.transform(point) for point in points]
    taken = [(x, y, 3.5 * unit, 3.5 * unit) for x, y in pixels]
    for point, (x, y), text, colour in zip(points, pixels, texts, colours):
        half, tall = 0.3 * (LABEL_POINTS - 1) * len(text) * unit, 0.5 * (LABEL_POINTS - 1) * unit
        sides = [
            (dx * (half + 5 * unit), dy * (tall + 4.5 * unit))
            for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
        ]
        sides += [(2 * dx, 2 * dy) for dx, dy in sides]

        def covered(side: tuple[float, float], x: float = x, y: float = y, w: float = half, h: float = tall) -> float:
            at = x + side[0], y + side[1]
            overlaps = (
                max(0.0, w + wide - abs(at[0] - a)) * max(0.0, h + high - abs(at[1] - b)) for a, b, wide, high in taken
            )
            inside = axes.bbox.x0 + w < at[0] < axes.bbox.x1 - w and axes.bbox.y0 + h < at[1] < axes.bbox.y1 - h
            return sum(overlaps) + (0 if inside else 1e4)

        dx, dy = min(sides, key=covered)
        taken.append((x + dx, y + dy, half, tall))
        axes.annotate(
            text,
            point,
            (dx / unit, dy / unit),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=LABEL_POINTS - 1,
            color=colour,
            zorder=5,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )


def _history(group: Group, what: str) -> list[tuple[float, float]]:
    """The mean over the complete trials of each epoch that has a figure."""
    found: dict[float, list[float]] = {}
    for trial in group.trials:
        if trial["state"] == "complete":
            for epoch in trial.get("history") or []:
                if epoch.get(what) is not None:
                    found.setdefault(epoch["epoch"], []).append(epoch[what])
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(found.items())]
