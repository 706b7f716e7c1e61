"""What the parameters of a new mixer are, against the values that its definition names."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from monai_ext.mixers import build_mixer
from monai_ext.ops.retention import retention

DIM, HEADS = 24, 4


@pytest.mark.parametrize(
    ("name", "suffixes", "states"),
    [("mamba", ("",), 16), ("vim", ("", "_b"), 16), ("mambavision", ("",), 8)],
    ids=str,
)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_scans(name: str, suffixes: tuple[str, ...], states: int, spatial_dims: int) -> None:
    """Rates of decay 1 .. S in every channel, a direct path of 1, step sizes from 1e-3 to 0.1."""
    parameters = dict(build_mixer(name, DIM, HEADS, spatial_dims).named_parameters())
    for s in suffixes:
        a_log = parameters[f"A{s}_log"]
        wanted = torch.tensor([[math.log(i) for i in range(1, states + 1)]]).expand(len(a_log), -1)
        torch.testing.assert_close(a_log.detach(), wanted)
        assert (parameters[f"D{s}"] == 1).all()
        step = F.softplus(parameters[f"dt_proj{s}.bias"])
        assert step.shape == a_log.shape[:1]
        assert step.min() >= 0.99e-3 and step.max() <= 0.101 and step.max() > 2 * step.min()


def test_vil_gates() -> None:
    mixer = build_mixer("vil", DIM, HEADS, 2)
    assert not mixer.fgate.weight.any() and not mixer.igate.weight.any()
    torch.testing.assert_close(mixer.fgate.bias.detach(), torch.tensor([3.0, 4.0, 5.0, 6.0]))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_retention_decay(bidirectional: bool) -> None:
    """The weight that head h gives to a token n places away: alpha_h^n with alpha_h = 1 - 2^(-5 - h)."""
    n = 7
    q = torch.full((1, HEADS, n, n), n**-0.5, dtype=torch.float64)
    # scores of 1 before the decay; with the identity for values, the outputs are the weights
    weights = retention(q, n**0.5 * q, torch.eye(n, dtype=q.dtype).expand_as(q), bidirectional)[0]
    for h in range(HEADS):
        alpha = 1 - 2 ** (-5 - h)
        wanted = [[alpha ** abs(a - b) if a >= b or bidirectional else 0.0 for b in range(n)] for a in range(n)]
        torch.testing.assert_close(weights[h], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 4])
def test_relu_linear_temperature(heads: int) -> None:
    temperature = build_mixer("relu_linear", DIM, heads, 2).temperature
    assert temperature.shape == (heads, 1, 1)
    torch.testing.assert_close(temperature.detach(), torch.full((heads, 1, 1), (DIM / heads) ** -0.5))
