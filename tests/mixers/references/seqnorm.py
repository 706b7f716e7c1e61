"""Attention with q, k and v standardised over the tokens, by the (N, N) matrix of scores."""

from __future__ import annotations

import torch

OPTIONS = [{}, {"scale": "sqrt_n"}]


def standardised(x, weight, bias, eps):
    centred = x - x.sum(0) / len(x)
    return weight * centred / ((centred**2).sum(0) / len(x) + eps) ** 0.5 + bias


def reference(mixer, x, grid):
    d, n = mixer.head_dim, x.shape[1]
    factor = {"n": 1 / n, "sqrt_n": 1 / n**0.5}[mixer.scale]
    rows = []
    for sample in x:
        parts = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            q, k, v = (
                standardised(part[:, h * d : (h + 1) * d], mixer.norm_weight[i, h], mixer.norm_bias[i, h], mixer.eps)
                for i, part in enumerate(parts)
            )
            heads.append(factor * (q @ k.T) @ v)
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
