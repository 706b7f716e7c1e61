"""MambaVision's mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.selective import check_options, convolve, rank_of, rates, scan_tokens, step_projection


class MambaVisionMixer(Mixer):
    """A selective scan on half of the channels beside a short convolution on the others (Hatamizadeh and Kautz, 2024).

    Tokens are projected to ``expand * dim`` channels, halves x and z; both get a convolution of ``d_conv`` taps that
    looks to both sides, and SiLU; x goes through the scan, z past it, and both together through the output projection.
    O(N E S / 2) time. The scan is causal along the raster, so a token sees all before it and, through the convolution,
    ``d_conv // 2`` tokens after it. The number of heads plays no part. Parameters bear the names of the authors' code,
    whose convolutions have no bias.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        d_state: states S of a channel.
        d_conv: taps of the convolutions; of an even number one more lies ahead than behind.
        expand: inner channels E per channel.
        bidirectional: the second half of the scanned channels runs from the last token to the first, at the same cost
            and with the same parameters; every token then sees all others.
        double_dt_bias: add the bias of the step size twice, as the authors' code does; for their trained weights, and
            to repeat studies made with it.
        backend: of the scan, ``"auto"``, ``"torch"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for no states or taps, an inner width that is not an even number (bidirectional: a multiple of
            four), or an unknown backend; in ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True
    local = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        d_state: int = 8,
        d_conv: int = 3,
        expand: float = 1,
        bidirectional: bool = False,
        double_dt_bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        inner = check_options(d_state, d_conv, expand, dim, backend)
        parts = 4 if bidirectional else 2
        if inner % parts:
            raise ValueError(f"expand * dim must be divisible by {parts}, got {expand} * {dim} = {inner}.")
        self.local = not bidirectional  # type: ignore[misc]
        self.bidirectional = bidirectional
        self.double_dt_bias = double_dt_bias
        self.backend = backend
        rank, half = rank_of(dim), inner // 2
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.conv1d_x = nn.Conv1d(half, half, d_conv, groups=half, bias=False)
        self.conv1d_z = nn.Conv1d(half, half, d_conv, groups=half, bias=False)
        self.x_proj = nn.Linear(half, rank + 2 * d_state, bias=False)
        self.dt_proj = step_projection(rank, half)
        self.A_log = nn.Parameter(rates(half, d_state))
        self.D = nn.Parameter(torch.ones(half))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        x, z = self.in_proj(x).chunk(2, -1)
        u, z = (convolve(t, w.weight, None, w.kernel_size[0] // 2) for t, w in ((x, self.conv1d_x), (z, self.conv1d_z)))
        step = self.dt_proj.weight, self.dt_proj.bias * 2 if self.double_dt_bias else self.dt_proj.bias
        ways = (False, True) if self.bidirectional else (False,)
        y = scan_tokens(u, self.x_proj.weight, step, self.A_log, self.D, ways, self.backend)
        return self.out_proj(torch.cat([y, z], -1))
