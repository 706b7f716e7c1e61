"""Made-up records of a study, whose numbers follow simple laws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MACHINE = {
    "device": "cpu",
    "gpu": None,
    "cpu": "CPU",
    "cores": 4,
    "memory_gib": 16.0,
    "threads": 2,
    "system": "Linux",
    "python": "3.11.0",
    "torch": "2.13.0",
    "cuda": None,
    "monai_ext": "0.1.0",
    "date": "2026-01-02T03:04:05",
}


def study(**more: Any) -> dict[str, Any]:
    return {
        "name": "vessels",
        "title": "Retinal vessels: context against accuracy",
        "bundle": "retinal_vessel_segmentation",
        "metric": "val_mean_dice",
        "maximize": True,
        "split": "validation",
        "budget": {"epochs": 10},
        "axes": ["mixer", "patch_size", "seed"],
        "mixer_axis": "mixer",
        "seed_axis": "seed",
        "baseline": "softmax",
        "tolerance": 0.01,
        **more,
    }


def trial(
    axes: Mapping[str, Any],
    context: int,
    value: float | None,
    seconds: float | None = None,
    memory: float | None = None,
) -> dict[str, Any]:
    """Complete where it has a value, failed where not; measured where it has seconds or memory."""
    key = "-".join(map(str, axes.values())) or "only"
    record: dict[str, Any] = {"key": key, "state": "complete", "reason": "", "axes": dict(axes), "context": context}
    record |= {"tokens": context, "parameters": 1000, "value": value, "metrics": {}, "history": []}
    record |= {"epochs": 10, "steps": 100, "train_seconds": 60.0, "measured": None, "machine": dict(MACHINE)}
    if value is None:
        return {**record, "state": "failed", "reason": "The trial ran out of memory."}
    record["metrics"] = {"val_mean_dice": value, "loss": 1 - value}
    record["history"] = [
        {"epoch": e, "loss": 0.9**e, "value": value * (1 - 0.5**e) if e % 2 == 0 else None} for e in range(1, 11)
    ]
    if seconds is not None or memory is not None:
        spread = None
        if seconds is not None:
            spread = {"median": seconds, "min": seconds, "max": 2 * seconds, "repeats": 5}
        record["measured"] = {"step_seconds": spread, "step_memory": memory, "inference_seconds": None}
        record["measured"] |= {"inference_memory": None, "memory_method": "peak_rss", "batch_size": 4}
    return record


def content(
    trials: Iterable[Mapping[str, Any]], dropped: Iterable[Mapping[str, Any]] = (), **more: Any
) -> dict[str, Any]:
    return {"schema": 1, "study": study(**more), "dropped": list(dropped), "trials": list(trials)}


def crossed(
    mixers: Iterable[str],
    contexts: Mapping[int, int],
    seeds: Iterable[int],
    law: Callable[[str, int, int], tuple[float | None, float | None, float | None]],
) -> list[dict[str, Any]]:
    """Every mixer with every patch size (`contexts` maps them to contexts) and seed; `law` gives value, s, bytes."""
    return [
        trial({"mixer": mixer, "patch_size": patch, "seed": seed}, contexts[patch], *law(mixer, contexts[patch], seed))
        for mixer, patch, seed in itertools.product(mixers, contexts, seeds)
    ]
