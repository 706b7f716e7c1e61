"""Local attention over zero-padded windows, the attention of MSA-Conv (Zhang et al., TiC, arXiv 2310.04134, 2023).

Legend: B batch, H heads, N tokens, D channels of a head, g1 .. the axes of the grid, k1 .. those of the window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from monai_ext.ops.tiled_attention import check_window, tiled_attention


def local_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """The definition with a shifted copy of the padded keys and values a position, in the dtype of the inputs."""
    reach = [size // 2 * r for size, r in zip(kernel_size, dilation)]
    padding = [0, 0, *(side for size in reversed(reach) for side in (size, size))]
    k, v = (F.pad(t.unflatten(2, tuple(grid)), padding) for t in (k, v))
    places = [
        (..., *(slice(p * r, p * r + g) for p, r, g in zip(steps, dilation, grid)), slice(None))
        for steps in itertools.product(*(range(size) for size in kernel_size))
    ]
    weights = torch.stack([(q * k[at].flatten(2, -2)).sum(-1) for at in places], -1) * q.shape[-1] ** -0.5
    values = torch.stack([v[at].flatten(2, -2) for at in places], -2)
    return (weights.softmax(-1).unsqueeze(-1) * values).sum(-2)


def local_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """Softmax attention of each token to the k1 x k2 (x k3) positions around it, as a convolution sees them.

    ``softmax_p(q_i k_{i+p} / sqrt(D)) v_{i+p}`` over all positions p of the window, spread by the dilation. Where a
    position lies outside of the grid, key and value are zeros: its score is 0, and it takes part in the softmax, so
    near the borders the output shrinks. All such positions together are computed as one key of zeros whose score is
    the logarithm of their number.

    O(N K D) time with K = prod(k), times the share of masked scores of a tile; memory linear in N: q, k, v and their
    gradients, beside one block of scores (see ``monai_ext.ops.tiled_attention``). Not twice differentiable.

    Args:
        q: queries (B, H, N, D), in any strides; N is the row-major grid.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        grid: tokens along each axis.
        kernel_size: positions of the window along each axis, odd.
        dilation: distance between them along each axis.

    Returns:
        (B, H, N, D) in the dtype of q; scores and sums are in float32 at least, also under autocast

    Raises:
        ValueError: for shapes that do not fit each other, or even windows.
    """
    check_window(q, k, v, grid, kernel_size, dilation)
    return tiled_attention(q, k, v, grid, kernel_size, dilation, False)
