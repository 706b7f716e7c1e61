"""What a MONAI Label server needs of a bundle's predictions, beyond what every other program does.

Shapes: C channels or classes, W, H, D width, height and depth.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.data.pictures import is_picture
from monai_ext.data.readers import is_dicom

__all__ = ["MonaiLabelAnswerd"]

SERVER_KEY = "image_path"  # MONAI Label puts the image's path there, and no other program does
EXTENSION_KEY = "result_extension"  # what a client asks for


class MonaiLabelAnswerd(MapTransform):
    """Make predictions what MONAI Label 0.8.5 writes into its answer; changes nothing in any other program.

    Comes last in a bundle's ``postprocessing``. In the server

    - the classes' probabilities [C] go without the image, to whose size they would be resampled;
    - one channel on a picture's grid, [1, W, H], becomes [W, H], and [W, H, 1] where the file is a volume of one
      slice: the server takes the channel of a picture for an axis;
    - where the client does not ask for a ``result_extension``, the answer to a picture is PNG (whole numbers) or TIFF
      (floating point), since a label map does not survive JPEG, and the answer to DICOM is ``.nii.gz``.

    Args:
        keys: keys of the predictions.
        source: key of the image.
        allow_missing_keys: leave out keys that the item lacks.
    """

    def __init__(self, keys: KeysCollection, source: Hashable = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.source = source

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if not isinstance(d.get(SERVER_KEY), str):
            return d
        for key in self.key_iterator(d):
            if d[key].ndim == 1:
                d[key] = MetaTensor(torch.as_tensor(d[key]))
                d.pop(self.source, None)
                d.pop(f"{self.source}_meta_dict", None)
                continue
            d[key] = _without_channel(d[key], d.get(self.source))
            extension = _extension(Path(d[SERVER_KEY]), d[key].is_floating_point())
            if extension and not d.get(EXTENSION_KEY):
                d[EXTENSION_KEY] = extension
        return d


def _without_channel(prediction: torch.Tensor, image: Any) -> torch.Tensor:
    if prediction.ndim != 3 or prediction.shape[0] != 1:
        return prediction
    shape = tuple(image.meta.get("spatial_shape", ())) if isinstance(image, MetaTensor) else ()
    return prediction[0, ..., None] if len(shape) == 3 and shape[2] == 1 else prediction[0]


def _extension(path: Path, floating: bool) -> str | None:
    if is_picture(path) and not path.is_dir():
        return ".tif" if floating else ".png"
    return ".nii.gz" if is_dicom(path) else None
