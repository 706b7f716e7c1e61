"""The mixer of Vision-LSTM.

Legend: B batch, N tokens, C channels, E inner channels, H heads, D channels of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_ext.mixers.base import Mixer
from monai_ext.ops.depthwise import depthwise_convolution
from monai_ext.ops.mlstm import mlstm

DIRECTIONS = ("alternate", "forward", "backward", "both")
# taps along each axis where none are given
CONVS = {"nd": 3, "causal1d": 4}
# elements of a block of tokens that is gated and projected at a time
BLOCK_CPU, BLOCK = 2**19, 2**22
CHEAPLY: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


class BlockLinear(nn.Module):
    """A linear map of blocks of neighbouring channels, each onto itself."""

    def __init__(self, dim: int, block: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // block, block, block))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def matrices(self, groups: int) -> torch.Tensor:
        """Transposed block-diagonal matrices (groups, E / groups, E / groups)."""
        blocks, size, _ = self.weight.shape
        eye = torch.eye(blocks // groups, dtype=self.weight.dtype, device=self.weight.device)
        weight = self.weight.transpose(1, 2).unflatten(0, (groups, -1)).unsqueeze(3)
        return (eye[:, None, :, None] * weight).reshape(groups, blocks // groups * size, -1)

    def into(self, weight: torch.Tensor) -> torch.Tensor:
        """What a linear map (…, E) of the output is as one of the input, without the bias."""
        blocks = weight.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...go,goi->...gi", blocks, self.weight).flatten(-2)


class HeadNorm(nn.Module):
    """Layer normalisation of every head of a token, with an affine map that starts at the identity: 1 + weight."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(-1, (self.heads, -1))
        return F.layer_norm(x, x.shape[-1:]).flatten(-2) * (1 + self.weight) + self.bias


