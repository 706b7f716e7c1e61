"""Strip self-attention, one query at a time."""

from __future__ import annotations

import torch

from tests.mixers.references.reduced import attention, blocks, lift

__all__ = ["lift"]
OPTIONS = [{}, {"reduction": 4, "compressed": 2, "qkv_bias": True}, {"reduction": 1, "compressed": 5}]


def reference(mixer, x, grid):
    samples = []
    for tokens in x:
        few = tokens
        if max(mixer.reduction) > 1:
            # every channel by itself: a diagonal matrix for each tap
            weight = torch.diag_embed(mixer.reduce.weight.squeeze(1).movedim(0, -1))
            weight = weight.movedim(-1, 0).movedim(-1, 0)
            few = blocks(tokens, grid, weight, mixer.reduce.bias, mixer.reduction)
        q, k, v = mixer.q(tokens), mixer.k(few), mixer.v(few)
        samples.append(attention(q, k, v, mixer.num_heads, (k.shape[-1] / mixer.num_heads) ** -0.5))
    return mixer.proj(torch.stack(samples))
