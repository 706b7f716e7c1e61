"""Patches to tokens, with positions that follow the image's size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks.pos_embed_utils import build_fourier_position_embedding, build_sincos_position_embedding
from monai.networks.layers import Conv

from monai_ext.blocks.image_size import crop_to, is_unknown, pad_to_multiple
from monai_ext.blocks.positions import resize_positions

PROJECTIONS = ("conv", "perceptron")
POSITIONS = ("learnable", "sincos", "fourier", "none")


class _Patches(nn.Module):
    """(B, C, *size) to (B, N, prod(patch) * C): each patch's values row-major, channels last."""

    def __init__(self, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c = x.shape[:2]
        dims = len(self.patch_size)
        split = [part for size, p in zip(x.shape[2:], self.patch_size) for part in (size // p, p)]
        grid_axes, patch_axes = range(2, 2 * dims + 2, 2), range(3, 2 * dims + 2, 2)
        x = x.reshape(b, c, *split).permute(0, *grid_axes, *patch_axes, 1)
        return x.reshape(b, -1, math.prod(self.patch_size) * c)


def _no_positions(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
    """MONAI's ``"none"`` has positions that start at zero, and trains them. Zeros can be left out, others not."""
    positions = state_dict.pop(prefix + "position_embeddings", None)
    if positions is not None and positions.any():
        error_msgs.append(
            f"{prefix}position_embeddings are not zero, but this network has pos_embed_type='none': "
            "build it with pos_embed_type='learnable', which gives the same outputs."
        )


class TokenEmbedding(nn.Module):
    """Patch embedding of a ViT (Dosovitskiy et al., 2020), for images of any size.

    The positions belong to the grid of ``img_size`` and are interpolated for any other grid. An image whose size the
    patches do not divide is padded; only an image of just ``img_size`` loses its remainder, as in MONAI.

    Args:
        in_channels: channels of the image.
        img_size: size for which the positions are made.
        patch_size: size of a patch.
        hidden_size: channels of a token.
        proj_type: ``"conv"`` or ``"perceptron"`` (the same map, with weights laid out as MONAI's).
        pos_embed_type: ``"learnable"``, ``"sincos"``, ``"fourier"`` or ``"none"``.
        dropout_rate: dropout of the tokens.

    Raises:
        ValueError: for an unknown projection or position, or an ``img_size`` smaller than a patch.
    """

    def __init__(
        self,
        in_channels: int,
        img_size: Sequence[int],
        patch_size: Sequence[int],
        hidden_size: int,
        proj_type: str = "conv",
        pos_embed_type: str = "learnable",
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if proj_type not in PROJECTIONS:
            raise ValueError(f"unknown proj_type {proj_type!r}; known ones: {', '.join(PROJECTIONS)}.")
        if pos_embed_type not in POSITIONS:
            raise ValueError(f"unknown pos_embed_type {pos_embed_type!r}; known ones: {', '.join(POSITIONS)}.")
        if any(size < p for size, p in zip(img_size, patch_size)):
            raise ValueError(f"img_size {tuple(img_size)} is smaller than patch_size {tuple(patch_size)}.")
        self.img_size, self.patch_size = tuple(img_size), tuple(patch_size)
        self.grid = tuple(size // p for size, p in zip(img_size, patch_size))
        dims = len(self.patch_size)
        if proj_type == "conv":
            self.patch_embeddings = Conv[Conv.CONV, dims](in_channels, hidden_size, patch_size, patch_size)
        else:
            linear = nn.Linear(in_channels * math.prod(patch_size), hidden_size)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            self.patch_embeddings = nn.Sequential(_Patches(patch_size), linear)
        if pos_embed_type == "learnable":
            table = torch.empty(1, math.prod(self.grid), hidden_size)
            self.position_embeddings = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        elif pos_embed_type == "sincos":
            self.position_embeddings = build_sincos_position_embedding(self.grid, hidden_size, dims)
        elif pos_embed_type == "fourier":
            self.position_embeddings = build_fourier_position_embedding(self.grid, hidden_size, dims)
        else:
            self.position_embeddings = None
            self.register_load_state_dict_pre_hook(_no_positions)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Image (B, C, *size) to tokens (B, N, hidden_size) and their grid."""
        if not is_unknown(x.shape[2:]) and tuple(x.shape[2:]) == self.img_size:
            x = crop_to(x, [g * p for g, p in zip(self.grid, self.patch_size)])
        else:
            x = pad_to_multiple(x, self.patch_size)
        grid = tuple(size // p for size, p in zip(x.shape[2:], self.patch_size))
        x = self.patch_embeddings(x)
        if x.ndim > 3:
            x = x.flatten(2).transpose(1, 2)
        if self.position_embeddings is not None:
            x = x + resize_positions(self.position_embeddings, self.grid, grid)
        return self.dropout(x), grid
