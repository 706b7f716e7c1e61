"""The convolutions that L2ViT puts beside linear attention (Zheng, "The Linear Attention Resurrection in Vision
Transformer", arXiv 2501.16182, 2025).

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

import torch
import torch.nn as nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _depthwise(dim: int, spatial_dims: int, kernel_size: int) -> nn.Module:
    return CONV[spatial_dims](dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


def _as_map(x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)


class ConditionalPosition(nn.Module):
    """``x + conv(x)`` with a depthwise convolution of 3 taps an axis: positions from what stands around a token (Chu et
    al., arXiv 2102.10882, 2021).

    Args:
        dim: channels of a token.
        spatial_dims: 2 or 3.
    """

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        self.conv = _depthwise(dim, spatial_dims, 3)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) of a grid to tokens (B, N, C)."""
        return x + self.conv(_as_map(x, grid)).flatten(2).transpose(1, 2)


class LocalConcentration(nn.Module):
    """The local concentration module: layer norm, depthwise convolution of 7 taps an axis, GELU, norm, convolution.

    Linear attention spreads its weights over all tokens; this gathers from near ones again. The caller adds the
    residual. The norm between the convolutions is a batch norm in the paper; here, where a batch is often one or two
    volumes, ``norm="instance"`` is at hand too.

    Args:
        dim: channels of a token.
        spatial_dims: 2 or 3.
        kernel_size: taps along each axis, odd.
        norm: ``"batch"`` (the paper) or ``"instance"``.

    Raises:
        ValueError: for an even kernel or an unknown norm.
    """

    def __init__(self, dim: int, spatial_dims: int, kernel_size: int = 7, norm: str = "batch") -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}.")
        if norm not in ("batch", "instance"):
            raise ValueError(f"norm must be 'batch' or 'instance', got {norm!r}.")
        self.norm = nn.LayerNorm(dim)
        self.conv1 = _depthwise(dim, spatial_dims, kernel_size)
        self.act = nn.GELU()
        # one group a channel is an instance norm that takes maps of one voxel
        self.inner_norm = BATCH_NORM[spatial_dims](dim) if norm == "batch" else nn.GroupNorm(dim, dim)
        self.conv2 = _depthwise(dim, spatial_dims, kernel_size)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) of a grid to tokens (B, N, C), without the residual."""
        x = self.act(self.conv1(_as_map(self.norm(x), grid)))
        if self.training and isinstance(self.inner_norm, nn.modules.batchnorm._BatchNorm) and x[:, 0].numel() == 1:
            # a single value has no spread: PyTorch refuses, so the running statistics serve
            norm = self.inner_norm
            x = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            x = self.inner_norm(x)
        return self.conv2(x).flatten(2).transpose(1, 2)
