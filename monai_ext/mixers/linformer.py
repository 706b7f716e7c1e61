"""Linformer attention as a mixer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.linformer import linformer_attention

SHARES = ("heads", "kv", "none")


class LinformerMixer(Mixer):
    """Multi-head softmax attention to K learnt mixtures of the tokens (Wang et al., Linformer, 2020).

    ``softmax(q (E^T k)^T / sqrt(d)) F^T v`` with learnt matrices E and F of (N, K): O(N K C) time, memory linear in N
    (see ``monai_ext.ops.linformer``). The matrices hold a row for every token, 2 N K numbers, so the mixer belongs to
    one grid. They start as in the paper's code (Xavier's uniform distribution with a gain of 1/sqrt(2)), with which a
    projected key is as large as a key whatever N.

    With ``qkv_bias`` the biases of keys and values are mixed along the tokens, too. The authors' code adds them behind
    the mixture, where that of the keys changes no output and that of the values adds a constant to it: to load weights
    from there, set both to zero here and add ``out_proj.weight @ v_proj.bias`` to the bias of ``proj``.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        grid: tokens along each axis.
        qkv_bias: a bias in the projection to queries, keys and values.
        attn_drop_rate: dropout of the attention weights, in training only.
        rank: projected tokens K; no more than N are made.
        share: what E and F are common to: ``"heads"`` all heads, ``"kv"`` all heads and E = F, ``"none"`` nothing: each
            head has its own.

    Raises:
        ValueError: without a grid, for a rank below 1, an unknown share, or a dropout that is no probability; in
            ``forward`` for another grid.
    """

    reads_grid = True
    fixed_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        grid: Sequence[int] | None = None,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
        rank: int = 256,
        share: str = "heads",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        n = math.prod(self.bind_grid(grid))
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        if share not in SHARES:
            raise ValueError(f"share must be one of {', '.join(map(repr, SHARES))}, got {share!r}.")
        if not 0 <= attn_drop_rate <= 1:
            raise ValueError(f"attn_drop_rate must lie between 0 and 1, got {attn_drop_rate}.")
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        shape = (num_heads, n, min(rank, n)) if share == "none" else (n, min(rank, n))
        self.key_projection = nn.Parameter(torch.empty(shape))
        self.value_projection = None if share == "kv" else nn.Parameter(torch.empty(shape))
        self.proj = nn.Linear(dim, dim)
        bound = (3 / (n + shape[-1])) ** 0.5
        nn.init.uniform_(self.key_projection, -bound, bound)
        if self.value_projection is not None:
            nn.init.uniform_(self.value_projection, -bound, bound)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        to_values = self.key_projection if self.value_projection is None else self.value_projection
        x = linformer_attention(q, k, v, self.key_projection, to_values, self.attn_drop_rate if self.training else 0.0)
        return self.proj(self.merge_heads(x))
