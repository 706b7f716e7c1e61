"""Linformer attention: keys and values projected along the tokens (Wang et al., arXiv 2006.04768, 2020).

Legend: B batch, H heads, N tokens, K rank (projected tokens), D channels of a head.
"""

from __future__ import annotations

import torch

from monai_ext.ops.shapes import check_qkv
from monai_ext.ops.softmax import softmax_attention


def linformer_attention_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_projection: torch.Tensor, value_projection: torch.Tensor
) -> torch.Tensor:
    """The definition, with the (N, K) weights in memory, in the dtype of the inputs."""
    k, v = key_projection.transpose(-2, -1) @ k, value_projection.transpose(-2, -1) @ v
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def linformer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_projection: torch.Tensor,
    value_projection: torch.Tensor,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Linformer attention: ``softmax(q (E^T k)^T / sqrt(D)) F^T v`` with matrices E and F of (N, K).

    O(N K D) time. The attention is fused, so no (N, K) weights are in memory, and the only tensors that grow with N
    beside q, k, v and the output are E and F. Projections and attention are in float32 at least, also under autocast:
    a projected token is a sum over all N.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        key_projection: E, (N, K) for all heads or (H, N, K).
        value_projection: F, of a shape as that of E.
        dropout_p: dropout of the attention weights. It applies whenever it is above 0: a caller passes 0 in eval mode.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, or projections of
            another number of tokens or heads.
    """
    check_qkv(q, k, v)
    for name, matrix in (("key_projection", key_projection), ("value_projection", value_projection)):
        if matrix.ndim not in (2, 3) or matrix.shape[:-1] not in (q.shape[2:3], q.shape[1:3]):
            raise ValueError(
                f"{name} must be (N, K) or (H, N, K) with H, N = {tuple(q.shape[1:3])}, got {tuple(matrix.shape)}."
            )
    dtype, acc = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, key_projection, value_projection = (t.to(acc) for t in (q, k, v, key_projection, value_projection))
        k, v = _project(k, key_projection), _project(v, value_projection)
        return softmax_attention(q, k, v, dropout_p=dropout_p).to(dtype)


def _project(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(B, H, N, D) with (N, K) or (H, N, K) to (B, H, K, D)."""
    if matrix.ndim == 3:
        return matrix.transpose(-2, -1) @ x
    b, h, n, d = x.shape
    # one product over the channels of all heads, on x as it lies in a joint projection of tokens
    tokens = x.transpose(1, 2).reshape(b, n, h * d)
    projected = torch.bmm(matrix.transpose(0, 1).expand(b, -1, -1), tokens)
    return projected.view(b, -1, h, d).transpose(1, 2)
