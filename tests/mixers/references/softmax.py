"""Softmax attention, one query at a time."""

from __future__ import annotations

import torch

OPTIONS = [{}, {"qkv_bias": True}]


def reference(mixer, x, grid):
    d = mixer.head_dim
    rows = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            at = slice(h * d, (h + 1) * d)
            out = []
            for query in q[:, at]:
                weights = (k[:, at] @ query / d**0.5).exp()
                out.append(weights @ v[:, at] / weights.sum())
            heads.append(torch.stack(out))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
