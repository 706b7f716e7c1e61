"""Linformer attention, one query at a time over keys and values that are summed token by token."""

from __future__ import annotations

import torch

OPTIONS = [{}, {"rank": 3, "qkv_bias": True}, {"rank": 4, "share": "kv"}, {"rank": 5, "share": "none"}]


def mixed(matrix, x):
    return torch.stack([sum(weight * token for weight, token in zip(column, x)) for column in matrix.T])


def reference(mixer, x, grid):
    d = mixer.head_dim
    to_keys = mixer.key_projection
    to_values = to_keys if mixer.value_projection is None else mixer.value_projection
    rows = []
    for sample in x:
        parts = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            q, k, v = (part[:, h * d : (h + 1) * d] for part in parts)
            e, f = (m[h] if m.ndim == 3 else m for m in (to_keys, to_values))
            k, v = mixed(e, k), mixed(f, v)
            weights = [(k @ query / d**0.5).exp() for query in q]
            heads.append(torch.stack([w @ v / w.sum() for w in weights]))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
