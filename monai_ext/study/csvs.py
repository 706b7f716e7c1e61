"""The trials and the groups of a study as CSV; times in seconds, memory in bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from monai_ext.bench.report import SPREAD
from monai_ext.study.summary import COSTS, FIGURES, MEMORY, TIME, Summary

TRIAL_COLUMNS = ("context", "tokens", "parameters", "value", "epochs", "steps", "train_seconds")
MACHINE_COLUMNS = ("device", "gpu", "cpu", "cores", "memory_gib", "threads", "system", "python", "torch", "cuda")


def trials_csv(content: Mapping[str, Any], summary: Summary) -> str:
    """A row a trial, in whatever state; then a row for each that was dropped before it was planned, state "dropped"."""
    axes, trials = content["study"]["axes"], content["trials"]
    lines = {trial["key"]: group.line for group in summary.groups for trial in group.trials}
    metrics = sorted({name for trial in trials for name in trial.get("metrics") or {}})
    taken = {"key", "state", "reason", "line", *TRIAL_COLUMNS}
    columns = {axis: f"axis_{axis}" if axis in taken else axis for axis in axes}
    rows = []
    for trial in trials:
        row = {"key": trial["key"], "state": trial["state"], "reason": trial.get("reason") or ""}
        row |= {column: trial["axes"].get(axis) for axis, column in columns.items()}
        row["line"] = lines.get(trial["key"])
        row |= {name: trial.get(name) for name in TRIAL_COLUMNS}
        row |= {f"metric_{name}": (trial.get("metrics") or {}).get(name) for name in metrics}
        rows.append(row | _measured(trial) | _machine(trial))
    for dropped in content.get("dropped") or []:
        row = {"state": "dropped", "reason": dropped["reason"]}
        rows.append(row | {column: dropped["axes"].get(axis) for axis, column in columns.items()})
    return _csv(rows, ["key", "state", "reason", *columns.values()])


def groups_csv(summary: Summary) -> str:
    """A row a group, that is a line and a context, with its comparisons with the baseline (line - baseline)."""
    tested = {(found.line, found.context): found for found in summary.comparisons}
    same = {(row.line, row.context): row for row in summary.headline}
    best = {(row.line, row.context): row for row in summary.best_headline}
    rows = []
    for group in summary.groups:
        place, first = (group.line, group.context), group.trials[0]
        row: dict[str, Any] = {"line": group.line, "context": group.context}
        row |= {f"axis_{axis}": value for axis, value in group.axes.items()}
        row |= {"tokens": first.get("tokens"), "parameters": first.get("parameters")}
        row |= {"trials": len(group.trials), "failed": group.count("failed"), "n": group.value.n}
        row |= {name: getattr(group.value, name) for name in ("mean", "sd", "low", "high")}
        row |= {cost: group.costs.get(cost) for cost in FIGURES}
        row |= {f"front_{cost}": group in summary.fronts[cost] for cost in (TIME, MEMORY)}
        pairs = tested[place].pairs if place in tested else None
        row["baseline"] = summary.baselines.get(group.line)
        for name in ("n", "mean", "sd", "low", "high", "p", "p_wilcoxon"):
            row[f"pairs_{name}"] = getattr(pairs, name, None)
        row["pairs_p_holm"] = tested[place].p_holm if place in tested else None
        for prefix, found in (("same", same.get(place)), ("best", best.get(place))):
            for name in ("baseline_context", "difference", "equal", "time_ratio", "memory_ratio"):
                row[f"{prefix}_{name}"] = getattr(found, name, None)
            for name in ("reaches_time", "reaches_memory"):
                row[f"{prefix}_{name}"] = getattr(found, name, None)
        rows.append(row)
    return _csv(rows, ["line", "context"])


def _measured(trial: Mapping[str, Any]) -> dict[str, Any]:
    measured = trial.get("measured") or {}
    row: dict[str, Any] = {}
    for cost in COSTS:
        if cost.endswith("seconds"):
            row |= {f"{cost}_{part}": (measured.get(cost) or {}).get(part) for part in SPREAD}
        else:
            row[cost] = measured.get(cost)
    return row | {name: measured.get(name) for name in ("memory_method", "batch_size", "epoch_steps")}


def _machine(trial: Mapping[str, Any]) -> dict[str, Any]:
    machine = trial.get("machine") or {}
    return {f"machine_{name}": machine.get(name) for name in (*MACHINE_COLUMNS, "monai_ext", "date")}


def _csv(rows: Sequence[Mapping[str, Any]], least: Sequence[str]) -> str:
    columns = dict.fromkeys(column for row in rows for column in row) or dict.fromkeys(least)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
