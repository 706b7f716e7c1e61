"""What the scattering mixers promise beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.mixers import build_mixer
from monai_ext.mixers.scattering import ScatteringMixer

CASES = [("scattering", (5, 6)), ("scattering", (1, 1)), ("scattering_3d", (3, 4, 5)), ("scattering_3d", (1, 2, 1))]


@pytest.mark.parametrize(("name", "grid"), CASES, ids=str)
def test_unit_weights_change_nothing(name: str, grid: tuple[int, ...]) -> None:
    """A low weight of one and layers that pass on both signs: perfect reconstruction through the mixer."""
    mixer = build_mixer({"name": name, "num_blocks": 1}, 4, 1, len(grid), grid=grid).double()
    s, lift = mixer.scattering, 1e3  # so high that the ReLU cuts nothing
    with torch.no_grad():
        for p in mixer.parameters():
            p.zero_()
        s.low_weight += 1
        for weight in s.weights:
            weight[0, 0] += torch.eye(4)
        s.biases[0] += lift
        s.biases[1] -= lift
    x = torch.randn(2, math.prod(grid), 4, dtype=torch.float64)
    torch.testing.assert_close(mixer(x, grid), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "grid"), [("scattering", (60, 2)), ("scattering_3d", (2, 2, 44))], ids=str)
def test_reach(name: str, grid: tuple[int, ...]) -> None:
    """19 taps there, 13 back or the other way round, and cells of two points between: 16 tokens and no more."""
    mixer = build_mixer(name, 4, 1, len(grid), grid=grid).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p *= 50
    long = grid.index(max(grid))
    at = [0] * len(grid)
    at[long] = 20
    x = torch.randn(1, *grid, 4, dtype=torch.float64)
    changed = x.clone()
    changed[(0, *at)] += 1
    outs = [mixer(t.reshape(1, -1, 4), grid).reshape(*grid, 4) for t in (x, changed)]
    reached = (outs[0] - outs[1]).abs().amax(-1).movedim(long, 0).flatten(1).amax(1) > 1e-13
    where = reached.nonzero().flatten() - 20
    assert (where.min(), where.max()) == (-16, 16)


def test_blocks_of_channels() -> None:
    assert [ScatteringMixer(c, 1, 2, (4, 4)).scattering.num_blocks for c in (8, 6, 5, 7, 3)] == [4, 3, 1, 1, 3]
    assert ScatteringMixer(12, 1, 2, (4, 4), "channel_token").scattering.num_blocks == 3


def test_halves_alternate() -> None:
    """In the variant with rows, even channels come from the convolution and odd ones from the spectrum."""
    mixer = ScatteringMixer(6, 1, 2, (4, 4), "channel_token")
    torch.nn.init.zeros_(mixer.conv.weight)
    torch.nn.init.zeros_(mixer.conv.bias)
    out = mixer(torch.randn(1, 16, 6), (4, 4))
    assert (out[..., ::2] == 0).all() and (out[..., 1::2] != 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "token"}, "'channel', 'channel_token', got 'token'"),
        ({"num_blocks": 0}, "at least 1, got 0"),
        ({"mixing": "channel_token", "dim": 9}, "the width must be even, got 9"),
    ],
    ids=str,
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScatteringMixer(**{"dim": 12, "num_heads": 3, "spatial_dims": 2, "grid": (4, 4), **options})


def test_no_blocks_in_3d() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        build_mixer({"name": "scattering_3d", "num_blocks": 0, "grid": (4, 4, 4)}, 12, 3, 3)
