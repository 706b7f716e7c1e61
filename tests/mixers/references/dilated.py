"""Dilated attention, one branch, head and query at a time."""

from __future__ import annotations

import torch

OPTIONS = [
    {"segments": [4, 8, 13], "dilations": [1, 2, 3]},
    {},
    {"segments": [5, 30], "dilations": [1, 4], "causal": True, "qkv_bias": True},
    {"segments": [4, 8, 13], "dilations": [1, 2, 2], "offsets": "blocks"},
    {"segments": [3, 7, 64], "dilations": [1, 2, 4], "weight_gradient": True},
    # some tokens are read by no head
    {"segments": [6], "dilations": [4]},
]


def offset(mixer, head, r):
    if mixer.offsets == "cyclic":
        return head % r
    in_a_row = -(-mixer.num_heads // r)
    return head // in_a_row


def reference(mixer, x, grid):
    d, n = mixer.head_dim, x.shape[1]
    rows = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            at = slice(h * d, (h + 1) * d)
            outs = [[] for _ in range(n)]
            for w, r in zip(mixer.segments, mixer.dilations):
                for start in range(0, n, w):
                    read = list(range(start + offset(mixer, h, r), min(start + w, n), r))
                    for i in read:
                        seen = [m for m in read if m <= i or not mixer.causal]
                        weights = (k[seen, at] @ q[i, at] / d**0.5).exp()
                        outs[i].append((weights.sum(), weights @ v[seen, at] / weights.sum()))
            out = []
            for found in outs:
                sizes = [size if mixer.weight_gradient else size.detach() for size, _ in found]
                summed = sum(size / sum(sizes) * y for size, (_, y) in zip(sizes, found))
                out.append(summed if found else torch.zeros(d, dtype=x.dtype))
            heads.append(torch.stack(out))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
