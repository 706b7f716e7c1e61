"""A linear recurrence of first order, element by element, in place.

Legend: T steps.
"""

from __future__ import annotations

import itertools
import math

import torch


def recur_(x: torch.Tensor, decay: torch.Tensor, state: torch.Tensor, short: int, backwards: bool = False) -> None:
    """In place ``x_t += decay_t x_{t-1}`` along the first axis, or ``x_t += decay_t x_{t+1}`` from its end.

    Where a step has fewer than ``short`` elements, so that it costs its call and not its arithmetic, the axis is cut
    into about sqrt(T) chunks that are gone through side by side, each from zero; then the chunks' last elements are
    carried over, and what comes into each chunk is added with the product of the decays so far. Decays are multiplied
    only, never divided by, so that they may vanish.

    Args:
        x: (T, ...), contiguous but for parts cut off its axes; changed in place.
        decay: as x; not changed.
        state: (...), what comes before the first element, or, backwards, after the last.
        short: elements of a step below which chunks are made.
        backwards: from the last element to the first.
    """
    size = len(x)
    length = math.isqrt(size)
    if length < 4 or x[0].numel() >= short:
        pairs = list(zip(x.unbind(0), decay.unbind(0)))
        for x_t, decay_t in reversed(pairs) if backwards else pairs:
            x_t.addcmul_(decay_t, state)
            state = x_t
        return
    chunks = size // length
    whole = chunks * length
    main, rest = (
        (slice(size - whole, size), slice(0, size - whole)) if backwards else (slice(whole), slice(whole, size))
    )
    of_chunks = (chunks, length, *x.shape[1:])
    x_main, decay_main = x[main].view(of_chunks), decay[main].view(of_chunks)
    product = torch.empty_like(decay_main)
    order = list(range(length))
    sequence = list(range(chunks))
    if backwards:
        order.reverse()
        sequence.reverse()
    product[:, order[0]] = decay_main[:, order[0]]
    for before, t in itertools.pairwise(order):
        x_main[:, t].addcmul_(decay_main[:, t], x_main[:, before])
        torch.mul(product[:, before], decay_main[:, t], out=product[:, t])
    carry = torch.empty_like(x_main[:, 0])
    carry[sequence[0]] = state
    for before, k in itertools.pairwise(sequence):
        torch.addcmul(x_main[before, order[-1]], product[before, order[-1]], carry[before], out=carry[k])
    x_main.addcmul_(product, carry.unsqueeze(1))
    if whole < size:
        recur_(x[rest], decay[rest], x_main[sequence[-1], order[-1]], 0, backwards)
