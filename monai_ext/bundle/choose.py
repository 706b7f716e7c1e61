"""What to train on some data: grid, patches, normalisation, network; each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monai_ext.bundle.memory import training_memory
from monai_ext.bundle.normalise import normalise
from monai_ext.bundle.survey import Survey

ANISOTROPIC = 3.0  # coarsest over finest voxel size, as nnU-Net draws the line
CPU_STEP = 2e11  # operations of a training step that a few cores do in a second or two
STEPS = {"cpu": 4000, "cuda": 20000}  # of a training


@dataclass(frozen=True)
class Request:
    """What the user wants: `memory` in bytes, `device` cpu or cuda, `mixer` a name."""

    task: str
    memory: float
    device: str
    mixer: str = "softmax"
    seed: int = 0


@dataclass
class Plan:
    """What goes into the configs; `reasons` maps each choice to a sentence, in the order of the README.

    Args:
        size: of a patch, or of the whole image that a classifier takes.
        spacing: in mm, axes right, anterior, superior; None where images keep their grids.
        anisotropic: the axis of the coarse voxels, if any.
        crop: whether patches are cut out of larger images.
        normalise: transforms of the images, the last of the preprocessing.
        value_range: of the network's input.
        cache: part of the data that is kept in memory.
        class_names: of the classes, the background first in a segmentation.
        values: the labels' values by class where they are not 0, 1, 2, ...
        fit: whether clean images must be brought to the scale of the noisy ones.
    """

    size: list[int]
    network: dict[str, Any]
    batch: int
    spacing: list[float] | None = None
    anisotropic: int | None = None
    crop: bool = False
    normalise: list[dict[str, Any]] = field(default_factory=list)
    value_range: tuple[float, float] = (-10, 10)
    cache: float = 1.0
    class_names: list[str] = field(default_factory=list)
    values: list[int] | None = None
    fit: bool = False
    iterations: int = 50
    epochs: int = 40
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Given:
    """What every step of a ladder starts from: the median `extent` of images in voxels of `spacing`."""

    found: Survey
    request: Request
    class_names: Sequence[str]
    spacing: list[float] | None
    extent: np.ndarray

    @property
    def coarse(self) -> int | None:
        """The axis whose voxels are much longer than the others'."""
        if self.spacing is None or max(self.spacing) < ANISOTROPIC * min(self.spacing):
            return None
        return int(np.argmax(self.spacing))


# width, longest edge of a patch, batch; from the most able to the least
LADDERS: Mapping[tuple[str, int], Sequence[tuple[int, int, int]]] = {
    ("segmentation", 3): [
        *((48, 128, 2), (48, 96, 2), (32, 96, 2), (32, 80, 2), (32, 64, 2), (32, 48, 2), (24, 64, 2)),
        *((24, 48, 2), (24, 48, 1), (16, 48, 1), (16, 32, 1), (8, 32, 1), (8, 16, 1)),
    ],
    ("segmentation", 2): [
        *((48, 512, 8), (32, 512, 4), (32, 384, 4), (24, 256, 4), (24, 192, 4), (24, 192, 2)),
        *((16, 160, 2), (16, 128, 2), (16, 96, 2), (8, 64, 2), (8, 64, 1), (8, 32, 1)),
    ],
    ("denoising", 3): [
        *((48, 96, 2), (48, 64, 2), (32, 64, 2), (32, 48, 2), (32, 32, 2), (16, 32, 2)),
        *((16, 32, 1), (8, 32, 1), (8, 16, 1)),
    ],
    ("denoising", 2): [
        *((48, 256, 8), (32, 256, 4), (24, 256, 4), (24, 192, 4), (24, 128, 4), (24, 128, 2)),
        *((16, 96, 2), (16, 64, 2), (8, 64, 1), (8, 32, 1)),
    ],
    ("classification", 3): [
        *((96, 128, 8), (64, 96, 8), (64, 64, 16), (64, 64, 8), (64, 48, 8), (32, 48, 8), (32, 32, 8)),
        *((16, 32, 4), (16, 16, 2)),
    ],
    ("classification", 2): [
        *((64, 256, 32), (48, 224, 32), (32, 224, 32), (32, 160, 32), (32, 128, 32), (32, 96, 32), (32, 64, 32)),
        *((32, 64, 16), (16, 64, 8), (16, 32, 8), (16, 32, 2)),
    ],
}


