"""The forms of retention against each other, over the raster and over the grid."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from monai_ext.ops import chunkwise
from monai_ext.ops import manhattan_retention as grid_module
from monai_ext.ops import retention as module
from monai_ext.ops.manhattan_retention import manhattan_retention, manhattan_retention_plain
from monai_ext.ops.retention import log_decays, retention, retention_plain, retention_recurrent
from tests.ops.compare import assert_bf16_close, assert_same, leaves

LENGTHS = [1, 3, 8, 9, 41]
GRIDS = [(1, 1), (5, 3), (9, 4), (1, 13), (2, 9, 5), (1, 4, 1), (12, 11, 1)]
each_way = pytest.mark.parametrize("bidirectional", [False, True], ids=["back", "both"])


def test_decays() -> None:
    assert [math.exp(log) for log in log_decays(3)] == pytest.approx([1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128])


@each_way
def test_plain_is_the_double_sum(bidirectional: bool) -> None:
    q, k, v = leaves(*[(1, 2, 6, 4)] * 3)
    out = retention_plain(q, k, v, bidirectional)
    for h, alpha in enumerate((31 / 32, 63 / 64)):
        for n in range(6):
            seen = range(6) if bidirectional else range(n + 1)
            wanted = sum(alpha ** abs(n - m) * (q[0, h, n] @ k[0, h, m]) / 2 * v[0, h, m] for m in seen)
            torch.testing.assert_close(out[0, h, n], wanted)


@each_way
@pytest.mark.parametrize("block", [1, 300, 2**17], ids=["chunk_by_chunk", "some_chunks", "one_block"])
@pytest.mark.parametrize("n", LENGTHS)
def test_forms_agree(n: int, block: int, bidirectional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkwise, "CHUNK", 4)
    monkeypatch.setattr(chunkwise, "BLOCK_CPU", block)
    inputs = leaves(*[(2, 3, n, 5)] * 3)
    assert_same(lambda *t: retention(*t, bidirectional), lambda *t: retention(*t, bidirectional, "parallel"), inputs)
    assert_same(
        lambda *t: retention(*t, bidirectional, "recurrent"), lambda *t: retention_plain(*t, bidirectional), inputs
    )
    with torch.no_grad():
        torch.testing.assert_close(retention(*inputs, bidirectional), retention_recurrent(*inputs, bidirectional))


@each_way
def test_forms_agree_at_the_chunk_in_use(bidirectional: bool) -> None:
    inputs = leaves(*[(1, 2, 2 * chunkwise.CHUNK + 3, 4)] * 3)
    assert_same(lambda *t: retention(*t, bidirectional), lambda *t: retention_plain(*t, bidirectional), inputs)


def test_manhattan_plain_is_the_double_sum() -> None:
    q, k, v = leaves(*[(1, 2, 6, 4)] * 3)
    out, points = manhattan_retention_plain(q, k, v, (2, 3)), [(p // 3, p % 3) for p in range(6)]
    for h, alpha in enumerate((31 / 32, 63 / 64)):
        for n, (r, c) in enumerate(points):
            weights = [
                alpha ** (abs(r - a) + abs(c - b)) * (q[0, h, n] @ k[0, h, m]) / 2 for m, (a, b) in enumerate(points)
            ]
            torch.testing.assert_close(out[0, h, n], sum(w * v[0, h, m] for m, w in enumerate(weights)))


@pytest.mark.parametrize(("stretch", "block"), [(4, 1), (4, 500), (32, 2**20)], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_manhattan_definition(grid: tuple[int, ...], stretch: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "STRETCH", stretch)
    monkeypatch.setattr(grid_module, "BLOCK_CPU", block)
    inputs = leaves(*[(2, 3, math.prod(grid), 5)] * 3)
    assert_same(lambda *t: manhattan_retention(*t, grid), lambda *t: manhattan_retention_plain(*t, grid), inputs)
    with torch.no_grad():
        torch.testing.assert_close(manhattan_retention(*inputs, grid), manhattan_retention_plain(*inputs, grid))


def test_manhattan_on_a_line_is_the_raster() -> None:
    inputs = leaves(*[(1, 2, 70, 3)] * 3)
    assert_same(lambda *t: manhattan_retention(*t, (1, 70)), lambda *t: retention(*t, True), inputs)


@pytest.mark.parametrize(
    "function",
    [retention, lambda *t: retention(*t, True), lambda *t: manhattan_retention(*t, (10, 7))],
    ids=["back", "both", "manhattan"],
)
def test_low_precision(function: Callable) -> None:
    inputs = leaves(*[(2, 2, 70, 8)] * 3)
    assert_bf16_close(function, inputs)
    low = [t.detach().float().requires_grad_() for t in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = function(*low)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, function(*low))


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A package of the name and calling convention of flash-linear-attention, which notes the shapes it is given."""
    shapes: list[tuple[int, ...]] = []

    def chunk_retention(q: Any, k: Any, v: Any, scale: float | None = None) -> tuple[Any, None]:
        assert all(t.is_contiguous() for t in (q, k, v)) and scale == q.shape[-1] ** -0.5
        shapes.append(tuple(q.shape))
        return retention_plain(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2), None

    fla, ops, inner = (ModuleType(name) for name in ("fla", "fla.ops", "fla.ops.retention"))
    inner.chunk_retention = chunk_retention  # type: ignore[attr-defined]
    for name, value in (("fla", fla), ("fla.ops", ops), ("fla.ops.retention", inner)):
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(module, "why_not_installed", lambda name: None)
    monkeypatch.setattr(module, "why_not_cuda", lambda x: None)
    return shapes


