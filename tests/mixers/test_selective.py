"""What is special to the mixers with a selective scan."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_ext.mixers import build_mixer
from monai_ext.mixers.selective import DT_MAX, DT_MIN, convolve, step_projection

SELECTIVE = ("mamba", "vim", "mambavision", "cross_scan")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "mamba", "d_state": 0}, "at least 1, got 0 and 4"),
        ({"name": "vim", "d_conv": 0}, "at least 1, got 16 and 0"),
        ({"name": "mamba", "expand": 1.3}, r"whole number of channels, got 1.3 \* 12"),
        ({"name": "mambavision", "expand": 0.25}, r"divisible by 2, got 0.25 \* 12 = 3"),
        ({"name": "mambavision", "expand": 0.5, "bidirectional": True}, "divisible by 4"),
        ({"name": "cross_scan", "d_conv": 4}, "odd number of taps, got 4"),
        *[({"name": name, "backend": "triton"}, "unknown backend 'triton'") for name in SELECTIVE],
    ],
    ids=str,
)
def test_bad_values(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixer(spec, 12, 3, 2)


@pytest.mark.parametrize("name", SELECTIVE)
def test_backend_reaches_the_scan(name: str) -> None:
    mixer = build_mixer({"name": name, "backend": "mamba_ssm"}, 12, 3, 2)
    with pytest.raises(ValueError, match="'mamba_ssm' cannot run this"):
        mixer(torch.zeros(1, 6, 12), (2, 3))


@pytest.mark.parametrize(("taps", "ahead"), [(1, 0), (3, 1), (4, 2), (9, 4)])
def test_convolution_on_both_sides(taps: int, ahead: int) -> None:
    """As PyTorch's padding "same", also of an even number of taps, and of more taps than tokens."""
    x, weight = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(6, 1, taps, dtype=torch.float64)
    wanted = F.silu(F.conv1d(x.mT, weight, groups=6, padding="same")).mT
    torch.testing.assert_close(convolve(x, weight, None, ahead), wanted)
    turned = convolve(x.flip(1), weight, None, ahead, reverse=True).flip(1)
    torch.testing.assert_close(turned, wanted)


def reached(options: dict, tokens: int = 9) -> torch.Tensor:
    mixer = build_mixer({"name": "mambavision", **options}, 12, 3, 2).double()
    x = torch.randn(1, tokens, 12, dtype=torch.float64, requires_grad=True)
    out = mixer(x, (3, tokens // 3)).sin().sum(-1)[0]
    return torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum(-1)[0] for y in out]) > 1e-12


def test_mambavision_sees_half_a_convolution_ahead() -> None:
    assert torch.equal(reached({}), torch.ones(9, 9).tril(1).bool())
    assert torch.equal(reached({"d_conv": 4}), torch.ones(9, 9).tril(2).bool())
    assert reached({"bidirectional": True}).all()
    assert not build_mixer({"name": "mambavision", "bidirectional": True}, 12, 3, 2).local


def test_mambavision_double_dt_bias() -> None:
    """The authors' slip is the right mixer with twice the bias."""
    right = build_mixer("mambavision", 12, 3, 2)
    slip = build_mixer({"name": "mambavision", "double_dt_bias": True}, 12, 3, 2)
    slip.load_state_dict(right.state_dict())
    x = torch.randn(2, 15, 12)
    assert not torch.allclose(slip(x, (5, 3)), right(x, (5, 3)))
    with torch.no_grad():
        right.dt_proj.bias *= 2
    torch.testing.assert_close(slip(x, (5, 3)), right(x, (5, 3)))


def test_vim_with_equal_directions_is_symmetric() -> None:
    mixer = build_mixer("vim", 12, 3, 2)
    state = mixer.state_dict()
    for key in ("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D"):
        name, _, rest = key.partition(".")
        twin = {"A_log": "A_b_log"}.get(name, f"{name}_b") + (f".{rest}" if rest else "")
        state[twin] = state[key] + 0.1
        state[key] = state[twin]
    mixer.load_state_dict(state)
    x = torch.randn(2, 15, 12)
    torch.testing.assert_close(mixer(x.flip(1), (5, 3)), mixer(x, (5, 3)).flip(1))


def test_cross_scan_with_equal_routes_has_the_symmetries_of_the_grid() -> None:
    mixer = build_mixer("cross_scan", 12, 3, 3)
    with torch.no_grad():
        mixer.conv.weight.copy_(mixer.conv.weight.mean((2, 3, 4), keepdim=True))
        for key in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias"):
            parameter = mixer.get_parameter(key)
            parameter.copy_(parameter[:1].expand_as(parameter))
    volume = torch.randn(1, 3, 2, 4, 12)

    def mixed(volume: torch.Tensor) -> torch.Tensor:
        grid = volume.shape[1:-1]
        return mixer(volume.flatten(1, 3), grid).unflatten(1, grid)

    torch.testing.assert_close(mixed(volume.flip(1, 2, 3)), mixed(volume).flip(1, 2, 3))


def test_step_sizes_at_the_start() -> None:
    dt = F.softplus(step_projection(4, 10_000).bias)
    assert dt.min() >= DT_MIN * 0.99 and dt.max() <= DT_MAX * 1.01
    assert dt.log().mean().exp().item() == pytest.approx((DT_MIN * DT_MAX) ** 0.5, rel=0.05)
