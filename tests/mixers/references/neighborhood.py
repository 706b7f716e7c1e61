"""Neighbourhood attention, one query and one axis at a time."""

from __future__ import annotations

import itertools

import torch

OPTIONS = [
    {"kernel_size": 3},
    {},
    {"qkv_bias": True, "relative_position": True},
    {"kernel_size": 3, "dilation": 2, "relative_position": True},
    {"kernel_size": 1},
]
# without a kernel_size the windows, and so the tables of positions, are of other sizes in a volume
FLAT_OPTIONS = [o for o in OPTIONS if "kernel_size" in o]


def window(i, size, kernel, dilation):
    """Walks from the token outwards, one step on each side, and on the other where one side has ended."""
    found, before, after = [i], i - dilation, i + dilation
    for _ in range(kernel // 2):
        if before >= 0:
            found.append(before)
            before -= dilation
        if after < size:
            found.append(after)
            after += dilation
    while len(found) < kernel and (before >= 0 or after < size):
        if before >= 0:
            found.append(before)
            before -= dilation
        else:
            found.append(after)
            after += dilation
    return sorted(found)


def reference(mixer, x, grid):
    d = mixer.head_dim
    places = list(itertools.product(*(range(g) for g in grid)))
    rows = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            at = slice(h * d, (h + 1) * d)
            out = []
            for place in places:
                spans = [window(*axis) for axis in zip(place, grid, mixer.kernel_size, mixer.dilation)]
                seen = list(itertools.product(*spans))
                numbers = [places.index(other) for other in seen]
                scores = k[numbers, at] @ q[places.index(place), at] / d**0.5
                if mixer.rpb is not None:
                    steps = [
                        [(b - a) // r + k1 - 1 for a, b, r, k1 in zip(place, o, mixer.dilation, mixer.kernel_size)]
                        for o in seen
                    ]
                    scores = scores + torch.stack([mixer.rpb[(h, *step)] for step in steps])
                weights = scores.exp()
                out.append(weights @ v[numbers, at] / weights.sum())
            heads.append(torch.stack(out))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