def choose(found: Survey, request: Request, class_names: Sequence[str], training: int) -> Plan:
    """A plan for the data.

    Args:
        found: what the data are like.
        request: what is wanted.
        class_names: of the classes, for segmentation without the background.
        training: number of training cases.

    Raises:
        ValueError: the least network needs more memory than there is, or the mixer cannot do with it.
    """
    reasons: dict[str, str] = {}
    spacing, extent = _grid(found, request.task, reasons)
    memory_for_data = 0.4 * request.memory if request.device == "cpu" else float("inf")
    copies = 1 if request.task == "classification" else 2
    plan, need = _first_that_fits(_Given(found, request, class_names, spacing, extent), reasons)
    volume = 4 * copies * found.channels * float(np.prod(plan.size if request.task == "classification" else extent))
    total = volume * len(found.cases)
    plan.cache = 1.0 if total <= memory_for_data else round(max(0.0, memory_for_data / total), 2)
    reasons["cache"] = f"all cases together take {total / 1e9:.2g} GB when they are prepared, and " + (
        "all are kept in memory." if plan.cache == 1 else f"{plan.cache:.0%} of them are kept in memory."
    )
    if request.device == "cpu":
        need += plan.cache * total
    reasons["memory"] = (
        f"a training is estimated to take {need / 1e9:.2g} GB of the {request.memory / 1e9:.3g} GB "
        f"({'the machine' if request.device == 'cpu' else 'the GPU'}), the data in memory included."
    )
    steps = STEPS[request.device]
    plan.iterations = int(min(250, max(20, math.ceil(training / plan.batch))))
    plan.epochs = max(10, round(steps / plan.iterations))
    reasons["length"] = (
        f"{plan.epochs} epochs of {plan.iterations} batches of {plan.batch}, about {steps} steps: a start, to be "
        "lengthened with `--max_epochs` while the validation still gets better."
    )
    plan.normalise, plan.value_range, reasons["intensity"] = normalise(found, request.task)
    _classes(found, request.task, plan, class_names, reasons)
    if request.task == "denoising" and found.gains:
        gain = float(np.median(found.gains))
        plan.fit = abs(gain - 1) > 0.1
        reasons["scale"] = f"clean images are {'' if plan.fit else 'not '}fitted to the scale of the noisy ones, " + (
            f"from which they differ by a factor of {gain:.3g} in the median."
        )
    order = ("spacing", "patch", "classes", "intensity", "scale", "network", "mixer", "memory", "cache", "length")
    plan.reasons = {name: reasons[name] for name in order if name in reasons}
    return plan


def _grid(found: Survey, task: str, reasons: dict[str, str]) -> tuple[list[float] | None, np.ndarray]:
    """The spacing to resample to, and the median size of an image then, in voxels."""
    if found.dims == 2 or found.pictures or task == "denoising":
        extent = np.median(found.shapes, axis=0)
        why = "noise lives on the grid of the file" if task == "denoising" else "the pixels of pictures have no size"
        if task != "classification" or found.dims == 3:
            reasons["spacing"] = f"images keep their grids: {why}."
        return None, extent
    spacings = found.spacings
    spacing = [float(f"{value:.4g}") for value in np.median(spacings, axis=0)]
    extent = np.median(found.shapes * spacings / spacing, axis=0)
    same = np.ptp(spacings, axis=0).max() < 1e-3
    reasons["spacing"] = f"{_times(spacing)} mm (right, anterior, superior), " + (
        "which all volumes have." if same else f"the median of {_times(spacings.min(0))} to {_times(spacings.max(0))}."
    )
    return spacing, extent