@each_way
def test_fla_is_called_as_it_asks(bidirectional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = stand_in(monkeypatch)
    q, k, v = (t.detach().bfloat16() for t in leaves(*[(2, 3, 9, 4)] * 3))
    wanted = retention_plain(q.double(), k.double(), v.double(), bidirectional)
    for backend in ("fla", "auto"):
        out = retention(q, k, v, bidirectional, backend=backend)
        assert out.dtype == torch.bfloat16 and (out - wanted).norm() <= 0.02 * wanted.norm()
    assert shapes == [(2, 9, 3, 4)] * (4 if bidirectional else 2)
    # float32 stays with PyTorch
    retention(q.float(), k.float(), v.float(), bidirectional)
    assert len(shapes) == (4 if bidirectional else 2)
    with pytest.raises(ValueError, match=r"float16 or bfloat16, got torch.float32"):
        retention(q.float(), k.float(), v.float(), backend="fla")


@pytest.mark.gpu
@each_way
def test_fla(bidirectional: bool) -> None:
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    inputs = [t.detach().cuda().bfloat16().requires_grad_() for t in leaves(*[(2, 3, 130, 32)] * 3)]
    results = []
    for tensors, backend in ((inputs, "fla"), ([t.detach().double().requires_grad_() for t in inputs], "torch")):
        out = retention(*tensors, bidirectional, backend=backend)
        results.append([out, *torch.autograd.grad(out.double().square().sum(), tensors)])
    for a, b in zip(*results):
        assert (a.double() - b).norm() <= 0.03 * b.norm()


def test_errors() -> None:
    q = torch.zeros(1, 2, 6, 4)
    with pytest.raises(ValueError, match="share one shape"):
        retention(q, q[:, :, :5], q)
    with pytest.raises(ValueError, match="'chunkwise', 'parallel', 'recurrent', got 'serial'"):
        retention(q, q, q, form="serial")
    with pytest.raises(ValueError, match="known ones: auto, torch, fla"):
        retention(q, q, q, backend="flash")
    with pytest.raises(ValueError, match="CUDA alone"):
        retention(*[q.bfloat16()] * 3, backend="fla")
    with pytest.raises(ValueError, match=r"6 tokens do not fill a grid of \(2, 4\)"):
        manhattan_retention(q, q, q, (2, 4))
