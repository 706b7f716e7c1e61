"""Convolutional projections tap by tap, and attention one query at a time."""

from __future__ import annotations

import itertools

import torch

from tests.mixers.references.reduced import attention, layer_norm

OPTIONS = [
    {},
    {"norm": "layer", "scale": "head_dim", "qkv_bias": True},
    {"kernel": 5, "stride_kv": 3},
    {"kernel": 1, "stride_kv": 1, "norm": "layer"},
]


def projected(part, x, grid, stride):
    points = list(itertools.product(*map(range, grid)))
    number = {point: i for i, point in enumerate(points)}
    taps = part.conv.weight.shape[-1]
    out = []
    for place in itertools.product(*[range(0, g, s) for g, s in zip(grid, stride)]):
        total = torch.zeros_like(x[:, 0])
        for tap in itertools.product(*[range(taps)] * len(grid)):
            point = tuple(p + t - taps // 2 for p, t in zip(place, tap))
            if point in number:
                total = total + part.conv.weight[(slice(None), 0, *tap)] * x[:, number[point]]
        out.append(total)
    y, norm = torch.stack(out, 1), part.norm
    if isinstance(norm, torch.nn.LayerNorm):
        return part.linear(layer_norm(y, norm))
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean = y.mean((0, 1))
        var = ((y - mean) ** 2).mean((0, 1))
    return part.linear((y - mean) / (var + norm.eps) ** 0.5 * norm.weight + norm.bias)


def reference(mixer, x, grid):
    stride = mixer.k.conv.stride
    q = projected(mixer.q, x, grid, (1,) * len(grid))
    k, v = projected(mixer.k, x, grid, stride), projected(mixer.v, x, grid, stride)
    scale = (mixer.dim if mixer.scale == "dim" else mixer.dim // mixer.num_heads) ** -0.5
    return mixer.proj(torch.stack([attention(*sample, mixer.num_heads, scale) for sample in zip(q, k, v)]))
