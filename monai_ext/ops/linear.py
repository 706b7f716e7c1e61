"""Linear attention with the feature map elu + 1 (Katharopoulos et al., "Transformers are RNNs", 2020).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from monai_ext.ops.folded import folded_attention
from monai_ext.ops.shapes import check_qkv


def linear_attention_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """The definition with the (N, N) weights in memory, in the dtype of the inputs."""
    weights = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
    return weights @ v / weights.sum(-1, keepdim=True).clamp_min(eps * k.shape[-2])


def linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Non-causal linear attention: ``f(q) (f(k)^T v) / (f(q) sum_N f(k))`` with ``f(x) = elu(x) + 1``.

    O(N D^2) time and O(D^2) extra memory. Departures from the reference: sums over tokens are means, which changes
    nothing but keeps their size independent of N; the denominator is bounded from below by ``eps`` instead of having
    eps added, so that weights sum to exactly one wherever they do not vanish; products and means are in float32 at
    least, also under autocast.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        eps: smallest denominator, per token.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, or no tokens.
    """
    check_qkv(q, k, v)
    dtype, acc = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        # contiguous once, or each product would keep a copy of its own for the backward
        q, k, v = (t.to(acc).contiguous() for t in (q, k, v))
        q, k = _feature(q), _feature(k)
        product = k.transpose(-2, -1) @ v / k.shape[-2]
        denominator = q @ k.mean(-2).unsqueeze(-1)
        out = q @ product / denominator.clamp_min(eps)
    return out.to(dtype)


def linear_self_attention(
    x: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, heads: int, eps: float = 1e-6
) -> torch.Tensor:
    """``linear_attention`` of the projections of one set of tokens, then the output's projection, folded.

    Arguments and result as in ``monai_ext.ops.folded.folded_attention``.
    """
    return folded_attention(x, qkv, bias, out, heads, "elu + 1", eps)


def _feature(x: torch.Tensor) -> torch.Tensor:
    return _Feature.apply(x) if torch.is_grad_enabled() and x.requires_grad else F.elu(x) + 1


class _Feature(torch.autograd.Function):
    """elu + 1 that keeps its output, which the products keep anyway, and not its input as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        out = F.elu(x).add_(1)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        # the derivative is exp(x) = f(x) below 0 and 1 above
        return grad * ctx.saved_tensors[0].clamp_max(1)
