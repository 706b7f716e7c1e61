"""HyenaPixel, by sums over pairs of grid points."""

from __future__ import annotations

import itertools
import math

import torch

OPTIONS = [
    {"short_kernel": 5},
    {},
    {"kernel_size": 5, "norm": True},
    {"kernel_size": 7, "train_positions": False, "emb_dim": 4, "filter_order": 5, "short_kernel": 3},
]
# where positions are no parameters, the features of a further last axis come first; the short kernel's default is
# another in 3D
FLAT_OPTIONS = [{"short_kernel": 5}, {"kernel_size": 5, "norm": True, "short_kernel": 3}]


def lift(value, shape):
    """Features of a further axis (the last ones) are zero, and the kernel's middle holds what 2D has."""
    out = torch.zeros(shape, dtype=value.dtype)
    short = value.ndim > 1 and value.shape[1] == 1
    if value.ndim < len(shape):
        middle = shape[-1] // 2
        if short:
            out[..., middle] = value
        else:
            cut = (shape[1] - value.shape[1]) // 2
            if cut < 0:  # the 2D kernel is the larger one
                value = value[:, -cut:cut, -cut:cut]
            out[: len(value), :, :, middle] = value
    else:
        out[tuple(slice(size) for size in value.shape)] = value
    return out


def positions(filter_, place):
    """The features of one tap where they are no parameters."""
    found = []
    for at in reversed(place):
        for i in range(0, filter_.features, 2):
            rate = math.exp(-i * math.log(10000) / filter_.features)
            found += [math.sin(at * rate), math.cos(at * rate)]
    return torch.tensor(found, dtype=torch.float64)


def tap(filter_, offset):
    """The kernel at one offset, (C), or None beyond its reach."""
    place = tuple(o + filter_.size // 2 for o in offset)
    if not all(0 <= p < filter_.size for p in place):
        return None
    h = positions(filter_, place) if filter_.z is None else filter_.z[(slice(None), *place)]
    for number, layer in enumerate(filter_.layers):
        h = torch.sin(filter_.freqs[number] * layer(h))
    distance = math.sqrt(sum(o * o for o in offset))
    return filter_.out(h) * (torch.exp(-distance * filter_.deltas.abs()) + filter_.shift)


def normed(x, norm):
    mean = x.mean(-1, keepdim=True)
    return norm.weight * (x - mean) / (((x - mean) ** 2).mean(-1, keepdim=True) + norm.eps) ** 0.5


def reference(mixer, x, grid):
    points = list(itertools.product(*map(range, grid)))
    number = {point: i for i, point in enumerate(points)}
    taps = mixer.short.kernel_size[0]
    u = mixer.in_proj(x)
    short = []
    for point in points:
        total = mixer.short.bias.expand(len(x), -1)
        for at in itertools.product(*[range(taps)] * len(grid)):
            source = tuple(p + t - taps // 2 for p, t in zip(point, at))
            if source in number:
                total = total + mixer.short.weight[(slice(None), 0, *at)] * u[:, number[source]]
        short.append(total)
    q, k, v = torch.stack(short, 1).chunk(3, -1)
    z = q * k
    if mixer.qk_norm is not None:
        z = normed(z, mixer.qk_norm)
    kernel = {o: tap(mixer.filter, o) for o in itertools.product(*[range(1 - g, g) for g in grid])}
    out = []
    for p, point in enumerate(points):
        total = mixer.skip * z[:, p]
        for s, source in enumerate(points):
            value = kernel[tuple(a - b for a, b in zip(point, source))]
            if value is not None:
                total = total + value * z[:, s]
        out.append(v[:, p] * total)
    y = torch.stack(out, 1)
    return mixer.out_proj(y if mixer.out_norm is None else normed(y, mixer.out_norm))
