"""Retention with a double loop over tokens."""

from __future__ import annotations

import itertools

import torch

OPTIONS = [{}, {"bidirectional": False, "qkv_bias": True}, {"decay": "manhattan"}]


def distance(mixer, p, s, points):
    if mixer.decay == "manhattan":
        return sum(abs(a - b) for a, b in zip(points[p], points[s]))
    return abs(p - s)


def reference(mixer, x, grid):
    points, d = list(itertools.product(*map(range, grid))), mixer.head_dim
    samples = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            own, alpha, rows = slice(h * d, (h + 1) * d), 1 - 2 ** (-5 - h), []
            for p in range(len(points)):
                seen = range(len(points)) if mixer.bidirectional else range(p + 1)
                weights = [alpha ** distance(mixer, p, s, points) * (q[p, own] @ k[s, own]) / d**0.5 for s in seen]
                rows.append(sum(w * v[s, own] for w, s in zip(weights, seen)))
            heads.append(torch.stack(rows))
        out = torch.cat(heads, -1)
        centred = out - out.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        y = normed * mixer.norm.weight + mixer.norm.bias
        samples.append(mixer.proj(y * (1 + torch.erf(y / 2**0.5)) / 2))
    return torch.stack(samples)
