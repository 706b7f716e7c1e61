"""Histogram self-attention, channel by channel and bin by bin."""

from __future__ import annotations

import itertools
import math

import torch

OPTIONS = [{}, {"bins": 2, "qkv_bias": True}, {"bins": 7}]


def order(values):
    return sorted(range(len(values)), key=lambda i: values[i].item())


def lines(grid, axis):
    """The numbers of the tokens on each line along an axis."""
    number = {point: i for i, point in enumerate(itertools.product(*map(range, grid)))}
    for start in number:
        if start[axis] == 0:
            yield [number[(*start[:axis], j, *start[axis + 1 :])] for j in range(grid[axis])]


def depthwise(tokens, grid, weight, bias):
    """Three taps along each axis; the tokens are a list of (C) in the order of the grid."""
    points = list(itertools.product(*map(range, grid)))
    number = {point: i for i, point in enumerate(points)}
    out = []
    for point in points:
        total = torch.zeros_like(tokens[0]) if bias is None else bias
        for tap in itertools.product(*[range(3)] * len(grid)):
            source = tuple(p + t - 1 for p, t in zip(point, tap))
            if source in number:
                total = total + weight[(slice(None), 0, *tap)] * tokens[number[source]]
        out.append(total)
    return out


def size_of(row):
    """The L2 norm of a bin; one of zeros stays as it is."""
    return (row**2).sum() ** 0.5 if row.abs().sum() > 0 else row.new_ones(())


def attend(q, k, v, heads, temperature, places):
    """Lists of channels, each a list of N tokens or zeros; ``places`` lists the ranks of each bin."""
    d = len(q) // heads
    out = [[None] * len(channel) for channel in q]
    for h in range(heads):
        rows = [(c, place) for c in range(h * d, (h + 1) * d) for place in places]
        qs, ks, vs = (torch.stack([torch.stack([t[c][i] for i in place]) for c, place in rows]) for t in (q, k, v))
        qs, ks = ([row / size_of(row) for row in t] for t in (qs, ks))
        for number, (c, place) in enumerate(rows):
            cosines = [qs[number] @ key for key in ks]
            weights = (temperature[h] * torch.stack(cosines)).exp()
            mixed = weights @ vs / (weights.sum() + 1)
            for i, value in zip(place, mixed):
                out[c][i] = value
    return out


def one_sample(mixer, tokens, grid):
    n, dim = tokens.shape
    channels = [list(tokens[:, c]) for c in range(dim)]
    taken = {}
    for c in range(dim // 2):
        for axis in range(len(grid)):
            for line in lines(grid, axis):
                ranks = order([channels[c][i] for i in line])
                taken[c, axis, line[0]] = ranks
                for i, value in zip(line, [channels[c][line[r]] for r in ranks]):
                    channels[c][i] = value
    x = torch.stack([torch.stack(channel) for channel in channels], -1)
    matrix, bias = mixer.qkv.weight.flatten(1), mixer.qkv.bias
    five = [matrix @ token + (0 if bias is None else bias) for token in x]
    five = torch.stack(depthwise(five, grid, mixer.depthwise.weight, mixer.depthwise.bias))
    q1, k1, q2, k2, v = five.chunk(5, -1)

    bins = mixer.bins
    size = math.ceil(n / bins)
    ranked = [order(v[:, c]) for c in range(dim)]

    def by_rank(t):
        return [[t[i, c] for i in ranked[c]] + [t.new_zeros(())] * (bins * size - n) for c in range(dim)]

    q1, k1, q2, k2, v = map(by_rank, (q1, k1, q2, k2, v))
    temperature = mixer.temperature.flatten()
    near = [list(range(b * size, (b + 1) * size)) for b in range(bins)]
    spread = [list(range(b, bins * size, bins)) for b in range(bins)]
    one = attend(q1, k1, v, mixer.num_heads, temperature, near)
    two = attend(q2, k2, v, mixer.num_heads, temperature, spread)
    out = [[None] * dim for _ in range(n)]
    for c in range(dim):
        for rank, i in enumerate(ranked[c]):
            out[i][c] = one[c][rank] * two[c][rank]

    matrix, bias = mixer.proj.weight.flatten(1), mixer.proj.bias
    y = [matrix @ torch.stack(token) + (0 if bias is None else bias) for token in out]
    channels = [[token[c] for token in y] for c in range(dim)]
    for c in range(dim // 2):
        for axis in reversed(range(len(grid))):
            for line in lines(grid, axis):
                values = [channels[c][i] for i in line]
                for rank, place in enumerate(taken[c, axis, line[0]]):
                    channels[c][line[place]] = values[rank]
    return torch.stack([torch.stack(channel) for channel in channels], -1)


def reference(mixer, x, grid):
    return torch.stack([one_sample(mixer, tokens, grid) for tokens in x])
