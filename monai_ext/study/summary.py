"""What the trials of a study say: groups over seeds, paired tests, fronts, crossing points, the headline's test.

A *line* is a value of the mixer axis together with the values of all further axes that are neither the seed nor what
changes the context; a *group* is the trials that differ by their seed only.
"""

from __future__ import annotations

import statistics as plain
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_ext.bench.report import fit_exponent
from monai_ext.bench.results import SAME_MACHINE
from monai_ext.study.lines import find_lines
from monai_ext.study.statistics import Crossing, Paired, Spread, crossing, front, holm, paired, spread

Trial = Mapping[str, Any]

# what the study's summary claims for equal accuracy: so many times less memory, so many times faster training
MEMORY_HEADLINE = 3.2
TIME_HEADLINE = 2.8
# a tolerance of 0.01 holds for a difference of 0.01, whatever the last bit
ROUNDING = 1e-9

TIME, MEMORY = "step_seconds", "step_memory"
COSTS = (TIME, MEMORY, "inference_seconds", "inference_memory")
# the training steps of an epoch, without loading and validation
EPOCH = "epoch_seconds"
FIGURES = (TIME, MEMORY, EPOCH, *COSTS[2:])


@dataclass(frozen=True)
class Group:
    """Trials that differ by their seed only.

    `values` maps the seeds of the complete trials to their metric; `costs` holds medians over seeds, in seconds and
    bytes, of the measured trials in whatever state, and lacks what was not measured.
    """

    line: str
    context: int
    axes: Mapping[str, Any]
    trials: tuple[Trial, ...]
    values: Mapping[Hashable, float]
    value: Spread
    costs: Mapping[str, float]

    def count(self, state: str) -> int:
        return sum(trial["state"] == state for trial in self.trials)


@dataclass(frozen=True)
class Comparison:
    """A line against the baseline at one context (line - baseline), in pairs of the same seed.

    `p_holm` is p of the t-test, corrected for all such comparisons of the study.
    """

    line: str
    baseline: str
    context: int
    pairs: Paired
    p_holm: float | None


@dataclass(frozen=True)
class Growth:
    """A line's longest context against its shortest (long - short), in pairs of the same seed."""

    line: str
    short: int
    long: int
    differences: tuple[float, ...]
    pairs: Paired


@dataclass(frozen=True)
class Headline:
    """A line at one context against the baseline at `baseline_context`.

    Ratios are baseline / line, so that 2 means half; `difference` is the line's mean minus the baseline's; `equal`
    says that the line is better or worse by no more than the tolerance. None: not known. `reaches_*` ask the ratios
    alone, whatever the accuracy.
    """

    line: str
    baseline: str
    context: int
    baseline_context: int
    value: float | None
    baseline_value: float | None
    difference: float | None
    equal: bool | None
    time_ratio: float | None
    memory_ratio: float | None
    reaches_time: bool | None
    reaches_memory: bool | None


@dataclass(frozen=True)
class Summary:
    """All that the report shows.

    `baselines` maps each line to the one it is compared with, its own name for a baseline; lines without one are
    missing. `fronts` holds the groups of the Pareto front of the mean value against each cost of a training step,
    cheapest first; `crossings` and `slopes` have keys (line, cost). `pooled` is the growth over all lines, in pairs of
    line and seed. `machine` is the one whose times and memory are used, `machines` all of them with their number of
    trials.
    """

    study: Mapping[str, Any]
    states: Mapping[str, int]
    lines: tuple[str, ...]
    contexts: tuple[int, ...]
    groups: tuple[Group, ...]
    baselines: Mapping[str, str]
    comparisons: tuple[Comparison, ...]
    growth: tuple[Growth, ...]
    pooled: Paired
    fronts: Mapping[str, tuple[Group, ...]]
    crossings: Mapping[tuple[str, str], Crossing]
    slopes: Mapping[tuple[str, str], float | None]
    headline: tuple[Headline, ...]
    best_headline: tuple[Headline, ...]
    machine: tuple[Any, ...] | None
    machines: Mapping[tuple[Any, ...], int]

    @property
    def trained(self) -> bool:
        """False where time and memory alone were measured; records from before that was possible do not say."""
        return bool(self.study.get("trained", True))

    def of(self, line: str) -> list[Group]:
        """The line's groups by context."""
        return sorted((group for group in self.groups if group.line == line), key=lambda group: group.context)

    def at(self, line: str, context: int) -> Group | None:
        return next((group for group in self.of(line) if group.context == context), None)

    def valued(self, line: str) -> list[Group]:
        """Those of the line's groups that have a value, by context."""
        return [group for group in self.of(line) if group.value.n]

    def better(self, difference: float) -> float:
        """A difference of the metric, above 0 where it is for the better."""
        return difference if self.study["maximize"] else -difference


def summarize(content: Mapping[str, Any]) -> Summary:
    """The statistics of the records of a study (see `monai_ext.study.stored` for their form)."""
    study, trials = content["study"], content["trials"]
    placed = [trial for trial in trials if trial.get("context")]
    machines = Counter(machine_of(trial) for trial in trials if trial.get("measured"))
    machine = max(machines, key=lambda key: machines[key], default=None)
    names, base_of = find_lines(study, placed)
    groups = _groups(study, placed, names, machine)
    lines = tuple(dict.fromkeys(names.values()))
    comparisons = _comparisons(groups, base_of)
    growth = tuple(filter(None, (_growth(line, groups) for line in lines)))
    curves = {
        (line, cost): {g.context: g.costs[cost] for g in groups if g.line == line and g.costs.get(cost)}
        for line in lines
        for cost in FIGURES
    }
    return Summary(
        study=study,
        states=Counter(trial["state"] for trial in trials),
        lines=lines,
        contexts=tuple(sorted({group.context for group in groups})),
        groups=groups,
        baselines=base_of,
        comparisons=comparisons,
        growth=growth,
        pooled=paired([difference for line in growth for difference in line.differences]),
        fronts={cost: _front(groups, cost, study["maximize"]) for cost in (TIME, MEMORY)},
        crossings={
            (line, cost): crossing(curves[line, cost], curves[base, cost])
            for line, base in base_of.items()
            for cost in (TIME, MEMORY)
            if line != base
        },
        slopes={key: fit_exponent(curve.items()) for key, curve in curves.items()},
        headline=_headline(study, groups, base_of, best=False),
        best_headline=_headline(study, groups, base_of, best=True),
        machine=machine,
        machines=machines,
    )


