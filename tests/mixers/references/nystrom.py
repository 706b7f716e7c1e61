"""Nystroem attention with all its weights in memory, head by head and token by token."""

from __future__ import annotations

import torch

# grids of 4 to 30 tokens: fewer than the landmarks, as many, a multiple, and neither
OPTIONS = [
    {},
    {"landmarks": 4, "qkv_bias": True},
    {"landmarks": 7, "conv_kernel": 5},
    {"landmarks": 6, "segments": "padded", "conv_kernel": 0, "iterations": 3},
]


def weights(a, b):
    scores = torch.stack([b @ row for row in a]) / a.shape[-1] ** 0.5
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def means(x, count):
    """Of segments one after the other, the longer ones first."""
    out, start = [], 0
    for left in range(count, 0, -1):
        length = -(-(len(x) - start) // left)
        out.append(x[start : start + length].mean(0))
        start += length
    return torch.stack(out)


def inverse(a, steps):
    z = a.T / (a.abs().sum(0).max() * a.abs().sum(1).max())
    one = torch.eye(len(a), dtype=a.dtype)
    for _ in range(steps):
        z = 0.25 * z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z)))
    return z


def attend(mixer, q, k, v):
    n, m = len(q), mixer.landmarks
    if mixer.segments == "padded":
        zeros = torch.zeros(-n % m, q.shape[1], dtype=q.dtype)
        q, k, v = (torch.cat([zeros, t]) for t in (q, k, v))
    elif n <= m:
        return weights(q, k) @ v
    q_marks, k_marks = means(q, m), means(k, m)
    full = weights(q, k_marks) @ inverse(weights(q_marks, k_marks), mixer.iterations) @ weights(q_marks, k)
    return (full @ v)[-n:]


def convolve(kernel, v):
    half = len(kernel) // 2
    out = []
    for p in range(len(v)):
        taps = [(t, p + t - half) for t in range(len(kernel)) if 0 <= p + t - half < len(v)]
        out.append(sum(kernel[t] * v[s] for t, s in taps))
    return torch.stack(out)


def reference(mixer, x, grid):
    d = mixer.head_dim
    rows = []
    for sample in x:
        parts = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            q, k, v = (part[:, h * d : (h + 1) * d] for part in parts)
            out = attend(mixer, q, k, v)
            heads.append(out if mixer.conv is None else out + convolve(mixer.conv.weight[h, 0, :, 0], v))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
