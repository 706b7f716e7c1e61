"""What is special to the mixers with fewer keys (cvt, reduced, strip), dct and histogram."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from monai_ext.mixers import build_mixer
from monai_ext.ops.dct import dct_low

DIM, HEADS = 12, 3


def tokens(grid: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, math.prod(grid), DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "reduced", "reduction": 0}, "reduction must be a whole number from 1, .* got 0"),
        ({"name": "reduced", "reduction": [2, 2, 2]}, "or 2 of them, one an axis; got .2, 2, 2."),
        ({"name": "reduced", "attn_drop_rate": -0.1}, "between 0 and 1, got -0.1"),
        ({"name": "strip", "reduction": 1.5}, "reduction must be a whole number"),
        ({"name": "strip", "compressed": 0}, "at least 1 channel a head, got 0"),
        ({"name": "cvt", "norm": "group"}, "norm must be one of 'batch', 'layer', got 'group'"),
        ({"name": "cvt", "scale": "n"}, "scale must be one of 'dim', 'head_dim', got 'n'"),
        ({"name": "cvt", "kernel": 2}, "odd number of taps, got 2"),
        ({"name": "cvt", "stride_kv": 4}, "stride_kv 4 would leave out tokens with a kernel of 3"),
        ({"name": "dct", "keep": 0}, "above 0 and at most 1.* got 0"),
        ({"name": "dct", "keep": [0.5, 1.5]}, r"got \[0.5, 1.5\]"),
        ({"name": "histogram", "bins": 0}, "bins must be at least 1, got 0"),
    ],
    ids=str,
)
def test_bad_values(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixer(spec, DIM, HEADS, 2)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ({"name": "reduced", "reduction": [4, 2, 1]}, 2 * 3 * 3),
        ({"name": "strip", "reduction": [4, 2, 1]}, 2 * 3 * 3),
        ({"name": "cvt", "stride_kv": [3, 2, 1]}, 2 * 3 * 3),
    ],
    ids=str,
)
def test_one_number_an_axis(spec: dict[str, Any], keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many keys there are, for a grid that is not divided."""
    module = f"monai_ext.mixers.{spec['name']}"
    grid, seen = (5, 5, 3), []
    mixer = build_mixer(spec, DIM, HEADS, 3)
    attention = __import__(module, fromlist=["x"]).reduced_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        seen.append(k.shape[2])
        return attention(q, k, v, *args, **options)

    monkeypatch.setattr(f"{module}.reduced_attention", spy)
    assert mixer(tokens(grid), grid).shape == (2, 75, DIM)
    assert seen == [keys]


@pytest.mark.parametrize("name", ["reduced", "strip", "cvt", "dct", "histogram"])
def test_attention_dropout(name: str) -> None:
    mixer, x = build_mixer({"name": name, "attn_drop_rate": 0.5}, DIM, HEADS, 2), tokens((6, 5))
    assert not torch.equal(mixer(x, (6, 5)), mixer(x, (6, 5)))
    # gradients belong to the same draw: the derivative along x, against a difference quotient
    mixer = mixer.double()
    x = x.double().requires_grad_()
    torch.manual_seed(0)
    mixer(x, (6, 5)).sin().sum().backward()
    values = []
    for step in (1e-6, -1e-6):
        torch.manual_seed(0)
        values.append(mixer(x.detach() + step * torch.cos(7 * x.detach()), (6, 5)).sin().sum().item())
    wanted = (x.grad * torch.cos(7 * x.detach())).sum().item()
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(wanted, rel=1e-4)


def test_cvt_batch_norm_of_a_single_value() -> None:
    mixer = build_mixer("cvt", DIM, HEADS, 2)
    x = tokens((1, 1), batch=1)
    # one value has no variance: training takes what evaluation does
    wanted = mixer.eval()(x, (1, 1))
    torch.testing.assert_close(mixer.train()(x, (1, 1)), wanted)
    # a stride may leave a single key where there are several queries
    grid = (1, 2)
    assert mixer(tokens(grid, batch=1), grid).isfinite().all()


@pytest.mark.parametrize(("norm", "same"), [("batch", False), ("layer", True)])
def test_cvt_norms_and_the_batch(norm: str, same: bool) -> None:
    mixer, x = build_mixer({"name": "cvt", "norm": norm}, DIM, HEADS, 2), tokens((4, 3))
    assert torch.allclose(mixer(x, (4, 3))[:1], mixer(x[:1], (4, 3)), atol=1e-5) == same


def test_dct_drops_high_frequencies() -> None:
    mixer, grid = build_mixer({"name": "dct", "keep": [0.5, 0.4]}, DIM, HEADS, 2), (6, 5)
    y = dct_low(mixer(tokens(grid), grid), grid, grid).unflatten(1, grid)
    assert y[:, 3:].abs().max() < 1e-5 and y[:, :, 2:].abs().max() < 1e-5 and y[:, :3, :2].abs().min() > 0


def test_histogram_follows_the_values() -> None:
    """Axes of an image that come in another order leave the sorted maps as they are, but not the way back."""
    mixer = build_mixer("histogram", DIM, HEADS, 2)
    grid, half = (5, 4), DIM // 2
    x = tokens(grid).unflatten(1, grid)
    x[..., half:] = 0.5
    flipped = x.flip(1)
    a, b = (mixer(t.flatten(1, 2), grid).unflatten(1, grid) for t in (x, flipped))
    # first half: sorted and brought back, so it flips with the image; second half: in the order of the ranks
    torch.testing.assert_close(b[..., :half], a.flip(1)[..., :half])
    torch.testing.assert_close(b[..., half:], a[..., half:])