def _first_that_fits(given: _Given, reasons: dict[str, str]) -> tuple[Plan, float]:
    """The plan, and the memory in bytes that its training takes without the data."""
    found, request, extent = given.found, given.request, given.extent
    ladder = LADDERS[request.task, found.dims]
    fits_data = 0.6 if request.device == "cpu" else 0.9
    budget, tried = fits_data * request.memory, set()
    need = 0.0
    largest = 0.0
    for width, edge, batch in ladder:
        plan = _at(given, (width, edge, batch))
        key = (width, tuple(plan.size), batch)
        if key in tried or (request.device == "cpu" and plan.size and largest and np.prod(plan.size) * width > largest):
            continue
        tried.add(key)
        need, operations = training_memory(plan.network, plan.batch, found.channels, plan.size)
        validation = 4.0 * (4 + 3 * max(2, len(given.class_names) + 1)) * float(np.prod(extent))
        need += 0 if request.task == "classification" else validation
        if need <= budget and (request.device != "cpu" or operations <= CPU_STEP):
            break
        largest = float(np.prod(plan.size)) * width
    else:
        if need > budget:
            raise ValueError(
                f"the smallest network would take {need / 1e9:.2g} GB and {request.memory / 1e9:.3g} GB are to be had "
                f"({fits_data:.0%} of it for the network): give a larger --memory, or images on a coarser grid."
            )
    limits = "what the memory allows" if request.device == "cuda" else "what the memory and a CPU's speed allow"
    whole = [size >= middle for size, middle in zip(plan.size, extent)]
    plan.crop = request.task != "classification" and not all(
        size * 1.25 >= middle for size, middle in zip(plan.size, extent)
    )
    covers = "covers the whole of a usual image" if all(whole) else "covers a part of the image"
    reasons["patch"] = (
        f"{_times(plan.size)} {'pixels' if found.dims == 2 else 'voxels'}, {limits}; it {covers} "
        f"({_times(np.round(extent).astype(int))} in the median)."
        + (" It is flat, as the voxels are long along one axis." if given.coarse is not None else "")
    )
    if request.task == "classification":
        reasons["patch"] = (
            f"every image becomes {_times(plan.size)} {'pixels' if found.dims == 2 else 'voxels'}, {limits}; images "
            f"are {_times(np.round(extent).astype(int))} in the median."
        )
    inner = plan.network.get("network", plan.network)
    reasons["network"] = (
        f"`{inner['_target_'].rpartition('.')[2]}` of {len(inner['depths'])} stages and width {inner['feature_size']}, "
        f"the first of a list from wide to narrow that fits."
    )
    reasons["mixer"] = (
        f"`{request.mixer}`"
        + (
            ", attention in windows, whose memory grows in proportion to the patch; the shipped bundles have it."
            if request.mixer == "softmax"
            else ", as asked for with --mixer."
        )
        + f" `--network_def#{'network#' if request.task == 'denoising' else ''}mixer` takes any other."
    )
    return plan, need


