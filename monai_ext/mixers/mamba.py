"""Mamba's block as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.selective import (
    check_options,
    convolve,
    gate,
    rank_of,
    rates,
    remade,
    scan_tokens,
    step_projection,
)


class MambaMixer(Mixer):
    """Mamba along the raster: a short causal convolution and a selective scan, gated (Gu and Dao, 2023).

    Tokens are projected to x and z of ``expand * dim`` channels; ``u = silu(conv(x))``; step size, B and C are
    projected from u; ``out_proj(scan(u) * silu(z))`` (see ``monai_ext.ops.selective_scan``). O(N E S) time, memory of
    a few copies of the tokens. A token sees itself and those before it in row-major order. The number of heads plays
    no part. Parameters bear the names of the authors' code.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        d_state: states S of a channel.
        d_conv: taps of the convolution, on a token and those before it.
        expand: inner channels E per channel.
        backend: of the scan, ``"auto"``, ``"torch"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for no states or taps, an inner width that is not a whole number, or an unknown backend; in
            ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True
    causal = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        inner = check_options(d_state, d_conv, expand, dim, backend)
        self.backend = backend
        rank = rank_of(dim)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = step_projection(rank, inner)
        self.A_log = nn.Parameter(rates(inner, d_state))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        x, z = self.in_proj(x).chunk(2, -1)
        u = convolve(x, self.conv1d.weight, self.conv1d.bias, ahead=0)
        step = self.dt_proj.weight, self.dt_proj.bias
        y = scan_tokens(u, self.x_proj.weight, step, self.A_log, self.D, backend=self.backend)
        return self.out_proj(remade(gate, y, z))
