"""What the numbers show, in plain sentences: nothing beyond the numbers, and no more certain than they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai_ext.study.cost_sentences import (
    baseline_name,
    cost_sentences,
    crossings,
    failed_baseline,
    first_few,
    no_comparison,
    some_of,
)
from monai_ext.study.statistics import LEVEL, T_PAIRS, Paired
from monai_ext.study.summary import (
    COSTS,
    MEMORY,
    MEMORY_HEADLINE,
    TIME,
    TIME_HEADLINE,
    Growth,
    Headline,
    Summary,
    cost_of,
)
from monai_ext.study.words import Metric, count, p_value, times, tokens


def sentences(summary: Summary) -> list[str]:
    """The first two are the gist: what context does to the metric, and what becomes of the headline."""
    metric = metric_of(summary)
    if not summary.trained:
        return cost_sentences(summary)
    parts = [_context(summary, metric), _headline(summary, metric), _lines_with_context(summary, metric)]
    parts += [_best(summary, metric), _cheaper(summary), failed_baseline(summary)]
    parts += [crossings(summary, cost) for cost in (TIME, MEMORY)]
    parts += [_headline_at_best(summary, metric)]
    return [part for part in parts if part]


def cautions(summary: Summary) -> list[str]:
    """What makes figures harder to compare."""
    found = []
    if len(summary.machines) > 1:
        used, all_of = summary.machines[summary.machine], sum(summary.machines.values())
        found.append(
            f"The trials were measured on {len(summary.machines)} machines (or with different software or threads), "
            "whose times and memory cannot be compared: groups, ratios and plots use those of the "
            f"{used} of {all_of} trials that ran on {name_machine(summary.machine)}; the table of trials has all."
        )
    used = [
        trial["measured"]
        for group in summary.groups
        for trial in group.trials
        if trial.get("measured") and any(cost_of(trial, cost) for cost in COSTS)
    ]
    for key, what in (("batch_size", "batch sizes"), ("memory_method", "ways of measuring memory")):
        values = sorted({str(measured[key]) for measured in used if measured.get(key) is not None})
        if len(values) > 1:
            found.append(f"The trials have different {what} ({', '.join(values)}): their times or memory differ by it.")
    return found


def metric_of(summary: Summary) -> Metric:
    return Metric([value for group in summary.groups for value in group.values.values()])


def name_machine(machine: Sequence[object] | None) -> str:
    """A key of `Summary.machines` in words; it holds the device, GPU, CPU, cores, torch, CUDA and threads."""
    if machine is None or not any(machine):
        return "an unknown machine"
    _, gpu, cpu, cores, torch, _, threads = machine
    where = str(gpu or cpu or "an unnamed processor")
    where += f", {threads} of {cores} cores" if cores and threads and not gpu else ""
    return f"{where} (torch {torch})" if torch else where


# --- what context does


def _context(summary: Summary, metric: Metric) -> str:
    name = summary.study["metric"]
    contexts = sorted({group.context for group in summary.groups if group.value.n})
    if not contexts:
        return f"No trial is complete, so the study says nothing about {name} yet."
    if len(contexts) == 1:
        return (
            f"All complete trials have one context, {tokens(contexts[0])}, so the study does not say what context does "
            f"to {name}."
        )
    if not summary.growth:
        return (
            f"No line has values at two contexts with the same seed, so the study does not say what context does to "
            f"{name}."
        )
    pairs = summary.pooled
    ends = {(growth.short, growth.long) for growth in summary.growth}
    where = "From each line's shortest to its longest context"
    if len(ends) == 1:
        ((short, long),) = ends
        where = f"From {tokens(short)} to {tokens(long)}"
    of = f"on average over {count(pairs.n, 'pair')} of line and seed"
    if pairs.n == 1:
        of = f"for {summary.growth[0].line}, with one trial at each"
    elif len(summary.growth) == 1:
        of = f"for {summary.growth[0].line} on average over {count(pairs.n, 'seed')}"
    elif len(summary.growth) == pairs.n:
        of = f"on average over {count(pairs.n, 'line')} with one pair of trials each"
    return f"{where}, {name} {_moves(summary, metric, pairs.mean)} {of}{_certainty(pairs, metric)}."


def _moves(summary: Summary, metric: Metric, difference: float) -> str:
    if not float(metric.amount(difference)):
        return "does not change"
    verb = "rises" if difference > 0 else "falls"
    aside = "" if summary.study["maximize"] else " (lower is better)"
    return f"{verb} by {metric.amount(difference)}{aside}"


def _certainty(pairs: Paired, metric: Metric) -> str:
    if pairs.n < T_PAIRS:
        return ", too few for a test: this cannot be told from chance"
    if not pairs.tested:
        return "; all differences are the same, so there is no spread to test it against"
    found = f"{LEVEL * 100:.0f} % interval {metric.interval(pairs)}"
    if pairs.p_wilcoxon is not None:
        found += f", Wilcoxon p {p_value(pairs.p_wilcoxon)}"
    if pairs.beyond_chance:
        return f", which is beyond their spread ({found})"
    return f", which is not beyond their spread ({found}): no effect of context is shown"


def _lines_with_context(summary: Summary, metric: Metric) -> str:
    """How the lines differ in what context does to them; empty for fewer than two."""
    grown = summary.growth
    if len(grown) < 2:
        return ""
    gains = sorted(grown, key=lambda growth: -summary.better(growth.pairs.mean))
    better = [g for g in grown if summary.better(g.pairs.mean) > 0]
    text = f"The longest context is better than the shortest for {some_of(len(better), len(grown))}: "
    text += f"most for {_gain(gains[0], metric)}, least for {_gain(gains[-1], metric)}"
    tops = [
        max(valued, key=lambda group: summary.better(group.value.mean)).context == valued[-1].context
        for growth in grown
        if len(valued := summary.valued(growth.line)) > 2
    ]
    if tops:
        text += f"; among all contexts it is the best for {some_of(sum(tops), len(tops))}"
    tested = [growth for growth in grown if growth.pairs.tested]
    if not tested:
        few = all(growth.pairs.n < T_PAIRS for growth in grown)
        return f"{text}. Seeds are too few to test a line by itself." if few else f"{text}."
    sure = [growth.line for growth in tested if growth.pairs.beyond_chance]
    which = first_few(sure) if 0 < len(sure) < len(tested) else some_of(len(sure), len(tested))
    return f"{text}. Tested line by line, the change is beyond the spread over seeds for {which}."


def _gain(growth: Growth, metric: Metric) -> str:
    return f"{growth.line} ({metric.difference(growth.pairs.mean)})"


def _best(summary: Summary, metric: Metric) -> str:
    name, groups = summary.study["metric"], [group for group in summary.groups if group.value.n]
    if not groups:
        return ""
    best = max(groups, key=lambda group: summary.better(group.value.mean))
    same = [group for group in groups if group.value.mean == best.value.mean]
    if len(same) > 1:
        where = first_few([f"{group.line} at {tokens(group.context)}" for group in same])
        return f"The best mean {name}, {metric.value(best.value.mean)}, is shared by {where}."
    text = f"The best mean {name}, {metric.value(best.value.mean)}, is that of {best.line} at {tokens(best.context)}"
    text += f" ({count(best.value.n, 'trial')})"
    rest = [group for group in groups if group.line != best.line]
    found = next((c for c in summary.comparisons if (c.line, c.context) == (best.line, best.context)), None)
    if found is not None:
        pairs = found.pairs
        text += f"; its difference from {found.baseline} there, {metric.difference(pairs.mean)}, "
        if not pairs.tested:
            return text + f"cannot be tested: {_too_few(pairs)}."
        sure = pairs.beyond_chance and found.p_holm is not None and found.p_holm < 1 - LEVEL
        tests = sum(comparison.pairs.tested for comparison in summary.comparisons)
        text += f"is {'' if sure else 'not '}beyond the spread over {count(pairs.n, 'seed')} (p {p_value(pairs.p)}"
        return (
            f"{text}, {p_value(found.p_holm)} after Holm's correction for {tests} tests)." if tests > 1 else f"{text})."
        )
    if rest:
        second = max(rest, key=lambda group: summary.better(group.value.mean))
        behind = abs(second.value.mean - best.value.mean)
        text += f"; the next line, {second.line} at {tokens(second.context)}, is {metric.amount(behind)} behind"
        text += ", within the tolerance" if behind <= summary.study["tolerance"] else ""
    return text + "."


def _too_few(pairs: Paired) -> str:
    if pairs.n >= T_PAIRS:
        return "all seeds differ by the same"
    return f"{pairs.n} {'seed is' if pairs.n == 1 else 'seeds are'} too few"


# --- what it costs


def _headline(summary: Summary, metric: Metric) -> str:
    if reason := no_comparison(summary):
        return reason
    rows = summary.headline
    if not summary.lines:
        return ""
    if not any(row.time_ratio or row.memory_ratio for row in rows):
        return "Time and memory are not known at a context of the baseline, so the headline is not tested."
    base = baseline_name(summary)
    within = f"(no more than {summary.study['tolerance']:g} worse)"
    text = f"The headline, {MEMORY_HEADLINE} times less memory and {TIME_HEADLINE} times faster training than {base} "
    text += f"at equal {summary.study['metric']} {within} and the same context, is reached by "
    return text + _reached(summary, rows, metric)


def _reached(summary: Summary, rows: Sequence[Headline], metric: Metric) -> str:
    equal = [row for row in rows if row.equal]
    both = [row for row in equal if row.reaches_memory and row.reaches_time]
    memory = [row for row in equal if row.reaches_memory and not row.reaches_time]
    time = [row for row in equal if row.reaches_time and not row.reaches_memory]
    text = _rows(both, metric)
    alone = []
    if memory:
        alone.append(f"the memory alone by {_rows(memory, metric)}")
    if time:
        alone.append(f"the time alone by {_rows(time, metric)}")
    if alone:
        text += "; " + ", and ".join(alone)
    elif not both:
        text += _nearest(rows)
    shown = [*both, *memory, *time]
    few = [row for row in shown if _seeds(summary, row) < T_PAIRS]
    if few:
        text += f". Accuracy is held equal by means over fewer than {T_PAIRS} seeds, which is no test"
    return text + "."


def _nearest(rows: Sequence[Headline]) -> str:
    """The greatest ratios at equal accuracy, where they fall short."""
    equal = [row for row in rows if row.equal]
    if not equal:
        known = any(row.equal is not None for row in rows)
        return "; no accuracy is equal" if known else "; no accuracy can be compared"
    found, none = [], []
    for what, ratio in (("memory", _memory_ratio), ("time", _time_ratio)):
        row = max(equal, key=ratio)
        if ratio(row) > 1:
            found.append(f"{times(ratio(row))} less {what} ({row.line} at {tokens(row.context)})")
        elif ratio(row):
            none.append(f"less {what}")
    text = f"; the most at equal accuracy is {' and '.join(found)}" if found else ""
    return text + (f"; none of equal accuracy needs {' or '.join(none)}" if none else "")


def _memory_ratio(row: Headline) -> float:
    return row.memory_ratio or 0.0


def _time_ratio(row: Headline) -> float:
    return row.time_ratio or 0.0


def _rows(rows: Sequence[Headline], metric: Metric) -> str:
    named = [
        f"{row.line} at {tokens(row.context)} ({_ratio(row.memory_ratio)} in memory and {_ratio(row.time_ratio)} in "
        f"time; {metric.value(row.value)} against {metric.value(row.baseline_value)})"
        for row in sorted(rows, key=lambda row: -min(_memory_ratio(row), _time_ratio(row)))
    ]
    return first_few(named) or "no line"


def _ratio(ratio: float | None) -> str:
    return times(ratio) if ratio else "unknown"


def _seeds(summary: Summary, row: Headline) -> int:
    """The fewest seeds of the two groups that a row compares."""
    places = ((row.line, row.context), (row.baseline, row.baseline_context))
    return min(group.value.n for place in places if (group := summary.at(*place)))


def _headline_at_best(summary: Summary, metric: Metric) -> str:
    rows = summary.best_headline
    other = any(row.context != row.baseline_context for row in rows)
    if not other or not any(row.time_ratio or row.memory_ratio for row in rows):
        return ""
    places = {row.baseline: f"{tokens(row.baseline_context)}, {metric.value(row.baseline_value)}" for row in rows}
    base = first_few([f"{baseline} at its best context ({place})" for baseline, place in places.items()])
    return f"Against {base}, both parts of the headline are reached by " + _reached(summary, rows, metric)


def _cheaper(summary: Summary) -> str:
    """At the longest context at which ratios are known."""
    rows = [row for row in summary.headline if row.equal is not None and (row.time_ratio or row.memory_ratio)]
    if not rows:
        return ""
    longest = max(row.context for row in rows)
    rows = [row for row in rows if row.context == longest]
    equal = [row for row in rows if row.equal]
    base, name = baseline_name(summary), summary.study["metric"]
    text = f"At {tokens(longest)}, {some_of(len(equal), len(rows), 'other line')} "
    text += f"{'has' if len(equal) < 2 else 'have'} equal or better {name} than {base}"
    if not equal:
        return text + "."
    needs = [_needs(equal, _time_ratio, "time a step"), _needs(equal, _memory_ratio, "memory")]
    return f"{text}; of these, {' and '.join(filter(None, needs))}."


def _needs(rows: Sequence[Headline], ratio: Callable[[Headline], float], what: str) -> str:
    if not any(map(ratio, rows)):
        return ""
    less = sorted((row for row in rows if ratio(row) > 1), key=ratio, reverse=True)
    names = first_few([f"{row.line} ({times(ratio(row))})" for row in less]) or "none"
    return f"{names} {'needs' if len(less) < 2 else 'need'} less {what}"
