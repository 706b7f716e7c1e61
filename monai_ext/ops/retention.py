"""Retention (Sun et al., RetNet, arXiv 2307.08621, 2023) as in ViR (Hatamizadeh et al., arXiv 2310.19731, 2023).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_ext.ops.backends import choose_backend, why_not_cuda, why_not_installed
from monai_ext.ops.chunkwise import AHEAD, BACK, BOTH, Operand, decayed_pair, decayed_product, token_first, wide
from monai_ext.ops.shapes import check_qkv

FORMS = ("chunkwise", "parallel", "recurrent")
BACKENDS = ("fla",)


def log_decays(heads: int) -> list[float]:
    """``log alpha_h`` with ``alpha_h = 1 - 2^(-5 - h)``: heads that reach over 32, 64, 128 .. tokens."""
    return [math.log1p(-(2.0 ** (-5 - h))) for h in range(heads)]


def retention_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bidirectional: bool = False) -> torch.Tensor:
    """The parallel form, with the (N, N) weights in memory, in the dtype of the inputs."""
    at = torch.arange(q.shape[2], dtype=q.dtype, device=q.device)
    log = torch.tensor(log_decays(q.shape[1]), dtype=q.dtype, device=q.device)[:, None, None]
    decay = torch.exp(log * (at[:, None] - at).abs())
    if not bidirectional:
        decay = decay.tril()
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 * decay) @ v


def retention_recurrent(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bidirectional: bool = False) -> torch.Tensor:
    """The recurrent form, a token at a time: the state is ``S_n = alpha S_(n-1) + k_n v_n^T``, the output q_n S_n."""
    if bidirectional:
        back = retention_recurrent(*(t.flip(2) for t in (q, k, v))).flip(2)
        return retention_recurrent(q, k, v) + back - (q * k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5 * v
    alpha = torch.tensor(log_decays(q.shape[1]), dtype=q.dtype, device=q.device).exp()[:, None, None]
    state, out = torch.zeros((), dtype=q.dtype, device=q.device), []
    for q_n, k_n, v_n in zip(q.unbind(2), k.unbind(2), v.unbind(2)):
        state = alpha * state + k_n.unsqueeze(-1) * v_n.unsqueeze(-2)
        out.append((q_n.unsqueeze(-2) @ state).squeeze(-2) * q.shape[-1] ** -0.5)
    return torch.stack(out, 2)


def retention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bidirectional: bool = False,
    form: str = "chunkwise",
    backend: str = "auto",
) -> torch.Tensor:
    """Attention without a softmax, whose weights fall off exponentially with the distance along the sequence.

    ``o_n = sum_{m <= n} alpha_h^(n - m) (q_n . k_m) / sqrt(D) v_m`` with ``alpha_h = 1 - 2^(-5 - h)`` for the heads
    h = 0, 1 ..; bidirectional, the sum is over all m and the weight ``alpha_h^|n - m|`` (ours; the paper looks back
    only). Neither the paper's nor this operator normalises the weights: a norm is to follow.

    The chunkwise form runs in O(N D (D + chunk)) time with memory linear in N (``monai_ext.ops.chunkwise``); its
    backward is three products of the same kind as the forward and keeps q, k and v alone. Not twice differentiable.
    The parallel form is O(N^2), the recurrent one a loop over tokens: both are there to compare with, and compute in
    the dtype of the inputs.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        bidirectional: whether a token sees those after it, too.
        form: "chunkwise", "parallel" or "recurrent".
        backend: what runs the chunkwise form: ``"torch"``; ``"fla"``, flash-linear-attention's ``chunk_retention``
            for float16 and bfloat16 on CUDA; ``"auto"``, the latter where it can.

    Returns:
        (B, H, N, D) in the dtype of q; sums and products of the chunkwise form are in float32 at least, also under
        autocast

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, an unknown form, or a
            backend that is unknown or cannot run this.
    """
    check_qkv(q, k, v)
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}.")
    if form != "chunkwise":
        return (retention_plain if form == "parallel" else retention_recurrent)(q, k, v, bidirectional)
    known: dict[str, Callable[[], str | None]] = {"fla": lambda: _why_not_fla(q, k, v)}
    if choose_backend(backend, known) == "fla":
        return _fla(q, k, v, bidirectional)
    with torch.autocast(q.device.type, enabled=False):
        at = torch.arange(q.shape[2], dtype=wide(q), device=q.device)
        logs = at * torch.tensor(log_decays(q.shape[1]), dtype=wide(q), device=q.device).unsqueeze(-1)
    logs, direction = logs.unsqueeze(0), BOTH if bidirectional else BACK
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return _Retention.apply(q, k, v, logs, direction)
    return _product(q, k, v, logs, direction)


def _why_not_fla(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str | None:
    if q.dtype not in (torch.float16, torch.bfloat16) or k.dtype != q.dtype or v.dtype != q.dtype:
        return f"q, k and v must be float16 or bfloat16, got {q.dtype}: in others its products may be less exact."
    if q.shape[-1] > 256:
        return f"it takes heads of up to 256 channels, got {q.shape[-1]}."
    return why_not_cuda(q) or why_not_installed("fla")


def _fla(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    from fla.ops.retention import chunk_retention

    scale = q.shape[-1] ** -0.5

    def back(*qkv: torch.Tensor) -> torch.Tensor:
        # its order is (B, N, H, D), and it returns the last state as well
        return chunk_retention(*(t.transpose(1, 2).contiguous() for t in qkv), scale=scale)[0].transpose(1, 2)

    out = back(q, k, v)
    if not bidirectional:
        return out
    own = (q.float() * k.float()).sum(-1, keepdim=True) * scale * v
    return (out + back(*(t.flip(2) for t in (q, k, v))).flip(2) - own).to(q.dtype)


def _product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, logs: torch.Tensor, direction: str) -> torch.Tensor:
    """``sum_s w_ts (a_t . b_s) c_s / sqrt(D)`` in the dtype of c."""
    blocks = decayed_product(*map(_operand, (a, b, c)), logs, logs, direction, c[:, :, 0].numel())
    return _gathered(blocks, (c,), direction)[0]


def _pair(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, logs: torch.Tensor, direction: str
) -> list[torch.Tensor]:
    """``sum_s w_ts (a_t . c_s) d_s / sqrt(D)`` and ``sum_s w_ts (b_t . d_s) c_s / sqrt(D)``, like d and c."""
    blocks = decayed_pair(*map(_operand, (a, b, c, d)), logs, logs, direction, c[:, :, 0].numel())
    return _gathered(blocks, (d, c), direction)


def _operand(x: torch.Tensor) -> Operand:
    acc = torch.promote_types(x.dtype, torch.float32)
    return lambda at: x[:, :, at].to(acc)


def _gathered(blocks: Iterator[tuple], likes: tuple[torch.Tensor, ...], direction: str) -> list[torch.Tensor]:
    """The sums of what comes block by block, scaled, in the dtypes of the tensors that they are like."""
    scale = likes[0].shape[-1] ** -0.5
    # with two sweeps over the tokens the second one adds to the first
    accs = [t.dtype if direction != BOTH else torch.promote_types(t.dtype, torch.float32) for t in likes]
    outs = [token_first(t.new_empty((), dtype=acc).expand(t.shape)).zero_() for t, acc in zip(likes, accs)]
    with torch.autocast(likes[0].device.type, enabled=False):
        for at, *values in blocks:
            for out, value in zip(outs, values):
                out[:, :, at] += (value * scale).to(out.dtype)
    return [out.to(t.dtype) for out, t in zip(outs, likes)]


class _Retention(torch.autograd.Function):
    """The chunkwise form; every gradient is a product of the same kind, with the weights or their transpose."""

    @staticmethod
    def forward(ctx: Any, q, k, v, logs, direction: str) -> torch.Tensor:
        ctx.save_for_backward(q, k, v, logs)
        ctx.direction = direction
        return _product(q, k, v, logs, direction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, logs = ctx.saved_tensors
        transposed = BOTH if ctx.direction == BOTH else AHEAD
        dq = _product(grad, v, k, logs, ctx.direction)
        dk, dv = _pair(v, k, grad, q, logs, transposed)
        return dq, dk, dv, None, None
