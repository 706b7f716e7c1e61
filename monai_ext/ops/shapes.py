"""The check that operators on queries, keys and values share."""

from __future__ import annotations

import torch


def check_qkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse what is not q, k and v of one shape (B, H, N, D) with at least one token.

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, or no tokens.
    """
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape or not q.shape[2]:
        raise ValueError(
            f"q, k and v must share one shape (B, H, N, D) with N >= 1, got {tuple(q.shape)}, {tuple(k.shape)} "
            f"and {tuple(v.shape)}."
        )
