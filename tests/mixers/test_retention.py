"""What is special to retention: how far a token sees, and which distance counts."""

from __future__ import annotations

import re

import pytest
import torch

from monai_ext.mixers import build_mixer


def test_the_paper_looks_back() -> None:
    mixer = build_mixer({"name": "retention", "bidirectional": False}, 12, 3, 2).double()
    assert mixer.causal and not build_mixer("retention", 12, 3, 2).causal
    x = torch.randn(1, 12, 12, dtype=torch.float64, requires_grad=True)
    out = mixer(x, (3, 4)).sin().sum(-1)[0]
    seen = torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum(-1)[0] > 0 for y in out])
    assert torch.equal(seen, torch.ones_like(seen).tril())


def test_manhattan_knows_no_order_of_axes() -> None:
    x = torch.randn(2, 3, 4, 5, 12, dtype=torch.float64)
    for decay, same in (("manhattan", True), ("raster", False)):
        mixer = build_mixer({"name": "retention", "decay": decay}, 12, 3, 3).double()
        out = mixer(x.flatten(1, 3), (3, 4, 5)).unflatten(1, (3, 4, 5))
        turned = mixer(x.permute(0, 3, 1, 2, 4).flatten(1, 3), (5, 3, 4)).unflatten(1, (5, 3, 4))
        assert torch.allclose(turned.permute(0, 2, 3, 1, 4), out) == same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "euclid"}, "'raster', 'manhattan', got 'euclid'"),
        ({"decay": "manhattan", "bidirectional": False}, "goes with decay='raster'"),
        ({"decay": "manhattan", "backend": "fla"}, "use 'auto' or 'torch'"),
        ({"backend": "flash"}, "known ones: auto, torch, fla"),
    ],
    ids=str,
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build_mixer({"name": "retention", **options}, 12, 3, 2)
