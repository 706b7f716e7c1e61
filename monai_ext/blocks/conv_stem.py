"""Patches embedded by convolutions that overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import Convolution, ResidualUnit

from monai_ext.blocks.norms import allow_tiny_maps


class ConvStem(nn.Module):
    """Convolutions of stride 2 down to the grid of the patches, each followed by residual blocks.

    Xiao et al., *Early Convolutions Help Transformers See Better* (2021), and the convolutional stages of hybrid
    networks such as MambaVision (Hatamizadeh and Kautz, 2024): a transformer with them learns from fewer images and
    steps than with the linear embedding of patches. Batch norm and ReLU; a patch of 2^n doubles the channels n - 1
    times up to ``dim``. Average the weights of a network with it together with its buffers (ignite's
    ``EMAHandler(handle_buffers="copy")`` or ``"update"``).

    Args:
        in_channels: channels of the image.
        dim: channels of a token.
        patch_size: a power of two, the same along every axis; the grid is ceil(size / patch_size).
        spatial_dims: 2 or 3.
        depth: residual blocks after each convolution of stride 2, each of two 3^D convolutions.

    Raises:
        ValueError: for other patch sizes, a ``dim`` that cannot be halved so often, or a negative ``depth``.
    """

    def __init__(
        self, in_channels: int, dim: int, patch_size: Sequence[int], spatial_dims: int, depth: int = 1
    ) -> None:
        super().__init__()
        patch = patch_size[0]
        levels = patch.bit_length() - 1
        if len(set(patch_size)) > 1 or patch < 2 or patch != 1 << levels:
            raise ValueError(
                f"stem 'conv' needs a patch_size of 2, 4, 8 ... along every axis, got {tuple(patch_size)}."
            )
        if dim % (1 << (levels - 1)):
            raise ValueError(f"stem 'conv' halves feature_size {dim} {levels - 1} times: it must be a multiple.")
        if depth < 0:
            raise ValueError(f"the depth of the stem cannot be negative, got {depth}.")
        layers: list[nn.Module] = []
        for level in reversed(range(levels)):
            channels = dim >> level
            layers.append(
                Convolution(spatial_dims, in_channels, channels, strides=2, bias=False, norm="batch", act="relu")
            )
            layers += [
                ResidualUnit(spatial_dims, channels, channels, subunits=2, bias=False, norm="batch", act="relu")
                for _ in range(depth)
            ]
            in_channels = channels
        self.layers = allow_tiny_maps(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, dim, *ceil(size / patch_size))."""
        return self.layers(x)
