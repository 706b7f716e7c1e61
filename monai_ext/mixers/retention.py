"""Retention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.mixers.base import Mixer
from monai_ext.ops.backends import check_backend
from monai_ext.ops.manhattan_retention import manhattan_retention
from monai_ext.ops.retention import BACKENDS, retention

DECAYS = ("raster", "manhattan")


class RetentionMixer(Mixer):
    """Multi-head retention: attention without a softmax, whose weights fall off with the distance (ViR, 2023).

    ``o_n = sum_m alpha_h^|n - m| (q_n . k_m) / sqrt(D) v_m`` with ``alpha_h = 1 - 2^(-5 - h)`` for the heads
    h = 0, 1 .., so that the first reaches over some 32 tokens and every further one twice as far; then a layer norm
    over all channels, a GELU and a projection. O(N) time and memory (``monai_ext.ops.retention``).

    Departures from the paper: by default a token sees those on either side, where ViR is causal along the raster, as
    a network that generates images must be, but one that labels or restores them need not; ``bidirectional=False`` is
    the paper's. ``decay="manhattan"`` measures the distance over the grid instead of along the raster, where the
    token above is as far as the axis is long (``monai_ext.ops.manhattan_retention``): O(N C^2 / H) time as well, but
    several times that of the raster. The decay is that of RMT (Fan et al., 2024), whose published attention keeps a
    softmax and rotary positions, which this has not.

    The default is bidirectional, not causal. Of the authors' code nothing is public but a description; the unofficial
    one (BrianPulfer/vision-retention-networks) projects each head from a slice of the input of its own, so that its
    weights load as a ``qkv`` that is block-diagonal for each of q, k and v, and need ``bidirectional=False``.

    Args:
        dim: channels of a token.
        num_heads: heads; with more than about ten the last ones hardly decay.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to q, k and v.
        bidirectional: whether a token sees those after it, too.
        decay: ``"raster"``, with the distance along the raster, or ``"manhattan"``, with that over the grid.
        backend: what runs the operator: ``"torch"``, ``"fla"`` (flash-linear-attention, for half precision on CUDA and
            the raster) or ``"auto"``.

    Raises:
        ValueError: for an unknown decay or backend, one that looks back only over the grid, or a backend for a decay
            that it does not have; in ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        qkv_bias: bool = False,
        bidirectional: bool = True,
        decay: str = "raster",
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {decay!r}.")
        check_backend(backend, BACKENDS)
        if decay == "manhattan" and not bidirectional:
            raise ValueError("bidirectional=False goes with decay='raster': over the grid there is no order.")
        if decay == "manhattan" and backend not in ("auto", "torch"):
            raise ValueError(f"backend {backend!r} goes with decay='raster'; use 'auto' or 'torch'.")
        self.bidirectional = bidirectional
        self.causal = not bidirectional  # type: ignore[misc]
        self.decay = decay
        self.backend = backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        if self.decay == "manhattan":
            o = manhattan_retention(q, k, v, grid)
        else:
            o = retention(q, k, v, self.bidirectional, backend=self.backend)
        return self.proj(F.gelu(self.norm(self.merge_heads(o))))
