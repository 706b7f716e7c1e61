"""Depthwise convolution of a few taps over tokens that lie on a grid, in 1 to 3 dimensions.

Legend: B batch, N tokens, C channels, g1 .. gD the axes of the grid, k1 .. kD the taps along them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Taps along the last axis up to which PyTorch's CPU kernel of the weight's gradient is fast, without or with one zero
# beside the map; of five it takes ten times as long.
FAST_TAPS = 3

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def depthwise_convolution_plain(
    x: torch.Tensor,
    grid: tuple[int, ...],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    ahead: int | None = None,
) -> torch.Tensor:
    """PyTorch's own convolution, of a copy with the channels first."""
    x = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)
    sides = [_sides(k, ahead) for k in reversed(weight.shape[2:])]
    x = F.pad(x, [p for side in sides for p in side]).contiguous()
    return _CONVOLUTIONS[len(grid)](x, weight, bias, groups=len(weight)).flatten(2).transpose(1, 2)


def depthwise_convolution(
    x: torch.Tensor,
    grid: tuple[int, ...],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    ahead: int | None = None,
) -> torch.Tensor:
    """Every channel with its own small kernel, zeros beyond the border, tokens in and tokens out.

    ``y[p] = bias + sum_t weight[t] x[p + t - (k - 1 - ahead)]``. On a CPU the tokens stay as they lie, channels last,
    for which PyTorch's kernels in two dimensions are several times as fast as for channels first; a line is a picture
    of one row, and a volume a sum over the taps of its first axis. That is in float32 at least: in bfloat16 PyTorch
    2.13 has wrong gradients of the weight for maps that lie so. Not twice differentiable.

    Args:
        x: tokens (B, N, C), row-major over the grid.
        grid: tokens along each axis.
        weight: (C, 1, k1 .. kD), as that of PyTorch's convolutions with C groups.
        bias: (C,).
        ahead: taps along each axis on tokens ahead; 0 for a causal convolution, None for as many as behind.

    Returns:
        (B, N, C) in the dtype of x, under autocast in its dtype

    Raises:
        ValueError: for a weight that does not fit the tokens or the grid, or impossible taps ahead.
    """
    taps = tuple(weight.shape[2:])
    if len(taps) != len(grid) or tuple(weight.shape[:2]) != (x.shape[-1], 1):
        raise ValueError(
            f"the weight must be (C, 1, *taps) for {x.shape[-1]} channels and a grid of {tuple(grid)}, got "
            f"{tuple(weight.shape)}."
        )
    if any(k % 2 == 0 for k in taps) if ahead is None else not 0 <= ahead < min(taps):
        raise ValueError(f"of {taps} taps there must be a middle one, or fewer than all ahead, got {ahead}.")
    if x.device.type != "cpu":
        return depthwise_convolution_plain(x, grid, weight, bias, ahead)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    with torch.autocast("cpu", enabled=False):
        # (B, g1, g2, g3, C)
        full = (*[1] * (3 - len(grid)), *grid)
        y = x.to(acc).reshape(x.shape[0], *full, x.shape[2])
        w = weight.to(acc).reshape(len(weight), 1, *[1] * (3 - len(taps)), *taps)
        b = weight.new_zeros(len(weight), dtype=acc) if bias is None else bias.to(acc)
        if torch.is_grad_enabled() and (y.requires_grad or w.requires_grad or b.requires_grad):
            y = _Depthwise.apply(y, w, b, ahead)
        else:
            y = _forward(y, w, b, ahead)
        return y.reshape(x.shape).to(dtype)


