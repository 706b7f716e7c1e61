"""Labels mixed with what trained networks say: knowledge distillation (Hinton et al., arXiv 1503.02531, 2015)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import nn

from monai_ext.data.case_name import name_of
from monai_ext.handlers.checkpoints import load_weights

__all__ = ["SoftLabeld"]


class SoftLabeld(MapTransform):
    """``label <- (1 - share) label + share / T sum_t softmax(teacher_t(image))`` for a label with a channel a class.

    What one drew differs from what others, or the same on another day, would have drawn; networks trained from it
    know how likely a voxel is of a class, and a network that learns from both learns from less noise. It comes after
    the image's last deterministic transform and before all random ones, so that ``CacheDataset`` asks the teachers
    once.

    Args:
        keys: keys of the labels (K, *size), one channel a class.
        image_key: key of the image (C, *size) as the teachers take it.
        teachers: T networks with K channels out.
        weights: a file of weights for each; None leaves the networks as they are.
        share: of the teachers in the label, from 0 to 1.
        inferer: what calls a teacher with the image (1, C, *size); by default the teacher itself.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for no teachers, another number of weights, or a share outside of 0 to 1; for an item whose label
            has not the teacher's channels and size.
        FileNotFoundError: no file of weights.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str,
        teachers: Sequence[nn.Module],
        weights: Sequence[str | Path] | None = None,
        share: float = 0.5,
        inferer: Inferer | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not teachers:
            raise ValueError("soft labels need at least one teacher, got none.")
        if weights is not None and len(weights) != len(teachers):
            raise ValueError(f"each of {len(teachers)} teachers needs a file of weights, got {len(weights)}.")
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie between 0 and 1, got {share}.")
        for teacher, path in zip(teachers, weights or ()):
            load_weights(teacher, path)
        self.image_key, self.share, self.inferer = image_key, share, inferer
        self.teachers = [teacher.eval() for teacher in teachers]

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        said = self._said(torch.as_tensor(d[self.image_key]))
        for key in self.key_iterator(d):
            label = d[key]
            if label.shape != said.shape:
                raise ValueError(
                    f"{name_of(key, label)} is {tuple(label.shape)}, but the teachers say {tuple(said.shape)}: labels "
                    "must have a channel for each class, on the grid of the image."
                )
            d[key] = torch.lerp(label.to(said.dtype), said.to(label.device), self.share)
        return d

    @torch.no_grad()
    def _said(self, image: torch.Tensor) -> torch.Tensor:
        """(K, *size), the mean of the teachers' probabilities."""
        outs = []
        for teacher in self.teachers:
            x = image.unsqueeze(0).to(next(teacher.parameters()))
            out = teacher(x) if self.inferer is None else self.inferer(x, teacher)
            outs.append(torch.as_tensor(out)[0].float().softmax(0))
        return torch.stack(outs).mean(0)
