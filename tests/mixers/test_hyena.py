"""What the Hyena mixer promises beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.mixers import build_mixer
from monai_ext.mixers.hyena import VARIANTS, HyenaMixer


def test_study_starts_as_its_code() -> None:
    """Features and envelope of 66 000 offsets, whatever the image, and the parameters that its code has."""
    mixer = HyenaMixer(12, 3, 2, variant="study")
    assert mixer.causal and mixer.filter.out.weight.shape == (4, 64) and mixer.skip.shape == (4,)
    assert mixer.short.weight.shape == (36, 1, 5)
    z = mixer.filter.z.detach().double()
    assert z.shape == (66000, 3) and mixer.filter.z.requires_grad
    at = torch.arange(66000, dtype=torch.float64)
    angle = 1e-4 * 2 * math.pi * at / 66000
    wanted = torch.stack([at / 65999, angle.cos(), -angle.sin()], 1)
    torch.testing.assert_close(z, wanted, rtol=1e-5, atol=1e-7)
    # the kernels of a window begin those of a whole image, and hardly change within it
    small, large = mixer.filter(16), mixer.filter(4096)
    torch.testing.assert_close(small, large[:, :16])
    assert (small.std(1) < 0.01 * small.mean(1).abs()).all()
    assert (small.std(1) < 0.1 * large.std(1)).all()


def test_options_come_before_the_variant() -> None:
    assert set(VARIANTS["study"]) == set(VARIANTS["default"])
    mixer = build_mixer({"name": "hyena", "variant": "study", "max_length": 20, "emb_dim": 5}, 12, 3, 2)
    assert mixer.filter.z.shape == (20, 5)
    free = build_mixer({"name": "hyena", "variant": "study", "max_length": 0, "train_positions": False}, 12, 3, 2)
    assert free.max_length is None and free.filter.z is None and free.causal
    assert HyenaMixer(12, 3, 2).short_kernel == 3 and HyenaMixer(12, 3, 2, "study", short_kernel=7).short_kernel == 7
    assert free(torch.randn(1, 70, 12), (10, 7)).isfinite().all()


def test_kernels_stretch_with_the_image() -> None:
    """By default the coordinates are a fraction of the tokens at hand: twice the image, a kernel twice as wide."""
    kernels = HyenaMixer(4, 1, 2, emb_dim=3, normalized=False).double().filter
    # o / (n - 1) agrees at the ends of the kernels and in their middle
    torch.testing.assert_close(kernels(5)[:, ::2], kernels(9)[:, ::4], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_fixed_length(bidirectional: bool) -> None:
    kernels = HyenaMixer(4, 1, 2, max_length=9, bidirectional=bidirectional, normalized=False).filter
    large = kernels(9)
    torch.testing.assert_close(kernels(4), large[:, 5:12] if bidirectional else large[:, :4])


def test_output_does_not_grow() -> None:
    sizes = []
    for grid in ((8, 8), (96, 96)):
        torch.manual_seed(0)
        mixer, n = HyenaMixer(16, 2, 2), math.prod(grid)
        with torch.no_grad():
            x = torch.randn(1, 1, 16).expand(1, n, 16)
            sizes.append(torch.stack([mixer(t, grid).std() for t in (x, torch.randn(1, n, 16))]))
    assert (sizes[1] < 4 * sizes[0]).all() and (sizes[0] < 4 * sizes[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "paper"}, "'default', 'study', got 'paper'"),
        ({"emb_dim": 4}, "odd and at least 3, got 4"),
        ({"max_length": -1}, "got -1"),
        ({"train_positions": True}, "needs a max_length"),
        ({"order": 1}, "at least 2, got 64 and 1"),
        ({"short_kernel": 2}, "odd number of taps, got 2"),
    ],
    ids=str,
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyenaMixer(12, 3, 2, **options)


def test_too_many_tokens() -> None:
    with pytest.raises(ValueError, match="20 tokens are more than max_length 19"):
        HyenaMixer(12, 3, 2, max_length=19)(torch.zeros(1, 20, 12), (5, 4))
