"""Attention among DCT coefficients, each of them a sum over all tokens."""

from __future__ import annotations

import itertools
import math

import torch

from tests.mixers.references.reduced import attention

OPTIONS = [{}, {"keep": 0.3, "qkv_bias": True}, {"keep": 1}]


def wave(frequency, point, grid):
    """The value of a basis function at a point."""
    value = 1.0
    for u, j, g in zip(frequency, point, grid):
        value *= math.sqrt((1 if u == 0 else 2) / g) * math.cos(math.pi * (2 * j + 1) * u / (2 * g))
    return value


def reference(mixer, x, grid):
    points = list(itertools.product(*map(range, grid)))
    block = [math.ceil(share * g) for share, g in zip(mixer.keep, grid)]
    frequencies = list(itertools.product(*map(range, block)))
    samples = []
    for tokens in x:
        low = [sum(wave(f, p, grid) * tokens[i] for i, p in enumerate(points)) for f in frequencies]
        q, k, v = mixer.qkv(torch.stack(low)).chunk(3, -1)
        mixed = attention(q, k, v, mixer.num_heads, mixer.head_dim**-0.5)
        back = [sum(wave(f, p, grid) * mixed[i] for i, f in enumerate(frequencies)) for p in points]
        samples.append(torch.stack(back))
    return mixer.proj(torch.stack(samples))
