"""The transforms of a bundle's configs, as a plan and the data want them."""

from __future__ import annotations

from typing import Any

from monai_ext.bundle.choose import Plan
from monai_ext.bundle.survey import Survey

Transforms = list[dict[str, Any]]

BOTH = ["image", "label"]


def deterministic(found: Survey, plan: Plan, task: str, keys: list[str], evaluate: bool = False) -> Transforms:
    """From files to the network's input.

    Args:
        keys: image, and label where it is a file.
        evaluate: leave the label on its own grid, and in denoising on its own scale, where the results are compared.
    """
    load: dict[str, Any] = {"keys": _keys(keys), "ensure_channel_first": True}
    check: dict[str, Any] = {"keys": _keys(keys), "num_channels": found.channels, "spatial_dims": found.dims}
    load |= {"spatial_dims": 2} if found.dims == 2 else {}
    if task == "denoising":
        load["label_keys"] = check["label_keys"] = []
    elif "label" in keys:
        check |= {"label_keys": "label", "num_classes": len(plan.class_names)}
    steps: Transforms = [{"_target_": "monai_ext.data.transforms.LoadVolumed", **load}]
    single = max((len(case.images) for case in found.cases), default=1) == 1
    if found.channels in (1, 3) and single and (found.dims == 2 or found.pictures):
        images = keys if task == "denoising" else ["image"]
        channels = "monai_ext.data.picture_transforms.ChannelsOfd"
        steps.append({"_target_": channels, "keys": _keys(images), "channels": found.channels})
    if task == "segmentation" and "label" in keys:
        steps += _label_classes(found, plan)
    steps.append({"_target_": "monai_ext.data.transforms.CheckVolumed", **check})
    if task == "denoising":
        return steps + _denoising(plan, keys, evaluate)
    colours = evaluate and found.dims == 2 and found.channels == 3
    steps += _grid(found, plan, ["image"] if evaluate else keys)
    if task == "classification" and found.dims == 2:
        steps.append({"_target_": "monai_ext.data.boxes.CutBoxd", "keys": "image", "size": "@image_size"})
    if colours:
        steps.append(
            {
                "_target_": "monai.transforms.CopyItemsd",
                "_desc_": "its colours are for the pictures",
                "keys": "image",
                "times": 1,
                "names": "photograph",
            }
        )
    steps += plan.normalise
    if task == "classification" and found.dims == 3:
        steps.append(_to_size(plan))
    return steps


def _keys(keys: list[str]) -> Any:
    return keys if len(keys) > 1 else keys[0]


def _label_classes(found: Survey, plan: Plan) -> Transforms:
    if found.one_hot:
        target = "monai_ext.data.one_hot.ClassesOfChannelsd"
        return [{"_target_": target, "keys": "label", "background": found.background}]
    if plan.values or found.dims == 2:  # pictures may hold grey as colour
        values = plan.values or list(range(len(plan.class_names)))
        return [{"_target_": "monai_ext.data.picture_transforms.ClassesOfd", "keys": "label", "values": values}]
    return []


def _grid(found: Survey, plan: Plan, keys: list[str]) -> Transforms:
    if found.dims == 2 or found.pictures:
        return []
    mode: Any = ["bilinear", "nearest"] if len(keys) > 1 else "bilinear"
    turn = {"_target_": "monai.transforms.Orientationd", "keys": _keys(keys), "axcodes": "RAS", "labels": None}
    if plan.spacing is None:
        return [turn]
    name = "monai_ext.data.transforms.VolumeSpacingd"
    return [turn, {"_target_": name, "keys": _keys(keys), "pixdim": plan.spacing, "mode": mode}]


def _to_size(plan: Plan) -> dict[str, Any]:
    if plan.spacing is None:
        return {
            "_target_": "monai.transforms.Resized",
            "keys": "image",
            "spatial_size": "@image_size",
            "mode": "trilinear",
        }
    name = "monai.transforms.ResizeWithPadOrCropd"
    return {"_target_": name, "keys": "image", "spatial_size": "@image_size", "mode": "edge"}


def _denoising(plan: Plan, keys: list[str], evaluate: bool) -> Transforms:
    together = "monai_ext.data.intensity.ScaleTogetherd"
    if not plan.fit:
        return [{"_target_": together, "keys": _keys(keys)}]
    if evaluate:  # the metrics fit to the reference as the file has it
        return [{"_target_": together, "keys": "image"}]
    fit = {"_target_": "monai_ext.data.intensity.FitIntensityd", "keys": "label"}
    return [*([fit] if "label" in keys else []), {"_target_": together, "keys": _keys(keys)}]


def copy_as_label() -> dict[str, Any]:
    """For images that are their own references."""
    return {
        "_target_": "monai.transforms.CopyItemsd",
        "_desc_": "the image as it is becomes the reference",
        "keys": "image",
        "times": 1,
        "names": "label",
    }


def scale_by_noise(keys: list[str]) -> dict[str, Any]:
    """The scale of noise that is made up: 1 is its standard deviation."""
    name = "monai_ext.data.intensity.ScaleByNoised"
    return {"_target_": name, "keys": _keys(keys), "reference_key": "image"}


