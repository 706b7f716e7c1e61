"""Vision Mamba's block as a mixer."""

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


class VimMixer(Mixer):
    """Mamba along the raster in both directions (Zhu et al., Vision Mamba, 2024).

    As ``MambaMixer``, with a second set of convolution, projections, decays and direct path (``..._b``) that runs from
    the last token to the first, its convolution with it; both read the same x, and the sum of both, gated, is halved.
    Twice the time of Mamba's scan; every token sees all others. The authors' slow path leaves the second direction
    out; here it always takes part. The number of heads plays no part. Parameters bear the names of the authors' code
    (bimamba v2).

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        d_state: states S of a channel.
        d_conv: taps of each convolution, on a token and those before it in its direction.
        expand: inner channels E per channel.
        divide_out: halve the sum of the two directions (the authors' ``if_divide_out``).
        backend: of the scan, ``"auto"``, ``"torch"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for no states or taps, an inner width that is not a whole number, or an unknown backend; in
            ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        divide_out: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        inner = check_options(d_state, d_conv, expand, dim, backend)
        self.divide_out = divide_out
        self.backend = backend
        rank = rank_of(dim)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = step_projection(rank, inner)
        self.A_log = nn.Parameter(rates(inner, d_state))
        self.D = nn.Parameter(torch.ones(inner))
        self.conv1d_b = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj_b = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj_b = step_projection(rank, inner)
        self.A_b_log = nn.Parameter(rates(inner, d_state))
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        x, z = self.in_proj(x).chunk(2, -1)
        forth = self._direction(x, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D, False)
        back = self._direction(x, self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b, True)
        out = self.out_proj(remade(gate, forth + back, z))
        return out / 2 if self.divide_out else out  # linear up to here, and the output is narrower than the sum

    def _direction(
        self,
        x: torch.Tensor,
        conv: nn.Conv1d,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        a_log: torch.Tensor,
        d: torch.Tensor,
        reverse: bool,
    ) -> torch.Tensor:
        u = convolve(x, conv.weight, conv.bias, ahead=0, reverse=reverse)
        step = dt_proj.weight, dt_proj.bias
        return scan_tokens(u, x_proj.weight, step, a_log, d, (reverse,), self.backend)