def _planes(x: torch.Tensor) -> torch.Tensor:
    """(B, g1, g2, g3, C) as pictures (B g1, C, g2, g3), channels last."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _sides(taps: int, ahead: int | None) -> tuple[int, int]:
    """Taps behind and ahead of a token along an axis."""
    ahead = taps // 2 if ahead is None else min(ahead, taps - 1)
    return taps - 1 - ahead, ahead


def _shifts(length: int, taps: int, ahead: int | None) -> list[tuple[int, slice, slice]]:
    """For each tap of the first axis that meets anything: its number, where it writes and what it reads."""
    found = []
    for tap in range(taps):
        shift = tap - _sides(taps, ahead)[0]
        if abs(shift) < length:
            of = slice(max(shift, 0), length + min(shift, 0))
            found.append((tap, slice(max(-shift, 0), length - max(shift, 0)), of))
    # the tap that is always there first, so that all others add to it
    return sorted(found, key=lambda entry: entry[1] != slice(0, length))


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, ahead: int | None) -> torch.Tensor:
    out = None
    channels, g = weight.shape[0], x.shape[1:4]
    # the same at both ends, of whose output a part is taken: no padded copy
    sides = [_sides(k, ahead) for k in weight.shape[3:]]
    pad = [max(side) for side in sides]
    rows, columns = (slice(p - behind, p - behind + n) for p, (behind, _), n in zip(pad, sides, g[1:]))
    for tap, to, of in _shifts(g[0], weight.shape[2], ahead):
        w = weight[:, :, tap]
        y = F.conv2d(_planes(x[:, of]), w, bias if out is None else None, padding=pad, groups=channels)
        y = y[:, :, rows, columns].permute(0, 2, 3, 1).unflatten(0, (-1, of.stop - of.start))
        if out is None:
            out = y
        else:
            out[:, to] += y
    return out


class _Depthwise(torch.autograd.Function):
    """The convolution, with a backward plane by plane."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, ahead: int | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.ahead = ahead
        return _forward(x, weight, bias, ahead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        length, taps, columns = x.shape[1], weight.shape[2], weight.shape[4]
        sides = [_sides(k, ctx.ahead) for k in weight.shape[3:]]
        pad = [max(side) for side in sides]
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        together = need_weight and columns <= FAST_TAPS
        # what the forward cut off had no influence
        rows, cut = ((p - behind, p - ahead) for p, (behind, ahead) in zip(pad, sides))
        grad = grad.contiguous()
        dx, dw = None, torch.zeros_like(weight)
        if need_x or together:
            whole = _beside(grad, cut, rows)
            for tap, to, of in _shifts(length, taps, ctx.ahead):
                mask = [need_x, together, False]
                part, dw_tap = _gradients(whole[:, to], x[:, of], weight[:, :, tap], pad, mask)
                if dw_tap is not None:
                    dw[:, :, tap] = dw_tap
                if part is not None:
                    part = part.permute(0, 2, 3, 1).unflatten(0, (len(x), -1))
                    if dx is None:
                        dx = part
                    else:
                        dx[:, of] += part
        if need_weight and not together:
            whole = _beside(grad, (0, pad[1] + 1 - FAST_TAPS), rows)
            starts = (*range(0, columns - FAST_TAPS, FAST_TAPS), columns - FAST_TAPS)
            for start, moved in zip(starts, _moved(x, pad[1], [start - sides[1][0] for start in starts])):
                for tap, to, of in _shifts(length, taps, ctx.ahead):
                    few = (slice(None), slice(None), tap, slice(None), slice(start, start + FAST_TAPS))
                    w = weight[few].contiguous()
                    dw[few] = _gradients(whole[:, to], moved[:, of], w, [pad[0], 0], [False, True, False])[1]
        return dx, dw if need_weight else None, grad.sum((0, 1, 2, 3)) if need_bias else None, None


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, pad: list[int], mask: list[bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Of x, as pictures with the channels last, and of the weight of one tap of the first axis."""
    arguments = [1, 1], pad, [1, 1], False, [0, 0], len(weight), mask
    return torch.ops.aten.convolution_backward(_planes(grad), _planes(x), weight, None, *arguments)[:2]


def _beside(x: torch.Tensor, columns: tuple[int, int], rows: tuple[int, int]) -> torch.Tensor:
    """(B, g1, g2, g3, C) with so many zeros before and after the last two axes, or less of them."""
    return F.pad(x, (0, 0, *columns, *rows)) if any((*columns, *rows)) else x


def _moved(x: torch.Tensor, gap: int, shifts: list[int]) -> list[torch.Tensor]:
    """(B, g1, g2, g3 + gap, C), for each shift x[.., shift:] between zeros.

    All are views of one copy: the zeros between two rows end the one and begin the other.
    """
    *rows, columns, channels = x.shape
    size = math.prod(rows) * (columns + gap)
    flat = x.new_empty(size + gap + max(shifts), channels)
    body = flat[:size].view(*rows, columns + gap, channels)
    body[..., :gap, :] = 0
    body[..., gap:, :] = x
    flat[size:] = 0
    return [flat[gap + shift :][:size].view(body.shape) for shift in shifts]
