"""Vision-LSTM's layer, token by token, with the (N, N) weights of the memory."""

from __future__ import annotations

import itertools
import math

import torch

OPTIONS = [
    {},
    {"layer": 1},
    {"direction": "both", "expand": 1},
    {"direction": "forward", "conv": "causal1d", "proj_bias": False},
    {"direction": "backward", "conv": "causal1d", "qkv_block": 3},
    {"conv_kernel": 5, "qkv_block": 2},
]


def silu(x):
    return x / (1 + torch.exp(-x))


def lift(value, shape):
    """A kernel of 3 x 3 taps in the middle of one of 3 x 3 x 3."""
    if value.ndim == len(shape):
        return value
    out = torch.zeros(shape, dtype=value.dtype)
    out[..., shape[-1] // 2] = value
    return out


def blocks(proj, x):
    size = proj.weight.shape[-1]
    out = torch.cat([w @ x[i * size : (i + 1) * size] for i, w in enumerate(proj.weight)])
    return out if proj.bias is None else out + proj.bias


def convolved(conv, xs, grid):
    out = []
    if isinstance(conv, torch.nn.Conv1d):
        taps = conv.weight.shape[-1]
        for t in range(len(xs)):
            back = [(j, t - (taps - 1) + j) for j in range(taps)]
            out.append(conv.bias + sum(conv.weight[:, 0, j] * xs[s] for j, s in back if s >= 0))
        return out
    points = list(itertools.product(*map(range, grid)))
    number = {point: n for n, point in enumerate(points)}
    for point in points:
        total = conv.bias
        for tap in itertools.product(*map(range, conv.weight.shape[2:])):
            source = tuple(p + j - k // 2 for p, j, k in zip(point, tap, conv.weight.shape[2:]))
            if source in number:
                total = total + conv.weight[(slice(None), 0, *tap)] * xs[number[source]]
        out.append(total)
    return out


def memory(q, k, v, i, f):
    """One head: lists of vectors and of gates."""
    keys, values, logs, out = torch.stack(k), torch.stack(v), torch.zeros(0, dtype=q[0].dtype), []
    for t in range(len(q)):
        logs = torch.cat((logs + torch.log(1 / (1 + torch.exp(-f[t]))), i[t : t + 1]))
        m = logs.max()
        weights = keys[: t + 1] @ q[t] / math.sqrt(len(q[t])) * torch.exp(logs - m)
        normaliser = torch.maximum(weights.sum().abs(), torch.exp(-m)) + 1e-6
        out.append(weights @ values[: t + 1] / normaliser)
    return out


def run(mixer, tokens, grid):
    """One sample, forward along the raster."""
    heads, e = mixer.num_heads, mixer.learnable_skip.numel()
    up = [mixer.proj_up(t) for t in tokens]
    xs, zs = [u[:e] for u in up], [u[e:] for u in up]
    cs = [silu(a) for a in convolved(mixer.conv, xs, grid)]
    q, k = ([blocks(p, c) for c in cs] for p in (mixer.q_proj, mixer.k_proj))
    v = [blocks(mixer.v_proj, x) for x in xs]
    joint = [torch.cat(parts) for parts in zip(q, k, v)]
    gates = [torch.stack([gate(j) for j in joint]).T for gate in (mixer.igate, mixer.fgate)]
    found = []
    for h in range(heads):
        own = slice(h * e // heads, (h + 1) * e // heads)
        found.append(memory(*([t[own] for t in ts] for ts in (q, k, v)), *(g[h] for g in gates)))
    out = []
    for t, c in enumerate(cs):
        parts = []
        for h in range(heads):
            x = found[h][t]
            parts.append((x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5))
        normed = torch.cat(parts) * (1 + mixer.outnorm.weight) + mixer.outnorm.bias
        out.append(mixer.proj_down((normed + mixer.learnable_skip * c) * silu(zs[t])))
    return torch.stack(out)


def reference(mixer, x, grid):
    samples = []
    for tokens in x:
        runs = []
        if mixer.direction != "backward":
            runs.append(run(mixer, tokens, grid))
        if mixer.direction != "forward":
            runs.append(run(mixer, tokens.flip(0), grid).flip(0))
        samples.append(sum(runs) / len(runs))
    return torch.stack(samples)
