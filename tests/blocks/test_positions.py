"""Relative positions against double loops, resized tables against interpolation by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention

from monai_ext.blocks.positions import RelativePositionBias, resize_positions
from monai_ext.ops.window_attention import grid_code

WINDOWS = [(3, 3), (2, 5), (1, 4), (2, 3, 4), (3, 1, 2)]
each_window = pytest.mark.parametrize("window", WINDOWS, ids=str)


def pairs(window: tuple[int, ...]) -> torch.Tensor:
    """The row of the table for every pair of tokens."""
    code = grid_code(window)
    return code[:, None] - code[None, :] + code[-1]


@each_window
def test_grid_code(window: tuple[int, ...]) -> None:
    index = pairs(window)
    rows = {offset: i for i, offset in enumerate(itertools.product(*(range(1 - w, w) for w in window)))}
    places = list(itertools.product(*map(range, window)))
    for a, b in itertools.product(range(len(places)), repeat=2):
        assert index[a, b] == rows[tuple(p - q for p, q in zip(places[a], places[b]))]
    assert torch.equal(index, WindowAttention(4, 2, window).relative_position_index)


@each_window
def test_bias(window: tuple[int, ...]) -> None:
    """The value of the table for every pair; a clipped window takes the leading block."""
    bias = RelativePositionBias(window, num_heads=2)
    n = torch.Size(window).numel()
    full, index = bias(n), pairs(window)
    assert full.shape == (2, n, n)
    for head, a, b in itertools.product(range(2), range(n), range(n)):
        assert full[head, a, b] == bias.table[index[a, b], head]
    assert torch.equal(bias(n - 1), full[:, : n - 1, : n - 1])
    full.sum().backward()
    assert torch.equal(bias.table.grad[:, 0], torch.bincount(index.flatten(), minlength=len(bias.table)).float())


@pytest.mark.parametrize(("old", "new"), [((3, 2), (5, 4)), ((4, 4), (2, 3)), ((2, 3, 1), (3, 4, 2))], ids=str)
def test_resize_keeps_constants_and_the_mean_of_lines(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    n = torch.Size(old).numel()
    constant = resize_positions(torch.full((1, n, 3), 0.7), old, new)
    assert constant.shape == (1, torch.Size(new).numel(), 3)
    torch.testing.assert_close(constant, torch.full_like(constant, 0.7))
    line = torch.arange(float(old[0])).repeat_interleave(n // old[0]).view(1, n, 1)
    torch.testing.assert_close(resize_positions(line, old, new).mean(), line.mean())


def test_resize_by_hand() -> None:
    table = torch.tensor([0.0, 1.0]).view(1, 2, 1)
    assert resize_positions(table, (2, 1), (4, 1)).flatten().tolist() == [0, 0.25, 0.75, 1]
    assert resize_positions(table, (1, 2), (2, 4)).flatten().tolist() == [0, 0.25, 0.75, 1] * 2
    assert resize_positions(table, (2, 1), (2, 1)) is table
    corners = torch.arange(8.0).view(1, 8, 1)
    assert resize_positions(corners, (2, 2, 2), (1, 1, 1)).item() == 3.5


def test_resize_keeps_the_type() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        assert resize_positions(torch.rand(1, 4, 2, dtype=dtype), (2, 2), (3, 3)).dtype == dtype
    table = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64).view(1, 2, 1)
    assert resize_positions(table, (2, 1), (4, 1)).unique().numel() == 4  # not by way of float32
