"""Vision Mamba: Mamba's loop on the tokens and on the tokens in reverse order."""

from __future__ import annotations

import torch

from tests.mixers.references.mamba import along_tokens, recur, silu

OPTIONS = [{}, {"divide_out": False, "d_state": 2}, {"d_conv": 3, "expand": 1}]


def reference(mixer, x, grid):
    inner = mixer.D.shape[0]
    rows = []
    for sample in x:
        both = sample @ mixer.in_proj.weight.T
        y = torch.zeros_like(both[:, :inner])
        for way, conv, projection, step, a_log, d in [
            (1, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D),
            (-1, mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b),
        ]:
            tokens = torch.stack([both[n, :inner] for n in range(len(both))[::way]])
            u = silu(along_tokens(tokens, conv.weight, conv.bias, 0))
            found = recur(u, projection.weight, step.weight, step.bias, a_log, d)
            y = y + torch.stack([found[n] for n in range(len(both))[::way]])
        y = y * silu(both[:, inner:])
        rows.append((y / 2 if mixer.divide_out else y) @ mixer.out_proj.weight.T)
    return torch.stack(rows)
