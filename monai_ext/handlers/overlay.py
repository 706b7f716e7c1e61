"""Pictures of segmentations: image, reference and prediction side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_ext.files import atomic_write
from monai_ext.handlers.case_pictures import CasePictures
from monai_ext.handlers.planes import PANEL_WIDTH, panel_height, upright, views

__all__ = ["OverlaySaver", "dice_of_classes", "draw_overlay"]

# Okabe and Ito's colours, told apart with any colour vision; by class from 1 on.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_OUTCOMES = {"found": "#009E73", "missed": "#56B4E9", "false": "#CC79A7"}


class OverlaySaver(CasePictures):
    """Draw a PNG of every case of an evaluator.

    Looks for ``image``, ``label`` and ``pred`` in the engine's output after postprocessing, then in its batch;
    label and prediction may be label maps or one channel a class. A 2D image of three channels is shown in colour, of
    any other the first channel. Where ``Invertd`` brought the prediction back to the grid of the file, the image
    follows by both affines.

    Args:
        folder: where the pictures go, named by their cases.
        class_names: names of the foreground classes, from class 1 on.
        max_cases: pictures a run, 0 for all.
        errors: as in ``draw_overlay``.
        image_key: what to show in place of ``image``, such as a copy from before its channels were normalised, which
            changes the colours.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        class_names: Sequence[str] = (),
        max_cases: int = 0,
        errors: bool = False,
        image_key: str = "image",
    ) -> None:
        super().__init__(folder, max_cases, image_key=image_key)
        self.class_names = list(class_names)
        self.errors = errors

    def draw(self, image: Any, label: Any, pred: Any, name: str) -> None:
        draw_overlay(
            _shown(image),
            _label_map(label),
            _label_map(pred),
            self.folder / f"{name}.png",
            class_names=self.class_names,
            title=name,
            affine=image.affine.cpu().numpy() if isinstance(image, MetaTensor) else None,
            colour=_is_colour(image),
            errors=self.errors,
        )


def draw_overlay(
    image: np.ndarray,
    label: np.ndarray | None,
    pred: np.ndarray | None,
    path: str | os.PathLike,
    class_names: Sequence[str] = (),
    title: str = "",
    affine: np.ndarray | None = None,
    colour: bool = False,
    errors: bool = False,
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
        errors: where both maps are given, paint the prediction by what is found, missed (or of another class) and
            false, instead of its classes under an outline that would hide thin structures, and draw twice as fine.

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
            both = column == "prediction" and "reference" in slices
            if both and errors:
                outcomes = _outcomes(slices["reference"], slices["prediction"])
                _paint(axes, outcomes, origin, aspect, list(_OUTCOMES.values()), 0.9)
            elif column in slices:
                colours = [_COLOURS[index % len(_COLOURS)] for index in range(len(names))]
                _paint(axes, slices[column], origin, aspect, colours, 0.9 if errors else 0.5)
            if both and not errors:
                _outline(axes, slices["reference"], len(names))
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(plane)
    for axes, column in zip(grid[0], columns):
        axes.set_title(column, fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    _legend(figure, names if maps else [], len(maps) == 2 and not errors, len(maps) == 2 and errors)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=220 if errors else 110)


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


def _outcomes(label: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """1 where the class is found, 2 where it is missed, 3 where there should be none; the order of ``_OUTCOMES``."""
    return np.where(label > 0, np.where(pred == label, 1, 2), np.where(pred > 0, 3, 0))


def _paint(axes: Any, labels: np.ndarray, origin: str, aspect: float, colours: Sequence[str], opacity: float) -> None:
    from matplotlib.colors import to_rgba

    painted = np.zeros((*labels.shape, 4))
    for index, colour in enumerate(colours, start=1):
        painted[labels == index] = to_rgba(colour, opacity)
    axes.imshow(painted, origin=origin, aspect=aspect, interpolation="nearest")


def _outline(axes: Any, labels: np.ndarray, num_classes: int) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    for index in range(1, num_classes + 1):
        mask = labels == index
        if mask.any() and min(mask.shape) > 1:
            padded = np.pad(mask.astype(float), 1)
            xs, ys = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
            axes.contour(xs, ys, padded, levels=[0.5], colors="white", linewidths=1.2)
    axes.set(xlim=limits[0], ylim=limits[1])


def _legend(figure: Any, names: Sequence[str], outline: bool, errors: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_COLOURS[i % len(_COLOURS)], label=name) for i, name in enumerate(names)]
    if outline:
        handles.append(Line2D([], [], color="white", linewidth=1.5, label="outline of the reference"))
    if errors:
        handles += [Patch(color=colour, label=name) for name, colour in _OUTCOMES.items()]
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
