"""Pre-norm transformer blocks around a mixer: over a whole grid, and over its windows."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
import torch.nn as nn
from monai.networks.layers import DropPath

from monai_ext.blocks.block_options import PLAIN, BlockOptions
from monai_ext.blocks.image_size import is_unknown
from monai_ext.blocks.monai_weights import accept_monai_weights
from monai_ext.blocks.positions import RelativePositionBias
from monai_ext.blocks.windows import WindowPlan, from_windows, plan_windows, to_windows
from monai_ext.mixers import Mixer
from monai_ext.ops.window_attention import region_mask

PLANS_KEPT = 16  # sizes whose index maps a block remembers


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Keep a trace from recording how index maps are made: they are constants of it, as they are once cached."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


class MixerBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))`` (Dosovitskiy et al., ViT, 2020).

    Args:
        mixer: what exchanges information between the tokens.
        mlp_dim: inner width of the feed-forward network.
        dropout_rate: dropout of the mixer's output and inside the feed-forward network.
        options: further parts.
    """

    def __init__(self, mixer: Mixer, mlp_dim: int, dropout_rate: float = 0.0, options: BlockOptions = PLAIN) -> None:
        super().__init__()
        self.position, self.local, self.second_position = options.convolutions(mixer.dim, mixer.spatial_dims)
        self.norm1 = nn.LayerNorm(mixer.dim)
        self.mixer = mixer
        self.dropout = nn.Dropout(dropout_rate)
        self.norm2 = nn.LayerNorm(mixer.dim)
        self.mlp = options.feed_forward(mixer.dim, mlp_dim, dropout_rate)
        self.scale1, self.scale2 = options.scale(mixer.dim), options.scale(mixer.dim)
        # the convolutions do, where there are any: then no token may stand outside of the grid
        self.reads_grid = self.position is not None or self.local is not None
        accept_monai_weights(
            self,
            renames=[(r"attn\.out_proj\.", "mixer.proj."), (r"attn\.", "mixer.")],
            drops=[r"norm_cross_attn\.", r"cross_attn\."],
        )

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        if self.position is not None:
            x = self.position(x, grid)
        x = x + self.scale1(self.dropout(self.mixer(self.norm1(x), grid)))
        if self.local is not None:
            x = x + self.local(x, grid)
        if self.second_position is not None:
            x = self.second_position(x, grid)
        return x + self.scale2(self.mlp(self.norm2(x)))


class WindowMixerBlock(nn.Module):
    """The block of a Swin transformer: the mixer sees windows of the grid (Liu et al., 2021).

    A mixer that takes a score bias gets relative positions and, in a shifted block, windows that start half a window
    further; any other mixer runs unshifted. Tokens of padding are zeros after the norm and take part unmasked, as in
    MONAI.

    Args:
        mixer: what exchanges information between the tokens of a window.
        window_size: tokens along each axis of a window; clipped to the grid, unless the mixer's parameters belong to
            one grid: then a small grid is padded.
        shift: shift the windows (only with a mixer that takes a bias).
        mlp_ratio: inner width of the feed-forward network over ``mixer.dim``.
        drop_rate: dropout of the mixer's output and inside the feed-forward network.
        drop_path: probability to skip a branch for a sample, in training (stochastic depth).
        options: further parts; they see the whole grid, not windows.
    """

    def __init__(
        self,
        mixer: Mixer,
        window_size: Sequence[int],
        shift: bool,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path: float = 0.0,
        options: BlockOptions = PLAIN,
    ) -> None:
        super().__init__()
        self.position, self.local, self.second_position = options.convolutions(mixer.dim, mixer.spatial_dims)
        self.window_size = tuple(window_size)
        self.shift = shift and mixer.takes_bias
        self.norm1 = nn.LayerNorm(mixer.dim)
        self.mixer = mixer
        self.relative_position = RelativePositionBias(self.window_size, mixer.num_heads) if mixer.takes_bias else None
        self.dropout = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(mixer.dim)
        self.mlp = options.feed_forward(mixer.dim, int(mixer.dim * mlp_ratio), drop_rate, "swin")
        self.scale1, self.scale2 = options.scale(mixer.dim), options.scale(mixer.dim)
        self._plans: OrderedDict[tuple, WindowPlan] = OrderedDict()
        accept_monai_weights(
            self,
            renames=[(r"attn\.relative_position_bias_table", "relative_position.table"), (r"attn\.", "mixer.")],
            drops=[r"attn\.relative_position_index"],
        )

    def _plan(self, grid: tuple[int, ...], device: torch.device) -> WindowPlan:
        if is_unknown(grid):
            return plan_windows(grid, self.window_size, self.shift, device, not self.mixer.fixed_grid)
        grid = tuple(int(size) for size in grid)  # a trace has tensors for sizes
        key = (grid, device)
        plan, clip = self._plans.get(key), not self.mixer.fixed_grid
        if plan is None and torch.compiler.is_compiling():
            return plan_windows(grid, self.window_size, self.shift, device, clip)  # its tensors exist in the graph only
        if plan is None:
            with torch.inference_mode(False), _untraced():  # tensors that a later training step may use
                plan = self._plans[key] = plan_windows(grid, self.window_size, self.shift, device, clip)
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def __getstate__(self):
        # index maps are derived: they enter neither pickles nor deep copies
        return {**self.__dict__, "_plans": OrderedDict()}

    def _mix(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        plan = self._plan(grid, x.device)
        b, _, c = x.shape
        n = math.prod(plan.window)
        if self.relative_position is not None and self.mixer.takes_windows:
            return self.mixer.mix_windows(x, grid, plan, self.relative_position.table, self.relative_position.code[:n])
        windows = to_windows(x, plan).view(b, -1, n, c)
        bias = self.relative_position(n) if self.relative_position is not None else None
        mixed = []
        for (count, region), group in zip(plan.groups, windows.split([count for count, _ in plan.groups], 1)):
            group_bias = bias + region_mask(region) if bias is not None and region is not None else bias
            group_out = self.mixer(group.reshape(b * count, n, c), plan.window, group_bias)
            mixed.append(group_out.reshape(b, count * n, c))
        return from_windows(torch.cat(mixed, 1) if len(mixed) > 1 else mixed[0], plan)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        if self.position is not None:
            x = self.position(x, grid)
        x = x + self.drop_path(self.scale1(self.dropout(self._mix(self.norm1(x), grid))))
        if self.local is not None:
            x = x + self.drop_path(self.local(x, grid))
        if self.second_position is not None:
            x = self.second_position(x, grid)
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))
