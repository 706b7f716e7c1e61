"""A trial's bundle as a workflow of MONAI's, and what the study hangs on its engines."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_ext.files import atomic_write

TRAINER, EVALUATOR = "train#trainer", "validate#evaluator"
# least seconds between two notes of the progress
NOTE_SECONDS = 1.0


def quiet() -> None:
    """Leave out what MONAI's engines say of every epoch."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def open_workflow(
    request: Mapping[str, Any], settings: Mapping[str, Any], files: str = "config_files", kind: str = "train"
) -> ConfigWorkflow:
    """The bundle's workflow with the trial's settings, and further ones where the config has them.

    Args:
        request: of the trial: config files, settings, places.
        settings: further settings; one that the config does not have is left out.
        files: which of the request's lists of files.
        kind: of workflow, as in MONAI.
    """
    paths = [str(path) for path in request[files]]
    content = load_config(request, files)
    further = {name: value for name, value in settings.items() if knows(content, name)}
    return ConfigWorkflow(
        config_file=paths,
        meta_file=_metadata(paths[0]),
        logging_file=False,
        workflow_type=kind,
        **{**request["places"], **request["settings"], **further},
    )


def epoch_length(request: Mapping[str, Any]) -> int:
    """Training steps of an epoch, found without loading an image."""
    parser = ConfigParser(load_config(request))
    parser.update(pairs={**request["places"], **request["settings"]})
    bare = {"_target_": "monai.data.Dataset", "data": parser["train#dataset#data"]}
    parser["train#dataset"] = bare
    return len(parser.get_parsed_content("train#dataloader"))


def count_cases(request: Mapping[str, Any], data: str = "validate#dataset#data") -> int:
    """Cases of a dataset."""
    parser = ConfigParser(load_config(request))
    parser.update(pairs={**request["places"], **request["settings"]})
    return len(parser.get_parsed_content(data))


def _metadata(config: str) -> str | None:
    path = Path(config).with_name("metadata.json")
    return str(path) if path.is_file() else None


def load_config(request: Mapping[str, Any], files: str = "config_files") -> dict[str, Any]:
    """The merged content of a request's files; the bundle's own modules can be imported from now on."""
    if request.get("root") and request["root"] not in sys.path:
        sys.path.insert(1, request["root"])
    return ConfigParser.load_config_files([str(path) for path in request[files]])


def knows(content: Mapping[str, Any], name: str) -> bool:
    """Whether a config has an id, or, for one without parts, refers to it."""
    parser = ConfigParser(dict(content))
    if "#" in name:
        return name in parser or name.rpartition("#")[0] in parser
    return name in content or re.search(rf"@{re.escape(name)}\b", json.dumps(content)) is not None


def places_in(folder: Path) -> dict[str, Any]:
    """Where a trial writes, by the names that bundles have for it."""
    return {"output_dir": str(folder), "ckpt_dir": str(folder), "model_path": str(folder / "model.pt")}


def epochs_id(content: Mapping[str, Any]) -> str:
    """The id that sets the number of epochs: the one that the trainer's argument refers to, or that argument."""
    argument = f"{TRAINER}#max_epochs"
    parser = ConfigParser(dict(content))
    value = parser.get(argument)
    refers = re.fullmatch(r"@([\w#]+)", value) if isinstance(value, str) else None
    return refers.group(1) if refers else argument


class Budget:
    """Ends the training when its steps or minutes are used up; the last epoch is validated as any other.

    Args:
        steps: training steps in all.
        minutes: of training and validation in all.
        used: seconds of an earlier part of the run.
    """

    def __init__(self, steps: float | None = None, minutes: float | None = None, used: float = 0.0) -> None:
        self.steps, self.minutes, self.used = steps, minutes, used
        self._begun = 0.0
        self._over = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    @property
    def seconds(self) -> float:
        """Used so far."""
        return self.used + (time.perf_counter() - self._begun if self._begun else 0.0)

    def _begin(self, engine: Engine) -> None:
        self._begun = time.perf_counter()

    def _step(self, engine: Engine) -> None:
        late = self.minutes is not None and self.seconds >= 60 * self.minutes
        if not self._over and (late or (self.steps is not None and engine.state.iteration >= self.steps)):
            self._over = True
            engine.state.max_epochs = engine.state.epoch  # handlers that wait for the last epoch: this is it
            engine.terminate_epoch()

    def _end(self, engine: Engine) -> None:
        if self._over:
            engine.terminate()


class Diverged(ValueError):
    """The loss is no number any more."""


def stop_at_nan(engine: Engine) -> None:
    """Raise where the loss of a step is not finite.

    Raises:
        Diverged: says where.
    """
    output = engine.state.output
    first = output[0] if isinstance(output, (list, tuple)) and output else output
    loss = first.get("loss") if isinstance(first, Mapping) else first
    if loss is not None and not math.isfinite(float(loss)):
        state = engine.state
        raise Diverged(f"it diverged: the loss is {float(loss)} in epoch {state.epoch}, step {state.iteration}.")


class Notes:
    """Keeps `progress.json`: epoch, step, the mean loss and the metric of every epoch.

    Args:
        path: the file; a run that goes on takes over the epochs that it holds.
        evaluator: the engine that validates.
        metric: name of its metric; empty for the key metric.
        budget: knows the seconds.
        further: is written, too.
    """

    def __init__(self, path: Path, evaluator: Engine, metric: str, budget: Budget, further: Mapping[str, Any]) -> None:
        self.path, self.evaluator, self.metric, self.budget = path, evaluator, metric, budget
        self.further = further
        self.history: list[dict[str, Any]] = read_json(path).get("history", [])
        self._sum, self._count, self._noted = 0.0, 0, 0.0
        self._whole = budget.used  # seconds up to the last whole epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        # after the validation, and before the training's state is saved: an epoch that is done again is noted again
        engine.add_event_handler(Events.STARTED, self._attach_late)

    def _attach_late(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._sum, self._count = 0.0, 0
        self.history = [row for row in self.history if row["epoch"] < engine.state.epoch]

    def _step(self, engine: Engine) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, (list, tuple)) and output else output
        loss = first.get("loss") if isinstance(first, Mapping) else first
        if loss is not None:
            self._sum, self._count = self._sum + float(loss), self._count + 1
        if time.perf_counter() - self._noted > NOTE_SECONDS:
            with contextlib.suppress(OSError):  # a file that is being read (Windows), a full disk: later
                self.write(engine)

    def _end(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch >= engine.state.max_epochs and self.evaluator.state.epoch != epoch:
            self.evaluator.run(epoch)  # the last epoch is judged, whatever the interval
        value = self.value() if self.evaluator.state.epoch == epoch else None
        self.history.append({"epoch": epoch, "loss": self._loss(), "value": value})
        self._whole = self.budget.seconds
        self.write(engine)

    def _loss(self) -> float | None:
        return round(self._sum / self._count, 6) if self._count else None

    def value(self) -> float | None:
        """The metric of the last validation."""
        state = self.evaluator.state
        name = self.metric or getattr(state, "key_metric_name", None)
        found = (state.metrics or {}).get(name)
        return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None

    def write(self, engine: Engine) -> None:
        self._noted = time.perf_counter()
        state = engine.state
        if idist.get_rank() == 0:
            write_json(
                self.path,
                {
                    **self.further,
                    "epoch": state.epoch,
                    "max_epochs": state.max_epochs,
                    "step": state.iteration,
                    "epoch_length": state.epoch_length,
                    "loss": self._loss(),
                    "seconds": round(self._whole, 2),
                    "history": self.history,
                },
            )


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
