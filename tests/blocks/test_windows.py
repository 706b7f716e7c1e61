"""Windows by one gather, against padding, rolling, cutting and masking step by step as MONAI does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import compute_mask, get_window_size, window_partition, window_reverse

from monai_ext.blocks.mixer_block import PLANS_KEPT, WindowMixerBlock
from monai_ext.blocks.windows import from_windows, plan_windows, to_windows
from monai_ext.mixers import build_mixer
from monai_ext.ops.window_attention import region_mask

CPU = torch.device("cpu")
# grid, window
LAYOUTS = [
    ((6, 9), (3, 3)),
    ((7, 5), (3, 2)),
    ((5, 3), (4, 4)),  # shorter than the window along one axis
    ((2, 3), (4, 5)),  # along both
    ((1, 6), (1, 4)),
    ((8, 1), (7, 7)),
    ((4, 6, 5), (2, 3, 4)),
    ((3, 5, 7), (3, 3, 3)),
    ((1, 4, 2), (2, 3, 5)),
    ((5, 1, 6), (4, 2, 5)),
]
each_layout = pytest.mark.parametrize(("grid", "window"), LAYOUTS, ids=str)
each_shift = pytest.mark.parametrize("shift", [False, True], ids=["still", "shifted"])


def step_by_step(
    x: torch.Tensor, asked: Sequence[int], shift: bool, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """A function of the windows (B, W, n, C) of a map (B, *grid, C) and their masks (W, n, n), brought back."""
    grid, axes = x.shape[1:-1], tuple(range(1, x.ndim - 1))
    window, shifts = get_window_size(grid, asked, [w // 2 if shift else 0 for w in asked])
    for axis, (g, w) in enumerate(zip(grid, window), start=1):
        x = F.pad(x.movedim(axis, -1), (0, -g % w)).movedim(-1, axis)
    padded = x.shape[1:-1]
    x = torch.roll(x, [-s for s in shifts], axes)
    cut = window_partition(x, window)
    mask = compute_mask(padded, window, shifts, CPU).to(x.dtype)
    cut = function(cut.view(x.shape[0], -1, *cut.shape[1:]), mask).flatten(0, 1)
    x = window_reverse(cut.view(-1, *window, x.shape[-1]), window, [x.shape[0], *padded])
    x = torch.roll(x, shifts, axes)
    for axis, g in enumerate(grid, start=1):
        x = x.narrow(axis, 0, g)
    return x


@each_layout
@each_shift
def test_same_windows_and_masks(grid: tuple[int, ...], window: tuple[int, ...], shift: bool) -> None:
    """Every window as the list of its tokens (0 for padding), and its mask."""
    wanted: dict[tuple, torch.Tensor] = {}
    tokens = torch.arange(1.0, torch.Size(grid).numel() + 1)

    def note(windows: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        wanted.update((tuple(w), mask) for w, mask in zip(windows[0, ..., 0].tolist(), masks))
        return windows

    assert torch.equal(step_by_step(tokens.view(1, *grid, 1), window, shift, note).flatten(), tokens)
    plan = plan_windows(grid, window, shift, CPU)
    masks = [region_mask(r) if r is not None else None for count, r in plan.groups for _ in range(count)]
    found = to_windows(tokens.view(1, -1, 1), plan).view(len(masks), -1).tolist()
    assert len(wanted) == len(found) and {tuple(w) for w in found} == set(wanted)
    for numbers, mask in zip(found, masks):
        assert torch.equal(torch.zeros_like(wanted[tuple(numbers)]) if mask is None else mask, wanted[tuple(numbers)])
    assert plan.padded == any(0 in w for w in found)
    # no two groups have the same mask
    assert len({None if mask is None else tuple(mask.flatten().tolist()) for mask in masks}) == len(plan.groups)


def attend(windows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.softmax(windows @ windows.transpose(-1, -2) + mask, -1) @ windows


@each_layout
@each_shift
def test_same_attention_and_gradient(grid: tuple[int, ...], window: tuple[int, ...], shift: bool) -> None:
    x = torch.randn(2, *grid, 3, dtype=torch.float64, requires_grad=True)
    plan = plan_windows(grid, window, shift, CPU)
    counts = [count for count, _ in plan.groups]
    windows = to_windows(x.flatten(1, -2), plan).view(2, sum(counts), -1, 3)
    parts = [attend(w, 0 if r is None else region_mask(r)) for w, (_, r) in zip(windows.split(counts, 1), plan.groups)]
    mine = from_windows(torch.cat(parts, 1).flatten(1, 2), plan).view_as(x)
    wanted = step_by_step(x, window, shift, attend)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)
    weights = torch.randn_like(x)
    gradients = [torch.autograd.grad(out, x, weights)[0] for out in (mine, wanted)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@each_layout
@each_shift
def test_there_and_back(grid: tuple[int, ...], window: tuple[int, ...], shift: bool) -> None:
    plan = plan_windows(grid, window, shift, CPU)
    x = torch.randn(2, torch.Size(grid).numel(), 3)
    assert torch.equal(from_windows(to_windows(x, plan), plan), x)
    assert plan.trivial == (not plan.padded and len(plan.index) == len(plan.inverse) == torch.Size(plan.window).numel())


@pytest.mark.parametrize(("grid", "window"), [((5, 3), (2, 2)), ((3, 4, 2), (2, 3, 2))], ids=str)
@pytest.mark.parametrize("way", [to_windows, from_windows])
def test_first_and_second_derivative(grid: tuple[int, ...], window: tuple[int, ...], way: Callable) -> None:
    plan = plan_windows(grid, window, True, CPU)
    assert plan.padded
    rows = len(plan.inverse if way is to_windows else plan.index)
    x = torch.randn(1, rows, 2, dtype=torch.float64, requires_grad=True)

    def curved(x: torch.Tensor) -> torch.Tensor:
        return way(x.sin(), plan).square()

    assert torch.autograd.gradcheck(curved, x) and torch.autograd.gradgradcheck(curved, x)
    # the rows as they are where nothing is to be differentiated
    with torch.no_grad():
        plain = way(x, plan)
    assert torch.equal(plain, way(x, plan))


def test_memory_of_plans() -> None:
    """One plan a size, no more than a few, and none in a copy."""
    block = WindowMixerBlock(build_mixer("softmax", 4, 2, 2), (3, 3), shift=True)
    for size in range(1, PLANS_KEPT + 5):
        for _ in range(2):
            block(torch.zeros(1, 2 * size, 4), (2, size))
    assert len(block._plans) == PLANS_KEPT
    assert next(reversed(block._plans))[0] == (2, PLANS_KEPT + 4)
    assert not block.__getstate__()["_plans"] and not [key for key in block.state_dict() if "plan" in key]


def test_block_in_float64() -> None:
    block = WindowMixerBlock(build_mixer("softmax", 4, 2, 2), (3, 3), shift=True)
    x = torch.randn(1, 35, 4)
    low, high = block(x, (5, 7)), block.double()(x.double(), (5, 7))
    assert high.dtype == torch.float64
    torch.testing.assert_close(low.double(), high, atol=1e-5, rtol=1e-5)


@each_layout
@each_shift
def test_rotary_positions_in_windows(grid: tuple[int, ...], window: tuple[int, ...], shift: bool) -> None:
    """Tokens, padding among them, are turned as if each window were an image of its own."""
    torch.manual_seed(0)
    mixer = build_mixer({"name": "softmax", "position": "rotary"}, 12, 2, len(grid), qkv_bias=True)
    block = WindowMixerBlock(mixer, window, shift).double()
    torch.nn.init.normal_(block.relative_position.table)
    x = torch.randn(2, torch.Size(grid).numel(), 12, dtype=torch.float64, requires_grad=True)
    results = []
    for at_once in (True, False):
        mixer.takes_windows = at_once
        out = block._mix(x, grid)
        results.append([out, *torch.autograd.grad(out.sin().sum(), [x, *mixer.parameters()])])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted)
