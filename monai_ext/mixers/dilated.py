"""LongNet's dilated attention as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.dilated import check_branches, dilated_attention


class DilatedMixer(Mixer):
    """Multi-head attention within segments of the raster, sparser the longer they are (LongNet; Ding et al., 2023).

    Branch i cuts the tokens, in row-major order, into segments of ``segments[i]``, of which a head reads every
    ``dilations[i]``-th, each head beginning at another one; the branches' outputs are added up, weighted by the
    softmax of their log-sum-exps. O(N C sum w_i / r_i^2) time, memory linear in N (see ``monai_ext.ops.dilated``).
    Of the grid it uses the number of tokens only. The default branches cost the same each, and the longest reaches
    16,384 tokens; shorter sequences are one segment. A token and head that no branch reads gets 0, so keep a branch
    with dilation 1.

    With at most as many tokens as the smallest segment has (256 by default) every branch has the same single segment,
    and the default ones differ by their dilation alone: they all choose from the same tokens. For windows give segments
    and dilations of their own, such as ``segments=(16, 64), dilations=(1, 2)`` for windows of 64 tokens.

    Left out of the authors' layer: its rotary positions, the norm before its output projection, and the zeros it
    appends where a segment does not divide the tokens, which there take part as keys.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        segments: tokens of a segment, for each branch.
        dilations: one of how many of them is read, for each branch.
        causal: a token sees itself and those before it along the raster only.
        offsets: where heads begin: ``"cyclic"``, head j at j mod r (the paper), or ``"blocks"``, ceil(H / r) heads
            in a row at the same token (the authors' code).
        weight_gradient: whether the gradient flows through the weights of the branches, too.
        qkv_bias: a bias in the projection to queries, keys and values (the authors' code has one).

    Raises:
        ValueError: for segments and dilations that do not belong together, or unknown offsets.
    """

    reads_grid = True
    local = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        segments: Sequence[int] = (256, 1024, 4096, 16384),
        dilations: Sequence[int] = (1, 2, 4, 8),
        causal: bool = False,
        offsets: str = "cyclic",
        weight_gradient: bool = False,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        check_branches(segments, dilations, offsets)
        self.segments, self.dilations = tuple(segments), tuple(dilations)
        self.causal = causal  # type: ignore[misc]
        self.offsets = offsets
        self.weight_gradient = weight_gradient
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        # as the authors': Xavier's for each of q, k and v, the smaller by sqrt(2)
        for weight in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        x = dilated_attention(q, k, v, self.segments, self.dilations, self.causal, self.offsets, self.weight_gradient)
        return self.proj(self.merge_heads(x))
