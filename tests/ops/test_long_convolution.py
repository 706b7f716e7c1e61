"""The long convolution and the Hyena operator against direct sums in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_ext.ops import long_convolution as module
from monai_ext.ops.hyena_nd import corner_kernel, hyena_nd, hyena_nd_plain
from monai_ext.ops.long_convolution import fft_length, long_convolution, long_convolution_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

GRIDS = [(5,), (1, 4), (4, 5), (1, 1), (3, 2, 3), (3, 1, 2)]


def taps_of(grid: tuple[int, ...], causal: bool) -> tuple[int, ...]:
    return tuple(g if causal else 2 * g - 1 for g in grid)


def direct_sum(x: torch.Tensor, kernel: torch.Tensor, causal: bool) -> torch.Tensor:
    """y[p] = sum over q of kernel[p - q] x[q], pair by pair."""
    grid, taps = x.shape[2:], kernel.shape[1:]
    points = list(itertools.product(*map(range, grid)))
    out = []
    for p in points:
        total = torch.zeros(x.shape[:2], dtype=x.dtype)
        for q in points:
            tap = tuple(a - b + (0 if causal else k // 2) for a, b, k in zip(p, q, taps))
            if all(0 <= t < k for t, k in zip(tap, taps)):
                total = total + kernel[(slice(None), *tap)] * x[(..., *q)]
        out.append(total)
    return torch.stack(out, -1).reshape(x.shape)


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_definition(grid: tuple[int, ...], causal: bool) -> None:
    inputs = leaves((2, 3, *grid), (3, *taps_of(grid, causal)))
    assert_same(lambda *t: long_convolution(*t, causal), lambda *t: direct_sum(*t, causal), inputs)
    assert_same(lambda *t: long_convolution_plain(*t, causal), lambda *t: direct_sum(*t, causal), inputs)


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
def test_channels_in_groups(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_CPU", 200)
    inputs = leaves((2, 5, 4, 3), (5, *taps_of((4, 3), causal)))
    assert_same(lambda *t: long_convolution(*t, causal), lambda *t: direct_sum(*t, causal), inputs)


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
def test_axes_with_one_tap(causal: bool) -> None:
    grid = (3, 4, 2)
    for left_out in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
        taps = [1 if axis in left_out else k for axis, k in enumerate(taps_of(grid, causal))]
        inputs = leaves((2, 2, *grid), (2, *taps))
        assert_same(lambda *t: long_convolution(*t, causal), lambda *t: direct_sum(*t, causal), inputs)


@pytest.mark.parametrize(
    ("taps", "causal"), [((3, 5), False), ((7, 3), False), ((3, 1), False), ((2, 3), True), ((4, 2), True)], ids=str
)
def test_kernels_smaller_than_the_grid(taps: tuple[int, ...], causal: bool) -> None:
    inputs = leaves((2, 2, 4, 7), (2, *taps))
    assert_same(lambda *t: long_convolution(*t, causal), lambda *t: direct_sum(*t, causal), inputs)
    assert_same(lambda *t: long_convolution_plain(*t, causal), lambda *t: direct_sum(*t, causal), inputs)


def test_conv3d() -> None:
    x, kernel = leaves((2, 4, 5, 3, 4), (4, 9, 5, 7))

    def conv3d(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        # PyTorch's convolution is a correlation
        return torch.nn.functional.conv3d(x, kernel.flip(1, 2, 3).unsqueeze(1), padding=(4, 2, 3), groups=4)

    assert_same(long_convolution, conv3d, [x, kernel])


def test_one_gradient_alone_and_none() -> None:
    x, kernel = leaves((1, 2, 5, 3), (2, 9, 5))
    wanted = torch.autograd.grad(long_convolution(x, kernel).square().sum(), (x, kernel))
    only_x = torch.autograd.grad(long_convolution(x, kernel.detach()).square().sum(), x)[0]
    only_kernel = torch.autograd.grad(long_convolution(x.detach(), kernel).square().sum(), kernel)[0]
    torch.testing.assert_close([only_x, only_kernel], list(wanted))
    with torch.no_grad():
        torch.testing.assert_close(long_convolution(x, kernel), direct_sum(x, kernel, False))


def test_bf16() -> None:
    assert_bf16_close(long_convolution, leaves((2, 3, 9, 7), (3, 17, 13)))
    shape = (2, 3, 5, 4, 3)
    assert_bf16_close(hyena_nd, leaves(shape, shape, shape, (3, 9, 7, 5), (3,)), tol=0.03)


def test_keeps_no_spectra() -> None:
    x, kernel = leaves((1, 4, 9, 9, 9), (4, 17, 17, 17))
    kept = []

    def note(t: torch.Tensor) -> torch.Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        long_convolution(x, kernel)
    assert sum(kept) == x.numel() + kernel.numel()


def test_fft_length() -> None:
    assert [fft_length(n) for n in (1, 2, 7, 11, 13, 127, 255, 257)] == [1, 2, 8, 12, 15, 128, 256, 270]


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
@pytest.mark.parametrize("grid", [(3, 4), (2, 1, 3)], ids=str)
def test_hyena_definition(grid: tuple[int, ...], causal: bool) -> None:
    shape = (2, 3, *grid)
    inputs = leaves(shape, shape, shape, (3, *taps_of(grid, causal)), (3,))

    def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kernel: torch.Tensor, skip: torch.Tensor):
        z = k * v
        past = torch.stack([skip[c] * z[:, c] for c in range(3)], 1)
        return q * (direct_sum(z, kernel, causal) + past)

    assert_same(lambda *t: hyena_nd(*t, causal), definition, inputs)
    assert_same(lambda *t: hyena_nd_plain(*t, causal), definition, inputs)


def test_hyena_axis_by_axis() -> None:
    """Kernels for one axis each, in turn, are the outer product in one go."""
    shape = (2, 3, 4, 3, 2)
    q, k, v, a, b, c, skip = leaves(shape, shape, shape, (3, 7, 1, 1), (3, 1, 5, 1), (3, 1, 1, 3), (3,))
    assert_same(
        lambda q, k, v, a, b, c, skip: hyena_nd(q, k, v, [a, b, c], skip),
        lambda q, k, v, a, b, c, skip: hyena_nd(q, k, v, a * b * c, skip),
        [q, k, v, a, b, c, skip],
    )


@pytest.mark.parametrize("grid", [(3, 4), (1, 3), (2, 1, 3)], ids=str)
def test_corners_are_flips_of_the_image(grid: tuple[int, ...]) -> None:
    x, kernel, weights = leaves((2, 3, *grid), (3, *grid), (2 ** len(grid),))

    def flipped(x: torch.Tensor, kernel: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for weight, flips in zip(weights, itertools.product((0, 1), repeat=len(grid))):
            axes = [axis for axis, flip in enumerate(flips, start=2) if flip]
            total = total + weight * long_convolution(x.flip(axes), kernel, causal=True).flip(axes)
        return total

    assert_same(lambda x, k, w: long_convolution(x, corner_kernel(k, w)), flipped, [x, kernel, weights])


def test_wrong_shapes() -> None:
    x = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"\(9, 7\) taps .* got \(9, 8\)"):
        long_convolution(x, torch.zeros(2, 9, 8))
    with pytest.raises(ValueError, match=r"\(5, 4\) taps .* got \(9, 7\)"):
        long_convolution(x, torch.zeros(2, 9, 7), causal=True)
    for kernel in (torch.zeros(3, 9, 7), torch.zeros(2, 9)):
        with pytest.raises(ValueError, match=r"\(1, 2, 5, 4\)"):
            long_convolution(x, kernel)
    with pytest.raises(ValueError, match="share one shape"):
        hyena_nd(x, x, x[:, :1], torch.zeros(2, 9, 7), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(C,\) = \(2,\), got \(3,\)"):
        hyena_nd(x, x, x, torch.zeros(2, 9, 7), torch.zeros(3))
