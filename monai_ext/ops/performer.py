"""Performer attention: random features of the softmax kernel, FAVOR+ (Choromanski et al., arXiv 2009.14794, 2021).

Legend: B batch, H heads, N tokens, D channels of a head, M random features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from monai_ext.ops.shapes import check_qkv

FEATURES = ("exp", "relu")
# added to every feature, where nothing else is said
EPS = {"exp": 1e-4, "relu": 1e-3}
# Features of a block of tokens that are in memory at a time: what bounds the working memory. A CPU is fastest where
# they fit its cache.
BLOCK_CPU, BLOCK = 2**19, 2**24


def orthogonal_features(count: int, dim: int) -> torch.Tensor:
    """A random matrix (count, dim) with rows as long as normal vectors, orthogonal in blocks of ``dim`` rows."""
    blocks = []
    for start in range(0, count, dim):
        q, r = torch.linalg.qr(torch.randn(dim, dim))
        # with these signs the rotation is uniformly distributed
        blocks.append((q * r.diagonal().sign()).T[: count - start])
    return torch.randn(count, dim).norm(dim=1, keepdim=True) * torch.cat(blocks)


def performer_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    projection: torch.Tensor,
    feature: str = "exp",
    eps: float | None = None,
) -> torch.Tensor:
    """The definition with the (N, N) weights in memory, in the dtype of the inputs."""
    scale = q.shape[-1] ** -0.25
    q, k = scale * q, scale * k
    q_dash, k_dash = q @ projection.T, k @ projection.T
    if feature == "relu":
        q, k = F.relu(q_dash), F.relu(k_dash)
    else:
        q = torch.exp(q_dash - q.square().sum(-1, keepdim=True) / 2 - q_dash.amax(-1, keepdim=True))
        k = torch.exp(k_dash - k.square().sum(-1, keepdim=True) / 2 - k_dash.amax((-2, -1), keepdim=True))
    eps = EPS[feature] if eps is None else eps
    weights = (q + eps) @ (k + eps).transpose(-2, -1)
    return weights @ v / weights.sum(-1, keepdim=True)


def performer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    projection: torch.Tensor,
    feature: str = "exp",
    eps: float | None = None,
) -> torch.Tensor:
    """Non-causal linear attention with positive random features: ``f(q) (f(k)^T v) / (f(q) sum_N f(k))``.

    With w the rows of the projection and x scaled by D^-1/4, ``f(x) = exp(w x - |x|^2 / 2 - c) + 1e-4``: without c and
    the last term its inner products are, in the mean, those weights of a softmax that are to be approximated; c is the
    largest ``w x`` of the token for a query, and over all tokens of the sample and head for keys. ``"relu"`` has
    ``f(x) = max(w x, 0) + 1e-3`` instead. O(N M D) time. The features, M / D times the size of q, are made block by
    block and again in the backward, so memory is that of q, k, v and the output plus a bounded rest. Keys take one
    pass, in which the sums are rescaled as the largest exponent grows.

    The last term, eps, is 1e-4 in performer-pytorch and in the feature map of the authors' code, whose attention
    hands it 1e-6 (their ``numerical_stabilizer``). Since ``exp(w x - |x|^2 / 2 - c)`` is small for long x, the choice
    tells: the larger, the more such a token averages all values.

    Departures from performer-pytorch: the derivative includes that of c, on which f depends through the last term (as
    in the authors' JAX code). The largest exponent of the keys is one for each sample and head, as in its newer
    versions; older ones took it over the whole batch. Products and exponents are in float32 at least, also under
    autocast. Not twice differentiable; the projection gets no gradient.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        projection: random directions (M, D).
        feature: ``"exp"`` (the softmax kernel) or ``"relu"``.
        eps: added to every feature; by default 1e-4, for ``"relu"`` 1e-3.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, a projection of another
            width, an unknown feature, or an eps that is not above 0.
    """
    check_qkv(q, k, v)
    eps = check_feature(feature, eps)
    if projection.ndim != 2 or projection.shape[1] != q.shape[3] or not len(projection):
        raise ValueError(f"projection must be (M, D) with M >= 1, D = {q.shape[3]}, got {tuple(projection.shape)}.")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return _Performer.apply(q, k, v, projection.detach(), feature, eps)
    # outside of training no autograd function stands in the way of tracing and export
    return _forward(q, k, v, projection.detach(), feature, eps)[0]


def check_feature(feature: str, eps: float | None = None) -> float:
    """What is added to a feature: ``eps``, or the usual of its kind.

    Raises:
        ValueError: for any feature but those of ``FEATURES``, or an eps that is not above 0.
    """
    if feature not in FEATURES:
        raise ValueError(f"feature must be one of {', '.join(map(repr, FEATURES))}, got {feature!r}.")
    eps = EPS[feature] if eps is None else eps
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}: without it weights could add up to nothing.")
    return eps


def _blocks(x: torch.Tensor, features: int) -> list[tuple[slice, list[slice]]]:
    """Groups of samples and, within each, blocks of tokens, so that a block holds about ``BLOCK`` features."""
    b, h, n, _ = x.shape
    room = (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // max(1, h * features)
    group = min(b, max(1, room // n))
    step = min(n, max(1, room // max(1, group)))
    tokens = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    return [(slice(start, min(start + group, b)), tokens) for start in range(0, b, group)]


def _empty(x: torch.Tensor) -> torch.Tensor:
    """(B, H, N, D) whose memory is ordered (B, N, H, D), so that merging the heads needs no copy."""
    b, h, n, d = x.shape
    return x.new_empty((b, n, h, d)).transpose(1, 2)


def _with_one(v: torch.Tensor) -> torch.Tensor:
    """A further channel of ones: its sums are those of the weights."""
    return torch.cat([v, v.new_ones((*v.shape[:-1], 1))], -1)


def _exp(x: torch.Tensor, dash: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """``exp(w x - |x|^2 / 2 - top)`` in the place of ``dash = w x``, for x that is not scaled by D^-1/4."""
    return dash.sub_(x.square().sum(-1, keepdim=True) * (0.5 * x.shape[-1] ** -0.5) + top).exp_()


def _query_features(
    x: torch.Tensor, weight: torch.Tensor, feature: str, locate: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Features without eps (B, H, n, M), and for each token which one is the largest (slow, hence on demand)."""
    dash = x @ weight.T
    if feature == "relu":
        return dash.relu_(), None
    top, where = dash.max(-1, keepdim=True) if locate else (dash.amax(-1, keepdim=True), None)
    return _exp(x, dash, top), where


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, projection: torch.Tensor, feature: str, eps: float
) -> tuple[torch.Tensor, ...]:
    """Output, sums over tokens of f(k) (v, 1) (B, H, M, D + 1), largest exponent of the keys, its place (B, H)."""
    acc = torch.promote_types(q.dtype, torch.float32)
    h, d, m = q.shape[1], q.shape[3], len(projection)
    with torch.autocast(q.device.type, enabled=False):
        weight = d**-0.25 * projection.to(acc)
        out, totals, tops, places = _empty(q), [], [], []
        for group, tokens in _blocks(q, m):
            size = q[group].shape[0]
            total = weight.new_zeros((size, h, m, d + 1))
            plain = weight.new_zeros((size, h, 1, d + 1))
            top = weight.new_full((size, h, 1, 1), -torch.inf)
            place = torch.zeros((size, h, 1), dtype=torch.long, device=q.device)
            for at in tokens:
                x, y = k[group, :, at].to(acc).contiguous(), _with_one(v[group, :, at].to(acc))
                dash = x @ weight.T
                if feature == "relu":
                    e = dash.relu_()
                else:
                    largest, where = dash.flatten(2).max(-1, keepdim=True)
                    place = torch.where(largest > top.squeeze(-1), where + at.start * m, place)
                    new = torch.maximum(top, largest.unsqueeze(-1))
                    total = total * (top - new).exp()
                    top = new
                    e = _exp(x, dash, top)
                total = total + e.transpose(-2, -1) @ y
                plain = plain + y.sum(-2, keepdim=True)
            total = total + eps * plain
            offset = eps * total.sum(-2, keepdim=True)
            for at in tokens:
                e, _ = _query_features(q[group, :, at].to(acc).contiguous(), weight, feature, locate=False)
                y = e @ total + offset
                out[group, :, at] = (y[..., :-1] / y[..., -1:]).to(q.dtype)
            totals.append(total)
            tops.append(top)
            places.append(place)
    return out, torch.cat(totals), torch.cat(tops), torch.cat(places)


