"""The N-dimensional Hyena operator of order 2 (Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive
Bias", arXiv 2309.13600, 2023; Hyena: Poli et al., 2023).

Legend: B batch, C channels, g1 .. gD the axes of the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from monai_ext.ops.implicit_convolution import ImplicitKernel, implicit_convolution
from monai_ext.ops.long_convolution import long_convolution, long_convolution_plain


def hyena_nd_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kernels: torch.Tensor | Sequence[torch.Tensor],
    skip: torch.Tensor,
    causal: bool = False,
) -> torch.Tensor:
    """The definition with direct sums."""
    z = mixed = k * v
    for kernel in [kernels] if isinstance(kernels, torch.Tensor) else kernels:
        mixed = long_convolution_plain(mixed, kernel, causal)
    return q * (mixed + skip.reshape(-1, *[1] * (q.ndim - 2)) * z)


def hyena_nd(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kernels: torch.Tensor | ImplicitKernel | Sequence[torch.Tensor],
    skip: torch.Tensor,
    causal: bool = False,
) -> torch.Tensor:
    """Two gates around a long convolution: ``q * (kernel (*) (k * v) + skip * (k * v))``.

    O(C N log N) time. Departure from the reference, whose FFT scales its convolution by 1/(2L) for a grid of side L:
    this is the true convolution, and the kernel carries all scaling.

    Args:
        q: the outer gate (B, C, g1 .. gD).
        k: the inner gate, same shape.
        v: what is convolved, same shape.
        kernels: a kernel as in ``long_convolution``, an implicit one, or several that are applied one after the other
            (the axes of a separable one).
        skip: weight (C,) of the way past the convolution.
        causal: whether the kernels hold the offsets 0 .. g - 1 alone.

    Returns:
        (B, C, g1 .. gD)

    Raises:
        ValueError: for q, k, v of different shapes, a skip that is not (C,), or kernels that do not fit the grid.
    """
    if q.ndim < 3 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            f"q, k and v must share one shape (B, C, *grid), got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}."
        )
    if tuple(skip.shape) != (q.shape[1],):
        raise ValueError(f"skip must be (C,) = ({q.shape[1]},), got {tuple(skip.shape)}.")
    z = mixed = k * v
    if isinstance(kernels, ImplicitKernel):
        return q * implicit_convolution(z, kernels, skip, causal)
    for kernel in [kernels] if isinstance(kernels, torch.Tensor) else kernels:
        mixed = long_convolution(mixed, kernel, causal)
    return q * (mixed + skip.to(z.dtype).reshape(-1, *[1] * (q.ndim - 2)) * z)


def corner_kernel(kernel: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of a causal kernel's mirror images, one for every corner from which an image can be read.

    To convolve the flipped image and flip the result back is to convolve with the flipped kernel; so a weighted sum
    over all corners is one convolution.

    Args:
        kernel: (C, g1 .. gD) for the offsets 0 .. g - 1.
        weights: (2^D,), in the order of itertools.product((0, 1), repeat=D), 1 for a flipped axis.

    Returns:
        (C, 2 g1 - 1 .. 2 gD - 1) for the offsets of either sign
    """
    grid = kernel.shape[1:]
    total = kernel.new_zeros(kernel.shape[0], *(2 * g - 1 for g in grid))
    for weight, flips in zip(weights, itertools.product((0, 1), repeat=len(grid))):
        image = kernel.flip([axis for axis, flip in enumerate(flips, start=1) if flip])
        sides = [(0, g - 1) if flip else (g - 1, 0) for g, flip in zip(grid, flips)]
        total = total + F.pad(weight * image, [p for side in reversed(sides) for p in side])
    return total
