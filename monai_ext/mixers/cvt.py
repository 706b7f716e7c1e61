"""Attention with convolutional projections as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.batch_norm import batch_norm
from monai_ext.mixers.reduced import check_rate, per_axis
from monai_ext.ops.reduced import reduced_attention

NORMS = ("batch", "layer")
SCALES = ("dim", "head_dim")


class ConvProjection(nn.Module):
    """A depthwise convolution over the grid, a norm, and a linear map of the tokens.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        kernel: taps along every axis, odd; zeros outside of the grid.
        stride: of the convolution, along each axis.
        norm: ``"batch"`` or ``"layer"``.
        bias: a bias in the linear map.
    """

    def __init__(self, dim: int, spatial_dims: int, kernel: int, stride: Sequence[int], norm: str, bias: bool) -> None:
        super().__init__()
        conv, batch_norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.conv = conv(dim, dim, kernel, tuple(stride), kernel // 2, groups=dim, bias=False)
        self.norm = batch_norm(dim) if norm == "batch" else nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A map (B, C, *grid) to tokens (B, M, C)."""
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(Mixer.to_tokens(x))
        else:
            x = Mixer.to_tokens(batch_norm(x, self.norm))
        return self.linear(x)


class CvTMixer(Mixer):
    """Multi-head attention whose projections are convolutions (CvT, Wu et al., arXiv 2103.15808, 2021).

    Queries, keys and values each pass a depthwise convolution without bias, a norm and a linear map; those of keys
    and values have a stride, so that there are M = N / 2^D of them for a stride of 2. The convolutions know
    the neighbourhood, and with it the position. O(N M C) time, memory linear in N. Any grid, also one that the stride
    does not divide: it gives ceil(g / stride) keys along an axis of g.

    The scores are multiplied with ``dim^-0.5``, as in the authors' code; the usual attention takes the width of a head.
    The batch norm is the default because it is the authors' and part of the published weights; its statistics run over
    the tokens of a whole batch (of all its windows, too), so that one image at a time is enough. A mixer that shall
    not see other samples in training, or be fed a few tokens only, takes ``norm="layer"``, which normalises each
    token by itself. Batch norm of a single value, which has no variance, takes the running statistics in training, too.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        kernel: taps of the convolutions along every axis, odd.
        stride_kv: stride of those of keys and values, or a list with one number an axis; at most the kernel, beyond
            which tokens would be left out. (That of the queries is 1: a mixer returns as many tokens as it gets.)
        norm: ``"batch"`` (the authors') or ``"layer"``.
        scale: ``"dim"`` (the authors') or ``"head_dim"``.
        qkv_bias: a bias in the linear maps to queries, keys and values. That of the keys changes no output.
        attn_drop_rate: dropout of the attention weights, in training only.

    Raises:
        ValueError: for an unknown norm or scale, an even kernel, a stride below 1 or above the kernel, or a rate that
            is no probability.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        kernel: int = 3,
        stride_kv: int | Sequence[int] = 2,
        norm: str = "batch",
        scale: str = "dim",
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        for field, value, known in (("norm", norm, NORMS), ("scale", scale, SCALES)):
            if value not in known:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, known))}, got {value!r}.")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number of taps, got {kernel}.")
        stride = per_axis("stride_kv", stride_kv, spatial_dims)
        if max(stride) > kernel:
            raise ValueError(f"stride_kv {stride_kv} would leave out tokens with a kernel of {kernel}: lower it.")
        self.attn_drop_rate = check_rate(attn_drop_rate)
        self.scale = scale
        self.q = ConvProjection(dim, spatial_dims, kernel, (1,) * spatial_dims, norm, qkv_bias)
        self.k = ConvProjection(dim, spatial_dims, kernel, stride, norm, qkv_bias)
        self.v = ConvProjection(dim, spatial_dims, kernel, stride, norm, qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        x = self.to_map(x, grid)
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        scale = (self.dim if self.scale == "dim" else self.head_dim) ** -0.5
        out = reduced_attention(q, k, v, scale, self.attn_drop_rate if self.training else 0.0)
        return self.proj(self.merge_heads(out))
