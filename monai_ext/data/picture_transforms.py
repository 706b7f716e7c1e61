"""Pictures as networks want them: so many channels, and classes instead of the pixels of a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.data.case_name import name_of

__all__ = ["ChannelsOfd", "ClassesOfd", "FullScaled"]

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")


class ChannelsOfd(MapTransform):
    """Grey or colour, whichever the files are; comes after loading with the channels first.

    Colour becomes grey by its luminance, grey becomes colour by three copies, alpha is dropped.

    Args:
        keys: keys of the images.
        channels: 1 for grey, 3 for colour.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: neither a grey nor a colour image.
    """

    def __init__(self, keys: KeysCollection, channels: int = 1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), not {channels!r}.")
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = without_alpha(d[key])
            if image.shape[0] not in (1, 3):
                raise ValueError(
                    f"{name_of(key, d[key])} has {image.shape[0]} channels, neither grey (1) nor colour (3); "
                    "keep the wanted ones and save the image again."
                )
            if image.shape[0] == 3 and self.channels == 1:
                weights = torch.tensor(_LUMINANCE, device=image.device).reshape(-1, *[1] * (image.ndim - 1))
                image = (image * weights).sum(0, keepdim=True)
            elif image.shape[0] == 1 and self.channels == 3:
                image = image.expand(3, *image.shape[1:]).contiguous()
            d[key] = image
        return d


class FullScaled(MapTransform):
    """Divide by the largest number that a picture's pixels can hold, 255 for 8 bits: black is 0, full light 1.

    Unlike a normalisation by the image's own mean or maximum it keeps how bright a picture is. Where the file does
    not say what its numbers can hold (NIfTI, DICOM, arrays), it is the least of 1, 255, 4095 and 65535 that none of
    them exceeds.

    Args:
        keys: keys of the images.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for numbers beyond 16 bits.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            high = float(d[key].max())
            told = d[key].meta.get("full_scale") if isinstance(d[key], MetaTensor) else None
            scales = [scale for scale in (told, 1.0, 255.0, 4095.0, 65535.0) if scale and high <= scale]
            if not scales:
                raise ValueError(f"{name_of(key, d[key])} holds {high:g}, beyond 16 bits; save it as a picture.")
            d[key] = d[key] / (told if told in scales else scales[0])
        return d


class ClassesOfd(MapTransform):
    """Classes 0, 1, 2, ... from the pixels of a mask; comes after loading with the channels first.

    A mask in colour whose channels are equal counts as grey, alpha is dropped.

    Args:
        keys: keys of the masks.
        values: the pixel value of each class, in the classes' order, as ``Manifest.values`` gives it. A mask that
            holds nothing but 0 and 1 is taken for classes where 1 is no value.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: a mask in colours, or with another value.
    """

    def __init__(
        self, keys: KeysCollection, values: Sequence[int] = (0, 255), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = [int(value) for value in values]
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"values {self.values} hold one value twice: give one for each class.")

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            mask = without_alpha(d[key])
            if mask.shape[0] > 1 and bool((mask != mask[:1]).any()):
                raise ValueError(
                    f"{name_of(key, d[key])} has {mask.shape[0]} different channels, a mask has one; "
                    "save it as a grey picture or with a palette, one value a class."
                )
            d[key] = self._classes(mask[:1], name_of(key, d[key]))
        return d

    def _classes(self, mask: torch.Tensor, name: str) -> torch.Tensor:
        plain = torch.as_tensor(mask)
        if 1 not in self.values and bool(((plain == 0) | (plain == 1)).all()):
            return mask
        classes = torch.full_like(mask, -1)
        for index, value in enumerate(self.values):
            classes[plain == value] = index
        if bool((classes == -1).any()):
            strange = float(plain[torch.as_tensor(classes) == -1][0])
            raise ValueError(
                f"{name} holds the value {strange:g}, the classes are stored as {', '.join(map(str, self.values))}; "
                "give the right values, or save the mask again without compression losses."
            )
        return classes


def without_alpha(image: torch.Tensor) -> torch.Tensor:
    """The image without its last channel where the file says that it is alpha."""
    mode = image.meta.get("mode") if isinstance(image, MetaTensor) else None
    return image[:-1] if image.shape[0] in (2, 4) and mode in _ALPHA else image
