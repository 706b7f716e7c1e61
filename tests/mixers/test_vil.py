"""What is special to Vision-LSTM: directions, and how far a token sees."""

from __future__ import annotations

import re

import pytest
import torch

from monai_ext.mixers import Mixer, build_mixer

GRID = (4, 5)


def build(seed: int = 0, **options: object) -> Mixer:
    torch.manual_seed(seed)
    return build_mixer({"name": "vil", **options}, 12, 3, 2).double()


def seen(mixer: Mixer) -> torch.Tensor:
    """Whether output p (row) depends on input q (column)."""
    x = torch.randn(1, 20, 12, dtype=torch.float64, requires_grad=True)
    out = mixer(x, GRID).sin().sum(-1)[0]
    return torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum(-1)[0] > 1e-12 for y in out])


def test_reach() -> None:
    every = torch.ones(20, 20, dtype=torch.bool)
    at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij"), -1).flatten(0, 1)
    around = (at.unsqueeze(1) - at).abs().amax(-1) <= 1
    # what is behind, each with its surroundings in the convolution; values are of the token itself
    assert torch.equal(seen(build(layer=0)), ((every.tril().double() @ around.double()) > 0))
    assert torch.equal(seen(build(layer=1)), ((every.triu().double() @ around.double()) > 0))
    assert torch.equal(seen(build(conv="causal1d")), every.tril())
    assert torch.equal(seen(build(conv="causal1d", layer=3)), every.triu())
    assert seen(build(direction="both", conv="causal1d")).all()


@pytest.mark.parametrize(
    ("options", "causal", "local"),
    [
        ({}, False, True),
        ({"conv": "causal1d"}, True, False),
        ({"conv": "causal1d", "layer": 1}, False, True),
        ({"direction": "both"}, False, False),
    ],
    ids=str,
)
def test_says_what_it_sees(options: dict, causal: bool, local: bool) -> None:
    mixer = build(**options)
    assert (mixer.causal, mixer.local) == (causal, local)


def test_directions_share_their_definition() -> None:
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    forth, back, both = (build(direction=d) for d in ("forward", "backward", "both"))
    torch.testing.assert_close(back(x, GRID), forth(x.flip(1), GRID).flip(1))
    torch.testing.assert_close(both(x, GRID), (forth(x, GRID) + back(x, GRID)) / 2)
    torch.testing.assert_close(build(layer=3)(x, GRID), back(x, GRID))
    # an explicit direction does not alternate
    torch.testing.assert_close(build(direction="forward", layer=3)(x, GRID), forth(x, GRID))


def test_tokens_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mixer = torch.randn(2, 20, 12, dtype=torch.float64, requires_grad=True), build()
    results = []
    for block in (2**19, 1, 7 * 2 * 24):
        monkeypatch.setattr("monai_ext.mixers.vil.BLOCK_CPU", block)
        out = mixer(x, GRID)
        results.append([out, *torch.autograd.grad(out.sin().sum(), [x, *mixer.parameters()])])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_initialisation() -> None:
    mixer = build_mixer("vil", 192, 6, 2)
    assert torch.equal(mixer.fgate.bias, torch.linspace(3, 6, 6)) and not mixer.fgate.weight.any()
    assert not mixer.igate.weight.any() and mixer.igate.bias.abs().max() < 0.5
    assert mixer.proj_up.weight.std().item() == pytest.approx((2 / (5 * 192)) ** 0.5, rel=0.03)
    assert mixer.proj_down.weight.std().item() == pytest.approx(2 / 192**0.5, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "'alternate', 'forward', 'backward', 'both', got 'up'"),
        ({"conv": "2d"}, "'nd', 'causal1d', got '2d'"),
        ({"conv_kernel": 4}, "odd for conv='nd', got 4"),
        ({"conv": "causal1d", "conv_kernel": 0}, "at least 1"),
        ({"qkv_block": 5}, "inner width 24 (expand 2) must be a multiple of qkv_block, got 5"),
    ],
    ids=str,
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)
