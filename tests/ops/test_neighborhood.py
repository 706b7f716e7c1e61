"""Neighbourhood attention tile by tile against its definition, and the package's calling convention."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from monai_ext.ops import neighborhood, tiled_attention
from monai_ext.ops.neighborhood import neighborhood_attention, neighborhood_attention_plain, neighbors
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# grid, window, dilation: several kinds of tile, one tile, fewer tokens than a window, classes of two sizes or empty
CASES = [
    ((19, 10), (7, 3), (1, 1)),
    ((11, 9), (3, 5), (2, 3)),
    ((5, 3), (7, 7), (1, 1)),
    ((1, 1), (7, 7), (1, 1)),
    ((3, 4), (3, 3), (5, 2)),
    ((9, 1, 6), (3, 3, 5), (2, 1, 1)),
    ((5, 5, 5), (3, 1, 3), (1, 1, 1)),
]


def of(grid: tuple[int, ...], kernel: tuple[int, ...], heads: int = 2) -> list[torch.Tensor]:
    """q, k, v and a table."""
    return leaves(*[(2, heads, math.prod(grid), 3)] * 3, (heads, *(2 * size - 1 for size in kernel)))


@pytest.mark.parametrize("block", [1, 2**18], ids=["tile_by_tile", "one_block"])
@pytest.mark.parametrize(("grid", "kernel", "dilation"), CASES, ids=str)
def test_definition(
    grid: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiled_attention, "BLOCK_CPU", block)
    inputs = of(grid, kernel)
    for number in (3, 4):  # without the table and with it
        assert_same(
            lambda q, k, v, *table: neighborhood_attention(q, k, v, grid, kernel, dilation, *table),
            lambda q, k, v, *table: neighborhood_attention_plain(q, k, v, grid, kernel, dilation, *table),
            inputs[:number],
        )
    with torch.no_grad():
        torch.testing.assert_close(
            neighborhood_attention(*inputs[:3], grid, kernel, dilation),
            neighborhood_attention_plain(*inputs[:3], grid, kernel, dilation),
        )


def test_windows() -> None:
    """By hand: shifted inwards at the borders, own residue class only, all of a class that is too short."""
    assert neighbors(5, 3, 1) == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    assert neighbors(7, 3, 2) == [[0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5], [2, 4, 6], [1, 3, 5], [2, 4, 6]]
    assert neighbors(3, 7, 2) == [[0, 2], [1], [0, 2]]


def test_whole_window_is_softmax() -> None:
    q, k, v, _ = of((4, 3), (7, 7))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(neighborhood_attention(q, k, v, (4, 3), (7, 7), (1, 1)), wanted)


def test_bf16() -> None:
    inputs = of((9, 10), (5, 3))
    assert_bf16_close(lambda q, k, v, t: neighborhood_attention(q, k, v, (9, 10), (5, 3), (1, 2), t), inputs)


def test_autocast_and_strides() -> None:
    """Products are in float32 under autocast, and strided q, k and v are neither changed nor copied whole."""
    qkv = torch.randn(2, 90, 3, 2, 4, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    with torch.autocast("cpu", torch.bfloat16):
        out = neighborhood_attention(q, k, v, (9, 10), (3, 3), (1, 1))
    wanted = neighborhood_attention_plain(q, k, v, (9, 10), (3, 3), (1, 1))
    assert out.dtype == torch.float32 and out.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(out, wanted)
    for a, b in zip(torch.autograd.grad(out.sin().sum(), qkv), torch.autograd.grad(wanted.sin().sum(), qkv)):
        torch.testing.assert_close(a, b)


def test_keeps_nothing_but_q_k_and_v() -> None:
    sizes: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    qkv = torch.randn(1, 400, 3, 2, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = neighborhood_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), (20, 20), (7, 7), (1, 1))
    assert out.requires_grad and sum(sizes.values()) == 4 * qkv.numel()


def test_errors() -> None:
    q, k, v, table = of((4, 3), (3, 3))
    for arguments, message in [
        (((5, 3), (3, 3), (1, 1)), "12 tokens do not fill a grid of (5, 3)"),
        (((4, 3), (3, 3, 3), (1, 1)), "has other axes"),
        (((4, 3), (3, 4), (1, 1)), "must be odd and dilation at least 1, got (3, 4)"),
        (((4, 3), (3, 3), (1, 0)), "dilation at least 1, got (3, 3) and (1, 0)"),
        (((4, 3), (5, 3), (1, 1), table), "must be (H, 2 k - 1, ..) = (2, 9, 5)"),
        (((4, 3), (3, 3), (1, 1), None, "cutlass"), "unknown backend 'cutlass'"),
        (((4, 3), (3, 3), (1, 1), None, "natten"), "backend 'natten' cannot run this"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            neighborhood_attention(q, k, v, *arguments)
    with pytest.raises(ValueError, match="share one shape"):
        neighborhood_attention(q, k[:, :, 1:], v, (4, 3), (3, 3), (1, 1))


@pytest.mark.parametrize(("grid", "kernel", "dilation"), [((9, 10), (3, 5), (2, 1)), ((3, 4, 5), (3, 3, 3), (1, 1, 1))])
def test_natten_is_called(
    grid: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the package's layout (B, *grid, H, D) and arguments, as if on CUDA."""
    calls = []

    def stand_in(query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None):
        assert query.shape == (2, *grid, 2, 8) and query.is_contiguous()
        calls.append((kernel_size, dilation))
        tokens = [t.flatten(1, len(grid)).transpose(1, 2) for t in (query, key, value)]
        out = neighborhood_attention_plain(*tokens, grid, kernel_size, dilation)
        return out.transpose(1, 2).unflatten(1, grid)

    monkeypatch.setitem(sys.modules, "natten", SimpleNamespace(**{f"na{len(grid)}d": stand_in}))
    monkeypatch.setattr(neighborhood, "why_not_installed", lambda name: None)
    monkeypatch.setattr(neighborhood, "why_not_cuda", lambda x: None)
    inputs = leaves(*[(2, 2, math.prod(grid), 8)] * 3, dtype=torch.float32)
    table = torch.zeros(2, *(2 * size - 1 for size in kernel))
    for backend in ("auto", "natten", "torch"):
        assert_same(
            lambda *t, backend=backend: neighborhood_attention(*t, grid, kernel, dilation, backend=backend),
            lambda *t: neighborhood_attention_plain(*t, grid, kernel, dilation),
            inputs,
            tol=1e-5,
        )
    assert calls == [(kernel, dilation)] * 2
    # what it cannot do is done without it, unless it is asked for
    long = (2 * grid[0] + 1, *kernel[1:])
    for window, bias, reason in [(long, None, "that fit the grid"), (kernel, table, "no relative position bias")]:
        neighborhood_attention(*inputs, grid, window, dilation, bias)
        with pytest.raises(ValueError, match=reason):
            neighborhood_attention(*inputs, grid, window, dilation, bias, backend="natten")
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        neighborhood_attention(*(t.double() for t in inputs), grid, kernel, dilation, backend="natten")
    assert len(calls) == 2


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("natten") is None, reason="natten is not installed")
@pytest.mark.parametrize(
    ("grid", "kernel", "dilation"), [((30, 17), (7, 5), (2, 3)), ((9, 8, 7), (5, 3, 3), (1, 2, 1))]
)
def test_natten(grid: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    inputs = leaves(*[(2, 2, math.prod(grid), 32)] * 3, dtype=torch.float32)
    inputs = [t.detach().cuda().requires_grad_() for t in inputs]
    results = []
    for backend in ("natten", "torch"):
        out = neighborhood_attention(*inputs, grid, kernel, dilation, backend=backend)
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for a, b in zip(*results):
        assert (a - b).norm() <= 5e-3 * b.norm()


@pytest.mark.gpu
def test_blocks_on_a_gpu() -> None:
    inputs = [t.detach().cuda().requires_grad_() for t in of((19, 10), (7, 3))]
    results = []
    for function in (neighborhood_attention, neighborhood_attention_plain):
        out = function(*inputs[:3], (19, 10), (7, 3), (2, 1), inputs[3])
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("limit", [0, 1, 5, 12, 100])
def test_chunks(limit: int) -> None:
    """Every element once, in blocks within the limit; nothing of an empty batch."""
    times = torch.zeros(2, 3, 4)
    for block in tiled_attention.chunks(times.shape, limit):
        assert times[block].numel() <= max(1, limit)
        times[block] += 1
    assert times.eq(1).all()
    assert not list(tiled_attention.chunks((0, 3, 4), limit))


def test_empty_batch() -> None:
    q = torch.zeros(0, 2, 12, 4, requires_grad=True)
    out = neighborhood_attention(q, q, q, (4, 3), (3, 3), (1, 1))
    assert out.shape == q.shape and torch.autograd.grad(out.sum(), q)[0].shape == q.shape
