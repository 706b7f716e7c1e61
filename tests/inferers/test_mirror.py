"""The mean over mirror images."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_ext.inferers import MirrorInferer


def network(dims: int) -> torch.nn.Module:
    conv = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    return conv(1, 2, 3, padding=1)


def test_mean_by_hand() -> None:
    net, x = network(2), torch.randn(2, 1, 5, 4)
    for axes, wanted in [
        ((), net(x)),
        (1, (net(x) + net(x.flip(3)).flip(3)) / 2),
        ((0, 1), (net(x) + net(x.flip(2)).flip(2) + net(x.flip(3)).flip(3) + net(x.flip(2, 3)).flip(2, 3)) / 4),
    ]:
        torch.testing.assert_close(MirrorInferer(axes)(x, net), wanted)


@pytest.mark.parametrize("axes", [[0], [2], [0, 1, 2]], ids=str)
def test_symmetric_network_is_unchanged(axes: list[int]) -> None:
    net, x = network(3), torch.randn(1, 1, 3, 5, 4)
    for axis in axes:
        net.weight.data += net.weight.data.flip(axis + 2)
    torch.testing.assert_close(MirrorInferer(axes)(x, net), net(x), atol=1e-5, rtol=1e-5)
    net.weight.data += torch.randn_like(net.weight)
    assert not torch.allclose(MirrorInferer(axes)(x, net), net(x), atol=1e-2)


def test_around_a_sliding_window() -> None:
    """Windows lie symmetrically here, so the whole image gives the same."""
    net, x = network(2), torch.randn(1, 1, 12, 8)
    inferer = SlidingWindowInferer(roi_size=(12, 8), sw_batch_size=2)
    torch.testing.assert_close(MirrorInferer((0, 1), inferer)(x, net), MirrorInferer((0, 1))(x, net))


@pytest.mark.parametrize("axes", [(-1,), (0, 0)], ids=str)
def test_bad_axes(axes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="different spatial axes, counted from 0"):
        MirrorInferer(axes)


def test_axes_of_another_image() -> None:
    with pytest.raises(ValueError, match=r"axes \(2,\) are not all axes of an image with 2 spatial dimensions"):
        MirrorInferer(2)(torch.zeros(1, 1, 4, 4), network(2))


def test_a_classifier_has_no_axes_to_mirror_back() -> None:
    """The logits of the mirror images are averaged as they are, of pictures and of volumes."""
    for dims, axes in ((2, (0, 1)), (3, (2,))):
        net = torch.nn.Sequential(network(dims), torch.nn.Flatten(), torch.nn.LazyLinear(3))
        x = torch.randn(2, 1, *(5, 4, 3)[:dims])
        turns = [(), (2,), (3,), (2, 3)] if dims == 2 else [(), (4,)]
        wanted = torch.stack([net(x.flip(turn)) for turn in turns]).mean(0)
        assert not torch.allclose(wanted, net(x), atol=1e-3)
        torch.testing.assert_close(MirrorInferer(axes)(x, net), wanted)