class VilMixer(Mixer):
    """Vision-LSTM: a matrix memory run over the raster, from either end (Alkin et al., arXiv 2406.04303, 2024).

    Tokens are projected to x and z of ``E = expand * C`` channels; ``c = SiLU(conv(x))``; queries and keys are
    block-diagonal maps of c, values of x, and so are the gates; then ``h = norm(mlstm(q, k, v, i, f)) + skip * c`` and
    the output is a projection of ``h * SiLU(z)``. The memory (``monai_ext.ops.mlstm``) is causal and runs in O(N).
    The parameters are those of the authors' ``ViLLayer`` in its second version, under these names: ``igate``, ``fgate``
    and ``outnorm`` are its ``mlstm_cell.igate``, ``mlstm_cell.fgate`` and ``mlstm_cell.outnorm``, and with
    ``conv="causal1d"`` ``conv`` is its ``conv.conv``; all others are named as there.

    One mixer sees the tokens before it along the raster, and through the convolution those around it. As in the
    paper every other one therefore runs from the last token to the first: the whole sequence is flipped, the
    convolution included. With ``direction="both"`` one mixer does both, with the same weights, and returns the average
    of the two, at twice the cost.

    Departures from the paper: ``num_heads`` heads, where the authors always have four; any grid, in 3D with a
    convolution of 3 x 3 x 3 taps; the gates, linear in q, k and v, are computed from c and x, with the same result.
    Initialised as by the authors: forget gates from open to wide open over the heads and independent of the input.

    Args:
        dim: channels of a token.
        num_heads: heads of the memory, of ``expand * dim / num_heads`` channels.
        spatial_dims: 2 or 3.
        direction: ``"alternate"`` runs forward in even layers and backward in odd ones; ``"forward"``, ``"backward"``
            or ``"both"``.
        layer: number of the block, from 0, which networks give by themselves.
        conv: ``"nd"``, depthwise over the grid (second version), or ``"causal1d"``, along the raster and looking back
            only (first version); with the latter ``"forward"`` is causal.
        conv_kernel: taps of the convolution along each axis; 3 for ``"nd"``, 4 for ``"causal1d"``.
        expand: inner channels per channel.
        qkv_block: channels of a block of the maps to queries, keys and values.
        proj_bias: a bias in all projections.

    Raises:
        ValueError: for an unknown direction or convolution, an even kernel over the grid, inner channels that the
            blocks do not divide; in ``forward`` for a grid that is not that of the tokens.
    """

    reads_grid = True
    local = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        direction: str = "alternate",
        layer: int = 0,
        conv: str = "nd",
        conv_kernel: int | None = None,
        expand: int = 2,
        qkv_block: int = 4,
        proj_bias: bool = True,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(map(repr, DIRECTIONS))}, got {direction!r}.")
        if conv not in CONVS:
            raise ValueError(f"conv must be one of {', '.join(map(repr, CONVS))}, got {conv!r}.")
        taps = CONVS[conv] if conv_kernel is None else conv_kernel
        if taps < 1 or (conv == "nd" and taps % 2 == 0):
            raise ValueError(f"conv_kernel must be at least 1, and odd for conv='nd', got {taps}.")
        inner = expand * dim
        if expand < 1 or qkv_block < 1 or inner % qkv_block:
            raise ValueError(
                f"the inner width {inner} (expand {expand}) must be a multiple of qkv_block, got {qkv_block}: choose "
                "another qkv_block or width."
            )
        if direction == "alternate":
            direction = "backward" if layer % 2 else "forward"
        self.direction = direction
        self.causal = direction == "forward" and conv == "causal1d"  # type: ignore[misc]
        self.local = direction != "both" and not self.causal  # type: ignore[misc]
        self.inner = inner
        # whole blocks and whole heads, so that a matrix of this width makes queries of whole heads
        self.groups = inner // math.lcm(qkv_block, inner // num_heads)
        self.proj_up = nn.Linear(dim, 2 * inner, bias=proj_bias)
        if conv == "causal1d":
            self.conv: nn.Module = nn.Conv1d(inner, inner, taps, groups=inner)
        else:
            kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.conv = kind(inner, inner, taps, groups=inner)
        self.q_proj, self.k_proj, self.v_proj = (BlockLinear(inner, qkv_block, proj_bias) for _ in range(3))
        self.igate = nn.Linear(3 * inner, num_heads)
        self.fgate = nn.Linear(3 * inner, num_heads)
        self.outnorm = HeadNorm(inner, num_heads)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, dim, bias=proj_bias)
        for layer_ in (self.proj_up, self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(layer_.weight, std=math.sqrt(2 / (5 * dim)))
        nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(dim))
        for linear in (self.proj_up, self.proj_down):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.igate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        nn.init.zeros_(self.fgate.weight)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, num_heads))

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        runs = {"forward": [self._run], "backward": [self._run_flipped], "both": [self._run, self._run_flipped]}
        if self.direction != "both" or not torch.is_grad_enabled():
            outs = [run(x, grid) for run in runs[self.direction]]
        else:
            # one direction at a time is kept for the backward
            outs = [checkpoint(run, x, grid, **CHEAPLY) for run in runs["both"]]
        return outs[0] if len(outs) == 1 else (outs[0] + outs[1]) / 2

    def _run_flipped(self, tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        return self._run(tokens.flip(1), grid).flip(1)

    def _run(self, tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        x = self._up(tokens, 0)
        along = (x.shape[1],) if isinstance(self.conv, nn.Conv1d) else grid
        ahead = 0 if isinstance(self.conv, nn.Conv1d) else None
        a = depthwise_convolution(x, along, self.conv.weight, self.conv.bias, ahead)
        if torch.is_grad_enabled():
            parts = checkpoint(self._parts, a, x, **CHEAPLY)
        else:
            parts = self._parts(a, x)
        h = self.merge_heads(mlstm(*parts))
        step = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // (x.shape[0] * self.inner))
        blocks = zip(*(t.split(step, 1) for t in (h, a, tokens)))
        if not torch.is_grad_enabled():
            return torch.cat([self._out(*block) for block in blocks], 1)
        # cheap to make anew, and a lot to keep
        return torch.cat([checkpoint(self._out, *block, **CHEAPLY) for block in blocks], 1)

    def _up(self, tokens: torch.Tensor, half: int) -> torch.Tensor:
        """x (half 0) or z (half 1) of tokens: apart, since z is not needed before the end."""
        bias = None if self.proj_up.bias is None else self.proj_up.bias.chunk(2)[half]
        return F.linear(tokens, self.proj_up.weight.chunk(2)[half], bias)

    def _parts(self, a: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the memory takes: q, k, v and the gates."""
        c = F.silu(a)
        q, k, v = self._heads(c, self.q_proj), self._heads(c, self.k_proj), self._heads(x, self.v_proj)
        return q, k, v, *self._gates(c, x)

    def _heads(self, x: torch.Tensor, proj: BlockLinear) -> torch.Tensor:
        """(B, N, E) through a block-diagonal map to (B, H, N, D)."""
        y = x.unflatten(-1, (self.groups, -1)).transpose(1, 2) @ proj.matrices(self.groups)
        if proj.bias is not None:
            y = y.add_(proj.bias.unflatten(0, (self.groups, 1, -1)))
        if self.groups == self.num_heads:
            return y
        # several heads a group
        return y.unflatten(-1, (-1, self.inner // self.num_heads)).transpose(2, 3).flatten(1, 2)

    def _gates(self, c: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Input and forget gates (B, H, N), from what q, k and v are made of instead of from these."""
        acc = torch.promote_types(c.dtype, torch.float32)
        with torch.autocast(c.device.type, enabled=False):
            weight = torch.cat((self.igate.weight, self.fgate.weight))
            bias = torch.cat((self.igate.bias, self.fgate.bias)).to(acc)
            of_q, of_k, of_v = weight.chunk(3, -1)
            for of, m in ((of_q, self.q_proj), (of_k, self.k_proj), (of_v, self.v_proj)):
                if m.bias is not None:
                    bias = bias + F.linear(m.bias, of).to(acc)
            of_c, of_x = self.q_proj.into(of_q) + self.k_proj.into(of_k), self.v_proj.into(of_v)
        # the bias comes after the products: in bfloat16 it would hide their deviations
        gates = F.linear(c, of_c).to(acc) + F.linear(x, of_x).to(acc) + bias
        return gates.transpose(1, 2).chunk(2, 1)

    def _out(self, h: torch.Tensor, a: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        h = self.outnorm(h) + self.learnable_skip * F.silu(a)
        return self.proj_down(h * F.silu(self._up(tokens, 1)))