def machine_of(trial: Trial) -> tuple[Any, ...]:
    """What must be the same for two times to be compared."""
    machine = trial.get("machine") or {}
    return tuple(machine.get(name) for name in (*SAME_MACHINE, "threads"))


def cost_of(trial: Trial, cost: str) -> float | None:
    """The trial's figure in seconds (the median of its repeats) or bytes; None where there is none above 0."""
    measured = trial.get("measured") or {}
    if cost == EPOCH:
        step, steps = cost_of(trial, TIME), measured.get("epoch_steps")
        return step * steps if step and steps else None
    figure = measured.get(cost)
    figure = figure.get("median") if isinstance(figure, Mapping) else figure
    return figure if figure and figure > 0 else None


def _groups(
    study: Mapping[str, Any], trials: Sequence[Trial], names: Mapping[int, str], machine: tuple[Any, ...] | None
) -> tuple[Group, ...]:
    """By order of the lines, then by context; `names` are those of the lines of the trials, by index."""
    seed = study["seed_axis"]
    members: dict[tuple[Any, ...], list[Trial]] = defaultdict(list)
    for i, trial in enumerate(trials):
        axes = tuple(item for item in trial["axes"].items() if item[0] != seed)
        members[names[i], trial["context"], axes].append(trial)
    groups = []
    for (line, context, axes), inside in members.items():
        values = {
            trial["axes"].get(seed): float(trial["value"])
            for trial in inside
            if trial["state"] == "complete" and trial.get("value") is not None
        }
        known = {
            cost: [figure for trial in inside if machine_of(trial) == machine and (figure := cost_of(trial, cost))]
            for cost in FIGURES
        }
        costs = {cost: float(plain.median(figures)) for cost, figures in known.items() if figures}
        groups.append(Group(line, context, dict(axes), tuple(inside), values, spread(list(values.values())), costs))
    order = list(dict.fromkeys(names.values()))
    return tuple(sorted(groups, key=lambda group: (order.index(group.line), group.context)))


def _differences(one: Group, other: Group) -> list[float]:
    return [value - other.values[seed] for seed, value in one.values.items() if seed in other.values]


def _comparisons(groups: Sequence[Group], base_of: Mapping[str, str]) -> tuple[Comparison, ...]:
    bases = {(group.line, group.context): group for group in groups}
    found = []
    for group in groups:
        base = bases.get((base_of.get(group.line), group.context))
        if base and base.line != group.line and (differences := _differences(group, base)):
            found.append((group, base, paired(differences)))
    corrected = holm([pairs.p for _, _, pairs in found])
    return tuple(
        Comparison(group.line, base.line, group.context, pairs, p) for (group, base, pairs), p in zip(found, corrected)
    )


def _growth(line: str, groups: Sequence[Group]) -> Growth | None:
    """Over the line's contexts that have values; None for fewer than two of them, or no seed in common."""
    own = [group for group in groups if group.line == line and group.value.n]
    if len(own) < 2:
        return None
    differences = tuple(_differences(own[-1], own[0]))
    return Growth(line, own[0].context, own[-1].context, differences, paired(differences)) if differences else None


def _front(groups: Sequence[Group], cost: str, maximize: bool) -> tuple[Group, ...]:
    known = [group for group in groups if group.value.n and cost in group.costs]
    return tuple(known[i] for i in front([(g.costs[cost], g.value.mean) for g in known], maximize))


def _headline(
    study: Mapping[str, Any], groups: Sequence[Group], base_of: Mapping[str, str], best: bool
) -> tuple[Headline, ...]:
    """Every group against the baseline at the same context, or at the baseline's best."""
    sign = 1 if study["maximize"] else -1
    rows = []
    for group in groups:
        line, base_line = group.line, base_of.get(group.line)
        own = [other for other in groups if other.line == base_line]
        if best:
            base = max((o for o in own if o.value.n), key=lambda o: sign * o.value.mean, default=None)
        else:
            base = next((o for o in own if o.context == group.context), None)
        if base is None or base_line == line:
            continue
        ratios = {
            cost: base.costs[cost] / group.costs[cost] if cost in base.costs and cost in group.costs else None
            for cost in (TIME, MEMORY)
        }
        known = group.value.mean is not None and base.value.mean is not None
        difference = group.value.mean - base.value.mean if known else None
        rows.append(
            Headline(
                line,
                base.line,
                group.context,
                base.context,
                group.value.mean,
                base.value.mean,
                difference,
                None if difference is None else sign * difference >= -study["tolerance"] - ROUNDING,
                ratios[TIME],
                ratios[MEMORY],
                None if ratios[TIME] is None else ratios[TIME] >= TIME_HEADLINE,
                None if ratios[MEMORY] is None else ratios[MEMORY] >= MEMORY_HEADLINE,
            )
        )
    return tuple(rows)
