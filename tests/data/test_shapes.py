"""Outlined shapes in the middle of their cube, and how thick they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.data.shapes import CutShaped, ShapeDistanced


def mask(shape: tuple[int, ...], *blocks: tuple[slice, ...], value: float = 255) -> MetaTensor:
    array = torch.zeros(1, *shape)
    for block in blocks:
        array[(0, *block)] = value
    return MetaTensor(array, meta={"filename_or_obj": "gland.nii.gz"})


BLOCK = (slice(2, 5), slice(7, 9), slice(0, 4))


@pytest.mark.parametrize("value", [1, 255, 0.5])
@pytest.mark.parametrize("size", [4, 6, 7, 15, (5, 8, 30)], ids=str)
@pytest.mark.parametrize("place", [(0, 0, 0), (6, 1, 5), (4, 0, 2)], ids=str)
def test_the_shape_comes_to_the_middle(size: int | tuple[int, ...], place: tuple[int, ...], value: float) -> None:
    """Whole, and as far from either side as can be, wherever it was."""
    block = tuple(slice(part.start + step, part.stop + step) for part, step in zip(BLOCK, place))
    found = CutShaped("image", size)({"image": mask((11, 10, 9), block, value=value)})["image"]
    edges = (size,) * 3 if isinstance(size, int) else size
    assert (
        found.shape == (1, *edges)
        and found.dtype == torch.float32
        and found.meta["filename_or_obj"] == ("gland.nii.gz")
    )
    assert found.unique().tolist() == [0, 1] and found.sum() == 3 * 2 * 4
    inside = found[0].nonzero().numpy()
    for axis, edge in enumerate(edges):
        before, behind = inside[:, axis].min(), edge - 1 - inside[:, axis].max()
        assert abs(before - behind) <= 1


def test_a_smaller_cube_cuts_the_shape() -> None:
    """Against a plain cut out of a wide border; several parts share their centre of mass."""
    random = np.random.default_rng(0)
    array = (random.random((9, 12, 7)) > 0.7).astype(np.float32)
    array[6:] = 0
    found = CutShaped("image", (5, 4, 3))({"image": torch.from_numpy(array)[None]})["image"]
    wide = np.pad(array, 20)
    middle = np.argwhere(wide).mean(0)
    first = [round(centre + 0.5 - edge / 2) for centre, edge in zip(middle, (5, 4, 3))]
    cut = wide[tuple(slice(low, low + edge) for low, edge in zip(first, (5, 4, 3)))]
    np.testing.assert_array_equal(found[0].numpy(), cut)
    assert not isinstance(found, MetaTensor)


def test_pictures_have_shapes_too() -> None:
    found = CutShaped("image", 5)({"image": mask((9, 9), (slice(6, 9), slice(0, 3)))})["image"]
    assert found[0, 1:4, 1:4].sum() == found.sum() == 9


def test_an_empty_mask() -> None:
    with pytest.raises(ValueError, match=r"the image gland\.nii\.gz is empty, no voxel of it is above 0"):
        CutShaped("image")({"image": mask((4, 4, 4), (slice(0, 2),) * 3, value=-1)})


# distances


def brute(inside: np.ndarray) -> np.ndarray:
    found = np.zeros(inside.shape)
    outside = np.argwhere(~inside)
    for place in itertools.product(*map(range, inside.shape)):
        found[place] = np.sqrt(((outside - place) ** 2).sum(1).min())
    return found


@pytest.mark.parametrize("unit", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(7, 6, 5), (11, 8)], ids=str)
def test_distances(shape: tuple[int, ...], unit: float) -> None:
    inside = np.random.default_rng(0).random(shape) < 0.9
    item = MetaTensor(torch.from_numpy(inside)[None].float(), meta={"filename_or_obj": "a.nii"})
    found = ShapeDistanced("image", unit)({"image": item})["image"]
    assert found.shape == (2, *shape) and found.dtype == torch.float32 and found.meta["filename_or_obj"] == "a.nii"
    np.testing.assert_array_equal(found[0].numpy(), inside)
    np.testing.assert_allclose(found[1].numpy(), brute(inside) / unit, rtol=1e-6)
    bare = ShapeDistanced("image", unit)({"image": item.as_tensor()})["image"]
    assert not isinstance(bare, MetaTensor) and torch.equal(bare, found.as_tensor())


def test_distances_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"the image gland\.nii\.gz fills the whole image"):
        ShapeDistanced("image")({"image": mask((4, 4, 4), (slice(None),) * 3)})
    for unit in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="unit must be positive"):
            ShapeDistanced("image", unit)
    found = ShapeDistanced("image")({"image": mask((4, 4, 4))})["image"]
    assert not found.any()
