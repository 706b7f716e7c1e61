"""Results of every case: one table with the classes by name, distances in millimetres."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.handlers import HausdorffDistance
from monai.utils import string_list_all_gather

from monai_ext.handlers.files import atomic_write

__all__ = ["CaseMetricsSaver", "HausdorffDistanceMM", "case_name"]

_logger = logging.getLogger(__name__)


class HausdorffDistanceMM(HausdorffDistance):
    """MONAI's handler, in millimetres: it counts voxels, this one gives it the spacing of every reference.

    The spacing is that of the compared grid: 1 mm where images were resampled to 1 mm, the file's own where
    ``Invertd`` brought the prediction back to it.
    """

    def update(self, output: Sequence[Any]) -> None:
        predictions, references = output
        for prediction, reference in zip(predictions, references):
            spacing = [float(size) for size in reference.pixdim] if isinstance(reference, MetaTensor) else None
            self.metric_fn([prediction], [reference], spacing=spacing)


class CaseMetricsSaver:
    """Write the evaluator's per-case values to one CSV.

    Columns: ``case``, then ``<metric>_<class>`` and ``<metric>_mean`` for every metric; rows ``mean`` and ``std``
    (of the population) at the end. A class that is absent from a case has an empty cell, a distance to an absent
    prediction ``inf``; neither is part of means and deviations, and the log says how many were left out.

    Args:
        path: the file.
        class_names: foreground classes in the order of the metrics' columns.
        metrics: name in the table for each of the evaluator's metrics, by the evaluator's name for it.
    """

    def __init__(self, path: str | os.PathLike, class_names: Sequence[str], metrics: Mapping[str, str]) -> None:
        self.path = Path(path)
        self.class_names = list(class_names)
        self.metrics = dict(metrics)
        self._files: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._files = []

    def _add(self, engine: Engine) -> None:
        batch = engine.state.batch
        if not isinstance(batch, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        for item in batch:
            self._files.append(_file(item["image"]) or f"case_{len(self._files)}")

    def __call__(self, engine: Engine) -> None:
        files = string_list_all_gather(self._files) if idist.get_world_size() > 1 else self._files
        if idist.get_rank() > 0:
            return
        rows: dict[str, dict[str, float]] = {file: {} for file in files}  # a distributed sampler repeats cases
        for key, title in self.metrics.items():
            details = getattr(engine.state, "metric_details", {}).get(key)
            if details is None:
                known = ", ".join(getattr(engine.state, "metric_details", {})) or "none"
                raise ValueError(f"the evaluator has no metric {key!r} with details; it has: {known}.")
            values = torch.as_tensor(details).double().cpu().numpy()
            values = values.reshape(len(values), -1)
            if values.shape != (len(files), len(self.class_names)):
                raise ValueError(
                    f"the metric {key!r} has values for {values.shape[0]} cases and {values.shape[1]} classes, "
                    f"there are {len(files)} cases and the classes {', '.join(self.class_names)}."
                )
            for file, line in zip(files, values):
                rows[file] |= {f"{title}_{name}": value for name, value in zip(self.class_names, line)}
                rows[file][f"{title}_mean"] = _over(np.mean, line[~np.isnan(line)])
        names = [_stem(file) for file in rows]
        if len(set(names)) < len(names):  # image.nii.gz in a folder for each case
            names = [f"{Path(file).parent.name}/{name}" for file, name in zip(rows, names)]
        if len(set(names)) < len(names):
            names = list(rows)
        self._write(dict(zip(names, rows.values())))

    def _write(self, rows: dict[str, dict[str, float]]) -> None:
        columns = [f"{title}_{name}" for title in self.metrics.values() for name in [*self.class_names, "mean"]]
        summary: dict[str, dict[str, float]] = {"mean": {}, "std": {}}
        for column in columns:
            values = np.asarray([row[column] for row in rows.values()])
            finite = values[np.isfinite(values)]
            if len(finite) < len(values):
                left_out = len(values) - len(finite)
                _logger.warning("%s: %d of %d cases have no value, left out of mean.", column, left_out, len(values))
            summary["mean"][column], summary["std"][column] = _over(np.mean, finite), _over(np.std, finite)
        with atomic_write(self.path, "w") as file:
            writer = csv.writer(file)
            writer.writerow(["case", *columns])
            for case, row in [*sorted(rows.items()), *summary.items()]:
                writer.writerow([case, *["" if np.isnan(row[key]) else f"{row[key]:.4f}" for key in columns]])


def case_name(image: Any, default: str = "case") -> str:
    """The name of the file an image was loaded from, without its suffix."""
    file = _file(image)
    return _stem(file) if file else default


def _file(image: Any) -> str | None:
    return image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None


def _stem(file: str) -> str:
    name = Path(file).name
    for suffix in (".nii.gz", ".nii", ".dcm", ".png", ".npy"):
        name = name.removesuffix(suffix)
    return name


def _over(function: Any, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else float("nan")
