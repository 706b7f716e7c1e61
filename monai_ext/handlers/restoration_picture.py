"""Pictures of restored images: input, output, reference and what is left between the last two."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_gradient_magnitude, uniform_filter

from monai_ext.files import atomic_write
from monai_ext.handlers.case_pictures import CasePictures
from monai_ext.handlers.planes import PANEL_WIDTH, View, on_grid_of, panel_height, upright, views
from monai_ext.handlers.restoration import fitted, psnr, ssim

__all__ = ["RestorationPictureSaver", "draw_restoration"]

_BOX = "#E69F00"  # where the detail lies


class RestorationPictureSaver(CasePictures):
    """Draw a PNG of every case of an evaluator that restores images.

    Looks for ``image`` (the noisy input), ``label`` (the reference) and ``pred`` (the output) in the engine's output
    after postprocessing, then in its batch. Without a reference the last panel is output - input, what the network
    took away. Of several channels the first is shown. The three must share one scale of intensities: where
    ``Invertd`` brings the prediction back to the file's, let it do so with the image, too, or with none.

    Args:
        folder: where the pictures go, named by their cases.
        max_cases: pictures a run, 0 for all.
        fit: show input and output after the fit of ``CasePSNR(fit=True)``.
        data_range: of PSNR and SSIM, as in ``CasePSNR``.
        group_key: see ``CasePictures``.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        max_cases: int = 0,
        fit: bool = False,
        data_range: float | None = None,
        group_key: str | None = None,
    ) -> None:
        super().__init__(folder, max_cases, group_key)
        self.fit = fit
        self.data_range = data_range

    def draw(self, image: Any, label: Any, pred: Any, name: str) -> None:
        draw_restoration(
            _first_channel(image),
            _first_channel(pred),
            _first_channel(label) if label is not None else None,
            self.folder / f"{name}.png",
            title=name,
            affine=pred.affine.cpu().numpy() if isinstance(pred, MetaTensor) else None,
            fit=self.fit,
            data_range=self.data_range,
        )

    def reference(self, label: Any, target: Any) -> Any:
        return on_grid_of(label, target)


def draw_restoration(
    image: np.ndarray,
    pred: np.ndarray,
    label: np.ndarray | None,
    path: str | os.PathLike,
    title: str = "",
    affine: np.ndarray | None = None,
    fit: bool = False,
    data_range: float | None = None,
) -> None:
    """Draw input, output, reference and residual in one PNG, written whole or not at all.

    Images of a row share their grey scale, the reference's (the output's, where there is none); one colour scale,
    symmetric about 0, serves the residual: output - reference, or output - input where there is no reference. A
    volume is shown by its three middle slices; the last row is a detail, a quarter of each side or 16 voxels, where
    the reference (or the output) has most edges.

    Args:
        image: the noisy input, [W, H] or [W, H, D].
        pred: the output, of the same shape.
        label: the reference, of the same shape, or None.
        path: the PNG.
        title: name of the case.
        affine: from voxels to mm in RAS+; puts a volume upright and gives its voxels their shape.
        fit: bring input and output to the reference by gain and offset first.
        data_range: of PSNR and SSIM in the titles.

    Raises:
        ValueError: for arrays of different shapes, dimensions that cannot be drawn, or images too small for SSIM.
    """
    given = {"input": image, "output": pred} | ({"reference": label} if label is not None else {})
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    shapes = {name: value.shape for name, value in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the images have different shapes: {shapes}.")
    if arrays["input"].ndim not in (2, 3):
        raise ValueError(f"a picture needs images of 2 or 3 dimensions, got the shape {shapes['input']}.")
    titles = {name: name for name in arrays}
    if label is not None:
        for name in ("input", "output"):
            if fit:
                arrays[name] = fitted(arrays[name], arrays["reference"])
            pair = arrays[name][None], arrays["reference"][None]
            titles[name] += f"\n{psnr(*pair, data_range):.2f} dB, SSIM {ssim(*pair, data_range):.3f}"
    turned, spacing = upright(list(arrays.values()), affine)
    arrays = dict(zip(arrays, turned))
    other = "reference" if label is not None else "input"
    titles["residual"] = f"output - {other}"
    arrays["residual"] = arrays["output"] - arrays[other]
    _draw(arrays, titles, spacing, title, path)


def _draw(
    arrays: dict[str, np.ndarray], titles: dict[str, str], spacing: np.ndarray, title: str, path: str | os.PathLike
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    clean = arrays.get("reference", arrays["output"])
    panels = views(clean.ndim, [size // 2 for size in clean.shape], spacing)
    corner, side = _detail(panels[-1][1](clean))
    window = tuple(slice(start, start + length) for start, length in zip(corner, side))
    last = panels[-1]
    detail: View = ("detail", lambda value: last[1](value)[window], last[2])
    heights = [panel_height(cut(clean).shape, aspect) for _, cut, aspect in [*panels, detail]]
    figure = Figure(figsize=(PANEL_WIDTH * len(arrays) + 0.8, 1.0 + sum(heights)), layout="constrained")
    figure.set_facecolor("white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), len(arrays), squeeze=False, height_ratios=heights)
    low, high = np.percentile(clean, (0.5, 99.5))
    # at least a little, so that rounding is not drawn as if it were a difference
    limit = max(float(np.percentile(np.abs(arrays["residual"]), 99.5)), 1e-5 * float(high - low)) or 1.0
    origin = "upper" if clean.ndim == 2 else "lower"  # photographs begin at the top
    for row, (plane, cut, aspect) in zip(grid, [*panels, detail]):
        if cut is detail[1]:  # bright parts of a dark image would be all white on the whole image's scale
            low, high = np.percentile(cut(clean), (0.5, 99.5))
        for axes, (name, array) in zip(row, arrays.items()):
            scale = {"cmap": "gray", "vmin": low, "vmax": high}
            if name == "residual":
                scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            shown = axes.imshow(cut(array).T, origin=origin, aspect=aspect, interpolation="nearest", **scale)
            axes.set(xticks=[], yticks=[])
            if cut is panels[-1][1]:
                place = corner[0] - 0.5, corner[1] - 0.5
                axes.add_patch(Rectangle(place, *side, fill=False, edgecolor=_BOX, linewidth=1.0))
        row[0].set_ylabel(plane)
    for axes, name in zip(grid[0], arrays):
        axes.set_title(titles[name], fontsize="medium")
    figure.colorbar(shown, ax=grid[:, -1], fraction=0.05, aspect=40)
    figure.suptitle(title, fontsize="medium")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _detail(image: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """First voxel and size of the window, a quarter of each side or 16 voxels, with the strongest edges; [W, H]."""
    side = tuple(min(size, max(size // 4, 16)) for size in image.shape)
    edges = uniform_filter(gaussian_gradient_magnitude(image, 1.0), side, mode="constant")
    # the filter's window begins side // 2 before its centre
    ranges = [slice(length // 2, size - length + length // 2 + 1) for length, size in zip(side, image.shape)]
    best = np.unravel_index(int(edges[tuple(ranges)].argmax()), edges[tuple(ranges)].shape)
    return (int(best[0]), int(best[1])), (side[0], side[1])


def _first_channel(image: Any) -> np.ndarray:
    return torch.as_tensor(image)[0].detach().cpu().float().numpy()
