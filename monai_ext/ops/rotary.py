"""Rotary positions on a grid (Su et al., "RoFormer", arXiv 2104.09864, 2021; axial, as Heo et al., 2024, for images).

Legend: B batch, H heads, N tokens, D channels of a head, F pairs of channels an axis has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def rotary_angles(grid: Sequence[int], head_dim: int, base: float, like: torch.Tensor) -> torch.Tensor:
    """The angle of every token and pair of channels (N, dims F), F = head_dim / (2 dims), in radians.

    Along each axis the pairs of that axis turn by ``coordinate * base^(-f / F)``, f = 0 .. F - 1.
    """
    per_axis = head_dim // (2 * len(grid))
    acc = torch.promote_types(like.dtype, torch.float32)
    frequency = base ** (-torch.arange(per_axis, device=like.device, dtype=acc) / max(per_axis, 1))
    places = torch.meshgrid(*(torch.arange(g, device=like.device, dtype=acc) for g in grid), indexing="ij")
    return torch.cat([place.flatten()[:, None] * frequency for place in places], -1)


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn the pairs of channels (2p, 2p + 1) of ``x`` (B, H, N, D) by ``angles`` (N, P); channels beyond 2P stay.

    Scores of turned queries and keys depend on positions by their difference alone. In float32 at least.
    """
    turned = 2 * angles.shape[-1]
    pairs = x[..., :turned].to(angles.dtype).unflatten(-1, (-1, 2))
    cos, sin = angles.cos(), angles.sin()
    a, b = pairs.unbind(-1)
    out = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
    return torch.cat([out, x[..., turned:]], -1) if turned < x.shape[-1] else out
