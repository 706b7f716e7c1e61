"""Hyena along the raster, by sums over pairs of tokens.

``{"variant": "study"}`` is written from what the code of Hooper and Xue computes: filter coordinates over 66 000
tokens, causal, one filter for every channel of a head. Its features are those of the parameter ``filter.z``, whose
initial values a test compares with their formula.
"""

from __future__ import annotations

import math

import torch

OPTIONS = [
    {},
    {"variant": "study"},
    {"bidirectional": False, "order": 3, "emb_dim": 5},
    {"share_heads": True, "order": 3, "short_kernel": 5, "filter_order": 7},
    {"max_length": 40, "train_positions": True, "normalized": False},
    {"max_length": 50, "bidirectional": False},
]


def features(offset, length, emb_dim):
    """[t, Re exp(-i f w) .., Im exp(-i f w) ..]"""
    bands = (emb_dim - 1) // 2
    f = [1e-4 + (bands - 1 - 1e-4) * i / (bands - 1) if bands > 1 else 1e-4 for i in range(bands)]
    angles = [f_i * 2 * math.pi * offset / length for f_i in f]
    t = offset / (length - 1) if length > 1 else 0.0
    return torch.tensor([t, *[math.cos(a) for a in angles], *[-math.sin(a) for a in angles]], dtype=torch.float64)


def kernels(mixer, n):
    """offset -> (order - 1, width)"""
    f = mixer.filter
    length = mixer.max_length or n
    channels = len(mixer.skip)
    offsets = range(0 if mixer.causal else 1 - n, n)
    slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
    steps = [i / (channels - 1) if channels > 1 else 0 for i in range(channels)]
    delta = torch.tensor([abs(slow + (fast - slow) * s) for s in steps], dtype=torch.float64)
    found, envelopes = {}, {}
    for o in offsets:
        if f.z is None:
            h = features(o, length, f.emb_dim)
        else:
            h = f.z[o if mixer.causal else o + length - 1]
        for layer in f.layers:
            h = torch.sin(f.freq[0] * layer(h))
        envelopes[o] = torch.exp(-delta * abs(o) / (length - 1)) if length > 1 else torch.ones_like(delta)
        found[o] = f.out(h) * envelopes[o]
    if f.normalized:
        energy, total = sum(e**2 for e in envelopes.values()), sum(envelopes.values())
        found = {o: k / (energy + 0.1 * total**2) ** 0.5 for o, k in found.items()}
    return {o: k.reshape(mixer.order - 1, -1) for o, k in found.items()}


def reference(mixer, x, grid):
    b, n, c = x.shape
    taps, order = mixer.short_kernel, mixer.order
    u = mixer.in_proj(x)
    short = []
    for p in range(n):
        total = mixer.short.bias.expand(b, -1)
        for t in range(taps):
            source = p + t - (taps - 1 if mixer.causal else taps // 2)
            if 0 <= source < n:
                total = total + mixer.short.weight[:, 0, t] * u[:, source]
        short.append(total)
    short = torch.stack(short, 1)
    width = mixer.width
    kernel = kernels(mixer, n)
    heads = []
    for start in range(0, (order + 1) * c, (order + 1) * width):
        parts = [short[..., start + i * width : start + (i + 1) * width] for i in range(order + 1)]
        v = parts[-1]
        for i in range(order - 1):
            z = parts[i] * v
            out = []
            for p in range(n):
                total = mixer.skip.reshape(order - 1, width)[i] * z[:, p]
                for s in range(n):
                    if p - s in kernel:
                        total = total + kernel[p - s][i] * z[:, s]
                out.append(total)
            v = torch.stack(out, 1)
        heads.append(v * parts[order - 1])
    return mixer.out_proj(torch.cat(heads, -1))