def random_segmentation(found: Survey, plan: Plan) -> Transforms:
    """Deformed patches and changed intensities; labels are deformed as probabilities."""
    dims = found.dims
    steps: Transforms = [
        {"_target_": "monai.transforms.AsDiscreted", "keys": "label", "to_onehot": len(plan.class_names)}
    ]
    if plan.crop:
        steps.append(
            {
                "_target_": "monai.transforms.RandCropByPosNegLabeld",
                "_desc_": "as often around foreground as around background; larger than a patch, for what is turned",
                "keys": BOTH,
                "label_key": "label",
                "spatial_size": "$[5 * size // 4 for size in @patch_size]",
                "num_samples": 1,
                "allow_smaller": True,
            }
        )
    if mirrors(plan):
        steps.append({"_target_": "monai.transforms.RandFlipd", "keys": BOTH, "prob": 0.5, "spatial_axis": 0})
    shift = [max(1, size // 10) for size in plan.size]
    steps.append(
        {
            "_target_": "monai.transforms.RandAffined",
            "_desc_": "without a size, so that what is not deformed keeps its voxels",
            "keys": BOTH,
            "prob": 0.5,
            "rotate_range": _turns(dims, plan.anisotropic),
            "scale_range": [0.0 if axis == plan.anisotropic else 0.12 for axis in range(dims)],
            "translate_range": shift,
            "mode": "bilinear",
            "padding_mode": ["zeros", "border"],
        }
    )
    return steps + _to_patch(plan) + _intensities(found)


def _to_patch(plan: Plan) -> Transforms:
    """Pad and crop by whole voxels."""
    pad = {"_target_": "monai.transforms.SpatialPadd", "keys": BOTH, "mode": ["constant", "edge"]}
    if plan.crop:  # the middle is what was drawn for its class
        crop = {"_target_": "monai.transforms.CenterSpatialCropd", "keys": BOTH, "roi_size": "@patch_size"}
        return [{**pad, "spatial_size": "@patch_size"}, crop]
    crop = {"_target_": "monai.transforms.RandSpatialCropd", "keys": BOTH, "roi_size": "@patch_size"}
    return [
        {**pad, "_desc_": "room to shift", "spatial_size": "$[size + size // 8 for size in @patch_size]"},
        {**crop, "random_size": False},
    ]


def _turns(dims: int, coarse: int | None) -> Any:
    if dims == 2:
        return 0.3
    return [0.2 if coarse is None or axis == coarse else 0.0 for axis in range(3)]


def _intensities(found: Survey) -> Transforms:
    apart = {"channel_wise": True} if found.channels > 1 else {}
    name = "monai.transforms."
    return [
        {"_target_": f"{name}RandScaleIntensityd", "keys": "image", "prob": 0.5, "factors": 0.2, **apart},
        {"_target_": f"{name}RandShiftIntensityd", "keys": "image", "prob": 0.5, "offsets": 0.15, **apart},
        {"_target_": f"{name}RandGaussianNoised", "keys": "image", "prob": 0.15, "std": 0.05},
    ]


def random_classification(found: Survey, plan: Plan) -> Transforms:
    """Deformed images and changed intensities."""
    steps: Transforms = [{"_target_": "monai.transforms.RandFlipd", "keys": "image", "prob": 0.5, "spatial_axis": 0}]
    if not mirrors(plan):
        steps = []
    steps.append(
        {
            "_target_": "monai.transforms.RandAffined",
            "keys": "image",
            "prob": 0.8,
            "rotate_range": 0.3 if found.dims == 2 else [0.2, 0.2, 0.2],
            "scale_range": [0.12] * found.dims,
            "translate_range": [max(1, size // 10) for size in plan.size],
            "mode": "bilinear",
            "padding_mode": "border",
        }
    )
    return steps + _intensities(found)


def random_denoising(found: Survey, plan: Plan, paired: bool) -> Transforms:
    """Patches, mirrored along every axis; where images are their own references, noise before."""
    steps: Transforms = []
    if not paired:
        noise = "monai_ext.data.noise.RandRicianLeveld"
        steps += [{"_target_": noise, "keys": "image", "levels": "@training_levels"}, scale_by_noise(BOTH)]
    name = "monai.transforms."
    steps += [
        {"_target_": f"{name}SpatialPadd", "keys": BOTH, "spatial_size": "@patch_size", "mode": "edge"},
        {"_target_": f"{name}RandSpatialCropd", "keys": BOTH, "roi_size": "@patch_size", "random_size": False},
    ]
    flip = f"{name}RandFlipd"
    steps += [{"_target_": flip, "keys": BOTH, "prob": 0.5, "spatial_axis": axis} for axis in range(found.dims)]
    return steps


def mirrors(plan: Plan) -> bool:
    """Whether left and right may be exchanged: not where classes are called so."""
    return not any(word in name.lower() for name in plan.class_names for word in ("left", "right"))
