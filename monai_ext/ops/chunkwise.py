"""Attention with weights that fall off along the sequence, chunk by chunk in linear time.

What causal operators with a decay share: matrix memories (xLSTM) and retention (RetNet). Between chunks the past is
a state of I x J numbers, within a chunk the weights are a small matrix (Hua et al., "Transformer Quality in Linear
Time", 2022; Sun et al., arXiv 2307.08621, 2023).

Legend: B batch, H heads, N tokens, I channels of the inner product, J channels of what is summed, G chunks of a
block, L tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    state: torch.Tensor | None = None
    for block in _blocks(rows, columns, direction, size):
        ta, tb, tc = (block.chunks(t) for t in (a, b, c))
        out = None
        if block.whole:
            out = (ta @ tb.transpose(-2, -1)).mul_(block.weights(ta.dtype)) @ tc
        if rows.shape[-1] > CHUNK:
            reach, read, state = block.states(tb, tc, state)
            inter = (ta * reach) @ read
            out = inter if out is None else out.add_(inter)
        if out is not None:
            yield block.at, out.flatten(2, 3)


def decayed_pair(
    a: Operand,
    b: Operand,
    c: Operand,
    d: Operand,
    rows: torch.Tensor,
    columns: torch.Tensor,
    direction: str,
    size: int,
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """``sum_s w_ts (a_t . c_s) d_s`` and ``sum_s w_ts (b_t . d_s) c_s``: two products that share weights and states.

    The gradients of keys and values are such a pair. Everything else is as for ``decayed_product``.

    Args:
        a: (B, H, N, J) by slices of tokens.
        b: (B, H, N, I).
        c: (B, H, N, J).
        d: (B, H, N, I).
        rows: logarithms (B or 1, H, N).
        columns: logarithms (B or 1, H, N).
        direction: "back", "ahead" or "both".
        size: elements per token of the largest operand.

    Yields:
        slices of tokens, and the outputs (B, H, n, I) and (B, H, n, J) there
    """
    state: torch.Tensor | None = None
    for block in _blocks(rows, columns, direction, size):
        ta, tb, tc, td = (block.chunks(t) for t in (a, b, c, d))
        outs = None
        if block.whole:
            weights = block.weights(ta.dtype)
            outs = (
                (ta @ tc.transpose(-2, -1)).mul_(weights) @ td,
                (tb @ td.transpose(-2, -1)).mul_(weights) @ tc,
            )
        if rows.shape[-1] > CHUNK:
            reach, read, state = block.states(td, tc, state)
            inter = (ta * reach) @ read.transpose(-2, -1), (tb * reach) @ read
            outs = inter if outs is None else (outs[0].add_(inter[0]), outs[1].add_(inter[1]))
        if outs is not None:
            yield block.at, outs[0].flatten(2, 3), outs[1].flatten(2, 3)


def _blocks(rows: torch.Tensor, columns: torch.Tensor, direction: str, size: int) -> Iterator[_Block]:
    """The blocks in the order in which states are handed on; for "both" first those that look back."""
    n, block = rows.shape[-1], BLOCK_CPU if rows.device.type == "cpu" else BLOCK
    step = max(1, block // (CHUNK * size)) * CHUNK
    whole = n - n % CHUNK
    bounds = [*range(0, whole, step), whole, n]
    spans = [(i, j) for i, j in pairwise(bounds) if i < j]
    lowest = columns.cummin(-1).values
    # before which token -> the smallest column so far; before the first one it belongs to an empty state
    edges = torch.cat((columns[..., :1], lowest), -1)
    for way in (BACK, AHEAD) if direction == BOTH else (direction,):
        for number, (start, stop) in enumerate(spans if way == BACK else reversed(spans)):
            chunk = min(CHUNK, stop - start)
            edge = edges[..., start : stop + 1 : chunk]
            # relative to what a chunk begins with, so that little is lost where these are rounded
            x, y = (
                t[..., start:stop].unflatten(-1, (-1, chunk)) - edge[..., :-1].unsqueeze(-1) for t in (rows, columns)
            )
            yield _Block(
                slice(start, stop), chunk, x, y, edge, way, direction, number == 0, direction != BOTH or way == BACK
            )


@dataclass(frozen=True)
class _Block:
    """Neighbouring chunks of tokens: their weights, and the states that lead from one to the next."""

    at: slice
    chunk: int
    rows: torch.Tensor  # (B, H, G, L)
    columns: torch.Tensor
    edges: torch.Tensor  # (B, H, G + 1)
    way: str
    direction: str
    begins: bool  # nothing comes before it on its way
    whole: bool  # the weights within its chunks are due: for "both", once

    def chunks(self, operand: Operand) -> torch.Tensor:
        """(B, H, G, L, channels), contiguous once, or each product would make a copy of its own."""
        return operand(self.at).contiguous().unflatten(2, (-1, self.chunk))

    def weights(self, dtype: torch.dtype) -> torch.Tensor:
        """(B, H, G, L, L) within chunks."""
        x, y = self.rows.to(dtype), self.columns.to(dtype)
        if self.direction == BACK:
            return (x.unsqueeze(-1) - y.unsqueeze(-2)).exp_().tril_()
        if self.direction == AHEAD:
            return (x.unsqueeze(-2) - y.unsqueeze(-1)).exp_().triu_()
        return (x.unsqueeze(-2) - y.unsqueeze(-1)).abs_().neg_().exp_()

    def states(
        self, b: torch.Tensor, c: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What chunks take from those before (or ahead of) them.

        Args:
            b: (B, H, G, L, I).
            c: (B, H, G, L, J).
            state: sums of ``b_s c_s`` (B, H, 1, I, J) that the block before has left.

        Returns:
            the factors of the tokens (B, H, G, L, 1), the states that they read (B, H, G, I, J) and the one that the
            next block begins with
        """
        x, y, edges = self.rows.to(b.dtype), self.columns.to(b.dtype), self.edges
        step = (edges[..., 1:] - edges[..., :-1]).to(b.dtype).unsqueeze(-1)
        reach, kept = (x.exp(), (step - y).exp_()) if self.way == BACK else ((step - y).exp_(), x.exp())
        keep = (edges.unsqueeze(-1) - edges.unsqueeze(-2)).to(b.dtype).exp_().tril_()
        added = (b * kept.unsqueeze(-1)).transpose(-2, -1) @ c
        if state is None or self.begins:
            state = torch.zeros_like(added[:, :, :1])
        parts = (state, added) if self.way == BACK else (added, state)
        keep = keep if self.way == BACK else keep.transpose(-2, -1)
        states = (keep @ torch.cat(parts, 2).flatten(-2)).unflatten(-1, added.shape[-2:])
        if self.way == BACK:
            return reach.unsqueeze(-1), states[:, :, :-1], states[:, :, -1:]
        return reach.unsqueeze(-1), states[:, :, 1:], states[:, :, :1]
