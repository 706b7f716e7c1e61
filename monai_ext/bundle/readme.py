"""The README and the note on the data's licence of a bundle that is made from someone's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from monai_ext.bundle.configs import TEMPLATES, Bundle
from monai_ext.bundle.pairing import Pairs
from monai_ext.bundle.splits import alike_across_splits
from monai_ext.data.check_case import Finding, some

TITLES = {
    "spacing": "Grid",
    "patch": "Size",
    "classes": "Classes",
    "intensity": "Intensities",
    "scale": "Scale of the pairs",
    "network": "Network",
    "mixer": "Attention",
    "memory": "Memory",
    "cache": "Data in memory",
    "length": "Length of the training",
}
_VERBS = {"segmentation": "outlines", "classification": "tells apart", "denoising": "takes the noise from"}


def facts(bundle: Bundle, pairs: Pairs, splits: dict[str, str], total: int) -> list[str]:
    """What was found, a line each."""
    found = bundle.found
    shapes, counts = found.shapes, Counter(splits.values())
    unlabelled = len(found.cases) - len(splits)
    unit = "pixels" if found.dims == 2 else "voxels"
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(h.kind for h in found.headers).items()))
    dtypes = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(h.dtype for h in found.headers).items()))
    lines = [
        f"{len(found.cases)} cases of {total} images ({kinds}), {found.dims}D, {found.channels} channel(s), {dtypes}",
        f"how labels were found: {pairs.how}",
        f"sizes {_span(shapes.min(0), shapes.max(0))} {unit}, {_times(np.median(shapes, axis=0))} in the median",
    ]
    if not found.pictures:
        least, most = found.spacings.min(0), found.spacings.max(0)
        lines.append(f"spacing {_span(least, most)} mm")
    level = found.intensity
    lines.append(
        f"intensities {level['least']:g} to {level['most']:g}; percentiles 0.5 and 99.5 of an image are "
        f"{level['low']:g} and {level['high']:g} in the median"
    )
    read = f"voxels of {found.read[0]} images were read"
    lines.append(read + (f", and {found.read[1]} labels" if found.read[1] else ""))
    lines.append(
        "split: "
        + ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "test"))
        + (f", unlabelled {unlabelled}" if unlabelled and bundle.paired else "")
    )
    return lines


def data_remarks(bundle: Bundle, splits: dict[str, str]) -> list[Finding]:
    """Warnings about the whole of the data."""
    found, counts, remarks = bundle.found, Counter(splits.values()), []

    def warn(kind: str, message: str) -> None:
        remarks.append(Finding("data", kind, message, warning=True))

    if len(splits) < 20:
        warn("few cases", f"{len(splits)} labelled cases are few: figures on so few test cases say little")
    if not counts["test"]:
        warn("no test case", "there is no test case: evaluation runs on the validation cases, which chose the weights")
    alike = alike_across_splits(found.cases, splits)
    if alike:
        warn(
            "one patient in several splits",
            f"{len(alike)} images in different splits have names that begin alike, such as {alike[0]} and {alike[1]}: "
            "if they are of one patient the test flatters; then give a --datalist or --labels_csv with a column "
            "`patient`",
        )
    if len(splits) == 1:
        warn("one case", "one case trains and validates: the figures say nothing of other images")
    if found.empty:
        warn("empty label", f"{len(found.empty)} labels hold nothing but background: {some(found.empty)}")
    if not found.pictures and found.dims == 3 and np.ptp(found.spacings, axis=0).max() > 1e-3:
        warn("mixed spacing", f"spacing differs, {_span(found.spacings.min(0), found.spacings.max(0))} mm: resampled")
    negative = [value for value in found.values if value < 0]
    if negative and 0 in found.values:
        warn("negative values", f"labels hold {some(sorted(negative))}: each is a class of its own, that is learnt too")
    if found.values and 0 not in found.values:
        warn("no background", f"no label holds 0: the lowest value, {min(found.values)}, is taken for the background")
    rare = [name for name, number in found.classes.items() if number < 3]
    if rare:
        warn("rare class", f"classes with one or two images: {some(rare)}; they cannot be in every split")
    if found.classes and max(found.classes.values()) > 10 * min(found.classes.values()):
        warn("uneven classes", "one class has more than ten times as many images as another")
    small = bundle.plan.size
    smaller = int((found.shapes < np.asarray(small)).all(axis=1).sum()) if bundle.plan.spacing is None else 0
    if smaller and bundle.task != "classification":
        warn("small images", f"{smaller} images are smaller than a patch and are padded")
    return remarks


def readme(bundle: Bundle, pairs: Pairs, splits: dict[str, str], total: int, findings: Sequence[Finding]) -> str:
    """docs/README.md."""
    found, plan, name, task = bundle.found, bundle.plan, bundle.name, bundle.task
    names = plan.class_names or [f"channel {n}" for n in range(found.channels)]
    output = {
        "segmentation": "a label map of whole numbers with the size, affine and orientation of the input, "
        "`<name>_seg`, and a picture",
        "classification": "`predictions.csv` with the probability of every class, and pictures",
        "denoising": "the denoised image on the grid and in the intensities of the input, `<name>_denoised`, and a "
        "picture",
    }[task]
    metric = {"segmentation": "Dice and 95 % Hausdorff distance", "classification": "macro F1 and accuracy"}
    choices = "\n".join(f"- **{TITLES[key]}**: {text}" for key, text in plan.reasons.items())
    noted = "\n".join(f"- {f.case}: {f.message}." for f in findings) or "Nothing that needs a word."
    lines = "\n".join(f"- {line}" for line in facts(bundle, pairs, splits, total))
    mixer = "network_def#network#mixer" if task == "denoising" else "network_def#mixer"
    values = (
        f" The labels' values {', '.join(map(str, plan.values))} become classes 0 to {len(plan.values) - 1}; what "
        "inference writes holds the values, and what a MONAI Label server draws and learns from holds the classes."
        if plan.values
        else ""
    )
    made_up = "" if bundle.paired else " The images are their own references: training adds Rician noise to them."
    described = ", ".join(names if task != "segmentation" else names[1:]) if plan.class_names else "images"
    fields = {
        "title": name.replace("_", " "),
        "name": name,
        "does": f"{_VERBS[task]} {described} in {found.dims}D images",
        "mixer": mixer,
        "lines": lines,
        "seed": bundle.seed,
        "noted": noted,
        "choices": choices,
        "values": values,
        "made_up": made_up,
        "channels": found.channels,
        "dims": found.dims,
        "files": "NIfTI (`.nii`, `.nii.gz`), "
        + ("pictures (`.png`, `.jpg`, `.bmp`, `.tif`)" if found.dims == 2 else "DICOM series"),
        "number": len(names),
        "names": ", ".join(names),
        "output": output,
        "metric": metric.get(task, "PSNR and SSIM"),
        "split": bundle.split,
        "shape": [1, found.channels, *plan.size],
    }
    return (TEMPLATES / "README.md").read_text(encoding="utf-8").format_map(fields)


def data_license() -> str:
    """docs/data_license.txt."""
    return (
        "The licence of the data on which the weights are trained: to be filled in by their owner.\n\n"
        "The data are not part of this bundle; data/datalist.json names their files.\n"
    )


def _times(numbers: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{float(number):g}" for number in numbers)


def _span(least: np.ndarray, most: np.ndarray) -> str:
    if np.allclose(least, most, atol=1e-4):
        return _times(least)
    return " x ".join(f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in zip(least, most))
