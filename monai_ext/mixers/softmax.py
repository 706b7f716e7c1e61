"""Softmax attention as a mixer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.mixers.base import Mixer
from monai_ext.ops.rotary import rotary_angles, rotate
from monai_ext.ops.softmax import softmax_attention
from monai_ext.ops.window_attention import grid_code, window_attention

POSITIONS = ("none", "rotary", "relative")


class Windows(Protocol):
    """How a grid falls into windows: see ``monai_ext.ops.window_attention``."""

    window: tuple[int, ...]
    index: torch.Tensor
    inverse: torch.Tensor
    padded: bool
    groups: tuple[tuple[int, torch.Tensor | None], ...]


class SoftmaxMixer(Mixer):
    """Multi-head softmax attention with PyTorch's fused kernel.

    ``softmax(q k^T / sqrt(d) + bias) v``, O(N^2 C) time and memory linear in N. The additive ``bias`` carries relative
    positions and masks from outside; a bias that needs a gradient keeps the scores, which ``mix_windows`` does not.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        attn_drop_rate: dropout of the attention weights, in training only.
        position: ``"none"``, for a set of tokens; ``"rotary"``: queries and keys are turned by their place on the grid
            (see ``monai_ext.ops.rotary``); ``"relative"``: a learnt score bias for every offset on the grid and head,
            without scores being kept (in a Swin, whose blocks bring relative positions and shifts of their own, it is
            not needed, and its windows stay unshifted with it).
        rotary_base: how slowly the last pair of channels turns.
        grid: tokens along each axis for which relative positions are made; other grids interpolate the table.

    Raises:
        ValueError: for a rate outside 0 to 1, an unknown position, relative positions without a grid, or too few
            channels a head for rotary ones.
    """

    takes_bias = True
    takes_windows = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
        position: str = "none",
        rotary_base: float = 100.0,
        grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if not 0 <= attn_drop_rate <= 1:
            raise ValueError(f"attn_drop_rate must lie between 0 and 1, got {attn_drop_rate}.")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(map(repr, POSITIONS))}, got {position!r}.")
        if position == "rotary" and (self.head_dim < 2 * spatial_dims or rotary_base <= 1):
            raise ValueError(
                f"rotary positions need {2 * spatial_dims} channels a head or more and a base above 1, got "
                f"{self.head_dim} and {rotary_base}."
            )
        self.attn_drop_rate = attn_drop_rate
        self.position, self.rotary_base = position, rotary_base
        self.reads_grid = position != "none"  # type: ignore[misc]
        self.takes_bias = position != "relative"  # type: ignore[misc]
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if position == "relative":
            if grid is None:
                raise ValueError("relative positions are made for a grid: give it as grid=[…].")
            self.table = nn.Parameter(0.02 * torch.randn(1, num_heads, *(2 * g - 1 for g in grid)))

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        if self.reads_grid:
            self.check_grid(x, grid)
        qkv, dropout = self.qkv(x), self.attn_drop_rate if self.training else 0.0
        if self.position == "relative":
            self.refuse_bias(bias)
            return self.proj(self._relative(qkv, grid, dropout))
        q, k, v = self.split_heads(qkv)
        if self.position == "rotary":
            angles = rotary_angles(grid, self.head_dim, self.rotary_base, q)
            q, k = rotate(q, angles), rotate(k, angles)
        return self.proj(self.merge_heads(softmax_attention(q, k, v, bias, dropout)))

    def _relative(self, qkv: torch.Tensor, grid: tuple[int, ...], dropout: float) -> torch.Tensor:
        """Each sample is one window, which covers its grid."""
        b, n, c = qkv.shape
        size, table = [2 * g - 1 for g in grid], self.table
        if list(table.shape[2:]) != size:
            mode = {2: "bilinear", 3: "trilinear"}[self.spatial_dims]
            table = F.interpolate(table, size=size, mode=mode, align_corners=True)
        places = torch.arange(b * n, device=qkv.device)
        code = grid_code(grid).to(qkv.device)
        rows = table.flatten(2)[0].transpose(0, 1)
        qkv = qkv.reshape(1, b * n, c)
        return window_attention(qkv, None, rows, code, places, places, [(b, None)], dropout).view(b, n, -1)

    def mix_windows(
        self, x: torch.Tensor, grid: tuple[int, ...], plan: Windows, table: torch.Tensor, code: torch.Tensor
    ) -> torch.Tensor:
        """Mix within the windows of a grid, with relative positions; projections run on the grid's own tokens.

        Args:
            x: tokens (B, N, C).
            grid: tokens along each axis.
            plan: the windows, padding of zeros included.
            table: relative positions (R, H).
            code: (n), see ``monai_ext.ops.window_attention.window_bias``.

        Returns:
            tokens (B, N, C)
        """
        qkv, index, inverse, tokens = self.qkv(x), plan.index, plan.inverse, x.shape[1]
        # what the projection makes of a token of zeros
        pad = (qkv.new_zeros(qkv.shape[2]) if self.qkv.bias is None else self.qkv.bias) if plan.padded else None
        if self.position == "rotary":
            if pad is not None:
                # each token of padding has a place of its own, by which it is turned
                outside = index == tokens
                index = torch.where(outside, outside.cumsum(0) + (tokens - 1), index)
                inverse = index.argsort()
                padding = pad.to(qkv.dtype).expand(qkv.shape[0], index.shape[0] - tokens, -1)
                qkv, pad = torch.cat([qkv, padding], 1), None
            q, k, v = self.split_heads(qkv)
            angles = rotary_angles(plan.window, self.head_dim, self.rotary_base, q)[inverse % code.shape[0]]
            qkv = torch.cat([self.merge_heads(t) for t in (rotate(q, angles), rotate(k, angles), v)], -1)
        dropout = self.attn_drop_rate if self.training else 0.0
        out = window_attention(qkv, pad, table, code, index, inverse, plan.groups, dropout)
        return self.proj(out[:, :tokens])
