"""Retention whose weights fall off with the Manhattan distance over the grid, in linear time.

The decay is that of RMT (Fan et al., arXiv 2309.11523, 2023), the rest retention (``monai_ext.ops.retention``).

Legend: B batch, N tokens, D channels of a head, K key channels of a group, g1 .. gA the axes of the grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_ext.ops.chunkwise import token_first, wide
from monai_ext.ops.retention import log_decays
from monai_ext.ops.shapes import check_qkv

# points of a stretch of an axis within which the weights are a matrix
STRETCH = 32
# elements that are filtered at a time
BLOCK_CPU, BLOCK = 2**20, 2**24


def manhattan_retention_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """The definition, with the (N, N) weights in memory, in the dtype of the inputs."""
    axes = [torch.arange(g, dtype=q.dtype, device=q.device) for g in grid]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    distance = (points.unsqueeze(1) - points).abs().sum(-1)
    log = torch.tensor(log_decays(q.shape[1]), dtype=q.dtype, device=q.device)[:, None, None]
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 * torch.exp(log * distance)) @ v


def manhattan_retention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """``o_p = sum_s alpha_h^(|p - s|_1) (q_p . k_s) / sqrt(D) v_s`` over all points s of the grid.

    The decay is a product over the axes and the scores are not normalised, so for key channel i the map
    ``k_i * v`` is filtered along one axis after the other, multiplied with q_i and added up; a filter
    ``alpha^|distance|`` is a small matrix within stretches of an axis and one number per stretch and direction between
    them. O(N D^2) time. The maps are made for a few key channels of one head at a time, in the backward again, so
    memory is that of q, k, v and their gradients plus a map for a key channel. Not twice differentiable.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        grid: tokens along each axis, row-major.

    Returns:
        (B, H, N, D) in the dtype of q; sums and products are in float32 at least, also under autocast

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, or a grid of other than N points.
    """
    check_qkv(q, k, v)
    if math.prod(grid) != q.shape[2]:
        raise ValueError(f"{q.shape[2]} tokens do not fill a grid of {tuple(grid)}.")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return _Manhattan.apply(q, k, v, tuple(grid))
    return _forward(q, k, v, tuple(grid))


def _filter(x: torch.Tensor, axis: int, log_alpha: float) -> torch.Tensor:
    """``y_i = sum_j alpha^|i - j| x_j`` along an axis of x (…, g1 .. gA, D)."""
    g, shape = x.shape[axis], x.shape
    if g == 1:
        return x
    x = x.flatten(axis + 1) if axis < -2 else x  # (…, g, rest)
    # an axis of up to two stretches is one
    count = 1 if g <= 2 * STRETCH else math.ceil(g / STRETCH)
    size = math.ceil(g / count)
    at = torch.arange(size, dtype=wide(x), device=x.device)
    near = torch.exp(log_alpha * (at[:, None] - at).abs()).to(x.dtype)
    if count == 1:
        return (near @ x).view(shape)
    if count * size > g:
        padded = x.new_zeros((*x.shape[:-2], count * size, x.shape[-1]))
        padded[..., :g, :] = x
        x = padded
    x = x.unflatten(-2, (count, size))
    # what a stretch hands on: its points weighted by the distance to its last (first) one
    rise = torch.exp(log_alpha * at.flip(0)).to(x.dtype)
    ends = torch.stack((rise, rise.flip(0))) @ x  # (…, stretches, 2, rest)
    n = torch.arange(count, dtype=at.dtype, device=x.device)
    # from the last point of a stretch to the last one before another stretch
    between = torch.exp(log_alpha * size * (n[:, None] - n - 1).clamp_min(0)).tril(-1).to(x.dtype)
    before, behind = between @ ends[..., 0, :], between.T @ ends[..., 1, :]
    far = torch.exp(log_alpha * (at + 1)).to(x.dtype).unsqueeze(-1)
    out = near @ x
    out += far * before.unsqueeze(-2)
    out += far.flip(0) * behind.unsqueeze(-2)
    return out.flatten(-3, -2)[..., :g, :].reshape(shape)


def _filtered(weight: torch.Tensor, x: torch.Tensor, grid: tuple[int, ...], log_alpha: float) -> torch.Tensor:
    """Maps (B, K, N, D): ``weight_k * x`` for every key channel of weight (B, N, K), filtered along all axes."""
    maps = (weight.transpose(1, 2).unsqueeze(-1) * x.unsqueeze(1)).unflatten(2, grid)
    for axis in range(-1 - len(grid), -1):
        maps = _filter(maps, axis, log_alpha)
    return maps.flatten(2, -2)


def _groups(x: torch.Tensor) -> list[slice]:
    """Slices of the key channels whose maps hold about ``BLOCK`` elements."""
    b, _, n, d = x.shape
    step = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // (b * n * d))
    return [slice(start, min(start + step, d)) for start in range(0, d, step)]


def _forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    acc, out, scale = torch.promote_types(q.dtype, torch.float32), token_first(q), q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        for h, log_alpha in enumerate(log_decays(q.shape[1])):
            qh, kh, vh = (t[:, h].to(acc) for t in (q, k, v))
            total = torch.zeros_like(vh)
            for i in _groups(q):
                total += (_filtered(kh[..., i], vh, grid, log_alpha) * qh[..., i].transpose(1, 2).unsqueeze(-1)).sum(1)
            out[:, h] = (total * scale).to(q.dtype)
    return out


class _Manhattan(torch.autograd.Function):
    """The separable form; its backward makes the maps again, a group at a time."""

    @staticmethod
    def forward(ctx: Any, q, k, v, grid: tuple[int, ...]) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.grid = grid
        return _forward(q, k, v, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        acc, scale = torch.promote_types(q.dtype, torch.float32), q.shape[-1] ** -0.5
        dq, dk, dv = token_first(q), token_first(k), token_first(v)
        with torch.autocast(q.device.type, enabled=False):
            for h, log_alpha in enumerate(log_decays(q.shape[1])):
                qh, kh, vh, gh = (t[:, h].to(acc) for t in (q, k, v, grad))
                gh = gh * scale
                total = torch.zeros_like(vh)
                for i in _groups(q):
                    # the filter is its own transpose
                    maps = _filtered(kh[..., i], vh, ctx.grid, log_alpha)
                    dq[:, h, :, i] = (maps * gh.unsqueeze(1)).sum(-1).transpose(1, 2).to(q.dtype)
                    maps = _filtered(qh[..., i], gh, ctx.grid, log_alpha)
                    dk[:, h, :, i] = (maps * vh.unsqueeze(1)).sum(-1).transpose(1, 2).to(k.dtype)
                    total += (maps * kh[..., i].transpose(1, 2).unsqueeze(-1)).sum(1)
                dv[:, h] = total.to(v.dtype)
        return dq, dk, dv, None
