"""Pictures of a classification: confusion matrix, ROC curves, calibration, and cases with what was said of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine

from monai_ext.files import atomic_write
from monai_ext.handlers.class_metrics import calibration_bins
from monai_ext.handlers.classification import confusion_matrix
from monai_ext.handlers.classified_cases import ClassifiedCase, ClassifiedCases
from monai_ext.optional import load

__all__ = ["ClassificationPictures"]

# Okabe and Ito's colours, told apart with any colour vision
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_THUMBNAIL = 96  # pixels


class ClassificationPictures(ClassifiedCases):
    """Draw ``samples.png`` and, where references are known, ``confusion_matrix.png``, ``roc.png``, ``calibration.png``.

    The samples are up to half wrong ones, the others drawn from all cases by a fixed seed; each is titled with the
    predicted class, its probability and, where they differ, the reference. Of a volume the sum along its second axis
    is shown.

    Args:
        folder: where the pictures go.
        class_names: names of all classes in the order of the network's outputs.
        samples: how many cases ``samples.png`` shows.
        image_key: entry to show, such as a copy from before the normalisation.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        class_names: Sequence[str],
        samples: int = 24,
        image_key: str = "image",
    ) -> None:
        super().__init__(class_names)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}.")
        self.folder = Path(folder)
        self.samples = samples
        self.image_key = image_key

    def begin(self, engine: Engine) -> None:
        super().begin(engine)
        self._rng = np.random.default_rng(0)
        self._shown: dict[int, tuple[ClassifiedCase, np.ndarray]] = {}  # a sample of all cases, by its place
        self._wrong: list[tuple[ClassifiedCase, np.ndarray]] = []
        self._count = 0

    def seen(self, case: ClassifiedCase, item: Mapping[Any, Any]) -> None:
        if case.right is False and len(self._wrong) < self.samples // 2:
            self._wrong.append((case, _thumbnail(item[self.image_key])))
            return
        # reservoir sampling: every case has the same chance, however many there will be
        place = self._count if self._count < self.samples else int(self._rng.integers(self._count + 1))
        self._count += 1
        if place < self.samples:
            self._shown[place] = case, _thumbnail(item[self.image_key])

    def finish(self, cases: list[ClassifiedCase]) -> None:
        chosen = [*self._wrong, *[self._shown[place] for place in sorted(self._shown)]][: self.samples]
        self._draw_samples(chosen)
        known = [case for case in cases if case.label is not None]
        if known:
            probability = np.asarray([case.probability for case in known])
            label = np.asarray([case.label for case in known])
            self._draw_confusion(confusion_matrix(known, len(self.class_names)))
            self._draw_roc(probability, label)
            self._draw_calibration(probability, label)

    def _draw_samples(self, chosen: Sequence[tuple[ClassifiedCase, np.ndarray]]) -> None:
        columns = min(6, len(chosen))
        rows = -(-len(chosen) // columns)
        figure, grid = _figure((1.9 * columns, 2.2 * rows), rows, columns)
        for axes in grid.flat:
            axes.axis("off")
        for axes, (case, picture) in zip(grid.flat, chosen):
            axes.imshow(picture, cmap="gray")
            said = f"{self.class_names[case.prediction]} {case.probability[case.prediction]:.2f}"
            if case.right is False:
                axes.set_title(f"{said}\nis {self.class_names[case.label]}", fontsize=8, color="#D55E00")
            else:
                axes.set_title(said, fontsize=8)
        _save(figure, self.folder / "samples.png")

    def _draw_confusion(self, matrix: np.ndarray) -> None:
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        side = 2.2 + 0.9 * len(matrix)
        figure, grid = _figure((side, side))
        axes = grid[0, 0]
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, f"{number}\n{share[row, column]:.1%}", ha="center", va="center", color=colour)
        ticks = range(len(matrix))
        axes.set(xticks=ticks, yticks=ticks, xlabel="prediction", ylabel="reference")
        axes.set_xticklabels(self.class_names, rotation=30, ha="right")
        axes.set_yticklabels(self.class_names)
        _save(figure, self.folder / "confusion_matrix.png")

    def _draw_roc(self, probability: np.ndarray, label: np.ndarray) -> None:
        metrics = load("sklearn.metrics")
        figure, grid = _figure((4.6, 4.4))
        axes = grid[0, 0]
        classes = [1] if len(self.class_names) == 2 else range(len(self.class_names))
        for number in classes:
            truth = label == number
            if truth.any() and not truth.all():
                false, true, _ = metrics.roc_curve(truth, probability[:, number])
                area = metrics.auc(false, true)
                colour = _COLOURS[number % len(_COLOURS)]
                axes.plot(false, true, color=colour, label=f"{self.class_names[number]} ({area:.3f})")
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(title="area under the curve", loc="lower right", fontsize="small")
        _save(figure, self.folder / "roc.png")

    def _draw_calibration(self, probability: np.ndarray, label: np.ndarray) -> None:
        confidence, accuracy, count = map(np.asarray, zip(*calibration_bins(probability, label)))
        figure, grid = _figure((4.6, 4.4))
        axes = grid[0, 0]
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
        axes.plot(confidence, accuracy, color=_COLOURS[0], linewidth=1)
        axes.scatter(confidence, accuracy, s=20 + 300 * count / count.sum(), color=_COLOURS[0])
        for x, y, number in zip(confidence, accuracy, count):
            axes.annotate(f"{number}", (x, y), textcoords="offset points", xytext=(7, -11), fontsize=7)
        low = min(0.5, float(confidence.min()), float(accuracy.min())) - 0.04
        axes.set(xlabel="probability of the predicted class", ylabel="share that is right")
        axes.set(xlim=(low, 1.04), ylim=(low, 1.04), aspect="equal")
        _save(figure, self.folder / "calibration.png")


def _thumbnail(image: Any) -> np.ndarray:
    """[H, W(, 3)] from 0 to 1."""
    image = torch.as_tensor(image).detach().cpu().float()
    if image.ndim == 4:  # a volume: the sum along its second axis, the third one upwards
        image = image[:1].sum(2).flip(2)
    image = image if image.shape[0] == 3 else image[:1]
    step = max(1, max(image.shape[1:]) // _THUMBNAIL)
    picture = image[:, ::step, ::step].numpy().transpose(2, 1, 0)
    low, high = float(picture.min()), float(picture.max())
    picture = (picture - low) / max(high - low, 1e-12)
    return picture if picture.shape[-1] == 3 else picture[..., 0]


def _figure(size: tuple[float, float], rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
