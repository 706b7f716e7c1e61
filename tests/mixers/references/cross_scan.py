"""VMamba's cross scan, route by route as lists of grid points."""

from __future__ import annotations

import itertools

import torch

from tests.mixers.references.mamba import recur, silu

OPTIONS = [{}, {"d_state": 3, "expand": 1.5, "gate": True}, {"conv_bias": True, "d_conv": 1}]
FLAT = False  # an image has four routes, a volume six, whatever its size


def routes(grid):
    """Lists of points: for the last axis to the first as the fastest one, then the same backwards."""
    points = list(itertools.product(*map(range, grid)))
    found = []
    for fast in reversed(range(len(grid))):
        slow = [axis for axis in range(len(grid)) if axis != fast]
        found.append(sorted(points, key=lambda p, fast=fast, slow=slow: ([p[axis] for axis in slow], p[fast])))
    return found + [route[::-1] for route in found]


def convolved(mixer, x, grid):
    """One sample (N, E), zero-padded."""
    points = list(itertools.product(*map(range, grid)))
    number = {point: n for n, point in enumerate(points)}
    weight, half = mixer.conv.weight, mixer.conv.weight.shape[-1] // 2
    out = []
    for point in points:
        total = torch.zeros_like(x[0]) if mixer.conv.bias is None else mixer.conv.bias
        for tap in itertools.product(range(2 * half + 1), repeat=len(grid)):
            source = tuple(p + t - half for p, t in zip(point, tap))
            if source in number:
                total = total + weight[(slice(None), 0, *tap)] * x[number[source]]
        out.append(total)
    return torch.stack(out)


def reference(mixer, x, grid):
    points = list(itertools.product(*map(range, grid)))
    inner = mixer.conv.weight.shape[0]
    rows = []
    for sample in x:
        both = sample @ mixer.in_proj.weight.T
        u = silu(convolved(mixer, both[:, :inner], grid))
        total = {point: 0 for point in points}
        for k, route in enumerate(routes(grid)):
            at = slice(k * inner, (k + 1) * inner)
            y = recur(
                torch.stack([u[points.index(point)] for point in route]),
                mixer.x_proj_weight[k],
                mixer.dt_projs_weight[k],
                mixer.dt_projs_bias[k],
                mixer.A_logs[at],
                mixer.Ds[at],
            )
            for point, y_n in zip(route, y):
                total[point] = total[point] + y_n
        y = torch.stack([total[point] for point in points])
        mean = y.sum(-1, keepdim=True) / inner
        variance = ((y - mean) ** 2).sum(-1, keepdim=True) / inner
        y = (y - mean) / (variance + 1e-5) ** 0.5 * mixer.out_norm.weight + mixer.out_norm.bias
        if mixer.gate:
            y = y * silu(both[:, inner:])
        rows.append(y @ mixer.out_proj.weight.T)
    return torch.stack(rows)
