"""What `plan` and `status` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_ext.bench.estimate import machine_speed
from monai_ext.bench.report import align
from monai_ext.study.plan import Planned
from monai_ext.study.progress import describe, how_it_ended, name_of
from monai_ext.study.workflow import read_json

UNKNOWN = "?"


def plan_table(planned: Sequence[Planned], device: torch.device, threads: int | None) -> str:
    """The trials, what each will take on this machine, and the sum."""
    if threads is not None and device.type == "cpu":
        torch.set_num_threads(threads)
    speed = machine_speed(device)
    names = list(planned[0].axes)
    rows, whole, known = [], 0.0, True
    for trial in planned:
        labels = [str(trial.axes[name]) for name in names]
        if trial.reason:
            rows.append([*labels, *[""] * 6, f"dropped: {trial.reason}"])
            continue
        found = trial.estimate
        if found is None:
            known = False
            rows.append([*labels, *[UNKNOWN] * 6, trial.note])
            continue
        step = found.seconds(speed)
        total = UNKNOWN if trial.steps is None else duration(step * trial.steps)
        known &= trial.steps is not None
        whole += step * (trial.steps or 0)
        rows.append(
            [
                *labels,
                f"{found.context:,}" if found.context else UNKNOWN,
                f"{found.tokens:,}" if found.tokens else UNKNOWN,
                f"{found.parameters / 1e6:.2f} M",
                f"{found.memory / 2**20:.0f} MiB",
                f"{step:.3g} s",
                total,
                "",
            ]
        )
    head = [*names, "context", "tokens", "parameters", "memory", "step", "training", ""]
    runs = sum(not trial.reason for trial in planned)
    sums = f"{_count(runs, 'trial')} to run, {len(planned) - runs} dropped"
    sums += f"; about {duration(whole)} of training on this machine ({device.type})." if known and runs else "."
    estimates = (
        "Memory and times are estimates of training steps, from the operators that run; "
        "loading, validation and measuring come on top."
    )
    return f"{align(head, rows)}\n\n{sums}\n{estimates}"


def dropped_lines(planned: Iterable[Planned]) -> list[str]:
    return [
        f"dropped: {', '.join(f'{name} {label}' for name, label in trial.axes.items())}: {trial.reason}"
        for trial in planned
        if trial.reason
    ]


def status_table(records: Sequence[Mapping[str, Any]], folder: Callable[[str], Path]) -> str:
    """A line for every trial."""
    rows = []
    for record in records:
        result = record.get("result") or {}
        if record["state"] == "complete":
            trained = result.get("train_seconds")
            said = how_it_ended(record) + ("" if trained is None else f" after {duration(trained)}")
        elif record["state"] == "running":
            progress = read_json(folder(record["key"]) / "progress.json")
            said = f"{describe(record, progress).rpartition(': ')[2]}, on {record.get('host', UNKNOWN)}"
        else:
            said = result.get("reason", "")
        rows.append([record["key"], name_of(record), record["state"], said])
    return align(["trial", "axes", "state", ""], rows)


def states_line(records: Iterable[Mapping[str, Any]]) -> str:
    counts = Counter(record["state"] for record in records)
    told = [f"{counts[state]} {state}" for state in ("complete", "running", "waiting", "failed") if counts[state]]
    return f"{_count(sum(counts.values()), 'trial')}: {', '.join(told) or 'none'}."


def duration(value: float) -> str:
    """Seconds as a person says them."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return f"{value / length:.1f} {unit}"
    return f"{value:.0f} s"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
