"""A bundle's configs from the templates and a plan."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.bundle import transforms as t
from monai_ext.bundle.choose import Plan
from monai_ext.bundle.normalise import is_ct
from monai_ext.bundle.survey import Survey

TEMPLATES = Path(__file__).with_name("templates")

Config = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """What all configs of a bundle need to know.

    Args:
        name: of its folder.
        root: where that is.
        task: segmentation, denoising or classification.
        split: the one that evaluation takes: test, or validation where there is no test.
        paired: whether the labels are files beside the images (denoising).
    """

    name: str
    root: Path
    task: str
    found: Survey
    plan: Plan
    seed: int
    split: str
    paired: bool = True

    @property
    def channel_files(self) -> int:
        return max((len(case.images) for case in self.found.cases), default=1)


def template(name: str) -> Any:
    """A file of the templates."""
    return json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))


def configs(bundle: Bundle) -> dict[str, Config]:
    """All configs by the names of their files, without `.json`."""
    delta = template(bundle.task)
    names = ("train", "inference", "evaluate", "multi_gpu_train", "demo", "metadata")
    made = {name: merged(template(name), delta.get(name, {})) for name in names}
    FILL[bundle.task](bundle, made)
    _common(bundle, made)
    _metadata(bundle, made["metadata"])
    return made


def merged(base: Any, delta: Any) -> Any:
    """Dicts are merged, anything else is replaced, and so is a component by one of another class."""
    if not (isinstance(base, dict) and isinstance(delta, dict)):
        return copy.deepcopy(delta)
    if "_target_" in base and delta.get("_target_", base["_target_"]) != base["_target_"]:
        return copy.deepcopy(delta)
    kept = {key: copy.deepcopy(value) for key, value in base.items()}
    return kept | {key: merged(base[key], value) if key in base else value for key, value in delta.items()}


def _common(bundle: Bundle, made: dict[str, Config]) -> None:
    plan, train, inference = bundle.plan, made["train"], made["inference"]
    size = "image_size" if bundle.task == "classification" else "patch_size"
    about: Config = {size: plan.size}
    about |= {"class_names": _names(bundle)} if plan.class_names else {}
    levels = {"training_levels": [0.01, 0.16], "validation_levels": [0.025, 0.1]}
    own = {} if bundle.paired or bundle.task != "denoising" else levels
    made["train"] = train = _before(train, "network_def", about | own)
    made["inference"] = inference = _before(inference, "network_def", about)
    for config in (train, inference):
        config["bundle_root"] = _root(bundle)
        config["network_def"] = plan.network
    train |= {
        "seed": bundle.seed,
        "max_epochs": plan.epochs,
        "batch_size": plan.batch,
        "iterations": plan.iterations,
        "val_interval": max(1, plan.epochs // 20),
        "warmup_epochs": max(1, plan.epochs // 30),
    }
    train["train"]["dataset"]["cache_rate"] = train["validate"]["dataset"]["cache_rate"] = plan.cache
    inference["datalist"] = _images(bundle)
    axes = list(range(bundle.found.dims)) if bundle.task == "denoising" else [0]
    axes = axes if bundle.task == "denoising" or t.mirrors(plan) else []
    inference["mirror_axes"] = made["evaluate"]["mirror_axes"] = axes
    made["evaluate"]["split"] = bundle.split


def _names(bundle: Bundle) -> list[str]:
    names = bundle.plan.class_names
    return names[1:] if bundle.task == "segmentation" else names


def _root(bundle: Bundle) -> str:
    """Where the bundle is found from the folder that a command starts in: by its name, or there, or where it was made.

    A path that MONAI would read as a reference stays out.
    """
    places = [bundle.name, f"bundles/{bundle.name}"]
    if not set("@%#:$") & set(bundle.root.as_posix()):
        places = [*places, ".", bundle.root.as_posix()]
    listing = ", ".join(map(repr, places))
    where = "os.path.isfile(os.path.join(folder, 'configs', 'metadata.json'))"
    return f"$next((folder for folder in ({listing}) if {where}), '.')"


def _images(bundle: Bundle) -> str:
    dims = "" if bundle.found.dims == 3 else ", spatial_dims=2"
    files = "" if bundle.channel_files == 1 else f", channel_files={bundle.channel_files}"
    return f"$ImagesOfList(@datalist_path, @dataset_dir{dims}{files})"


def _before(config: Config, key: str, entries: Config) -> Config:
    """The config with some entries before one of its own."""
    made: Config = {}
    for name, value in config.items():
        if name == key:
            made |= entries
        made.setdefault(name, value)
    return made


def _segmentation(bundle: Bundle, made: dict[str, Config]) -> None:
    found, plan, train, inference, evaluate = _parts(bundle, made)
    number = len(plan.class_names)
    train["train"]["deterministic_transforms"] = t.deterministic(found, plan, "segmentation", t.BOTH)
    train["train"]["random_transforms"] = t.random_segmentation(found, plan)
    train["train"]["postprocessing"]["transforms"][0]["to_onehot"] = number
    inference["preprocessing"]["transforms"] = t.deterministic(found, plan, "segmentation", ["image"], True)
    evaluate["preprocessing"]["transforms"] = t.deterministic(found, plan, "segmentation", t.BOTH, True)
    softmax = {"_target_": "monai.transforms.Activationsd", "keys": "pred", "softmax": True}
    invert = {
        "_target_": "monai.transforms.Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    }
    moved = found.dims == 3 and not found.pictures
    classes = {"_target_": "monai.transforms.AsDiscrete", "argmax": True, "dtype": "$torch.uint8"}
    if moved or number > 2:
        steps = [softmax, {**invert, "post_func": classes}]
    else:
        steps = [
            softmax,
            {"_target_": "monai.transforms.Lambdad", "keys": "pred", "func": "$lambda probability: probability[1:]"},
            {"_target_": "monai.transforms.AsDiscreted", "keys": "pred", "threshold": 0.5, "dtype": "$torch.uint8"},
        ]
    save: Config = {"keys": "pred", "output_dir": "@output_dir", "output_postfix": "seg"}
    save |= {"inputs": "@datalist"} if bundle.channel_files == 1 else {}
    save |= dict.fromkeys(("values", "volume_values"), plan.values) if plan.values else {}
    inference["postprocessing"]["transforms"] = [
        *steps,
        {"_target_": "monai_ext.data.save.SaveLikeInputd", **save},
        {"_target_": "monai_ext.data.monai_label.MonaiLabelAnswerd", "keys": "pred"},
    ]
    evaluate["postprocessing"]["transforms"] = [
        softmax,
        *([invert] if moved else []),
        {
            "_target_": "monai.transforms.AsDiscreted",
            "keys": ["pred", "label"],
            "argmax": [True, False],
            "to_onehot": number,
        },
    ]
    coloured = found.dims == 2 and found.channels == 3
    for config in (inference, evaluate):
        config["handlers"][-1]["image_key"] = "photograph" if coloured else "image"
    if found.pictures:
        evaluate["finalize"][0] = evaluate["finalize"][0].replace("} mm", "} pixels")


def _classification(bundle: Bundle, made: dict[str, Config]) -> None:
    found, plan, train, inference, evaluate = _parts(bundle, made)
    train["imports"].append("$from monai_ext.data.balance import balanced_weights")
    train["imports"] = [line for line in train["imports"] if "check_datalist" not in line]
    train["initialize"] = [line for line in train["initialize"] if "check_datalist" not in line]
    steps = t.deterministic(found, plan, "classification", ["image"])
    train["train"]["deterministic_transforms"] = steps
    train["train"]["random_transforms"] = t.random_classification(found, plan)
    for config in (inference, evaluate):
        config["preprocessing"]["transforms"] = t.deterministic(found, plan, "classification", ["image"], True)
        if found.dims == 2 and found.channels == 3:
            config["handlers"][-1]["image_key"] = "photograph"
        else:
            config["handlers"][-1].pop("image_key", None)


def _denoising(bundle: Bundle, made: dict[str, Config]) -> None:
    found, plan, train, inference, evaluate = _parts(bundle, made)
    train["train"]["random_transforms"] = t.random_denoising(found, plan, bundle.paired)
    if bundle.paired:
        train["train"]["deterministic_transforms"] = t.deterministic(found, plan, "denoising", t.BOTH)
        inference["preprocessing"]["transforms"] = t.deterministic(found, plan, "denoising", ["image"])
        evaluate["preprocessing"]["transforms"] = t.deterministic(found, plan, "denoising", t.BOTH, True)
        for metrics in (
            train["validate"]["key_metric"],
            *(evaluate[name] for name in ("key_metric", "additional_metrics")),
        ):
            for metric in metrics.values():
                metric |= {"fit": True} if plan.fit else {}
        evaluate["handlers"][-1] |= {"fit": True} if plan.fit else {}
        return
    train["imports"].append("$from monai_ext.data.noise import at_levels")
    load = t.deterministic(found, plan, "denoising", ["image"])[:-1]
    noise = {"_target_": "monai_ext.data.noise.FixedRicianNoised", "keys": "image", "level_key": "level"}
    copied = [*load, t.copy_as_label()]
    scale = t.scale_by_noise(t.BOTH)
    train["train"]["deterministic_transforms"] = copied
    train["train"]["dataset"]["data"] = _own("'train'")
    train["validate"]["preprocessing"]["transforms"] = [*copied, noise, scale]
    train["validate"]["dataset"]["data"] = f"$at_levels({_own(repr('validation'))[1:]}, @validation_levels)"
    inference["preprocessing"]["transforms"] = [*load, t.scale_by_noise(["image"])]
    evaluate["preprocessing"]["transforms"] = [*copied, noise, scale]
    made["evaluate"] = {"split": None, "levels": [0.025, 0.05, 0.1], **evaluate}
    made["evaluate"]["dataset"]["data"] = f"$at_levels({_own('@split')[1:]}, @levels)"
    for handler in evaluate["handlers"][1:]:
        handler["group_key"] = "level"
    train["initialize"][1] = "$check_datalist(@train#dataset#data, keys='image')"


def _own(split: str) -> str:
    kept = "{'image': entry['image'], 'case': entry['case']}"
    return f"$[{kept} for entry in listed(@datalist_path, @dataset_dir, {split})]"


def _parts(bundle: Bundle, made: dict[str, Config]) -> tuple[Survey, Plan, Config, Config, Config]:
    return bundle.found, bundle.plan, made["train"], made["inference"], made["evaluate"]


FILL = {"segmentation": _segmentation, "classification": _classification, "denoising": _denoising}


def _metadata(bundle: Bundle, metadata: Config) -> None:
    found, plan = bundle.found, bundle.plan
    kind = "pictures" if found.pictures else "volumes" if found.dims == 3 else "images"
    names = ", ".join(_names(bundle)) or "images"
    what = {"segmentation": f"Segmentation of {names}", "classification": f"Classification as {names}"}
    task = f"{what.get(bundle.task, 'Denoising')} in {found.dims}D {kind}"
    colour = found.channels == 3 and found.dims == 2
    channels = ["red", "green", "blue"] if colour else [f"channel {n}" for n in range(found.channels)]
    channels = ["image"] if found.channels == 1 else channels
    classes = ", ".join(f"{number} {name}" for number, name in enumerate(plan.class_names))
    labels = {"denoising": "the image without its noise", "classification": f"a class: {classes}"}
    metadata |= {
        "name": bundle.name.replace("_", " "),
        "task": task,
        "description": f"{task}, with a network whose attention is one line of the config; made from the data",
        "data_source": "the owner's own data, see data/datalist.json",
        "data_type": ", ".join(sorted({header.kind for header in found.headers})),
        "image_classes": f"{found.channels} channel(s): {', '.join(channels)}; {plan.reasons['intensity']}",
        "label_classes": labels.get(bundle.task, f"one channel: {classes}"),
        "pred_classes": classes or "the denoised image",
    }
    image = {
        "type": "image",
        "format": "RGB" if colour else "magnitude",
        "modality": "CT" if is_ct(found) else "n/a",
        "num_channels": found.channels,
        "spatial_shape": plan.size,
        "dtype": "float32",
        "value_range": list(plan.value_range),
        "is_patch_data": bundle.task != "classification",
        "channel_def": {str(number): name for number, name in enumerate(channels)},
    }
    outputs = plan.class_names or channels
    tensors = metadata["network_data_format"]
    tensors["inputs"]["image"] = image
    tensors["outputs"]["pred"] |= {
        "num_channels": len(outputs),
        "spatial_shape": [1, len(outputs)] if bundle.task == "classification" else plan.size,
        "dtype": "float32",
        "value_range": [],
        "channel_def": {str(number): name for number, name in enumerate(outputs)},
    }
