"""Mamba, token by token and state by state; what the other selective mixers' references share."""

from __future__ import annotations

import torch

OPTIONS = [{}, {"d_state": 3, "d_conv": 2, "expand": 1.5}, {"d_conv": 1, "expand": 1}]


def silu(x):
    return x / (1 + torch.exp(-x))


def along_tokens(x, weight, bias, ahead):
    """One sample (N, E): taps (E, 1, k), of which the last ``ahead`` lie on later tokens."""
    taps = weight.shape[-1]
    out = []
    for n in range(len(x)):
        total = torch.zeros_like(x[0]) if bias is None else bias
        for k in range(taps):
            source = n + k - (taps - 1 - ahead)
            if 0 <= source < len(x):
                total = total + weight[:, 0, k] * x[source]
        out.append(total)
    return torch.stack(out)


def recur(u, projection, step_weight, step_bias, a_log, d):
    """The selective scan of one sample (N, E), first token first."""
    states, rank = a_log.shape[1], step_weight.shape[1]
    h = [torch.zeros_like(u[0]) for _ in range(states)]
    out = []
    for u_n in u:
        row = projection @ u_n
        dt = torch.log(1 + torch.exp(step_weight @ row[:rank] + step_bias))
        b, c = row[rank : rank + states], row[rank + states :]
        y = d * u_n
        for s in range(states):
            h[s] = torch.exp(-dt * torch.exp(a_log[:, s])) * h[s] + dt * b[s] * u_n
            y = y + c[s] * h[s]
        out.append(y)
    return torch.stack(out)


def reference(mixer, x, grid):
    rows = []
    for sample in x:
        inner = mixer.D.shape[0]
        both = sample @ mixer.in_proj.weight.T
        u = silu(along_tokens(both[:, :inner], mixer.conv1d.weight, mixer.conv1d.bias, 0))
        y = recur(u, mixer.x_proj.weight, mixer.dt_proj.weight, mixer.dt_proj.bias, mixer.A_log, mixer.D)
        rows.append((y * silu(both[:, inner:])) @ mixer.out_proj.weight.T)
    return torch.stack(rows)