def _at(given: _Given, step: tuple[int, int, int]) -> Plan:
    """The plan at one step of the ladder."""
    found, request, spacing, coarse = given.found, given.request, given.spacing, given.coarse
    width, edge, batch = step
    if request.task == "classification":
        return _classifier(given, step)
    dims = found.dims
    stages = 2 if edge <= 64 and dims == 3 else 3
    patch = [1 if axis == coarse else 2 for axis in range(dims)]
    limit = np.full(dims, float(edge))
    if coarse is not None and spacing is not None:  # as many millimetres as along the other axes, if it can be
        limit[coarse] = max(8, edge * min(spacing) / spacing[coarse] * 2)
    size = []
    for axis in range(dims):
        multiple = patch[axis] << stages
        whole = multiple * math.ceil(given.extent[axis] / multiple)
        size.append(int(min(whole, max(multiple, multiple * math.floor(limit[axis] / multiple)))))
    tokens = [n // p for n, p in zip(size, patch)]
    largest = 16 if dims == 2 else 8
    heads = max(1, width // 16)
    network = {
        "_target_": "monai_ext.networks.MixerSwinUNETR",
        "spatial_dims": dims,
        "in_channels": found.channels,
        "out_channels": len(given.class_names) + 1 if request.task == "segmentation" else found.channels,
        "patch_size": patch if coarse is not None else 2,
        "mixer": request.mixer,
        "feature_size": width,
        "depths": [2] * stages,
        "num_heads": [heads << stage for stage in range(stages)],
        "window_size": [_window(n, largest) for n in tokens],
    }
    if request.task == "denoising":
        network["norm_name"] = ""
        network = {"_target_": "monai_ext.networks.ResidualNetwork", "network": network}
    return Plan(size, network, batch, spacing, coarse)


def _window(tokens: int, largest: int) -> int:
    """The largest window that divides the grid; one that does not where only tiny ones do."""
    if tokens <= largest:
        return tokens
    fitting = [size for size in range(largest // 2, largest + 1) if tokens % size == 0]
    return max(fitting, default=largest - 1)


def _classifier(given: _Given, step: tuple[int, int, int]) -> Plan:
    found, spacing = given.found, given.spacing
    width, edge, batch = step
    if found.dims == 2:
        side = min(edge, max(32, 32 * math.ceil(float(given.extent.max()) / 32)))
        size, patch, stages = [side, side], 4, 3
    else:
        large = np.percentile(found.shapes * (found.spacings / spacing if spacing else 1.0), 95, axis=0)
        shrink = max(1.0, float(large.max()) / edge)
        spacing = [float(f"{value * shrink:.4g}") for value in spacing] if spacing else None
        size = [int(max(8, min(edge, 8 * math.ceil(n / shrink / 8)))) for n in large]
        patch, stages = 8 if min(size) >= 48 else 4 if min(size) >= 16 else 2, 2
    network: dict[str, Any] = {
        "_target_": "monai_ext.networks.MixerSwin",
        "spatial_dims": found.dims,
        "in_channels": found.channels,
        "num_classes": len(given.class_names),
        "classification": True,
        "hidden_states": False,
        "patch_size": patch,
        "mixer": given.request.mixer,
        "feature_size": width,
        "depths": [2] * stages,
        "num_heads": [max(1, width // 16) << stage for stage in range(stages)],
        "window_size": [_window(max(1, n // patch), 8) for n in size],
        "dropout_path_rate": 0.1,
    }
    if found.dims == 3:
        network |= {"stem": "conv", "block": {"layer_scale": 0.0001}}
    return Plan(size, network, batch, spacing)


def _classes(found: Survey, task: str, plan: Plan, names: Sequence[str], reasons: dict[str, str]) -> None:
    if task == "segmentation":
        values = found.class_values
        plan.class_names = ["background", *names]
        plan.values = None if values == list(range(len(values))) or found.one_hot else values
        total = sum(found.values.values())
        parts = ", ".join(f"{n} {found.values[v] / total:.2%}" for n, v in zip(plan.class_names, values))
        stored = f"; the labels store them as {', '.join(map(str, values))}" if plan.values else ""
        stored = f"; the labels have {found.one_hot} channels, one a class" if found.one_hot else stored
        reasons["classes"] = f"{parts} of the voxels{stored}."
    elif task == "classification":
        plan.class_names = list(names)
        reasons["classes"] = (
            ", ".join(f"{name} {found.classes[name]}" for name in names)
            + " images; training draws every class equally often."
        )


def _times(numbers: Sequence[Any] | np.ndarray) -> str:
    return " x ".join(f"{float(number):g}" for number in numbers)
