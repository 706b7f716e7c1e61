"""Losses for denoising against their formulas, written with scipy in float64."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import correlate1d

import monai_ext.losses as losses
from monai_ext.losses import CharbonnierLoss, DenoisingLoss, GaussianDerivativeLoss

SHAPES = [(2, 1, 9, 7), (1, 2, 5, 3), (2, 1, 5, 7, 3), (1, 1, 1, 9, 6), (3, 2, 11)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    return first.requires_grad_(), second


def taps(sigma: float, derivative: bool) -> np.ndarray:
    radius = max(1, math.floor(3 * sigma + 0.5))
    place = np.arange(-radius, radius + 1.0)
    density = np.exp(-0.5 * (place / sigma) ** 2)
    if derivative:
        return place * density / np.abs(place * density).sum()
    return density / density.sum()


def plain_derivative(first: np.ndarray, second: np.ndarray, sigmas: list[tuple[float, ...]], mixed: bool) -> float:
    """Both images filtered one by one, every batch item, channel, width and direction on its own."""
    dims, found = first.ndim - 2, []
    directions = [set(range(dims))] if mixed else [{axis} for axis in range(dims)]
    for sigma, along in product(sigmas, directions):
        for item, channel in np.ndindex(first.shape[:2]):
            images = []
            for image in (first[item, channel], second[item, channel]):
                for axis in range(dims):
                    image = correlate1d(image, taps(sigma[axis], axis in along), axis, mode="nearest")
                images.append(image)
            found.append(np.abs(images[0] - images[1]).mean())
    return float(np.mean(found))


def plain_charbonnier(first: np.ndarray, second: np.ndarray, epsilon: float) -> float:
    return float(np.mean([math.hypot(a - b, epsilon) for a, b in zip(first.ravel(), second.ravel())]))


def slopes(function, first: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient by central differences."""
    gradient = np.zeros_like(first)
    for index in np.ndindex(first.shape):
        up, down = first.copy(), first.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@each_shape
@pytest.mark.parametrize("mixed", [False, True])
def test_gaussian_derivative_is_its_formula(shape: tuple[int, ...], mixed: bool) -> None:
    first, second = pair(shape)
    dims = len(shape) - 2
    per_axis = (0.5, 1.0, 0.75)[:dims]
    loss = GaussianDerivativeLoss([0.25, 1.4, per_axis], mixed)(first, second)
    loss.backward()
    sigmas = [(0.25,) * dims, (1.4,) * dims, per_axis]
    a, b = first.detach().numpy(), second.numpy()
    assert loss.item() == pytest.approx(plain_derivative(a, b, sigmas, mixed), rel=1e-10, abs=1e-15)
    expected = slopes(lambda image: plain_derivative(image, b, sigmas, mixed), a)
    np.testing.assert_allclose(first.grad.numpy(), expected, atol=1e-8)


@each_shape
def test_denoising_is_the_sum_of_its_terms(shape: tuple[int, ...]) -> None:
    first, second = pair(shape)
    loss = DenoisingLoss(weights=(2.0, 0.5, 3.0), epsilon=0.1, sigmas=(0.5,))(first, second)
    loss.backward()
    b, sigmas = second.numpy(), [(0.5,) * (len(shape) - 2)]

    def plain(image: np.ndarray) -> float:
        derivative = plain_derivative(image, b, sigmas, False)
        return 2.0 * np.square(image - b).mean() + 0.5 * plain_charbonnier(image, b, 0.1) + 3.0 * derivative

    assert loss.item() == pytest.approx(plain(first.detach().numpy()), rel=1e-10)
    np.testing.assert_allclose(first.grad.numpy(), slopes(plain, first.detach().numpy()), atol=1e-8)


def test_charbonnier() -> None:
    first, second = pair((2, 3, 5))
    assert CharbonnierLoss(0.2)(first, second).item() == pytest.approx(
        plain_charbonnier(first.detach().numpy(), second.numpy(), 0.2), rel=1e-12
    )
    same = CharbonnierLoss()(second.clone().requires_grad_(), second)
    assert same.item() == pytest.approx(1e-3)


def test_the_studys_numbers_are_the_defaults() -> None:
    loss = DenoisingLoss()
    assert loss.weights == (1.0, 1.0, 1.0) and loss.charbonnier.epsilon == 1e-3
    assert loss.gaussian_derivative.sigmas == [0.25, 0.5, 1.0]


def test_a_constant_difference_and_an_edge() -> None:
    image = torch.rand(1, 1, 6, 5, dtype=torch.float64)
    assert GaussianDerivativeLoss()(image + 3, image).item() == pytest.approx(0, abs=1e-12)
    edge = torch.zeros(1, 1, 6, 5, dtype=torch.float64)
    edge[..., 3:, :] = 1
    # the central difference of a step is 1/2 in two of six rows, along one of two axes
    assert GaussianDerivativeLoss([0.25])(edge, 0 * edge).item() == pytest.approx(1 / 12, rel=1e-3)
    assert GaussianDerivativeLoss([0.25], mixed=True)(edge, 0 * edge).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "loss", [CharbonnierLoss(), GaussianDerivativeLoss(), DenoisingLoss()], ids=lambda x: type(x).__name__
)
def test_float32_under_autocast(loss: torch.nn.Module) -> None:
    first, second = pair((2, 1, 9, 7), torch.float32)
    plain = loss(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(first, second), plain)
        low = loss(first.bfloat16(), MetaTensor(second))
    assert low.dtype == plain.dtype == torch.float32 and type(low) is torch.Tensor
    assert low.item() == pytest.approx(plain.item(), rel=0.01)
    low.backward()
    assert first.grad.isfinite().all() and first.grad.any()


def test_none_bears_a_name_of_monais() -> None:
    import monai.losses

    assert not set(losses.__all__) & set(dir(monai.losses))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharbonnierLoss(0), "epsilon must be positive, got 0"),
        (lambda: GaussianDerivativeLoss([]), "sigmas is empty"),
        (lambda: GaussianDerivativeLoss([1.0, [0.5, 0.0]]), r"sigmas must be positive widths in voxels, got \(0.5, 0"),
        (lambda: DenoisingLoss((1, 1)), r"weights must be three numbers, .* got \[1, 1\]"),
        (lambda: DenoisingLoss((0, 0, 0)), "weights must be three numbers"),
        (lambda: GaussianDerivativeLoss([[1.0, 1.0]])(*pair((1, 1, 3, 4, 5))), "the images have 3 spatial axes"),
        (lambda: GaussianDerivativeLoss()(torch.zeros(3, 4), torch.zeros(3, 4)), r"spatial axes\), got \(3, 4\)"),
        (
            lambda: DenoisingLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, 4)),
            r"different shapes, \(1, 1, 4, 4\) and \(1, 4, 4, 4\)",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
