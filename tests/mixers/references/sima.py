"""SimA, channel by channel."""

from __future__ import annotations

import torch

OPTIONS = [{}, {"qkv_bias": True}]


def reference(mixer, x, grid):
    d = mixer.head_dim
    rows = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        out = torch.zeros_like(v)
        for h in range(mixer.num_heads):
            for c in range(h * d, (h + 1) * d):
                scores = torch.outer(q[:, c] / q[:, c].abs().sum(), k[:, c] / k[:, c].abs().sum())
                share = torch.zeros_like(v)
                share[:, h * d : (h + 1) * d] = scores @ v[:, h * d : (h + 1) * d]
                out = out + share
        rows.append(out)
    return mixer.proj(torch.stack(rows))
