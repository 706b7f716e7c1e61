"""Softmax attention, one query at a time."""

from __future__ import annotations

import itertools

import torch

OPTIONS = [{}, {"qkv_bias": True}, {"position": "rotary"}, {"position": "relative"}]
# rotary positions give each axis its share of the channels
FLAT_OPTIONS = [o for o in OPTIONS if o.get("position") != "rotary"]
DIM, HEADS = 24, 3


def turned(vector, place, base):
    """Pairs of channels turned by angles that grow along each axis."""
    per_axis = len(vector) // (2 * len(place))
    out = list(vector)
    pair = 0
    for coordinate in place:
        for f in range(per_axis):
            angle = torch.tensor(coordinate * base ** (-f / per_axis), dtype=vector.dtype)
            a, b = vector[2 * pair], vector[2 * pair + 1]
            out[2 * pair] = a * angle.cos() - b * angle.sin()
            out[2 * pair + 1] = a * angle.sin() + b * angle.cos()
            pair += 1
    return torch.stack(out)


def reference(mixer, x, grid):
    d = mixer.head_dim
    places = list(itertools.product(*map(range, grid)))
    rows = []
    for sample in x:
        q, k, v = mixer.qkv(sample).chunk(3, -1)
        heads = []
        for h in range(mixer.num_heads):
            at = slice(h * d, (h + 1) * d)
            queries, keys = q[:, at], k[:, at]
            if mixer.position == "rotary":
                queries, keys = (
                    torch.stack([turned(t, p, mixer.rotary_base) for t, p in zip(side, places)])
                    for side in (queries, keys)
                )
            out = []
            for i, query in enumerate(queries):
                scores = keys @ query / d**0.5
                if mixer.position == "relative":
                    offsets = [[a - b + g - 1 for a, b, g in zip(places[i], p, grid)] for p in places]
                    scores = scores + torch.stack([mixer.table[(0, h, *o)] for o in offsets])
                weights = scores.exp()
                out.append(weights @ v[:, at] / weights.sum())
            heads.append(torch.stack(out))
        rows.append(torch.cat(heads, -1))
    return mixer.proj(torch.stack(rows))
