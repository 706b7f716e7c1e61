"""Attention with spatially reduced keys and values as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.reduced import block_convolution, reduced_attention


def per_axis(name: str, value: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """One whole number from 1 for each axis.

    Raises:
        ValueError: for another number of values, or one below 1.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * spatial_dims
    if len(values) != spatial_dims or not all(isinstance(n, int) and n >= 1 for n in values):
        raise ValueError(f"{name} must be a whole number from 1, or {spatial_dims} of them, one an axis; got {value}.")
    return values


def check_rate(attn_drop_rate: float) -> float:
    """Raises:
    ValueError: for what is no probability.
    """
    if not 0 <= attn_drop_rate <= 1:
        raise ValueError(f"attn_drop_rate must lie between 0 and 1, got {attn_drop_rate}.")
    return attn_drop_rate


class ReducedMixer(Mixer):
    """Multi-head attention on keys and values of a coarser grid (PVT, Wang et al., 2021; SegFormer3D, Perera et al.,
    2024).

    A convolution whose kernel and stride are ``reduction``, followed by a LayerNorm, makes one token of each block of
    the grid; keys and values are projected from these M tokens, queries from all N. O(N M C) time and memory linear
    in N, with M = N / r^D for a reduction r. As in the authors' code there is neither convolution nor norm where the
    reduction is 1 along every axis: plain attention.

    Departures from the authors' code: any grid, not only cubes. Axes that the reduction does not divide are padded
    with zeros at their end, so that no token is left out (see ``monai_ext.ops.reduced``). Initialised as PyTorch does.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        reduction: tokens of a block along every axis, or a list with one number an axis. The authors take 8, 4, 2, 1
            (PVT) or 4, 2, 1, 1 (SegFormer3D) from the first stage of a network to the last; 2 also suits windows. A
            block as large as the grid or window would leave one key, and nothing to choose from.
        qkv_bias: a bias in the projections to queries, keys and values.
        attn_drop_rate: dropout of the attention weights, in training only.

    Raises:
        ValueError: for a reduction below 1 or of other dimensions, or a rate that is no probability.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        reduction: int | Sequence[int] = 2,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.reduction = per_axis("reduction", reduction, spatial_dims)
        self.attn_drop_rate = check_rate(attn_drop_rate)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.reduce = self.norm = None
        if max(self.reduction) > 1:
            conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.reduce = conv(dim, dim, self.reduction, stride=self.reduction)
            self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        if self.reduce is not None and self.norm is not None:
            blocks = block_convolution(self.to_map(x, grid), self.reduce.weight, self.reduce.bias, self.reduction)
            x = self.norm(self.to_tokens(blocks))
        k, v = self.kv(x).view(b, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        out = reduced_attention(q, k, v, dropout_p=self.attn_drop_rate if self.training else 0.0)
        return self.proj(self.merge_heads(out))
