"""What is measured of a shape, against plain loops, and the linear model of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from sklearn.linear_model import LogisticRegression

from monai_ext.blocks.shape_descriptors import ShapeDescriptors
from monai_ext.blocks.shape_measures import ShapeMeasures
from monai_ext.networks import MixerSwin, ShapeSwin

SIZES = {2: (9, 7), 3: (6, 9, 7)}
OPTIONS = {"runs": 3, "depths": (1.1, 2.1), "blurs": (0.8,), "unit": 2.0}
each_dim = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])


def shapes(dims: int, count: int = 3, margin: int = 0, seed: int = 0) -> torch.Tensor:
    """Random shapes with, at `margin`, nothing near the border, and their distances over 2, in float64."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        shape = np.zeros([size + 2 * margin for size in SIZES[dims]])
        shape[(slice(margin, -margin or None),) * dims] = random.random(SIZES[dims]) < 0.7
        found.append(np.stack([shape, distance_transform_edt(shape) / 2]))
    return torch.from_numpy(np.stack(found))


def looped(shape: np.ndarray, distance: np.ndarray) -> list[float]:
    """The docstring's formulas, voxel by voxel."""
    voxels = [place for place in np.ndindex(shape.shape) if shape[place]]
    inside, volume, dims = set(voxels), len(voxels), shape.ndim
    numbers = [math.log(volume)]
    for axis in range(dims):
        lengths: dict[tuple, int] = {}
        for place in voxels:
            column = place[:axis] + place[axis + 1 :]
            lengths[column] = lengths.get(column, 0) + 1
        squares = sum(length**2 for length in lengths.values())
        numbers += [math.log(len(lengths)), max(lengths.values()), squares / volume]
    for axis in range(dims):
        for k in range(1, OPTIONS["runs"] + 1):
            ahead = [[(*p[:axis], p[axis] + j, *p[axis + 1 :]) for j in range(1, k + 1)] for p in voxels]
            numbers.append(sum(inside.issuperset(run) for run in ahead) / volume)
    d = [2 * distance[place] for place in voxels]
    numbers += [sum(value > depth for value in d) / volume for depth in OPTIONS["depths"]]
    numbers += [np.mean(d), np.mean(np.square(d)), max(d)]
    (blur,), b = OPTIONS["blurs"], []
    radius = int(3 * blur + 0.5)
    tap = {k: math.exp(-0.5 * (k / blur) ** 2) for k in range(-radius, radius + 1)}
    for place in voxels:
        total = 0.0
        for step in itertools.product(tap, repeat=dims):
            if tuple(p + s for p, s in zip(place, step)) in inside:
                total += math.prod(tap[s] for s in step)
        b.append(total / sum(tap.values()) ** dims)
    return [*numbers, np.mean(b), np.mean(np.power(b, 2)), np.mean(np.power(b, 3)), max(b)]


@each_dim
def test_descriptors_are_their_formulas(dims: int) -> None:
    x, descriptors = shapes(dims), ShapeDescriptors(dims, **OPTIONS)
    found = descriptors(x)
    wanted = torch.tensor([looped(shape, distance) for shape, distance in x.numpy()], dtype=torch.float64)
    assert found.shape == (3, descriptors.num_features) and found.dtype == torch.float64
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(descriptors(x.float()), wanted.float(), atol=1e-5, rtol=1e-4)


@each_dim
def test_place_and_mirror_do_not_matter(dims: int) -> None:
    x, descriptors = shapes(dims, margin=4), ShapeDescriptors(dims, **OPTIONS)
    wanted = descriptors(x)
    for axis in range(2, dims + 2):
        torch.testing.assert_close(descriptors(x.flip(axis)), wanted)
        torch.testing.assert_close(descriptors(x.roll(3, axis)), wanted)


def test_shapes_smaller_than_a_run_and_empty_ones() -> None:
    descriptors = ShapeDescriptors(3)
    assert descriptors(torch.ones(2, 2, 1, 3, 2)).isfinite().all()
    assert not descriptors(torch.zeros(1, 2, 5, 5, 5)).any()


def test_autocast_changes_nothing() -> None:
    x, descriptors = shapes(3).float(), ShapeDescriptors(3, **OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        found = descriptors(x)
    assert torch.equal(found, descriptors(x))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_is_logistic_regression(classes: int) -> None:
    """scikit-learn's weights for the same penalty; two classes share what it gives to one."""
    x = shapes(3, count=40)
    labels = np.arange(40) % classes
    x[labels == 1, 0, 0] = 0  # a class that differs
    measures = ShapeMeasures(3, classes, strength=2.0, descriptors=OPTIONS).double()
    assert not measures(x).any()
    measures.fit([{"image": image, "label": label} for image, label in zip(x, labels)])
    z = ((measures.descriptors(x) - measures.mean) / measures.deviation).clamp(-8, 8).numpy()
    # multinomial: the penalty of scikit-learn is half of ours, |W|^2 / 2
    strength = 2.0 if classes == 2 else 1.0
    peer = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(z, labels)
    found = measures(x)
    wanted = torch.from_numpy(peer.predict_proba(z))
    torch.testing.assert_close(found.softmax(1), wanted, atol=1e-4, rtol=1e-3)


def test_bad_arguments() -> None:
    for options, message in (
        ({"spatial_dims": 1}, "2 or 3, got 1"),
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"blurs": (2.0, 0.0)}, "blurs must be positive"),
        ({"unit": 0}, "unit must be positive, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ShapeDescriptors(**options)
    with pytest.raises(ValueError, match="strength must be positive, got 0"):
        ShapeMeasures(strength=0)
    with pytest.raises(ValueError, match="no shapes to fit"):
        ShapeMeasures().fit([])
    with pytest.raises(ValueError, match="a label is 2, but the classes go from 0 to 1"):
        ShapeMeasures(descriptors=OPTIONS).fit([{"image": shapes(3, 1)[0], "label": 2}])
    with pytest.raises(ValueError, match=r"in_channels must be 2, .* got 1"):
        ShapeSwin(in_channels=1)


def test_the_network_is_the_mean_of_its_parts() -> None:
    """In training the transformer alone, begun and trained as if it stood by itself."""
    options = {"depths": (1, 1), "num_heads": (2, 4), "feature_size": 8, "window_size": 3}
    torch.manual_seed(0)
    network = ShapeSwin(2, 3, measures={"descriptors": OPTIONS}, **options)
    torch.manual_seed(0)
    alone = MixerSwin(2, num_classes=3, classification=True, hidden_states=False, **options)
    x = shapes(3, count=9).float()
    assert torch.equal(network(x), alone(x))
    network.measures.fit([{"image": image, "label": i % 3} for i, image in enumerate(x)])
    assert torch.equal(network(x), alone(x))
    network.eval(), alone.eval()
    measured = network.measures(x)
    assert measured.any()
    torch.testing.assert_close(network(x), (alone(x) + measured) / 2)
