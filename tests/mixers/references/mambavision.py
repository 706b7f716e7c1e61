"""MambaVision's mixer, token by token."""

from __future__ import annotations

import torch

from tests.mixers.references.mamba import along_tokens, recur, silu

OPTIONS = [{}, {"double_dt_bias": True, "d_conv": 4}, {"bidirectional": True, "d_state": 3}, {"expand": 2, "d_conv": 1}]


def reference(mixer, x, grid):
    half = mixer.D.shape[0]
    bias = mixer.dt_proj.bias + (mixer.dt_proj.bias if mixer.double_dt_bias else 0)
    rows = []
    for sample in x:
        both = sample @ mixer.in_proj.weight.T
        ahead = {1: 0, 3: 1, 4: 2}[mixer.conv1d_x.weight.shape[-1]]
        u = silu(along_tokens(both[:, :half], mixer.conv1d_x.weight, None, ahead))
        z = silu(along_tokens(both[:, half:], mixer.conv1d_z.weight, None, ahead))
        y = recur(u, mixer.x_proj.weight, mixer.dt_proj.weight, bias, mixer.A_log, mixer.D)
        if mixer.bidirectional:
            back = recur(u.flip(0), mixer.x_proj.weight, mixer.dt_proj.weight, bias, mixer.A_log, mixer.D).flip(0)
            y = torch.cat([y[:, : half // 2], back[:, half // 2 :]], -1)
        rows.append(torch.cat([y, z], -1) @ mixer.out_proj.weight.T)
    return torch.stack(rows)
