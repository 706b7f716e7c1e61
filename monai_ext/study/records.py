"""What the storage knows of a study, in the form that `report` and `status` read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_ext.study.axes import SEED
from monai_ext.study.bundle_config import BundleConfig
from monai_ext.study.plan import Planned
from monai_ext.study.storage import Storage

SCHEMA = 1
MIXER = "mixer"
# before a trial's key: where the storage keeps what `measure` found later
MEASURED_AGAIN = "measured again "


def describe(config: BundleConfig, planned: Sequence[Planned]) -> dict[str, Any]:
    """What is stored of a study beside its trials."""
    spec = config.spec
    names = [axis.name for axis in spec.axes]
    return {
        "study": {
            "name": spec.name,
            "title": spec.title,
            "bundle": config.name,
            "metric": (spec.metric.name or _key_metric(config)) if spec.train else "",
            "maximize": spec.metric.maximize,
            "split": spec.metric.split,
            "at": spec.metric.at,
            "trained": spec.train,
            "budget": dict(spec.budget),
            "axes": names,
            "mixer_axis": MIXER if MIXER in names else None,
            "seed_axis": SEED if SEED in names else None,
            "context_axis": spec.context_axis,
            "baseline": spec.baseline,
            "tolerance": spec.tolerance,
        },
        "plan": [trial.key for trial in planned if not trial.reason],
        "dropped": [{"axes": dict(trial.axes), "reason": trial.reason} for trial in planned if trial.reason],
    }


def _key_metric(config: BundleConfig) -> str:
    """The name under which the validation's key metric stands."""
    found = config.get("validate#key_metric")
    return next(iter(found)) if isinstance(found, dict) and found and "_target_" not in found else "key metric"


def content_of(storage: Storage) -> dict[str, Any]:
    """Everything of a study that a report needs.

    Raises:
        ValueError: nothing was ever run.
    """
    about = storage.recall()
    if "plan" not in about or "dropped" not in about:
        raise ValueError(f"there are no trials of study {storage.name!r} in its storage: run it first.")
    wanted = set(about["plan"])
    trials = [_trial(record, about["study"]) for record in storage.records() if record["key"] in wanted]
    for trial in trials:
        again = about.get(MEASURED_AGAIN + trial["key"])
        if again is not None:
            trial |= again
    return {"schema": SCHEMA, "study": about["study"], "dropped": about["dropped"], "trials": trials}


def _trial(record: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    result, estimate = record.get("result") or {}, record.get("estimate") or {}
    context = estimate.get("context")
    if study.get("context_axis"):
        context = record["axes"][study["context_axis"]]
    complete = record["state"] == "complete"
    return {
        "key": record["key"],
        "state": record["state"],
        "reason": result.get("reason") or ("" if record["state"] != "failed" else "its worker died again and again."),
        "axes": record["axes"],
        "context": context,
        "tokens": estimate.get("tokens"),
        "parameters": estimate.get("parameters"),
        "value": result.get("value") if complete else None,
        "metrics": result.get("metrics", {}),
        "history": result.get("history", []),
        "epochs": result.get("epochs"),
        "steps": result.get("steps"),
        "train_seconds": result.get("train_seconds"),
        "measured": result.get("measured"),
        "machine": result.get("machine"),
    }
