"""What the costs of a study show, in plain sentences, and the words that all its sentences share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from monai_ext.bench.report import number, size
from monai_ext.study.statistics import Crossing
from monai_ext.study.summary import MEMORY, TIME, Summary
from monai_ext.study.words import listed, tokens

# as many cases are named one by one
NAMED = 5
STEP = {TIME: "time", MEMORY: "memory"}


def cost_sentences(summary: Summary) -> list[str]:
    """Of a study that trains nothing: the first two are what the longest context costs, and how costs grow."""
    parts = [_at_the_longest(summary) or no_comparison(summary), _growth(summary), failed_baseline(summary)]
    parts += [crossings(summary, cost) for cost in (TIME, MEMORY)]
    return [part for part in parts if part] or ["No trial was measured, so the study says nothing yet."]


def _at_the_longest(summary: Summary) -> str:
    """The other lines against the baseline, at the longest context where both were measured."""
    rows = [row for row in summary.headline if row.time_ratio or row.memory_ratio]
    if not rows:
        return ""
    longest = max(row.context for row in rows)
    rows = [row for row in rows if row.context == longest]
    said = []
    for what, name in (("time", "time_ratio"), ("memory", "memory_ratio")):
        known = sorted((1 / ratio, row.line) for row in rows if (ratio := getattr(row, name)))
        if known:
            said.append(f"{first_few(f'{number(share)} ({line})' for share, line in known)} of the {what}")
    return f"At {tokens(longest)} a training step takes {listed(said)} that it takes with {baseline_name(summary)}."


def _growth(summary: Summary) -> str:
    said = []
    for cost, what in STEP.items():
        known = [(line, slope) for line in summary.lines if (slope := summary.slopes.get((line, cost))) is not None]
        if known:
            said.append(
                f"{what} grows with an exponent of {first_few(f'{slope:.2f} ({line})' for line, slope in known)}"
            )
    ends = f"from {tokens(summary.contexts[0])} to {tokens(summary.contexts[-1])}" if said else ""
    return f"Fitted over all contexts, {ends}, {', '.join(said)}." if said else ""


def no_comparison(summary: Summary) -> str:
    """Why no line is compared with a baseline; empty where one is."""
    baseline = summary.study["baseline"]
    if not summary.lines:
        return ""
    if baseline is None:
        return "The study names no baseline, so no line is compared with another."
    if not summary.baselines:
        return f"The baseline {baseline} is not among the lines, so no line is compared with it."
    if all(line == base for line, base in summary.baselines.items()):
        return f"The baseline {baseline} is the only mixer, so there is nothing to compare it with."
    return ""


def failed_baseline(summary: Summary) -> str:
    """Contexts at which a baseline has failed trials only, and others a value, or a time where nothing is trained."""
    found = []
    for base in dict.fromkeys(summary.baselines.values()):
        others = [line for line, other in summary.baselines.items() if other == base != line]
        contexts = [
            size(group.context)
            for group in summary.of(base)
            if group.count("failed") == len(group.trials)
            and any((at := summary.at(line, group.context)) and (at.value.n or at.costs) for line in others)
        ]
        if contexts:
            found.append(f"{base} failed at {listed(contexts)} tokens")
    return f"{listed(found)}, where other lines did not." if found else ""


def crossings(summary: Summary, cost: str) -> str:
    kinds: dict[str, list[tuple[str, Crossing]]] = {}
    for (line, of), found in summary.crossings.items():
        if of == cost:
            kinds.setdefault(found.kind, []).append((line, found))
    kinds.get("from", []).sort(key=lambda pair: pair[1].place or 0)
    known = [found for kind, members in kinds.items() if kind != "unknown" for _, found in members]
    if not known:
        return ""

    def lines(kind: str, word: Callable[[str, Crossing], str] = lambda line, _: line) -> str:
        return first_few([word(line, found) for line, found in kinds.get(kind, [])])

    places = {place for found in known for place in found.places}
    if len(places) == 1:
        where = f"At {tokens(int(places.pop()))}, the one context measured"
        than = f"than with {baseline_name(summary)}"
        return f"{where}, a training step takes less {STEP[cost]} with {lines('always') or 'no other line'} {than}."
    parts = []
    if "always" in kinds:
        parts.append(f"at every context measured with {lines('always')}")
    if "from" in kinds:
        parts.append(lines("from", lambda line, found: f"from about {tokens(float(found.place or 0))} on with {line}"))
    if "ends" in kinds:
        parts.append(f"at some contexts, but not at the longest, with {lines('ends')}")
    if "never" in kinds:
        parts.append(f"at no context measured with {lines('never')}")
    return f"A training step takes less {STEP[cost]} than with {baseline_name(summary)} {'; '.join(parts)}."


# --- grammar


def baseline_name(summary: Summary) -> str:
    bases = set(summary.baselines.values())
    return next(iter(bases)) if len(bases) == 1 else str(summary.study["baseline"])


def first_few(names: Iterable[str]) -> str:
    """All, or the first few and how many more."""
    names = list(names)
    if len(names) > NAMED + 1:
        names = [*names[:NAMED], f"{len(names) - NAMED} more"]
    return listed(names)


def some_of(part: int, whole: int, what: str = "line") -> str:
    """No line, the only line, both lines, all 5 lines, 3 of 5 lines."""
    if not part:
        return f"no {what}" if whole == 1 else f"none of {whole} {what}s"
    if part == whole:
        return {1: f"the only {what}", 2: f"both {what}s"}.get(whole, f"all {whole} {what}s")
    return f"{part} of {whole} {what}s"
