"""Options of the mixers whose tokens see some of the others only."""

from __future__ import annotations

import math
import re

import pytest
import torch

from monai_ext.mixers import build_mixer


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "neighborhood", "kernel_size": 4}, "kernel_size must be an odd number, or 2 of them"),
        ({"name": "neighborhood", "kernel_size": [3, 3, 3]}, "got [3, 3, 3]"),
        ({"name": "neighborhood", "dilation": 0}, "dilation must be a number of at least 1"),
        ({"name": "neighborhood", "backend": "cuda"}, "unknown backend 'cuda'"),
        ({"name": "local", "kernel_size": [3, 2]}, "got [3, 2]"),
        ({"name": "dilated", "segments": [4]}, "got [4] and [1, 2, 4, 8]"),
        ({"name": "dilated", "offsets": "none"}, "'cyclic', 'blocks', got 'none'"),
    ],
    ids=str,
)
def test_bad_values(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build_mixer(spec, 12, 3, 2)


@pytest.mark.parametrize(
    ("spec", "grid", "seen"),
    [
        ({"name": "neighborhood", "kernel_size": [3, 5]}, (9, 8), 15),
        ({"name": "neighborhood"}, (9, 8), 49),
        ({"name": "neighborhood"}, (6, 7, 6), 125),
        ({"name": "local", "kernel_size": 3, "dilation": 2}, (9, 9), 9),
        ({"name": "local"}, (4, 4, 4), 27),
    ],
    ids=str,
)
def test_number_of_neighbours(spec: dict, grid: tuple[int, ...], seen: int) -> None:
    """A token in the middle depends on as many as its window has; in a neighbourhood so does one in a corner."""
    mixer = build_mixer(spec, 12, 3, len(grid)).double()
    x = torch.randn(1, math.prod(grid), 12, dtype=torch.float64, requires_grad=True)
    middle = torch.arange(math.prod(grid)).view(grid)[tuple(g // 2 for g in grid)]
    for token in [int(middle)] + [0, -1] * (spec["name"] == "neighborhood"):
        (grad,) = torch.autograd.grad(mixer(x, grid)[0, token].sin().sum(), x)
        assert (grad[0].abs().sum(-1) > 0).sum() == seen


def test_dilated_is_causal_where_it_says_so() -> None:
    assert not build_mixer("dilated", 12, 3, 2).causal
    spec = {"name": "dilated", "causal": True, "segments": [4, 12], "dilations": [1, 2]}
    mixer = build_mixer(spec, 12, 3, 2)
    x = torch.randn(1, 15, 12)
    later = torch.cat([x[:, :7], torch.randn(1, 8, 12)], 1)
    assert mixer.causal
    torch.testing.assert_close(mixer(x, (5, 3))[:, :7], mixer(later, (5, 3))[:, :7])


def test_heads_of_local() -> None:
    """A single head by default, as in the source, whatever the number of heads of the network."""
    x = torch.randn(1, 15, 12)
    one, three = build_mixer("local", 12, 1, 2), build_mixer("local", 12, 3, 2)
    many = build_mixer({"name": "local", "multi_head": True}, 12, 3, 2)
    for other in (three, many):
        other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x, (5, 3)), three(x, (5, 3)))
    assert not torch.allclose(one(x, (5, 3)), many(x, (5, 3)))
