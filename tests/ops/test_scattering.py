"""The wavelet transform and the mixing of its bands against loops, and what a wavelet transform promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from monai_ext.ops import scattering as module
from monai_ext.ops.scattering import (
    blend_channels,
    blend_rows,
    filters,
    wavelet_join,
    wavelet_join_plain,
    wavelet_split,
    wavelet_split_plain,
)
from tests.ops.compare import assert_same, leaves

# shorter than the filters, as long, longer; with blocks of 4 rows more than two blocks of an operator
SHAPES = [(2, 2, 4, 3), (1, 6, 40, 2), (2, 4, 2, 6, 2), (1, 2, 2, 2, 1)]
BANDS = {2: 6, 3: 28}


@pytest.mark.parametrize("rows", [4, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(shape: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    (x,) = leaves(shape)
    for part in (0, 1):
        assert_same(lambda x, p=part: wavelet_split(x)[p], lambda x, p=part: wavelet_split_plain(x)[p], [x])
    half = [n // 2 for n in shape[1:-1]]
    low, high = leaves(shape, (shape[0], *half, BANDS[len(half)], 2, shape[-1]))
    assert_same(wavelet_join, wavelet_join_plain, [low, high])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_perfect_reconstruction(shape: tuple[int, ...]) -> None:
    (x,) = leaves(shape)
    low, high = wavelet_split(x)
    assert low.shape == x.shape and high.shape[-3] == BANDS[x.ndim - 2]
    torch.testing.assert_close(wavelet_join(low, high), x, rtol=0, atol=1e-13)
    single = x.detach().float()
    torch.testing.assert_close(wavelet_join(*wavelet_split(single)), single, rtol=0, atol=1e-5)


def test_filters() -> None:
    """Half of the published numbers, of which the others follow; together they let everything through."""
    (low, high), (back_low, back_high) = filters(), filters(True)
    assert [len(f) for f in (low, high, back_low, back_high)] == [13, 19, 19, 13]
    assert sum(low) == pytest.approx(1) and sum(high) == pytest.approx(0, abs=1e-15)
    assert (low[6], high[9], back_low[0]) == pytest.approx((0.55546875, 0.5594308035714286, 7.062639508928571e-05))
    for f in (low, high, back_low, back_high):
        assert f == f[::-1]
    through = torch.zeros(31, dtype=torch.float64)
    for a, b in ((low, back_low), (high, back_high)):
        for (i, s), (j, t) in itertools.product(enumerate(a), enumerate(b)):
            through[i + j] += s * t
    wanted = torch.zeros(31, dtype=torch.float64)
    wanted[15] = 1
    torch.testing.assert_close(through, wanted, rtol=0, atol=1e-15)


def test_constant_images_are_in_the_low_band() -> None:
    low, high = wavelet_split(torch.full((1, 6, 10, 2), 3.0, dtype=torch.float64))
    torch.testing.assert_close(low, torch.full_like(low, 3))
    assert high.abs().max() < 1e-14


def test_bands_tell_diagonals_apart() -> None:
    """A wave along one diagonal is in one of the two bands that a real transform cannot tell apart."""
    i, j = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    waves = torch.stack([torch.cos(0.5 * math.pi * (i + s * j)) for s in (1, -1)])
    _, high = wavelet_split(waves.unsqueeze(-1))
    power = high[:, 8:-8, 8:-8].square().sum((1, 2, 4, 5))  # (waves, bands); the last octant is high along both axes
    assert power.argmax(1).tolist() in ([4, 5], [5, 4])
    assert (power[:, 4:].amax(1) > 20 * power[:, 4:].amin(1)).all()


def relu(z: torch.Tensor) -> torch.Tensor:
    return torch.complex(z.real.relu(), z.imag.relu())


def test_blending() -> None:
    def channels(high: torch.Tensor, *p: torch.Tensor) -> torch.Tensor:
        z, (w1, w2, b1, b2) = torch.complex(*high.unbind(-2)), (torch.complex(*t) for t in p)
        return torch.view_as_real(relu(z @ w1 + b1) @ w2 + b2).movedim(-1, -2)

    shapes = [(2, 3, 3), (2, 3, 3), (2, 3), (2, 3)]
    high, *p = leaves((2, 3, 5, 6, 2, 3), *shapes)
    assert_same(lambda h, *p: blend_channels(h, p[:2], p[2:]), channels, [high, *p])

    def rows(high: torch.Tensor, *p: torch.Tensor) -> torch.Tensor:
        z, (w1, w2, b1, b2) = torch.complex(*high.unbind(-2)), (torch.complex(*t) for t in p)
        out = []
        for row in range(z.shape[1]):
            h = torch.einsum("bwtc,wv->bvtc", z[:, row], w1[row]) + b1[row, :, None, None]
            out.append(torch.einsum("bwtc,wv->bvtc", relu(h), w2[row]) + b2[row, :, None, None])
        return torch.view_as_real(torch.stack(out, 1)).movedim(-1, -2)

    high, *p = leaves((2, 3, 5, 6, 2, 3), (2, 3, 5, 5), (2, 3, 5, 5), (2, 3, 5), (2, 3, 5))
    assert_same(lambda h, *p: blend_rows(h, p[:2], p[2:]), rows, [high, *p])


def test_odd_axes() -> None:
    with pytest.raises(ValueError, match=r"even, got \(4, 3\)"):
        wavelet_split(torch.zeros(1, 4, 3, 2))
