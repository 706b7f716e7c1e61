"""Attention on one key a block of the grid, one query at a time."""

from __future__ import annotations

import itertools

import torch

OPTIONS = [{}, {"reduction": 4, "qkv_bias": True}, {"reduction": 1}]


def lift(value, shape):
    """A kernel that is longer than its axis is applied from its first tap on."""
    out = torch.zeros(shape, dtype=value.dtype)
    out[(*[slice(None)] * value.ndim, *[0] * (len(shape) - value.ndim))] = value
    return out


def blocks(tokens, grid, weight, bias, reduction):
    """One token (C') for each block of a sample's tokens (N, C); the weight is (C', C, *block)."""
    number = {point: i for i, point in enumerate(itertools.product(*map(range, grid)))}
    out = []
    for corner in itertools.product(*[range(0, g, r) for g, r in zip(grid, reduction)]):
        total = bias
        for tap in itertools.product(*map(range, reduction)):
            point = tuple(c + t for c, t in zip(corner, tap))
            if point in number:
                total = total + weight[(slice(None), slice(None), *tap)] @ tokens[number[point]]
        out.append(total)
    return torch.stack(out)


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + norm.eps) ** 0.5 * norm.weight + norm.bias


def attention(q, k, v, heads, scale):
    """(N, H E), (M, H E) and (M, C) to (N, C)."""
    out = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        rows = []
        for query in q_h:
            weights = (scale * (k_h @ query)).exp()
            rows.append(weights @ v_h / weights.sum())
        out.append(torch.stack(rows))
    return torch.cat(out, -1)


def reference(mixer, x, grid):
    samples = []
    for tokens in x:
        few = tokens
        if max(mixer.reduction) > 1:
            few = blocks(tokens, grid, mixer.reduce.weight, mixer.reduce.bias, mixer.reduction)
            few = layer_norm(few, mixer.norm)
        k, v = mixer.kv(few).chunk(2, -1)
        samples.append(attention(mixer.q(tokens), k, v, mixer.num_heads, mixer.head_dim**-0.5))
    return mixer.proj(torch.stack(samples))
