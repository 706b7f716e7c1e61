"""Local attention with zeros outside of the grid, one query and one position at a time."""

from __future__ import annotations

import itertools

import torch

OPTIONS = [
    {"kernel_size": 5},
    {},
    {"multi_head": True, "qkv_bias": True},
    {"kernel_size": 5, "dilation": 2},
]
# a volume with one slice has padding above and below it, which takes part in the softmax
FLAT = False


def reference(mixer, x, grid):
    h, d = (mixer.num_heads, mixer.dim // mixer.num_heads)
    places = list(itertools.product(*(range(g) for g in grid)))
    steps = list(
        itertools.product(*([(i - k // 2) * r for i in range(k)] for k, r in zip(mixer.kernel_size, mixer.dilation)))
    )
    rows = []
    for sample in x:
        parts = []
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        for j in range(h):
            at = slice(j * d, (j + 1) * d)
            out = []
            for i, place in enumerate(places):
                total, summed = 0.0, torch.zeros(d, dtype=x.dtype)
                for step in steps:
                    other = tuple(a + b for a, b in zip(place, step))
                    if other in places:
                        m = places.index(other)
                        weight = (q[i, at] @ k[m, at] / d**0.5).exp()
                        summed = summed + weight * v[m, at]
                        total = total + weight
                    else:
                        total = total + 1.0
                out.append(summed / total)
            parts.append(torch.stack(out))
        rows.append(torch.cat(parts, -1))
    return mixer.proj(torch.stack(rows))
