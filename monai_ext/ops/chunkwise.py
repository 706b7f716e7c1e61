"""Attention with weights that fall off along the sequence, chunk by chunk in linear time.

What causal operators with a decay share: matrix memories (xLSTM) and retention (RetNet). Between chunks the past is
a state of I x J numbers, within a chunk the weights are a small matrix (Hua et al., "Transformer Quality in Linear
Time", 2022; Sun et al., arXiv 2307.08621, 2023).

Legend: B batch, H heads, N tokens, I channels of the inner product, J channels of what is summed, G chunks of a
block, L tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch

BACK, AHEAD, BOTH = "back", "ahead", "both"
# Tokens of a chunk, where the two products within it and the two with the state cost about the same.
CHUNK = 64
# Elements of an operand of a block of chunks that is worked on at a time: what bounds the working memory. A CPU is
# fastest where they fit its cache.
BLOCK_CPU, BLOCK = 2**17, 2**22

# gives the part (B, H, n, channels) of an operand that belongs to a slice of n tokens
Operand = Callable[[slice], torch.Tensor]


def wide(x: torch.Tensor) -> torch.dtype:
    """The dtype for the logarithms of decays, which are summed over all tokens: float64 where there is one."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def token_first(x: torch.Tensor) -> torch.Tensor:
    """An empty tensor like x (B, H, N, D) whose memory is ordered (B, N, H, D), so that merging heads is a view."""
    b, h, n, d = x.shape
    return x.new_empty((b, n, h, d)).transpose(1, 2)


def decayed_product(
    a: Operand, b: Operand, c: Operand, rows: torch.Tensor, columns: torch.Tensor, direction: str, size: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """``out_t = sum_s w_ts (a_t . b_s) c_s``, a block of tokens at a time.

    ``"back"``: the sum is over s <= t with ``w_ts = exp(rows_t - columns_s)``. ``"ahead"``: over s >= t with
    ``w_ts = exp(rows_s - columns_t)``, the transposed weights, so that the gradients of a product are products of
    the same kind. ``"both"``: over all s, for ``rows = columns`` that fall, ``w_ts = exp(-|rows_t - rows_s|)``; every
    block then comes twice, and its values are to be added.

    No exponent may be above 0: ``rows_t <= columns_s`` for s <= t. States are held relative to the smallest of the
    columns so far, which keeps every factor between 0 and 1 however strong the decays are. O(N (L + I) J) time; the
    working memory is a block's. To be called without autograd and autocast.

    Args:
        a: (B, H, N, I) by slices of tokens.
        b: (B, H, N, I).
        c: (B, H, N, J).
        rows: logarithms (B or 1, H, N), in the dtype ``wide``.
        columns: logarithms (B or 1, H, N).
        direction: "back", "ahead" or "both".
        size: elements per token of the largest operand, from which the block's size follows.

    Yields:
        slices of tokens, and the output (B, H, n, J) there
    """
    n, block = rows.shape[-1], BLOCK_CPU if rows.device.type == "cpu" else BLOCK
    step = max(1, block // (CHUNK * size)) * CHUNK
    whole = n - n % CHUNK
    bounds = [*range(0, whole, step), whole, n]
    spans = [(i, j) for i, j in pairwise(bounds) if i < j]
    lowest = columns.cummin(-1).values
    # before which token -> the smallest column so far; before the first one it belongs to an empty state
    edges = torch.cat((columns[..., :1], lowest), -1)
    for way in (BACK, AHEAD) if direction == BOTH else (direction,):
        state: torch.Tensor | None = None
        for start, stop in spans if way == BACK else reversed(spans):
            at, chunk = slice(start, stop), min(CHUNK, stop - start)
            chunks = (stop - start) // chunk
            # contiguous once, or each product would make copies of its own
            ta, tb, tc = (t(at).contiguous().unflatten(2, (chunks, chunk)) for t in (a, b, c))
            edge = edges[..., start : stop + 1 : chunk]
            x, y = (t[..., at].unflatten(-1, (chunks, chunk)) for t in (rows, columns))
            # relative to what a chunk begins with, so that little is lost where these are rounded
            x, y = ((t - edge[..., :-1, None]).to(ta.dtype) for t in (x, y))
            out = None
            if direction != BOTH or way == BACK:
                out = (ta @ tb.transpose(-2, -1)).mul_(_within(x, y, direction)) @ tc
            if n > CHUNK:
                inter, state = _between(ta, tb, tc, x, y, edge, way, state)
                out = inter if out is None else out.add_(inter)
            if out is not None:
                yield at, out.flatten(2, 3)


def _within(x: torch.Tensor, y: torch.Tensor, direction: str) -> torch.Tensor:
    """Weights (B, H, G, L, L) within chunks."""
    if direction == BACK:
        return (x.unsqueeze(-1) - y.unsqueeze(-2)).exp_().tril_()
    if direction == AHEAD:
        return (x.unsqueeze(-2) - y.unsqueeze(-1)).exp_().triu_()
    return (x.unsqueeze(-2) - y.unsqueeze(-1)).abs_().neg_().exp_()


def _between(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    edges: torch.Tensor,
    way: str,
    state: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What chunks get from those before (or ahead), and the state (B, H, 1, I, J) that the next block begins with."""
    step = (edges[..., 1:] - edges[..., :-1]).to(a.dtype).unsqueeze(-1)
    from_state, to_state = (x.exp(), (step - y).exp_()) if way == BACK else ((step - y).exp_(), x.exp())
    keep = (edges.unsqueeze(-1) - edges.unsqueeze(-2)).to(a.dtype).exp_().tril_()
    added = (b * to_state.unsqueeze(-1)).transpose(-2, -1) @ c
    if state is None:
        state = torch.zeros_like(added[:, :, :1])
    parts = (state, added) if way == BACK else (added, state)
    keep = keep if way == BACK else keep.transpose(-2, -1)
    states = (keep @ torch.cat(parts, 2).flatten(-2)).unflatten(-1, added.shape[-2:])
    read, state = (states[:, :, :-1], states[:, :, -1:]) if way == BACK else (states[:, :, 1:], states[:, :, :1])
    return (a * from_state.unsqueeze(-1)) @ read, state
