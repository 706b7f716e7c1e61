"""The matrix memory of xLSTM (Beck et al., "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, 2024).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from monai_ext.ops.chunkwise import AHEAD, BACK, BLOCK, BLOCK_CPU, decayed_pair, decayed_product, token_first, wide
from monai_ext.ops.shapes import check_qkv


def mlstm_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, i: torch.Tensor, f: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """The stabilised parallel form, with the (N, N) weights in memory, in the dtype of the inputs."""
    b = F.logsigmoid(f).cumsum(-1)
    log = b.unsqueeze(-1) - b.unsqueeze(-2) + i.unsqueeze(-2)
    ahead = torch.ones(log.shape[-2:], dtype=torch.bool, device=log.device).triu(1)
    log = log.masked_fill(ahead, -torch.inf)
    m = log.max(-1, keepdim=True).values
    weights = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 * torch.exp(log - m)
    n = torch.maximum(weights.sum(-1, keepdim=True).abs(), torch.exp(-m))
    return weights @ v / (n + eps)


def mlstm(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, i: torch.Tensor, f: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """The matrix memory with exponential input gates and sigmoid forget gates, causal, in chunks.

    With ``b_t = sum_{r <= t} log sigmoid(f_r)``, ``D_ts = b_t - b_s + i_s`` for s <= t and ``m_t = max_s D_ts``:

        C_ts = (q_t . k_s) / sqrt(D) exp(D_ts - m_t)
        h_t = sum_s C_ts v_s / (max(|sum_s C_ts|, exp(-m_t)) + eps)

    Each chunk of tokens takes what came before it from a D x D state that is held relative to the running maximum
    (see ``monai_ext.ops.chunkwise``). The logarithms are summed in float64, since after thousands of tokens little
    would be left of the differences of float32 sums. Where ``m_t < 0`` the weights are held as they are and not
    relative to the maximum, which changes nothing but that no exponential overflows. The backward computes weights
    and states again; kept are the inputs, the output and three numbers per token and head. O(N D (D + chunk)) time,
    memory linear in N. Not twice differentiable.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        i: input gates before the exponential (B, H, N).
        f: forget gates before the sigmoid (B, H, N).
        eps: added to the normaliser.

    Returns:
        (B, H, N, D) in the dtype of q; sums and products are in float32 at least, also under autocast

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, or gates of another
            shape.
    """
    check_qkv(q, k, v)
    expected = tuple(q.shape[:3])
    if tuple(i.shape) != expected or tuple(f.shape) != expected:
        raise ValueError(
            f"the gates i and f must be (B, H, N) = {expected}, got {tuple(i.shape)} and {tuple(f.shape)}."
        )
    with torch.autocast(q.device.type, enabled=False):
        high = wide(q)
        b = F.logsigmoid(f.to(high)).cumsum(-1)
        columns = b - i.to(high)
        m = b - columns.cummin(-1).values
        # what the weights are held relative to cancels, but for eps: nothing flows through it
        rows = b - m.detach().clamp_min(0)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, i, f)):
        return _MLSTM.apply(q, k, v, rows, columns, m, eps)
    return _forward(q, k, v, rows, columns, m, eps)[0]


def _extended(v: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """A further channel: that of the normaliser, or of its gradient."""
    return torch.cat((v, last.expand_as(v[..., :1])), -1)


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    m: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """Output, reciprocal normaliser and the sign with which the sum of weights enters it, or 0, (B, H, N, 1)."""
    acc = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        one, scale = torch.ones((), dtype=acc, device=q.device), q.shape[-1] ** -0.5
        out = token_first(q)
        reciprocal = torch.empty((*q.shape[:3], 1), dtype=acc, device=q.device)
        sign = torch.empty_like(reciprocal)
        floor, small = (t.exp().unsqueeze(-1).to(acc) for t in (-m.clamp_min(0), m.clamp_max(0)))
        for at, u in decayed_product(
            lambda at: q[:, :, at].to(acc) * scale,
            lambda at: k[:, :, at].to(acc),
            lambda at: _extended(v[:, :, at].to(acc), one),
            rows,
            columns,
            BACK,
            q[:, :, 0].numel(),
        ):
            u, total = u[..., :-1], u[..., -1:]
            sign[:, :, at] = total.sign() * (total.abs() > floor[:, :, at])
            r = 1 / (torch.maximum(total.abs(), floor[:, :, at]) + eps * small[:, :, at])
            reciprocal[:, :, at] = r
            out[:, :, at] = (u * r).to(q.dtype)
    return out, reciprocal, sign


class _MLSTM(torch.autograd.Function):
    """The chunkwise form; every gradient is a product of the same kind."""

    @staticmethod
    def forward(ctx: Any, q, k, v, rows, columns, m, eps: float) -> torch.Tensor:
        out, reciprocal, sign = _forward(q, k, v, rows, columns, m, eps)
        ctx.save_for_backward(q, k, v, rows, columns, m, out, reciprocal, sign)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Notation: u the sum of weighted values, n that of weights, h = u / d with the normaliser d.
        q, k, v, rows, columns, m, out, reciprocal, sign = ctx.saved_tensors
        acc, scale, size = reciprocal.dtype, q.shape[-1] ** -0.5, q[:, :, 0].numel()
        with torch.autocast(q.device.type, enabled=False):
            one = torch.ones((), dtype=acc, device=q.device)
            d_d = torch.empty_like(reciprocal)
            dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            d_rows, d_columns = torch.empty_like(m), torch.empty_like(m)

            def part(x: torch.Tensor) -> Any:
                return lambda at: x[:, :, at].to(acc)

            def d_u(at: slice) -> torch.Tensor:
                return grad[:, :, at].to(acc) * reciprocal[:, :, at]

            def d_u_n(at: slice) -> torch.Tensor:
                return _extended(d_u(at), d_d[:, :, at] * sign[:, :, at])

            def v_one(at: slice) -> torch.Tensor:
                return _extended(v[:, :, at].to(acc), one)

            step = max(1, (BLOCK if q.is_cuda else BLOCK_CPU) // size)
            for at in (slice(start, start + step) for start in range(0, q.shape[2], step)):
                d_d[:, :, at] = -(d_u(at) * out[:, :, at]).sum(-1, keepdim=True)
            # the product with the token's own operand is the gradient of the logarithm of its weights
            for at, x in decayed_product(d_u_n, v_one, part(k), rows, columns, BACK, size):
                x = x * scale
                dq[:, :, at] = x.to(q.dtype)
                d_rows[:, :, at] = (x * q[:, :, at]).sum(-1)
            for at, x, y in decayed_pair(v_one, part(k), d_u_n, part(q), rows, columns, AHEAD, size):
                x = x * scale
                dk[:, :, at] = x.to(k.dtype)
                d_columns[:, :, at] = -(x * k[:, :, at]).sum(-1)
                dv[:, :, at] = (y[..., :-1] * scale).to(v.dtype)
            d_m = d_d.squeeze(-1) * ctx.eps * m.clamp_max(0).exp()
        return dq, dk, dv, d_rows, d_columns, d_m, None
