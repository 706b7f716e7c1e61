"""A FasterKAN layer: bumps of every input channel, linearly combined (Delis, 2024; Liu et al., KAN, arXiv 2404.19756).

Legend: N tokens (any leading shape), C input channels, G grid points, E output channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# Bumps of a block of tokens that are in memory at a time: what bounds the working memory.
BLOCK_CPU, BLOCK = 2**20, 2**25


def kan_linear_plain(x: torch.Tensor, weight: torch.Tensor, centres: torch.Tensor, width: float) -> torch.Tensor:
    """The definition, with all bumps in memory: G times the size of x, and the same again in between."""
    bumps = 1 - torch.tanh((x.unsqueeze(-1) - centres) / width).square()
    return F.linear(bumps.flatten(-2), weight)


def kan_linear(x: torch.Tensor, weight: torch.Tensor, centres: torch.Tensor, width: float) -> torch.Tensor:
    """``y_e = sum_c sum_g weight[e, c G + g] (1 - tanh((x_c - centre_g) / width)^2)``.

    Every channel passes through a learnt function of its own for each output, a sum of G bumps. The bumps, G times the
    size of x, are made block by block and again in the backward: O(N C G E) time, memory of x and y plus a bounded
    rest. They are in float32 at least, also under autocast, where their linear combination is in its dtype.

    Args:
        x: (.., C), of values about as large as the centres (after a norm).
        weight: (E, C G), the grid points of a channel side by side.
        centres: grid points (G,).
        width: of a bump.

    Returns:
        (.., E)

    Raises:
        ValueError: for weights of another number of columns than C G.
    """
    channels, points = x.shape[-1], centres.shape[0]
    if weight.ndim != 2 or weight.shape[1] != channels * points:
        raise ValueError(f"weight must be (E, {channels * points}), got {tuple(weight.shape)}.")
    tokens = x.reshape(-1, channels)
    step = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // (channels * points))
    recompute = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    out = []
    for block in tokens.split(step):
        if recompute:
            y = checkpoint(_combine, block, weight, centres, width, use_reentrant=False, preserve_rng_state=False)
        else:
            y = _combine(block, weight, centres, width)
        out.append(y)
    return (torch.cat(out) if len(out) > 1 else out[0]).view(*x.shape[:-1], -1)


def _combine(x: torch.Tensor, weight: torch.Tensor, centres: torch.Tensor, width: float) -> torch.Tensor:
    acc = torch.promote_types(x.dtype, torch.float32)
    bumps = 1 - torch.tanh((x.to(acc).unsqueeze(-1) - centres.to(acc)) / width).square()
    return F.linear(bumps.flatten(-2).to(weight.dtype), weight)
