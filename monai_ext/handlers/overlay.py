"""Pictures of segmentations: image, reference and prediction side by side."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_ext.data.case_name import case_name
from monai_ext.handlers.files import atomic_write
from monai_ext.handlers.planes import PANEL_WIDTH, on_grid_of, panel_height, upright, views

__all__ = ["OverlaySaver", "dice_of_classes", "draw_overlay"]

_logger = logging.getLogger(__name__)

# Okabe and Ito's colours, told apart with any colour vision; by class from 1 on.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")


class OverlaySaver:
    """Draw a PNG of every case of an evaluator.

    Looks for ``image``, ``label`` and ``pred`` in the engine's output after postprocessing, then in its batch;
    label and prediction may be label maps or one channel a class. A 2D image of three channels is shown in colour, of
    any other the first channel. Where ``Invertd`` brought the prediction back to the grid of the file, the image
    follows by both affines.

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
            image = on_grid_of(found["image"], target)
            if image is None:
                _logger.warning("%s: no picture, the image's grid is not that of the prediction.", name)
                continue
            if found["label"] is not None and found["label"].shape[1:] != image.shape[1:]:
                _logger.warning("%s: no reference in the picture, its grid is not that of the prediction.", name)
                found["label"] = None
            affine = image.affine.cpu().numpy() if isinstance(image, MetaTensor) else None
            draw_overlay(
                _shown(image),
                _label_map(found["label"]),
                _label_map(found["pred"]),
                self.folder / f"{name}.png",
                class_names=self.class_names,
                title=name,
                affine=affine,
                colour=_is_colour(image),
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
    colour: bool = False,
) -> None:
    """Draw image, reference and prediction in one PNG, written whole or not at all.

    A volume is shown by its sagittal, coronal and axial slices through the largest area of the reference (of the
    prediction where there is none). The prediction's panels carry the reference's outline in white.

    Args:
        image: the image, [W, H] or [W, H, D]; with ``colour`` [W, H, 3].
        label: reference as label map of the same shape (without the colours), or None.
        pred: prediction, likewise.
        path: the PNG.
        class_names: names of the foreground classes, from class 1 on.
        title: name of the case; the Dice of each class is added where both maps are given.
        affine: from voxels to mm in RAS+; puts a volume upright and gives pixels their shape. Without it the
            axes are taken for right, anterior, superior.
        colour: the last axis of the image is red, green, blue.

    Raises:
        ValueError: for arrays of different shapes or dimensions that cannot be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = np.asarray(image, dtype=np.float32)
    given = {"reference": label, "prediction": pred}
    maps = {name: np.asarray(value) for name, value in given.items() if value is not None}
    size = image.shape[:-1] if colour else image.shape
    for name, value in maps.items():
        if value.shape != size:
            raise ValueError(f"image and {name} have different shapes, {size} and {value.shape}.")
    if len(size) not in (2, 3) or (colour and (len(size), image.shape[-1]) != (2, 3)):
        kind = "in colour must be [W, H, 3]" if colour else "needs an image of 2 or 3 dimensions"
        raise ValueError(f"a picture {kind}, got the shape {image.shape}.")
    names = _class_names(class_names, maps)
    if len(maps) == 2:
        scores = dice_of_classes(maps["reference"], maps["prediction"], len(names))
        told = ", ".join(f"{name} {score:.3f}" for name, score in zip(names, scores) if not np.isnan(score))
        title = f"{title}\nDice: {told}" if told else title
    if colour:
        spacing = np.ones(2)
    else:
        (image, *turned), spacing = upright([image, *maps.values()], affine)
        maps = dict(zip(maps, turned))
    marked = next((value for value in maps.values() if (value > 0).any()), np.zeros(image.shape[: len(size)]))
    panels = views(len(size), _largest(marked), spacing)
    low, high = np.nanpercentile(image, (1, 99))
    columns = ["image", *maps]
    heights = [panel_height(cut(image).shape, aspect) for _, cut, aspect in panels]
    figsize = (PANEL_WIDTH * len(columns), 1.2 + sum(heights))
    figure = Figure(figsize=figsize, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(columns), squeeze=False, height_ratios=heights)
    origin = "upper" if len(size) == 2 else "lower"  # photographs begin at the top
    if colour:
        image = np.clip((image - low) / max(float(high - low), 1e-12), 0, 1)
    for row, (plane, cut, aspect) in zip(grid, panels):
        slices = {name: cut(value).T for name, value in maps.items()}
        for axes, column in zip(row, columns):
            axes.imshow(cut(image).swapaxes(0, 1), cmap="gray", vmin=low, vmax=high, origin=origin, aspect=aspect)
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


def _largest(label: np.ndarray) -> list[int]:
    """For every axis, the slice with the largest area of the foreground; the middle one where there is none."""
    indices = []
    for axis in range(label.ndim):
        areas = (label > 0).sum(axis=tuple(other for other in range(label.ndim) if other != axis))
        indices.append(int(areas.argmax()) if areas.any() else label.shape[axis] // 2)
    return indices


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


def _shown(image: Any) -> np.ndarray:
    """A 2D image of three channels as colours, [W, H, 3]; else the first channel."""
    image = torch.as_tensor(image).detach().cpu().float()
    return (image.movedim(0, -1) if _is_colour(image) else image[0]).numpy()


def _is_colour(image: Any) -> bool:
    return image.ndim == 3 and image.shape[0] == 3


def _label_map(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    value = torch.as_tensor(value).detach().cpu()
    value = value.argmax(0) if value.shape[0] > 1 else value[0]
    return value.round().long().numpy()