class _Performer(torch.autograd.Function):
    """Random features with a backward that makes them again, block by block."""

    @staticmethod
    def forward(ctx: Any, q, k, v, projection: torch.Tensor, feature: str, eps: float) -> torch.Tensor:
        out, total, top, place = _forward(q, k, v, projection, feature, eps)
        ctx.save_for_backward(q, k, v, projection, total, top, place)
        ctx.feature, ctx.eps = feature, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Notation: e the features without eps, y = f(q) total the sums of weights times (v, 1)
        q, k, v, projection, totals, tops, places = ctx.saved_tensors
        feature, m, d, acc = ctx.feature, len(projection), q.shape[3], totals.dtype
        eps = ctx.eps
        with torch.autocast(q.device.type, enabled=False):
            weight = d**-0.25 * projection.to(acc)
            dq, dk, dv = _empty(q), _empty(k), _empty(v)
            for group, tokens in _blocks(q, m):
                total, top, place = totals[group], tops[group], places[group]
                offset = eps * total.sum(-2, keepdim=True)
                d_total, d_sum = torch.zeros_like(total), torch.zeros_like(offset)
                for at in tokens:
                    x = q[group, :, at].to(acc).contiguous()
                    e, where = _query_features(x, weight, feature, locate=True)
                    y = e @ total + offset
                    g = grad[group, :, at].to(acc) / y[..., -1:]
                    g = torch.cat([g, -(g * y[..., :-1]).sum(-1, keepdim=True) / y[..., -1:]], -1)
                    d_total = d_total + e.transpose(-2, -1) @ g
                    d_sum = d_sum + g.sum(-2, keepdim=True)
                    dq[group, :, at], _ = _to_tokens(g @ total.transpose(-2, -1), e, x, weight, feature, where)
                d_total = d_total + eps * d_sum
                offset = eps * d_total[..., :-1].sum(-2, keepdim=True)
                d_top = torch.zeros_like(top)
                for at in tokens:
                    x, y = k[group, :, at].to(acc).contiguous(), _with_one(v[group, :, at].to(acc))
                    dash = x @ weight.T
                    e = dash.relu_() if feature == "relu" else _exp(x, dash, top)
                    dv[group, :, at] = e @ d_total[..., :-1] + offset
                    dk[group, :, at], along = _to_tokens(y @ d_total.transpose(-2, -1), e, x, weight, feature, None)
                    d_top = d_top - along
                if feature == "exp":
                    # the largest exponent is w x of one token
                    token = (place // m).unsqueeze(-1).expand(-1, -1, -1, d)
                    dk[group].scatter_add_(2, token, (d_top * weight[place % m]).to(dk.dtype))
        return dq, dk, dv, None, None, None


def _to_tokens(
    d_f: torch.Tensor,
    e: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    feature: str,
    where: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of tokens from that of their features, and that of what is subtracted from all exponents."""
    if feature == "relu":
        return d_f.mul_(e > 0) @ weight, d_f.new_zeros(())
    d_dash = d_f.mul_(e)
    along = d_dash.sum(-1, keepdim=True)
    if where is not None:
        d_dash.scatter_add_(-1, where, -along)
    return d_dash @ weight - (x.shape[-1] ** -0.5 * along) * x, along.sum(-2, keepdim=True)
