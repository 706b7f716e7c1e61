"""Attention of all queries on fewer keys and values, and the convolution that makes them fewer (Wang et al., "Pyramid
Vision Transformer", arXiv 2102.12122, 2021; Perera et al., "SegFormer3D", arXiv 2404.10156, 2024).

Legend: B batch, H heads, N queries, M keys, E channels of a query in a head, D of a value, C channels, r1 .. rD the
axes of a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def reduced_attention_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """The definition, with all scores in memory: ``softmax(scale q k^T) v``."""
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.softmax(-1) @ v


def reduced_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None, dropout_p: float = 0.0
) -> torch.Tensor:
    """Fused softmax attention on M keys, whose channels may be fewer (or more) than those of the values.

    O(N M (E + D)) time, memory O(N + M). PyTorch's fused kernels for CPUs want one width for all three: the narrower
    of keys and values is padded with zeros, which changes no score and no value. With dropout PyTorch falls back on
    the whole score matrix on a CPU.

    Args:
        q: queries (B, H, N, E).
        k: keys (B, H, M, E).
        v: values (B, H, M, D).
        scale: factor of the scores; without it E^-0.5.
        dropout_p: dropout of the attention weights. It applies whenever it is above 0: a caller passes 0 in eval mode.

    Returns:
        (B, H, N, D)

    Raises:
        ValueError: for shapes that do not fit each other, or no keys.
    """
    fits = q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2] and k.shape[2] > 0
    if not fits or q.shape[-1] != k.shape[-1] or k.shape[2] != v.shape[2]:
        raise ValueError(
            "q, k and v must be (B, H, N, E), (B, H, M, E) and (B, H, M, D) with M >= 1, got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    e, d = q.shape[-1], v.shape[-1]
    scale = e**-0.5 if scale is None else scale
    if e < d:
        q, k = F.pad(q, (0, d - e)), F.pad(k, (0, d - e))
    elif d < e:
        v = F.pad(v, (0, e - d))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)[..., :d]


def block_convolution_plain(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, block: Sequence[int]
) -> torch.Tensor:
    """The definition: block by block, a sum over those of its tokens that lie in the grid."""
    grid, groups = x.shape[2:], x.shape[1] // weight.shape[1]
    reduced = [-(-g // r) for g, r in zip(grid, block)]
    out = []
    for place in itertools.product(*map(range, reduced)):
        total = x.new_zeros(x.shape[0], weight.shape[0])
        for tap in itertools.product(*map(range, block)):
            at = tuple(p * r + t for p, r, t in zip(place, block, tap))
            if all(a < g for a, g in zip(at, grid)):
                values = x[(..., *at)].unflatten(1, (groups, -1))
                taps = weight[(..., *tap)].unflatten(0, (groups, -1))
                total = total + torch.einsum("bgi,goi->bgo", values, taps).flatten(1)
        out.append(total if bias is None else total + bias)
    return torch.stack(out, -1).unflatten(-1, reduced)


def block_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, block: Sequence[int]
) -> torch.Tensor:
    """A convolution whose kernel and stride are one block, on any grid.

    Axes that the block does not divide are padded with zeros at their end, so that a block at the border sums over
    the tokens that it has, and every token belongs to exactly one block.

    Args:
        x: map (B, C, *grid).
        weight: (C', C / groups, r1 .. rD); the groups follow from the shape.
        bias: (C',) or None.
        block: r1 .. rD.

    Returns:
        (B, C', ceil(g1 / r1) .. ceil(gD / rD))
    """
    # tokens seen as a map lie channels last, with which these convolutions are slower on a CPU
    x = x.contiguous()
    ends = [-g % r for g, r in zip(x.shape[2:], block)]
    if any(ends):
        x = F.pad(x, [n for end in reversed(ends) for n in (0, end)])
    convolve = F.conv2d if len(block) == 2 else F.conv3d
    return convolve(x, weight, bias, stride=tuple(block), groups=x.shape[1] // weight.shape[1])
