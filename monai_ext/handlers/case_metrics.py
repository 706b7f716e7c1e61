"""Results of every case: one table with the classes by name, distances in millimetres, confidence intervals."""

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
from scipy.stats import bootstrap

from monai_ext.data.case_name import file_of, group_name, names_of
from monai_ext.files import atomic_write

__all__ = ["CaseMetricsSaver", "HausdorffDistanceMM", "confidence_interval"]

_logger = logging.getLogger(__name__)


class HausdorffDistanceMM(HausdorffDistance):
    """MONAI's handler, in millimetres: it counts voxels, this one gives it the spacing of every reference.

    The spacing is that of the compared grid: 1 mm where images were resampled to 1 mm, the file's own where
    ``Invertd`` brought the prediction back to it.
    """

    def update(self, output: Sequence[Any]) -> None:
        predictions, references = output
        for prediction, reference in zip(predictions, references):
            axes = reference.ndim - 1  # an image of two dimensions may have come with an affine of three
            spacing = [float(size) for size in reference.pixdim[:axes]] if isinstance(reference, MetaTensor) else None
            self.metric_fn([prediction], [reference], spacing=spacing)


class CaseMetricsSaver:
    """Write the evaluator's per-case values to one CSV.

    Columns: ``case``, then ``<metric>_<class>`` and ``<metric>_mean`` for every metric, or ``<metric>`` alone where
    there are no classes. Rows at the end: ``mean`` and ``std`` (of the population) over the cases; ``ci95_low`` and
    ``ci95_high``, the ``confidence_interval`` of the mean, empty for a single case; ``pooled``, if asked for. A class
    that is absent from a case has an empty cell, a distance to an absent prediction ``inf``; neither is part of what
    the rows at the end say, and the log says how many were left out.

    Args:
        path: the file.
        class_names: foreground classes in the order of the metrics' columns; none for metrics of one column.
        metrics: name in the table for each of the evaluator's metrics, by the evaluator's name for it.
        pooled: those of ``metrics`` whose value over all cases together, ``engine.state.metrics``, belongs in the
            row ``pooled``; only for metrics of one column, without groups.
        group_key: entry of an item by which the rows are grouped, such as ``level``.
        resamples: of the bootstrap behind the confidence intervals.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        class_names: Sequence[str] = (),
        metrics: Mapping[str, str] | None = None,
        pooled: Sequence[str] = (),
        group_key: str | None = None,
        resamples: int = 10_000,
    ) -> None:
        self.path = Path(path)
        self.class_names = list(class_names)
        self.metrics = dict(metrics or {})
        if not self.metrics:
            raise ValueError("metrics is empty; give the evaluator's metrics and their names in the table.")
        self.pooled = list(pooled)
        unknown = [key for key in self.pooled if key not in self.metrics]
        self.group_key = group_key
        if unknown or (self.pooled and (self.class_names or group_key)):
            reason = "there are classes" if self.class_names else "there are groups"
            reason = f"{unknown} is not in metrics" if unknown else reason
            raise ValueError(f"pooled must name metrics of one column, got {self.pooled}: {reason}.")
        self.resamples = resamples
        self._files: list[str] = []
        self._groups: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._files, self._groups = [], []

    def _add(self, engine: Engine) -> None:
        batch = engine.state.batch
        if not isinstance(batch, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        for item in batch:
            self._files.append(file_of(item["image"]) or f"case_{len(self._files)}")
            self._groups.append(group_name(item, self.group_key))

    def __call__(self, engine: Engine) -> None:
        files, groups = self._files, self._groups
        if idist.get_world_size() > 1:
            files, groups = string_list_all_gather(files), string_list_all_gather(groups)
        if idist.get_rank() > 0:
            return
        keys = list(zip(files, groups))
        rows: dict[tuple[str, str], dict[str, float]] = {key: {} for key in keys}  # a distributed sampler repeats cases
        for key, title in self.metrics.items():
            details = getattr(engine.state, "metric_details", {}).get(key)
            if details is None:
                known = ", ".join(getattr(engine.state, "metric_details", {})) or "none"
                raise ValueError(f"the evaluator has no metric {key!r} with details; it has: {known}.")
            values = torch.as_tensor(details).double().cpu().numpy()
            values = values.reshape(len(values), -1)
            if values.shape != (len(files), len(self.class_names) or 1):
                expected = f"the classes {', '.join(self.class_names)}" if self.class_names else "no class_names"
                raise ValueError(
                    f"the metric {key!r} has values for {values.shape[0]} cases and {values.shape[1]} classes, "
                    f"there are {len(files)} cases and {expected}."
                )
            for key, line in zip(keys, values):
                if not self.class_names:
                    rows[key][title] = line[0]
                    continue
                rows[key] |= {f"{title}_{name}": value for name, value in zip(self.class_names, line)}
                rows[key][f"{title}_mean"] = _over(np.mean, line[~np.isnan(line)])
        names = names_of(list(dict.fromkeys(files)))
        parts = {
            group: {names[f]: row for (f, g), row in rows.items() if g == group} for group in dict.fromkeys(groups)
        }
        pooled = {self.metrics[key]: float(engine.state.metrics[key]) for key in self.pooled}
        self._write(parts, {"pooled": pooled} if pooled else {})

    def _columns(self) -> list[str]:
        if not self.class_names:
            return list(self.metrics.values())
        return [f"{title}_{name}" for title in self.metrics.values() for name in [*self.class_names, "mean"]]

    def _write(self, parts: dict[str, dict[str, dict[str, float]]], pooled: dict[str, dict[str, float]]) -> None:
        columns = self._columns()
        summaries = {group: self._summary(rows, group) | pooled for group, rows in parts.items()}
        with atomic_write(self.path, "w") as file:
            writer = csv.writer(file)
            writer.writerow(["case", *([self.group_key] if self.group_key else []), *columns])
            for part in ({group: dict(sorted(rows.items())) for group, rows in parts.items()}, summaries):
                for group, rows in part.items():
                    for case, row in rows.items():
                        cells = [_cell(row.get(key, float("nan"))) for key in columns]
                        writer.writerow([case, *([group] if self.group_key else []), *cells])

    def _summary(self, rows: dict[str, dict[str, float]], group: str) -> dict[str, dict[str, float]]:
        summary: dict[str, dict[str, float]] = {"mean": {}, "std": {}, "ci95_low": {}, "ci95_high": {}}
        for column in self._columns():
            values = np.asarray([row[column] for row in rows.values()])
            finite = values[np.isfinite(values)]
            if len(finite) < len(values):
                left_out, name = len(values) - len(finite), f"{column} {group}".rstrip()
                _logger.warning("%s: %d of %d cases have no value, left out of mean.", name, left_out, len(values))
            summary["mean"][column], summary["std"][column] = _over(np.mean, finite), _over(np.std, finite)
            interval = confidence_interval(finite, self.resamples)
            summary["ci95_low"][column], summary["ci95_high"][column] = interval
        return summary


def confidence_interval(values: np.ndarray, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean by the percentile bootstrap over cases; NaN for fewer than two.

    Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), by ``scipy.stats.bootstrap``: the 2.5 and 97.5
    percentiles of the means of ``resamples`` draws of as many cases, with replacement. Few cases make it too narrow.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    found = bootstrap(
        (values,), np.mean, n_resamples=resamples, batch=1000, method="percentile", rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _over(function: Any, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else float("nan")
