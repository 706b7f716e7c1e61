"""Denoising without a network, to compare with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep

from monai_ext.optional import load

__all__ = ["NonLocalMeansd"]


class NonLocalMeansd(MapTransform):
    """Non-local means of scikit-image, under a new key.

    Buades, Coll and Morel, *A non-local algorithm for image denoising* (CVPR 2005), in scikit-image's fast form:
    sigma from ``skimage.restoration.estimate_sigma``, filter strength h = ``strength`` · sigma. Made for Gaussian
    noise; of Rician noise it removes the scatter and leaves the bias. An image without noise (sigma 0) is copied.

    The estimate takes fine texture and the noise of the clean image for noise, too. With ``reference_key`` sigma is
    the root mean square of image - reference: what a user would have who knows the level.

    Args:
        keys: noisy images, channels first.
        names: the new keys, one for each of ``keys``.
        strength: h in units of sigma.
        patch_size: side of the patches that are compared, in voxels.
        patch_distance: how far they may lie apart along an axis, in voxels. The time grows with its power, 2 or 3.
        reference_key: the image without noise, from which sigma is found; None estimates it.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for names that do not fit, a strength that is not positive, an item without ``reference_key``.
        ImportError: scikit-image is not installed; says how to install it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        names: KeysCollection = ("nlm",),
        strength: float = 0.8,
        patch_size: int = 5,
        patch_distance: int = 6,
        reference_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names = ensure_tuple_rep(names, len(self.keys)) if isinstance(names, str) else tuple(names)
        if len(self.names) != len(self.keys) or len(set(self.names)) < len(self.names):
            raise ValueError(f"names must be one new key for each of {self.keys}, got {self.names}.")
        if not strength > 0:
            raise ValueError(f"strength must be positive, got {strength}.")
        self.strength = strength
        self.patch_size = patch_size
        self.patch_distance = patch_distance
        self.reference_key = reference_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        if self.reference_key is not None and self.reference_key not in d:
            raise ValueError(f"the item has no {self.reference_key!r}, named by reference_key; it has {sorted(d)}.")
        for key, name in self.key_iterator(d, self.names):
            reference = None if self.reference_key is None else _numbers(d[self.reference_key])
            d[name] = convert_to_dst_type(self._denoised(_numbers(d[key]), reference), d[key], dtype=torch.float32)[0]
        return d

    def _denoised(self, numbers: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
        restoration = load("skimage.restoration")
        axis = 0 if len(numbers) > 1 else None
        known = None if reference is None else float(np.sqrt(np.mean((numbers - reference) ** 2)))
        numbers = numbers if axis == 0 else numbers[0]
        sigma = float(np.mean(restoration.estimate_sigma(numbers, channel_axis=axis))) if known is None else known
        if sigma > 0:
            numbers = restoration.denoise_nl_means(
                numbers,
                patch_size=self.patch_size,
                patch_distance=self.patch_distance,
                h=self.strength * sigma,
                sigma=sigma,
                fast_mode=True,
                preserve_range=True,
                channel_axis=axis,
            )
        return numbers if axis == 0 else numbers[None]


def _numbers(image: torch.Tensor) -> np.ndarray:
    return torch.as_tensor(image).detach().cpu().float().numpy()
