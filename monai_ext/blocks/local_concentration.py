"""What L2ViT puts beside linear attention: convolutions that look nearby (Zheng, arXiv 2501.16182, 2025).

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from monai_ext.mixers import Mixer
from monai_ext.mixers.batch_norm import batch_norm

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class LocalConcentration(nn.Module):
    """The local concentration module: depthwise convolution, GELU, batch norm, depthwise convolution.

    Linear attention spreads its weights over all tokens; this gathers what is near. It is a residual branch of its own
    between the mixer and the feed-forward network, ``x + module(norm(x), grid)``; norm and residual are the block's.
    O(N C k^D) time. Batch norm of a single token, which has no variance, takes the running statistics in training, too.

    Args:
        dim: channels of a token.
        spatial_dims: 2 or 3. Departure from the paper, which has images only: in 3D both convolutions are in 3D.
        kernel_size: taps of the convolutions along each axis, odd.

    Raises:
        ValueError: for other dimensions or an even kernel; in ``forward`` for a grid that is not that of the tokens.
    """

    def __init__(self, dim: int, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv1 = _depthwise(dim, spatial_dims, kernel_size)
        self.act = nn.GELU()
        self.bn = NORMS[spatial_dims](dim)
        self.conv2 = _depthwise(dim, spatial_dims, kernel_size)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) to tokens (B, N, C), row-major over the grid."""
        _check(x, grid, self.conv1)
        y = self.act(self.conv1(Mixer.to_map(x, grid)))
        return Mixer.to_tokens(self.conv2(batch_norm(y, self.bn)))


class ConditionalPositions(nn.Module):
    """Conditional positional encoding: ``x + depthwise convolution(x)`` (Chu et al., arXiv 2102.10882, 2021).

    The zeros beyond the border tell a token where it is, and the convolution who its neighbours are, for a grid of any
    size. L2ViT has one before each global attention and two around each local one.

    Args:
        dim: channels of a token.
        spatial_dims: 2 or 3. Departure from the paper, which has images only: in 3D the convolution is in 3D.
        kernel_size: taps of the convolution along each axis, odd.

    Raises:
        ValueError: for other dimensions or an even kernel; in ``forward`` for a grid that is not that of the tokens.
    """

    def __init__(self, dim: int, spatial_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.proj = _depthwise(dim, spatial_dims, kernel_size)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) to tokens (B, N, C), row-major over the grid."""
        _check(x, grid, self.proj)
        return x + Mixer.to_tokens(self.proj(Mixer.to_map(x, grid)))


def _depthwise(dim: int, spatial_dims: int, kernel_size: int) -> nn.Conv2d | nn.Conv3d:
    if spatial_dims not in CONVS:
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be an odd number of taps, got {kernel_size}.")
    return CONVS[spatial_dims](dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


def _check(x: torch.Tensor, grid: tuple[int, ...], conv: nn.Conv2d | nn.Conv3d) -> None:
    if len(grid) != len(conv.kernel_size) or math.prod(grid) != x.shape[1]:
        raise ValueError(f"{x.shape[1]} tokens do not fill a grid of {tuple(grid)} in {len(conv.kernel_size)}D.")
