"""The first level of the dual-tree complex wavelet transform by loops over taps, and complex numbers as such.

Filters: Kingsbury's near_sym_b, as decimals.
"""

from __future__ import annotations

import itertools

import torch

OPTIONS = [{}, {"num_blocks": 3}, {"mixing": "channel_token"}]

HALF_LOW = [-0.0017578125, 0.0, 0.022265625, -0.046875, -0.0482421875, 0.296875, 0.55546875]
HALF_HIGH = [
    -7.062639508928571e-05,
    0.0,
    0.0013419015066964285,
    -0.0018833705357142855,
    -0.007156808035714285,
    0.023856026785714284,
    0.05564313616071428,
    -0.05168805803571428,
    -0.29975760323660716,
    0.5594308035714286,
]


def taps(half, flip=False):
    """offset -> tap, with the signs of odd offsets turned for the synthesis"""
    m = len(half) - 1
    return {o: half[m - abs(o)] * (-1 if flip and o % 2 else 1) for o in range(-m, m + 1)}


def mirrored(i, n):
    """The point of 0 .. n - 1 of which i is a mirror image, edges repeated."""
    while not 0 <= i < n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


def filtered(x, filter_, axis):
    n = x.shape[axis]
    rows = [sum(v * x.select(axis, mirrored(i + o, n)) for o, v in filter_.items()) for i in range(n)]
    return torch.stack(rows, axis)


def cells(y):
    """The samples of each cell of two points an axis, of (B, C, *grid), by their corner."""
    dims = y.ndim - 2
    return {e: y[(..., *(slice(b, None, 2) for b in e))] for e in itertools.product((0, 1), repeat=dims)}


def analysed(x):
    """The low band, and for each of the other octants its complex bands."""
    dims, parts = x.ndim - 2, {(): x}
    for axis in range(dims):
        parts = {
            (*key, kind): filtered(p, taps(HALF_HIGH if kind else HALF_LOW), axis + 2)
            for key, p in parts.items()
            for kind in (0, 1)
        }
    low = parts.pop((0,) * dims)
    bands = {}
    for key, y in parts.items():
        for signs in itertools.product((1, -1), repeat=dims - 1):
            z = 0
            for e, sample in cells(y).items():
                factor = 1
                for s, b in zip((*signs, 1), e):
                    factor = factor * (s * 1j) ** b
                z = z + factor * sample
            bands[(*key, *signs)] = z / 2 ** ((dims - 1) / 2)
    return low, bands


def synthesised(low, bands):
    dims, parts = low.ndim - 2, {(0,) * (low.ndim - 2): low}
    for key in {k[:dims] for k in bands}:
        y = torch.zeros_like(low)
        for signs in itertools.product((1, -1), repeat=dims - 1):
            z = bands[(*key, *signs)]
            for e in itertools.product((0, 1), repeat=dims):
                factor = 1
                for s, b in zip((*signs, 1), e):
                    factor = factor * (s * 1j) ** b
                # the part of z that this sample went into
                share = (z * complex(factor).conjugate()).real / 2 ** ((dims - 1) / 2)
                y[(..., *(slice(b, None, 2) for b in e))] += share
        parts[key] = y
    for axis in reversed(range(dims)):
        merged = {}
        for key in {k[:axis] for k in parts}:
            both = [filtered(parts[(*key, k)], taps((HALF_HIGH, HALF_LOW)[k], True), axis + 2) for k in (0, 1)]
            merged[key] = both[0] + both[1]
        parts = merged
    return parts[()]


def relu(z):
    return torch.complex(z.real.relu(), z.imag.relu())


def as_complex(t):
    return torch.complex(t[0], t[1])


def blended(z, s):
    """Layers over the channels of each block, then, where there are any, over the places of each row."""
    size = z.shape[1] // s.num_blocks
    (w1, w2), (b1, b2) = ([as_complex(p) for p in group] for group in (s.weights, s.biases))
    out = []
    for k in range(s.num_blocks):
        h = z[:, k * size : (k + 1) * size]
        h = relu(torch.einsum("bi...,ij->bj...", h, w1[k]) + b1[k].reshape(-1, *[1] * (z.ndim - 2)))
        out.append(torch.einsum("bi...,ij->bj...", h, w2[k]) + b2[k].reshape(-1, *[1] * (z.ndim - 2)))
    z = torch.cat(out, 1)
    if len(s.row_weights):
        (w1, w2), (b1, b2) = ([as_complex(p) for p in group] for group in (s.row_weights, s.row_biases))
        rows = []
        for row in range(z.shape[2]):
            rows.append(relu(z[:, :, row] @ w1[row] + b1[row]) @ w2[row] + b2[row])
        z = torch.stack(rows, 2)
    return z


def scattered(x, s):
    grid = x.shape[2:]
    for axis, g in enumerate(grid, start=2):
        if g % 2:
            x = torch.cat([x, x.narrow(axis, g - 1, 1)], axis)
    low, bands = analysed(x)
    y = synthesised(low * s.low_weight, {key: blended(z, s) for key, z in bands.items()})
    return y[(..., *(slice(g) for g in grid))]


def reference(mixer, x, grid):
    b, _, c = x.shape
    u = x.transpose(1, 2).reshape(b, c, *grid)
    if getattr(mixer, "conv", None) is None:
        y = scattered(u, mixer.scattering)
    else:
        first = torch.zeros_like(u[:, : c // 2])
        for i, j in itertools.product(*map(range, grid)):
            total = mixer.conv.bias.expand(b, -1)
            for di, dj in itertools.product((-1, 0, 1), repeat=2):
                if 0 <= i + di < grid[0] and 0 <= j + dj < grid[1]:
                    total = total + mixer.conv.weight[:, 0, 1 + di, 1 + dj] * u[:, : c // 2, i + di, j + dj]
            first[:, :, i, j] = total
        second = scattered(u[:, c // 2 :], mixer.scattering)
        y = torch.stack([t for pair in zip(first.unbind(1), second.unbind(1)) for t in pair], 1)
    return y.flatten(2).transpose(1, 2)
