"""Windowed attention against its definition, at sizes that leave remainders everywhere."""

from __future__ import annotations

import copy

import pytest
import torch

import monai_ext.ops.window_attention as op
from monai_ext.blocks.windows import plan_windows
from monai_ext.ops.window_attention import grid_code, window_attention, window_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same

CPU = torch.device("cpu")
HEADS, DIM = 3, 4
# grid, window: padded, clipped, one window, cut in 2D and 3D
LAYOUTS = [((7, 5), (3, 2)), ((5, 3), (4, 4)), ((1, 6), (1, 4)), ((2, 3), (4, 5)), ((5, 4, 7), (2, 3, 3))]
each_layout = pytest.mark.parametrize(("grid", "window"), LAYOUTS, ids=str)
each_shift = pytest.mark.parametrize("shift", [False, True], ids=["still", "shifted"])


def case(grid: tuple[int, ...], window: tuple[int, ...], shift: bool, dtype: torch.dtype = torch.float64):
    plan = plan_windows(grid, window, shift, CPU)
    code = grid_code(window)
    n = torch.Size(plan.window).numel()
    rows = torch.Size([2 * w - 1 for w in window]).numel()
    shapes = [(2, torch.Size(grid).numel(), 3 * HEADS * DIM), (3 * HEADS * DIM,), (rows, HEADS)]
    inputs = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    if not plan.padded:
        del inputs[1]

    def with_plan(function):
        def run(*tensors: torch.Tensor) -> torch.Tensor:
            qkv, pad, table = tensors if plan.padded else (tensors[0], None, tensors[1])
            return function(qkv, pad, table, code[:n], plan.index, plan.inverse, plan.groups)

        return run

    return inputs, with_plan


@each_layout
@each_shift
@pytest.mark.parametrize("block", [1, 50, 2**20], ids=["one_window", "few_windows", "all"])
@pytest.mark.parametrize("bias_block", [1, 40, 2**24], ids=["one_row", "few_rows", "all_rows"])
@pytest.mark.parametrize("narrow", [1, 16], ids=["fused", "narrow_heads"])
def test_same_as_the_definition(monkeypatch, grid, window, shift, block, bias_block, narrow) -> None:
    monkeypatch.setattr(op, "NARROW", narrow)
    monkeypatch.setattr(op, "BLOCK_CPU", block)
    monkeypatch.setattr(op, "BIAS_BLOCK_CPU", bias_block)
    inputs, with_plan = case(grid, window, shift)
    assert_same(with_plan(window_attention), with_plan(window_attention_plain), inputs)
    with torch.no_grad():
        torch.testing.assert_close(with_plan(window_attention)(*inputs), with_plan(window_attention_plain)(*inputs))


@each_layout
def test_bf16(grid, window) -> None:
    # unshifted: a shift masks the padding, whose gradient then is rounding alone
    inputs, with_plan = case(grid, window, False)
    assert_bf16_close(with_plan(window_attention), inputs, tol=0.03)


def test_dropout_is_the_same_in_the_backward(monkeypatch) -> None:
    """The derivative along a random direction against a difference quotient, with the same seed."""
    monkeypatch.setattr(op, "BLOCK_CPU", 60)
    inputs, with_plan = case((7, 5), (3, 2), True)

    def run() -> torch.Tensor:
        torch.manual_seed(3)
        return with_plan(lambda *a: window_attention(*a, dropout_p=0.4))(*inputs).sin().sum()

    run().backward()
    directions = [torch.randn_like(t) for t in inputs]
    wanted = sum((t.grad * d).sum() for t, d in zip(inputs, directions)).item()
    moved = [copy.deepcopy(t.detach()) for t in inputs]
    values = []
    for step in (1e-6, -1e-6):
        for t, start, d in zip(inputs, moved, directions):
            t.data = start + step * d
        values.append(run().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(wanted, rel=1e-5)


def test_dropout_keeps_the_mean() -> None:
    inputs, with_plan = case((8, 8), (4, 4), True)
    wanted = with_plan(window_attention)(*inputs)
    mean = sum(with_plan(lambda *a: window_attention(*a, dropout_p=0.3))(*inputs) for _ in range(300)) / 300
    assert (mean - wanted).norm() < 0.1 * wanted.norm()


def test_keeps_nothing_but_its_input() -> None:
    inputs, with_plan = case((12, 12), (6, 6), True)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with_plan(window_attention)(*inputs)
    assert max(kept) == inputs[0].numel()


def test_wrong_sizes() -> None:
    (qkv, table), _ = case((6, 6), (3, 3), False)
    plan, code = plan_windows((6, 6), (3, 3), False, CPU), grid_code((3, 3))
    with pytest.raises(ValueError, match="4 windows of 8 tokens for a grid of 36 do not fit an index of 36"):
        window_attention(qkv, None, table, code[:8], plan.index, plan.inverse, plan.groups)
    with pytest.raises(ValueError, match="35 channels are not those of q, k and v in 3 heads"):
        window_attention(qkv[..., :35], None, table, code, plan.index, plan.inverse, plan.groups)
