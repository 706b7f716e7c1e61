"""Pictures of segmentations: image, reference and prediction side by side."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from monai_ext.handlers.case_metrics import case_name
from monai_ext.handlers.files import atomic_write

__all__ = ["OverlaySaver", "dice_of_classes", "draw_overlay"]

_logger = logging.getLogger(__name__)

# Okabe and Ito's colours, told apart with any colour vision; by class from 1 on.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_WIDTH = 3.2  # of a panel, in inches
_PLANES = ("sagittal", "coronal", "axial")


class OverlaySaver:
    """Draw a PNG of every case of an evaluator.

    Looks for ``image``, ``label`` and ``pred`` in the engine's output after postprocessing, then in its batch;
    label and prediction may be label maps or one channel a class. Where ``Invertd`` brought the prediction back to
    the grid of the file, the image follows by both affines.

    Args:
        folder: where the pictures go, named by their cases.
        class_names: names of the foreground classes, from class 1 on.
        max_cases: pictures a run, 0 for all.
    """

    def __init__(self, folder: str | os.PathLike, class_names: Sequence[str] = (), max_cases: int = 0) -> None:
        self.folder = Path(folder)
        self.class_names = list(class_names)
        self.max_cases = max_cases
        self._drawn = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._drawn = 0

    def __call__(self, engine: Engine) -> None:
        if not isinstance(engine.state.batch, list) or not isinstance(engine.state.output, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        for batch, output in zip(engine.state.batch, engine.state.output):
            if self.max_cases and self._drawn >= self.max_cases:
                return
            found = {key: output.get(key, batch.get(key)) for key in ("image", "label", "pred")}
            target = found["pred"] if found["pred"] is not None else found["label"]
            source = found["image"] if found["image"] is not None else target
            name = case_name(source, f"rank{idist.get_rank()}_{self._drawn}")
            image = _on_grid_of(found["image"], target)
            if image is None:
                _logger.warning("%s: no picture, the image's grid is not that of the prediction.", name)
                continue
            if found["label"] is not None and found["label"].shape[1:] != image.shape[1:]:
                _logger.warning("%s: no reference in the picture, its grid is not that of the prediction.", name)
                found["label"] = None
            affine = image.affine.cpu().numpy() if isinstance(image, MetaTensor) else None
            draw_overlay(
                _first_channel(image),
                _label_map(found["label"]),
                _label_map(found["pred"]),
                self.folder / f"{name}.png",
                class_names=self.class_names,
                title=name,
                affine=affine,
            )
            self._drawn += 1


def draw_overlay(
    image: np.ndarray,
    label: np.ndarray | None,
    pred: np.ndarray | None,
    path: str | os.PathLike,
    class_names: Sequence[str] = (),
    title: str = "",
    affine: np.ndarray | None = None,
) -> None:
    """Draw image, reference and prediction in one PNG, written whole or not at all.

    A volume is shown by its sagittal, coronal and axial slices through the largest area of the reference (of the
    prediction where there is none). The prediction's panels carry the reference's outline in white.

    Args:
        image: the image, [W, H] or [W, H, D].
        label: reference as label map of the same shape, or None.
        pred: prediction, likewise.
        path: the PNG.
        class_names: names of the foreground classes, from class 1 on.
        title: name of the case; the Dice of each class is added where both maps are given.
        affine: from voxels to mm in RAS+; puts a volume upright and gives pixels their shape. Without it the
            axes are taken for right, anterior, superior.

    Raises:
        ValueError: for arrays of different shapes or dimensions that cannot be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = np.asarray(image, dtype=np.float32)
    given = {"reference": label, "prediction": pred}
    maps = {name: np.asarray(value) for name, value in given.items() if value is not None}
    for name, value in maps.items():
        if value.shape != image.shape:
            raise ValueError(f"image and {name} have different shapes, {image.shape} and {value.shape}.")
    if image.ndim not in (2, 3):
        raise ValueError(f"a picture needs an image of 2 or 3 dimensions, got the shape {image.shape}.")
    names = _class_names(class_names, maps)
    if len(maps) == 2:
        scores = dice_of_classes(maps["reference"], maps["prediction"], len(names))
        told = ", ".join(f"{name} {score:.3f}" for name, score in zip(names, scores) if not np.isnan(score))
        title = f"{title}\nDice: {told}" if told else title
    spacing = np.ones(image.ndim)
    if image.ndim == 3 and affine is not None:
        orientation = nib.orientations.io_orientation(affine)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
        image = nib.orientations.apply_orientation(image, orientation)
        maps = {name: nib.orientations.apply_orientation(value, orientation) for name, value in maps.items()}
    views = _views(image, maps, spacing)
    low, high = np.nanpercentile(image, (1, 99))
    columns = ["image", *maps]
    heights = [_height(cut(image).shape, aspect) for _, cut, aspect in views]
    size = (_WIDTH * len(columns), 1.2 + sum(heights))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(views), len(columns), squeeze=False, height_ratios=heights)
    origin = "upper" if image.ndim == 2 else "lower"  # photographs begin at the top
    for row, (plane, cut, aspect) in zip(grid, views):
        slices = {name: cut(value).T for name, value in maps.items()}
        for axes, column in zip(row, columns):
            axes.imshow(cut(image).T, cmap="gray", vmin=low, vmax=high, origin=origin, aspect=aspect)
            if column in slices:
                _paint(axes, slices[column], origin, aspect, len(names))
            if column == "prediction" and "reference" in slices:
                _outline(axes, slices["reference"], len(names))
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(plane)
    for axes, column in zip(grid[0], columns):
        axes.set_title(column, fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    _legend(figure, names if maps else [], len(maps) == 2)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def dice_of_classes(label: np.ndarray, pred: np.ndarray, num_classes: int) -> list[float]:
    """Dice of the classes 1 to ``num_classes``; NaN for one that is in neither map."""
    scores = []
    for index in range(1, num_classes + 1):
        reference, found = label == index, pred == index
        total = reference.sum() + found.sum()
        scores.append(float(2 * (reference & found).sum() / total) if total else float("nan"))
    return scores


def _class_names(given: Sequence[str], maps: dict[str, np.ndarray]) -> list[str]:
    highest = max([int(value.max()) for value in maps.values()], default=0)
    return [*given, *[f"class {index}" for index in range(len(given) + 1, highest + 1)]]


def _views(image: np.ndarray, maps: dict[str, np.ndarray], spacing: np.ndarray) -> list[tuple[str, Any, float]]:
    """Name of each shown plane, the function that cuts it, and the height of its pixels over their width."""
    if image.ndim == 2:
        return [("", lambda value: value, float(spacing[1] / spacing[0]))]
    present = [value for value in maps.values() if (value > 0).any()]
    views = []
    for axis, plane in enumerate(_PLANES):
        others = [other for other in range(3) if other != axis]
        index = image.shape[axis] // 2
        if present:
            index = int((present[0] > 0).sum(axis=tuple(others)).argmax())

        def cut(value: np.ndarray, axis: int = axis, index: int = index) -> np.ndarray:
            return np.take(value, index, axis)

        views.append((plane, cut, float(spacing[others[1]] / spacing[others[0]])))
    return views


def _height(shape: tuple[int, int], aspect: float) -> float:
    """Height of a panel that is ``_WIDTH`` wide, at most 1.2 times as high as wide; [W, H] voxels."""
    return min(_WIDTH * shape[1] * aspect / shape[0], 1.2 * _WIDTH)


def _paint(axes: Any, labels: np.ndarray, origin: str, aspect: float, num_classes: int) -> None:
    from matplotlib.colors import to_rgba

    colours = np.zeros((*labels.shape, 4))
    for index in range(1, num_classes + 1):
        colours[labels == index] = to_rgba(_COLOURS[(index - 1) % len(_COLOURS)], 0.5)
    axes.imshow(colours, origin=origin, aspect=aspect, interpolation="nearest")


def _outline(axes: Any, labels: np.ndarray, num_classes: int) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    for index in range(1, num_classes + 1):
        mask = labels == index
        if mask.any() and min(mask.shape) > 1:
            padded = np.pad(mask.astype(float), 1)
            xs, ys = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
            axes.contour(xs, ys, padded, levels=[0.5], colors="white", linewidths=1.2)
    axes.set(xlim=limits[0], ylim=limits[1])


def _legend(figure: Any, names: Sequence[str], outline: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_COLOURS[i % len(_COLOURS)], label=name) for i, name in enumerate(names)]
    if outline:
        handles.append(Line2D([], [], color="white", linewidth=1.5, label="outline of the reference"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small", facecolor="0.6")


def _on_grid_of(image: Any, target: Any) -> Any:
    """The image on the voxels of the target, or None where that cannot be had."""
    if image is None or target is None:
        return image
    same_shape = image.shape[1:] == target.shape[1:]
    if not (isinstance(image, MetaTensor) and isinstance(target, MetaTensor)):
        return image if same_shape else None
    if same_shape and torch.allclose(image.affine, target.affine.to(image.affine), atol=1e-3):
        return image
    # a plain copy: resampling notes itself in the image's history, which Invertd reads
    copy = MetaTensor(image.as_tensor().detach().float(), affine=image.affine, meta=dict(image.meta))
    return ResampleToMatch(mode="bilinear", padding_mode="border")(copy, target)


def _first_channel(image: Any) -> np.ndarray:
    return torch.as_tensor(image)[0].detach().cpu().float().numpy()


def _label_map(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    value = torch.as_tensor(value).detach().cpu()
    value = value.argmax(0) if value.shape[0] > 1 else value[0]
    return value.round().long().numpy()
