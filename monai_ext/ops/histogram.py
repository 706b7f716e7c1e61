"""Histogram self-attention: attention among the bins of sorted tokens (Sun et al., "Restoring Images in Adverse Weather
Conditions via Histogram Transformer", arXiv 2407.10172, 2024).

Legend: B batch, C channels, H heads, N tokens, f bins, n tokens of a bin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# smallest L2 norm of a bin
EPS = 1e-12


def softmax_1(logits: torch.Tensor) -> torch.Tensor:
    """``exp(l) / (1 + sum exp(l))`` along the last axis, for logits of any size.

    A softmax with one logit of 0 more, whose weight goes nowhere: the maximum that is subtracted includes this 0.
    """
    return F.pad(logits, (0, 1)).softmax(-1)[..., :-1]


def sort_axes(x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Sort a map (B, C, *grid) along its first spatial axis, then along the next, and so on, each channel by itself.

    Sorting is stable, so that equal values (air around a patient) keep their order.

    Returns:
        the sorted map, and for each axis the order that ``unsort_axes`` needs; gradients flow through the values
    """
    orders = []
    for axis in range(2, x.ndim):
        x, order = x.sort(dim=axis, stable=True)
        orders.append(order)
    return x, orders


def unsort_axes(x: torch.Tensor, orders: list[torch.Tensor]) -> torch.Tensor:
    """Bring every element of a map to the place that ``sort_axes`` took it from."""
    for axis in range(x.ndim - 1, 1, -1):
        x = torch.empty_like(x).scatter(axis, orders[axis - 2], x)
    return x


def histogram_attention_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, temperature: torch.Tensor, bins: int, frequency: bool
) -> torch.Tensor:
    """The definition: a list of rows a head, normalised copies, and every weight written out."""
    b, c, n = q.shape
    heads, size = temperature.numel(), -(-n // bins)
    d = c // heads
    padded = [F.pad(t, (0, bins * size - n)) for t in (q, k, v)]
    places = [slice(i, None, bins) if frequency else slice(i * size, (i + 1) * size) for i in range(bins)]
    samples = []
    for sample in range(b):
        out = torch.zeros_like(padded[2][0])
        for head in range(heads):
            rows = [(channel, place) for channel in range(head * d, (head + 1) * d) for place in places]
            qs, ks, vs = (torch.stack([t[sample, channel, place] for channel, place in rows]) for t in padded)
            qs, ks = F.normalize(qs, dim=-1, eps=EPS), F.normalize(ks, dim=-1, eps=EPS)
            weights = (qs @ ks.T * temperature.flatten()[head]).exp()
            mixed = weights / (weights.sum(-1, keepdim=True) + 1) @ vs
            for number, (channel, place) in enumerate(rows):
                out[channel, place] = mixed[number]
        samples.append(out[:, :n])
    return torch.stack(samples)


def histogram_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    temperature: torch.Tensor,
    bins: int,
    frequency: bool,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Attention among the C f / H bins of a head, each of them a vector of its n tokens.

    The tokens of every channel come sorted. Bins are neighbours in rank (``frequency=False``, the bin-wise form: each
    bin holds n tokens of similar value) or every f-th token (``frequency=True``, the frequency-wise form: each bin
    spans all values). Queries and keys are divided by their L2 norm over the n tokens, ``softmax_1(temperature q k^T)``
    weighs the values. O(N C^2 f / H) time, memory linear in N; norms are applied to the products, so that no
    normalised copies exist. Computed in float32 at least, also under autocast.

    Where N is no multiple of f, zeros are appended after the last rank, as the authors do; a bin of zeros only (there
    is one where N is small) then still counts exp(0) = 1 in the sums of weights. Departure from the authors' code:
    the maximum is subtracted in ``softmax_1``, which gives the same number and does not overflow.

    Args:
        q: queries (B, C, N), in the order of the values' ranks.
        k: keys (B, C, N), likewise.
        v: values (B, C, N), sorted along N.
        temperature: one factor a head, H in all; head h has the channels h C/H to (h + 1) C/H.
        bins: f.
        frequency: whether a bin takes every f-th token instead of neighbours.
        dropout_p: dropout of the weights. It applies whenever it is above 0: a caller passes 0 in eval mode.

    Returns:
        (B, C, N) in the dtype of v

    Raises:
        ValueError: for q, k, v of different or other than three-dimensional shapes, no tokens, heads that do not
            divide the channels, or less than one bin.
    """
    if q.ndim != 3 or q.shape != k.shape or q.shape != v.shape or not q.shape[2]:
        raise ValueError(
            f"q, k and v must share one shape (B, C, N) with N >= 1, got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}."
        )
    if q.shape[1] % temperature.numel():
        raise ValueError(f"{temperature.numel()} temperatures, one a head, do not divide {q.shape[1]} channels.")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    heads, n = temperature.numel(), q.shape[2]
    acc = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(v.device.type, enabled=False):
        q, k, values = (_to_bins(t.to(acc), heads, bins, frequency) for t in (q, k, v))
        q_norm, k_norm = (torch.linalg.vector_norm(t, dim=-1).clamp_min(EPS) for t in (q, k))
        factor = temperature.to(acc).reshape(heads, 1) / q_norm
        logits = q @ k.transpose(-2, -1) * factor.unsqueeze(-1) / k_norm.unsqueeze(-2)
        weights = softmax_1(logits)
        if dropout_p > 0:
            weights = F.dropout(weights, dropout_p)
        out = _from_bins(weights @ values, bins, frequency)
    return out[..., :n].to(v.dtype)


def _to_bins(x: torch.Tensor, heads: int, bins: int, frequency: bool) -> torch.Tensor:
    """(B, C, N) to (B, H, C / H * f, n)."""
    b, c, n = x.shape
    size = -(-n // bins)
    if size * bins > n:
        x = F.pad(x, (0, size * bins - n))
    if frequency:
        x = x.reshape(b, c, size, bins).transpose(-2, -1)
    return x.reshape(b, heads, c // heads * bins, size)


def _from_bins(x: torch.Tensor, bins: int, frequency: bool) -> torch.Tensor:
    """(B, H, C / H * f, n) to (B, C, f * n)."""
    b, heads, rows, size = x.shape
    x = x.reshape(b, heads * rows // bins, bins, size)
    if frequency:
        x = x.transpose(-2, -1)
    return x.flatten(2)
