"""N-dimensional Hyena, by a sum over all pairs of grid points."""

from __future__ import annotations

import itertools
import math

import torch

OPTIONS = [
    {},
    {"filter": "product", "qkv_bias": True},
    {"bidirectional": False},
    {"directions": "alternate"},
    {"directions": "alternate", "layer": 3, "filter": "product"},
    {"directions": "four"},
    {"directions": "four", "filter": "product"},
    {"directions": "alternate", "filter": "published", "max_length": 9},
    {"directions": "causal", "filter": "published_product", "max_length": 7},
    {"directions": "four", "filter": "published", "max_length": 7, "filter_layers": 1},
]
# a product has a filter more in a volume, with a gain of its own, and four corners are eight
FLAT_OPTIONS = [o for o in OPTIONS if o.get("filter") is None and o.get("directions") != "four"]


def tap(filter_, offset, grid, bidirectional):
    """The kernel of one implicit filter at one offset, (C)."""
    offset = [float(o) for o in offset]
    h = torch.tensor([math.copysign(math.log1p(abs(o)), o) for o in offset], dtype=torch.float64)
    for number, layer in enumerate(filter_.layers):
        h = layer(h)
        h = torch.sin(h if number else filter_.omega * h)
    decay = filter_.log_decay.exp()
    ranges = [range(1 - g if bidirectional else 0, g) for g in grid]
    reach = [sum(abs(o) for o in place) for place in itertools.product(*ranges)]
    energy = sum(torch.exp(-2 * decay * r) for r in reach)
    total = sum(torch.exp(-decay * r) for r in reach)
    gain = 1 / (energy + 0.1 * total**2) ** 0.5
    return filter_.out(h) * gain * torch.exp(-decay * sum(abs(o) for o in offset))


def published_tap(filter_, offset):
    """The authors' kernel at one offset, (C)."""
    length, channels = filter_.length, filter_.channels
    share = torch.tensor([c / (channels - 1) for c in range(channels)], dtype=torch.float64)
    delta = math.log(100) * (1 / 1.5 + (1 / 0.3 - 1 / 1.5) * share)
    rows = [filter_.z[o] for o in offset]
    kernel = torch.exp(-delta * sum(offset) / (length - 1)) / (2 * length)
    for network, out, h in zip(filter_.networks, filter_.outs, rows if filter_.product else [torch.cat(rows)]):
        for layer in network:
            h = torch.sin(filter_.freq[0] * layer(h))
        kernel = kernel * out(h)
    return kernel


def reference(mixer, x, grid):
    points = list(itertools.product(*map(range, grid)))
    number = {point: i for i, point in enumerate(points)}
    taps, half = mixer.short_kernel, mixer.short_kernel // 2
    u = mixer.qkv(x)
    short = []
    for point in points:
        total = mixer.short.bias
        for at in itertools.product(*[range(taps)] * len(grid)):
            source = tuple(p + t - (taps - 1 if mixer.causal else half) for p, t in zip(point, at))
            if source in number:
                total = total + mixer.short.weight[(slice(None), 0, *at)] * u[:, number[source]]
        short.append(total.expand(len(x), -1))
    q, k, v = torch.stack(short, 1).chunk(3, -1)
    z = k * v
    two_sided = mixer.directions == "two_sided"
    kernel = {}
    for offset in itertools.product(*[range(1 - g if two_sided else 0, g) for g in grid]):
        if mixer.published is not None:
            kernel[offset] = published_tap(mixer.published, offset)
        elif len(mixer.filters) == 1:
            kernel[offset] = tap(mixer.filters[0], offset, grid, two_sided)
        else:
            kernel[offset] = torch.ones(x.shape[-1], dtype=x.dtype)
            for filter_, o, g in zip(mixer.filters, offset, grid):
                kernel[offset] = kernel[offset] * tap(filter_, (o,), (g,), two_sided)
    if mixer.directions == "four":
        total = mixer.mix.bias
        for weight, flips in zip(mixer.mix.weight[0], itertools.product((1, -1), repeat=len(grid))):
            total = total + weight * gated(mixer, q, z, points, kernel, flips)
        return mixer.proj(total)
    flips = [-1 if mixer.backwards else 1] * len(grid)
    return mixer.proj(gated(mixer, q, z, points, kernel, flips))


def gated(mixer, q, z, points, kernel, flips):
    """The image read from the corner that the flips (-1) say."""
    out = []
    for p, point in enumerate(points):
        total = mixer.skip * z[:, p]
        for s, source in enumerate(points):
            offset = tuple(f * (a - b) for a, b, f in zip(point, source, flips))
            if offset in kernel:
                total = total + kernel[offset] * z[:, s]
        out.append(q[:, p] * total)
    return torch.stack(out, 1)
