"""A trial's training, in its own process: `python -m monai_ext.study.trial FOLDER`, started by the worker.

The folder holds `request.json`; the process keeps `progress.json` beside it and ends with `result.json`.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from monai_ext.bench.child import FAILED, end_with_parent, guard_memory, one_sentence
from monai_ext.bundle.errors import mistake_in
from monai_ext.study.workflow import (
    EVALUATOR,
    TRAINER,
    Budget,
    Notes,
    count_cases,
    epoch_length,
    epochs_id,
    load_config,
    open_workflow,
    places_in,
    quiet,
    read_json,
    stop_at_nan,
    write_json,
)

COMPLETE = "complete"
STATE = "training_state.pt"


def train(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train, going on where an earlier process was stopped, and judge.

    Returns:
        value, metrics, history, epochs, steps and seconds

    Raises:
        ValueError: it diverged, or there is no such metric.
    """
    own = places_in(folder)
    own["resume"] = (folder / STATE).is_file()
    if not own["resume"]:
        (folder / "progress.json").unlink(missing_ok=True)
    earlier = read_json(folder / "progress.json")
    epochs = earlier.get("planned_epochs") or _epochs(request)
    if epochs is not None:
        own[epochs_id(load_config(request))] = epochs
    workflow = open_workflow(request, own)
    parser = workflow.parser
    workflow.initialize()
    trainer, evaluator = parser.get_parsed_content(TRAINER), parser.get_parsed_content(EVALUATOR)
    budget = request["budget"]
    if "steps" in budget and trainer.state.epoch_length:  # whatever the dataset made of its cases
        trainer.state.max_epochs = math.ceil(budget["steps"] / trainer.state.epoch_length)
    limit = Budget(budget.get("steps"), budget.get("minutes"), earlier.get("seconds", 0.0))
    notes = Notes(folder / "progress.json", evaluator, request["metric"]["name"], limit, {"planned_epochs": epochs})
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop_at_nan)
    limit.attach(trainer)
    notes.attach(trainer)
    workflow.run()
    workflow.finalize()
    value, metrics = _judge(request, folder, notes, evaluator)
    return {
        "status": COMPLETE,
        "reason": "",
        "value": value,
        "metrics": metrics,
        "history": notes.history,
        "epochs": trainer.state.epoch,
        "steps": trainer.state.iteration,
        "train_seconds": round(limit.seconds, 2),
    }


def _epochs(request: Mapping[str, Any]) -> int | None:
    """As many as the budget says, or, of steps and minutes, as the measured times promise; None: the config's own."""
    budget = request["budget"]
    if "epochs" in budget:
        return int(budget["epochs"])
    if not budget:
        return None
    try:
        length = epoch_length(request)
    except Exception:  # a dataset that makes its own cases: the config's epochs, cut by the budget
        return None
    if "steps" in budget:
        return math.ceil(budget["steps"] / length)
    measured = request.get("measured") or {}
    if not measured.get("step_seconds"):
        return None
    seconds = length * measured["step_seconds"]["median"]
    if measured.get("inference_seconds"):
        interval = request["settings"].get("val_interval") or request["val_interval"] or 1
        seconds += count_cases(request) * measured["inference_seconds"]["median"] / interval
    return max(1, int(60 * budget["minutes"] / seconds))


def _judge(request: Mapping[str, Any], folder: Path, notes: Notes, evaluator: Any) -> tuple[float, dict[str, float]]:
    metric = request["metric"]
    if metric["split"] == "test":
        metrics, key = _evaluate(request, folder)
        name = metric["name"] or key or next(iter(metrics), "")
        if name not in metrics:
            raise ValueError(f"metric: the evaluation has no {name!r}; it has {', '.join(metrics)}.")
        return metrics[name], metrics
    values = [row["value"] for row in notes.history if row["value"] is not None]
    metrics = _numbers(evaluator.state.metrics or {})
    if not values:
        known = ", ".join(metrics) or "none: it did not validate, lower val_interval"
        raise ValueError(f"metric: no validation gave {metric['name'] or 'a key metric'!r}; there are {known}.")
    best = max(values) if metric["maximize"] else min(values)
    return (best if metric["at"] == "best" else values[-1]), metrics


def _evaluate(request: Mapping[str, Any], folder: Path) -> tuple[dict[str, float], str | None]:
    if not (folder / "model.pt").is_file():
        raise ValueError("metric: the training left no model.pt in its output_dir or ckpt_dir to evaluate on the test.")
    own = {**places_in(folder), "output_dir": str(folder / "test"), "split": "test"}
    workflow = open_workflow(request, own, "evaluate_files", "eval")
    workflow.initialize()
    workflow.run()
    parser = workflow.parser
    engine = parser.get_parsed_content("evaluator" if "evaluator" in parser else EVALUATOR)
    return _numbers(engine.state.metrics or {}), getattr(engine.state, "key_metric_name", None)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in metrics.items():
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            if math.isfinite(float(value)):
                found[name] = float(value)
    return found


def main(folder: Path) -> int:
    """Work, and leave `result.json`, whatever happens."""
    end_with_parent()  # each of several processes, too: they share one standard input
    request = read_json(folder / "request.json")
    began = time.perf_counter()
    try:
        guard_memory()
        quiet()
        result = train(request, folder)
    except Exception as error:
        reason = mistake_in(error) or one_sentence(_innermost(error))
        result = {"status": FAILED, "reason": reason}
        if os.environ.get("MONAI_EXT_TRACEBACK"):
            raise
    failed = result["status"] == FAILED
    if failed or int(os.environ.get("RANK", "0")) == 0:
        write_json(folder / "result.json", {**result, "seconds": round(time.perf_counter() - began, 2)})
    if failed:
        sys.stdout.flush()
        os._exit(1)  # not waiting for other processes, which wait for this one
    return 0


def _innermost(error: BaseException) -> BaseException:
    """What the wrappers of MONAI and of data loaders wrap; memory that ran out, and our own words, come first."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    telling = [e for e in chain if isinstance(e, (MemoryError, torch.OutOfMemoryError)) or "allocate" in str(e)]
    return telling[0] if telling else chain[-1]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
