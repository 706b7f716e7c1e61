"""Tables of a classification: every case with its probabilities, and the metrics with their intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.files import atomic_write
from monai_ext.handlers.class_metrics import metrics_with_intervals
from monai_ext.handlers.classified_cases import ClassifiedCase, ClassifiedCases

__all__ = ["ClassificationSaver", "confusion_matrix"]

BOX = ("xmin", "ymin", "xmax", "ymax")


class ClassificationSaver(ClassifiedCases):
    """Write what an evaluator said about every case, and how good that was where references are known.

    ``predictions.csv``: case, the box if there is one, the label if it is known, the predicted class, whether it is
    right, and the probability of each class. With references also ``metrics.csv``, each metric of
    ``monai_ext.handlers.class_metrics.metrics_of`` with its 95 % interval (bootstrap over the groups of cases), and
    ``confusion_matrix.csv``, references in rows and predictions in columns.

    Args:
        folder: where the tables go.
        class_names: names of all classes in the order of the network's outputs.
        resamples: of the bootstrap.
    """

    def __init__(self, folder: str | os.PathLike, class_names: Sequence[str], resamples: int = 1000) -> None:
        super().__init__(class_names)
        self.folder = Path(folder)
        self.resamples = resamples

    def finish(self, cases: list[ClassifiedCase]) -> None:
        boxes, labels = any(case.box for case in cases), any(case.label is not None for case in cases)
        header = ["case", *(BOX if boxes else ()), *(["label"] if labels else []), "prediction"]
        header += [*(["correct"] if labels else []), *[f"probability_{name}" for name in self.class_names]]
        _write(self.folder / "predictions.csv", header, (self._row(case, boxes, labels) for case in cases))
        known = [case for case in cases if case.label is not None]
        if not known:
            return
        probability = np.asarray([case.probability for case in known])
        label = np.asarray([case.label for case in known])
        groups = [case.group for case in known]
        found = metrics_with_intervals(probability, label, self.class_names, groups, self.resamples)
        rows = [[name, *map(_cell, values)] for name, values in found.items()]
        _write(self.folder / "metrics.csv", ["metric", "value", "ci95_low", "ci95_high"], rows)
        matrix = confusion_matrix(known, len(self.class_names))
        rows = [[name, *line] for name, line in zip(self.class_names, matrix.tolist())]
        _write(self.folder / "confusion_matrix.csv", ["label", *self.class_names], rows)

    def _row(self, case: ClassifiedCase, boxes: bool, labels: bool) -> list[Any]:
        row: list[Any] = [case.case, *((case.box or [""] * 4) if boxes else ())]
        if labels:
            row.append("" if case.label is None else self.class_names[case.label])
        row.append(self.class_names[case.prediction])
        if labels:
            row.append("" if case.right is None else str(case.right).lower())
        return [*row, *[f"{value:.5f}" for value in case.probability]]


def confusion_matrix(cases: Sequence[ClassifiedCase], classes: int) -> np.ndarray:
    """Numbers of cases, references in rows and predictions in columns."""
    matrix = np.zeros((classes, classes), int)
    for case in cases:
        matrix[case.label, case.prediction] += 1
    return matrix


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
