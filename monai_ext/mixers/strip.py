"""Strip self-attention as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.reduced import check_rate, per_axis
from monai_ext.ops.reduced import block_convolution, reduced_attention


class StripMixer(Mixer):
    """Attention with fewer keys and values, and with fewer channels in queries and keys (the SSA of S2AFormer, Xu et
    al., arXiv 2505.22195, 2025).

    A depthwise convolution whose kernel and stride are ``reduction`` makes one token of each block of the grid; keys
    and values come from these M tokens. Queries and keys are compressed to r channels a head by 1x1 convolutions
    (linear maps of the tokens), values keep C / H: ``softmax(q k^T / sqrt(r)) v``. O(N M C) time, memory linear in N.
    The compression saves parameters and projections; PyTorch's fused kernels take the scores at the values' width
    (see ``monai_ext.ops.reduced``).

    Left open by the paper and chosen here: several heads (the block's), each with its own r channels; r = C / (4 H);
    a reduction of 2; a depthwise kernel as large as its stride, with a bias and without a norm; zeros at the end of
    axes that the reduction does not divide; an output projection. With a reduction of 1 along every axis there is
    no convolution. The blocks of S2AFormer around it (local perception, local interaction) are not part of it.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        reduction: tokens of a block along every axis, or a list with one number an axis. A block as large as the grid
            or window would leave one key, and nothing to choose from.
        compressed: channels r of queries and keys in a head; without it a quarter of the values', at least 1.
        qkv_bias: a bias in the projections to queries and values (one of the keys would change no output).
        attn_drop_rate: dropout of the attention weights, in training only.

    Raises:
        ValueError: for a reduction below 1 or of other dimensions, no compressed channels, or a rate that is no
            probability.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        reduction: int | Sequence[int] = 2,
        compressed: int | None = None,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.reduction = per_axis("reduction", reduction, spatial_dims)
        self.compressed = max(1, self.head_dim // 4) if compressed is None else compressed
        if self.compressed < 1:
            raise ValueError(f"compressed must be at least 1 channel a head, got {compressed}.")
        self.attn_drop_rate = check_rate(attn_drop_rate)
        self.reduce = None
        if max(self.reduction) > 1:
            conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.reduce = conv(dim, dim, self.reduction, stride=self.reduction, groups=dim)
        self.q = nn.Linear(dim, num_heads * self.compressed, bias=qkv_bias)
        self.k = nn.Linear(dim, num_heads * self.compressed, bias=False)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q = self._heads(self.q(x))
        if self.reduce is not None:
            blocks = block_convolution(self.to_map(x, grid), self.reduce.weight, self.reduce.bias, self.reduction)
            x = self.to_tokens(blocks)
        k, v = self._heads(self.k(x)), self._heads(self.v(x))
        out = reduced_attention(q, k, v, dropout_p=self.attn_drop_rate if self.training else 0.0)
        return self.proj(self.merge_heads(out))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, H E) to (B, H, N, E)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
