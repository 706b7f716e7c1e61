"""How intensities are brought to one scale."""

from __future__ import annotations

import math
from typing import Any

from monai_ext.bundle.survey import Survey

__all__ = ["is_ct", "normalise"]

_STANDARD = "monai.transforms.NormalizeIntensityd"


def normalise(found: Survey, task: str) -> tuple[list[dict[str, Any]], tuple[float, float], str]:
    """The transforms of the images, the range that they give, and why; denoising has transforms of its own."""
    level = found.intensity
    apart = {"channel_wise": True} if found.channels > 1 else {}
    eight_bit = found.dims == 2 and all(header.dtype == "uint8" for header in found.headers)
    if task == "denoising":
        reason = "the noisy image's own percentiles 0.5 and 99.5 become 0 and 1, and the result goes back to the file's"
        return [], (-5, 100), f"{reason} intensities."
    if is_ct(found):
        low, high = level.get("foreground_low", -1000.0), level.get("foreground_high", 1000.0)
        low, high = 10 * math.floor(low / 10), 10 * math.ceil(max(high, low + 100) / 10)
        window = {"a_min": low, "a_max": high, "b_min": -2.0, "b_max": 2.0, "clip": True}
        inside = "what lies between the percentiles 0.5 and 99.5 of the labelled voxels"
        reason = (
            f"whole numbers down to {level['least']:g} look like Hounsfield units: the window {low} to {high}, "
            f"{inside if 'foreground_low' in level else 'a wide one'}, becomes -2 to 2 in every image alike."
        )
        return [{"_target_": "monai.transforms.ScaleIntensityRanged", "keys": "image", **window}], (-2, 2), reason
    if eight_bit and task == "classification":
        steps = [
            {"_target_": "monai_ext.data.picture_transforms.FullScaled", "keys": "image"},
            {"_target_": _STANDARD, "keys": "image", "subtrahend": 0.5, "divisor": 0.25},
        ]
        return steps, (-2, 2), "0 to 255 become -2 to 2 in every picture alike: brightness may tell the classes apart."
    standard = {"_target_": _STANDARD, "keys": "image", **apart}
    if eight_bit:
        return [standard], (-10, 10), "8 bits: mean 0 and standard deviation 1 of each picture and channel."
    clip = {
        "_target_": "monai.transforms.ScaleIntensityRangePercentilesd",
        "keys": "image",
        **{"lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True},
        **apart,
    }
    reason = "the scale has no unit that all images share: clipped to the image's own percentiles 0.5 and 99.5, then"
    return [clip, standard], (-10, 10), f"{reason} mean 0 and standard deviation 1."


def is_ct(found: Survey) -> bool:
    """Whether intensities look like Hounsfield units: volumes of whole numbers with air around -1000."""
    level = found.intensity
    return found.dims == 3 and found.channels == 1 and found.whole and -5000 < level["least"] <= -500 < level["most"]
