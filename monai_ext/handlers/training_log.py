"""The course of a training as a table and a picture."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_ext.files import atomic_write, remove_leftovers

__all__ = ["TrainingLogHandler", "draw_curve", "read_log"]

_logger = logging.getLogger(__name__)


class TrainingLogHandler:
    """Write ``training_log.csv``, a line an epoch, and ``training_curve.png``.

    Columns: epoch, mean training loss, the named metrics of the evaluator (empty in epochs without validation),
    learning rate of the last iteration, seconds with validation. A resumed run drops the lines of epochs it does
    again. In multi-process runs the loss is that of the first process, which alone writes.

    Args:
        folder: where both files go.
        optimizer: for the learning rate of its first group.
        evaluator: the engine that validates.
        metrics: names of the evaluator's metrics; by default its key metric.
        curve_every: epochs between two pictures; the last epoch is always drawn. 0: none.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        optimizer: torch.optim.Optimizer | None = None,
        evaluator: Engine | None = None,
        metrics: list[str] | None = None,
        curve_every: int = 5,
    ) -> None:
        self.log_file = Path(folder) / "training_log.csv"
        self.curve_file = Path(folder) / "training_curve.png"
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.metrics = metrics
        self.curve_every = curve_every
        self._sum, self._count, self._begun = 0.0, 0, 0.0
        self._rate: float | str = ""
        self._pruned = False

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._attach_late)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._note_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def _attach_late(self, engine: Engine) -> None:
        # After validation and schedule, whatever the place in the list; before TrainingStateHandler writes.
        self._pruned = False
        if not engine.has_event_handler(self._end, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._sum, self._count, self._begun = 0.0, 0, time.perf_counter()
        if not self._pruned:
            self._prune(engine.state.epoch)
            self._pruned = True

    def _add(self, engine: Engine) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, (list, tuple)) else output
        loss = first.get("loss") if isinstance(first, dict) else first
        if loss is not None:
            self._sum += float(loss)
            self._count += 1

    def _end(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        row: dict[str, Any] = {"epoch": epoch, "train_loss": self._sum / self._count if self._count else math.nan}
        fresh = self.evaluator is not None and self.evaluator.state.epoch == epoch
        for name in self._names():
            value = self.evaluator.state.metrics.get(name) if fresh else None  # type: ignore[union-attr]
            row[name] = "" if value is None else float(value)
        row["learning_rate"] = self._rate
        row["seconds"] = round(time.perf_counter() - self._begun, 2)
        new = not self.log_file.exists()
        with self.log_file.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
        if self.curve_every and (epoch % self.curve_every == 0 or epoch == engine.state.max_epochs):
            try:
                draw_curve(self.log_file, self.curve_file)
            except ImportError:
                _logger.warning("matplotlib is not installed, no training curve is drawn.")
                self.curve_every = 0

    def _note_rate(self, _engine: Engine) -> None:
        if self.optimizer is not None:  # the one this iteration uses; schedules step after it
            self._rate = float(self.optimizer.param_groups[0]["lr"])

    def _names(self) -> list[str]:
        if self.metrics is not None:
            return self.metrics
        name = getattr(getattr(self.evaluator, "state", None), "key_metric_name", None)
        return [name] if name else []

    def _prune(self, epoch: int) -> None:
        """Keep what was written before ``epoch``."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.log_file)
        if not self.log_file.exists():
            return
        rows = [row for row in read_log(self.log_file) if int(row["epoch"]) < epoch]
        if not rows:
            self.log_file.unlink()
            return
        with atomic_write(self.log_file, "w") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_log(path: str | os.PathLike) -> list[dict[str, str]]:
    """The whole lines of a training log; a line that a killed run left half-written is dropped."""
    text = Path(path).read_text()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values() or not row["epoch"].isdigit():
            continue
        rows.append(row)
    return rows


def draw_curve(log_file: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draw loss and metrics against epochs from a training log."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(log_file)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = axes.plot(*_series(rows, "train_loss"), color="#0072B2", label="training loss")
    _focus(axes, [_series(rows, "train_loss")[1]])
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.grid(alpha=0.3)
    names = [key for key in rows[0] if key not in ("epoch", "train_loss", "learning_rate", "seconds")] if rows else []
    if names:
        other = axes.twinx()
        other.set_ylabel("validation")
        for name, colour in zip(names, ("#D55E00", "#009E73", "#CC79A7", "#E69F00") * len(names)):
            lines += other.plot(*_series(rows, name), color=colour, marker=".", label=name)
        _focus(other, [_series(rows, name)[1] for name in names])
    axes.legend(handles=lines, loc="center right", fontsize="small")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _focus(axes: Any, series: list[list[float]]) -> None:
    """Scale to what comes after the first tenth of a long run, whose steep start would flatten the rest."""
    values = [value for line in series for value in line[len(line) // 10 if len(line) >= 10 else 0 :]]
    values = [value for value in values if math.isfinite(value)]
    if values and max(values) > min(values):
        margin = 0.05 * (max(values) - min(values))
        axes.set_ylim(min(values) - margin, max(values) + margin)


def _series(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    points = [(int(row["epoch"]), float(row[name])) for row in rows if row[name] != ""]
    return [epoch for epoch, _ in points], [value for _, value in points]
