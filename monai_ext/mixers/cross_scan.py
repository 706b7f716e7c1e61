"""VMamba's scan along several routes through the grid, as a mixer.

Legend: B batch, N tokens, E inner channels, S states of a channel, R rank of the step size, K routes.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.selective import check_options, gate, rank_of, rates, remade, scan_tokens, step_projection
from monai_ext.ops.depthwise import depthwise_convolution


class CrossScanMixer(Mixer):
    """Selective scans along four routes through an image, six through a volume (Liu et al., VMamba, 2024).

    Tokens are projected to ``expand * dim`` channels, convolved with 3 taps along each axis, SiLU; every route scans
    them with projections, decays and direct path of its own; the sum of the routes goes through a LayerNorm, the gate
    if there is one, and the output projection. Every token sees all others, near ones along each axis soon. O(K N E S)
    time, K = 2 x axes. The number of heads plays no part. Parameters bear the names of the authors' code (SS2D), but
    for ``conv``, there ``conv2d``.

    The paper knows images only. For every axis there is a route on which its neighbours follow each other, the other
    axes in their order, and the same backwards: in 2D rows, columns, rows reversed, columns reversed, as the authors
    number them; in 3D those with the last, the middle and the first axis fastest, then these reversed. Defaults are
    those of VMamba's later models (``v05_noz``): one state, no gate, no widening.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        d_state: states S of a channel.
        d_conv: taps of the convolution along each axis, odd.
        expand: inner channels E per channel (the authors' ``ssm_ratio``).
        gate: multiply with ``silu(z)`` after the norm, z from a second half of the input projection.
        conv_bias: a bias in the convolution.
        backend: of the scan, ``"auto"``, ``"torch"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for no states, an even number of taps, an inner width that is not a whole number, or an unknown
            backend; in ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        d_state: int = 1,
        d_conv: int = 3,
        expand: float = 1,
        gate: bool = False,
        conv_bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        inner = check_options(d_state, d_conv, expand, dim, backend)
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv must be an odd number of taps, got {d_conv}.")
        self.gate = gate
        self.backend = backend
        rank, routes = rank_of(dim), 2 * spatial_dims
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.in_proj = nn.Linear(dim, (1 + gate) * inner, bias=False)
        self.conv = conv(inner, inner, d_conv, groups=inner, bias=conv_bias)
        x_projs = [nn.Linear(inner, rank + 2 * d_state, bias=False) for _ in range(routes)]
        steps = [step_projection(rank, inner) for _ in range(routes)]
        self.x_proj_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in x_projs]))
        self.dt_projs_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in steps]))
        self.dt_projs_bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in steps]))
        self.A_logs = nn.Parameter(rates(routes * inner, d_state))
        self.Ds = nn.Parameter(torch.ones(routes * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        x = self.in_proj(x)
        z = None
        if self.gate:
            x, z = x.chunk(2, -1)

        def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return F.silu(depthwise_convolution(x, grid, weight, bias))

        u = remade(convolve, x, self.conv.weight, self.conv.bias)
        y = self._routes(u.unflatten(1, grid))
        y = self.out_norm(y)
        return self.out_proj(y if z is None else remade(gate, y, z))

    def _routes(self, u: torch.Tensor) -> torch.Tensor:
        """The sum over the routes, (B, *grid, E) to (B, N, E)."""
        axes = len(u.shape) - 2
        a_logs, ds = self.A_logs.chunk(2 * axes), self.Ds.chunk(2 * axes)
        total: torch.Tensor | None = None
        for number in range(axes):
            # the fastest axis comes last; the others keep their order
            order = [axis for axis in range(axes) if axis != axes - 1 - number] + [axes - 1 - number]
            places = [0, *(1 + axis for axis in order), axes + 1]
            turned = u.permute(places)
            tokens = turned.flatten(1, -2)
            for k, reverse in ((number, False), (number + axes, True)):
                step = self.dt_projs_weight[k], self.dt_projs_bias[k]
                y = scan_tokens(tokens, self.x_proj_weight[k], step, a_logs[k], ds[k], (reverse,), self.backend)
                back = [places.index(place) for place in range(axes + 2)]
                y = y.unflatten(1, turned.shape[1:-1]).permute(back)
                total = y if total is None else total + y
        assert total is not None
        return total.flatten(1, -2)
