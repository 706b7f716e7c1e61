"""Nystroem attention with all its weights in memory, head by head and token by token."""

from __future__ import annotations

import torch

# grids of 4 to 30 tokens: fewer than the landmarks, as many, a multiple, and neither
OPTIONS = [
    {},
    {"landmarks": 4, "qkv_bias": True},
    {"landmarks": 7, "conv_kernel": 5},
    {"landmarks": 6, "segments": "padded", "conv_kernel": 0, "iterations": 3},
    {"landmarks": 3, "inverse_start": "batch"},
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


def norms(a):
    return a.abs().sum(0).max(), a.abs().sum(1).max()


def inverse(a, steps, column, row):
    z = a.T / (column * row)
    one = torch.eye(len(a), dtype=a.dtype)
    for _ in range(steps):
        z = 0.25 * z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z)))
    return z


def pad(mixer, q, k, v):
    if mixer.segments == "even":
        return q, k, v
    zeros = torch.zeros(-len(q) % mixer.landmarks, q.shape[1], dtype=q.dtype)
    return tuple(torch.cat([zeros, t]) for t in (q, k, v))


def between(mixer, q, k):
    return weights(means(q, mixer.landmarks), means(k, mixer.landmarks))


def attend(mixer, q, k, v, largest):
    n, m = len(q), mixer.landmarks
    if mixer.segments == "even" and n <= m:
        return weights(q, k) @ v
    q, k, v = pad(mixer, q, k, v)
    middle = between(mixer, q, k)
    inner = inverse(middle, mixer.iterations, *(norms(middle) if largest is None else largest))
    return (weights(q, means(k, m)) @ inner @ weights(means(q, m), k) @ v)[-n:]


def convolve(kernel, v):
    half = len(kernel) // 2
    out = []
    for p in range(len(v)):
        taps = [(t, p + t - half) for t in range(len(kernel)) if 0 <= p + t - half < len(v)]
        out.append(sum(kernel[t] * v[s] for t, s in taps))
    return torch.stack(out)


def reference(mixer, x, grid):
    d = mixer.head_dim
    samples = []
    for sample in x:
        parts = mixer.qkv(sample).chunk(3, -1)
        samples.append([[part[:, h * d : (h + 1) * d] for part in parts] for h in range(mixer.num_heads)])
    largest = None
    if mixer.inverse_start == "batch" and x.shape[1] > mixer.landmarks:
        of_all = [norms(between(mixer, *pad(mixer, *qkv)[:2])) for heads in samples for qkv in heads]
        largest = [torch.stack(kind).max() for kind in zip(*of_all)]
    rows = []
    for sample in samples:
        heads = []
        for h, (q, k, v) in enumerate(sample):
            out = attend(mixer, q, k, v, largest)
            heads.append(out if mixer.conv is None else out + convolve(mixer.conv.weight[h, 0, :, 0], v))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
