"""The tables of the report, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from monai_ext.bench.report import align, mebibytes, number, seconds, size
from monai_ext.study.statistics import LEVEL, Paired
from monai_ext.study.summary import FIGURES, MEMORY, TIME, Group, Headline, Summary
from monai_ext.study.words import NONE, Metric, p_value

INTERVAL = f"{LEVEL * 100:.0f} % interval"


def cell(text: object) -> str:
    """On one line, and without what ends a cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def accuracy(summary: Summary, metric: Metric) -> str:
    """Lines by contexts: mean ± standard deviation (number of trials); the best of a column in bold."""
    best = {
        context: max((g.value.mean for g in _column(summary, context)), key=summary.better, default=None)
        for context in summary.contexts
    }

    def show(group: Group) -> str:
        if not group.value.n:
            return "failed" if group.count("failed") == len(group.trials) else NONE
        text = metric.spread(group.value)
        return f"**{text}**" if group.value.mean == best[group.context] else text

    return _grid(summary, show)


def cost(summary: Summary, name: str) -> str | None:
    """Lines by contexts: medians over seeds, and the exponent of the growth; None where nothing was measured."""
    if not any(name in group.costs for group in summary.groups):
        return None
    form = seconds if name.endswith("seconds") else mebibytes

    def show(group: Group) -> str:
        figure = group.costs.get(name)
        return form({name: {"median": figure} if form is seconds and figure else figure}, name)

    exponents = {line: number(summary.slopes.get((line, name)), ".2f") for line in summary.lines}
    return _grid(summary, show, ("exponent", exponents))


def ratios(summary: Summary, cost: str) -> str:
    """Lines by contexts: what a training step takes of the baseline's cost, as baseline / line."""
    what = {TIME: "time_ratio", MEMORY: "memory_ratio"}[cost]
    found = {(row.line, row.context): getattr(row, what) for row in summary.headline}
    return _grid(summary, lambda group: number(found.get((group.line, group.context))))


def headline(summary: Summary, rows: Sequence[Headline], metric: Metric) -> str:
    """A row a line and context."""
    head = ["line", "context", "baseline", "its context", "value", "baseline's", "difference", "equal"]
    head += ["memory ratio", "reached", "time ratio", "reached"]
    table = [
        [
            cell(row.line),
            size(row.context),
            cell(row.baseline),
            size(row.baseline_context),
            metric.value(row.value),
            metric.value(row.baseline_value),
            metric.difference(row.difference),
            _yes(row.equal),
            number(row.memory_ratio),
            _yes(row.reaches_memory),
            number(row.time_ratio),
            _yes(row.reaches_time),
        ]
        for row in rows
    ]
    return align(head, table)


def comparisons(summary: Summary, metric: Metric) -> str:
    """Every line against the baseline at the same context."""
    head = ["line", "context", "baseline", *_paired_head(), "p after Holm"]
    rows = [
        [
            cell(found.line),
            size(found.context),
            cell(found.baseline),
            *_paired(found.pairs, metric),
            _p(found.p_holm),
        ]
        for found in summary.comparisons
    ]
    return align(head, rows)


def growth(summary: Summary, metric: Metric) -> str:
    """The longest context against the shortest, line by line and over all."""
    head = ["line", "from", "to", *_paired_head(), "p (Wilcoxon)"]
    rows = [
        [cell(g.line), size(g.short), size(g.long), *_paired(g.pairs, metric), _p(g.pairs.p_wilcoxon)]
        for g in summary.growth
    ]
    if len(summary.growth) > 1:
        rows.append(["all lines", "", "", *_paired(summary.pooled, metric), _p(summary.pooled.p_wilcoxon)])
    return align(head, rows)


def costs_of(summary: Summary) -> Iterable[tuple[str, str]]:
    """Title and table of every cost that was measured."""
    titles = ("Time of a training step", "Memory of a training step, MiB")
    titles += ("Time of an epoch's training steps, without loading and validation",)
    titles += ("Time of inference on one case", "Memory of inference on one case, MiB")
    for title, name in zip(titles, FIGURES):
        if text := cost(summary, name):
            yield title, text


def _paired_head() -> list[str]:
    return ["pairs", "difference", "sd", INTERVAL, "p (t-test)"]


def _paired(pairs: Paired, metric: Metric) -> list[str]:
    sd = NONE if pairs.sd is None else metric.amount(pairs.sd)
    return [str(pairs.n), metric.difference(pairs.mean), sd, metric.interval(pairs), _p(pairs.p)]


def _p(p: float | None) -> str:
    return p_value(p).removeprefix("= ")


def _yes(answer: bool | None) -> str:
    return NONE if answer is None else "yes" if answer else "no"


def _column(summary: Summary, context: int) -> list[Group]:
    return [group for group in summary.groups if group.context == context and group.value.n]


def _grid(summary: Summary, show: Callable[[Group], str], last: tuple[str, dict[str, str]] | None = None) -> str:
    head = ["line", *(size(context) for context in summary.contexts), *([last[0]] if last else [])]
    rows = []
    for line in summary.lines:
        found = [summary.at(line, context) for context in summary.contexts]
        row = [cell(line), *(show(group) if group else NONE for group in found)]
        rows.append([*row, last[1][line]] if last else row)
    return align(head, rows)
