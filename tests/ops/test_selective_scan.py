"""The selective scan against its recurrence in float64, what it keeps, and how it calls the package."""

from __future__ import annotations

import importlib.machinery
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from monai_ext.ops import selective_scan as op
from monai_ext.ops.recurrence import recur_
from monai_ext.ops.selective_scan import selective_scan, selective_scan_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# B, E, N, S, G: tokens fewer than a block, at its border, not divisible by it or by chunks; batches of tiny windows
SHAPES = [(2, 6, 37, 4, 2), (1, 3, 1, 2, 1), (3, 4, 32, 1, 1), (5, 8, 23, 1, 4), (2, 10, 65, 3, 1), (7, 6, 3, 5, 2)]


def inputs(b: int, e: int, n: int, s: int, g: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """u, dt > 0, a < 0, b, c, d."""
    u, dt, a, into, out, d = (
        t.detach() for t in leaves((b, e, n), (b, e, n), (e, s), (b, g, s, n), (b, g, s, n), (e,))
    )
    return [t.to(dtype).requires_grad_() for t in (u, 0.3 * dt.abs() + 0.01, -a.abs() - 0.1, into, out, d)]


def with_options(function: Callable, **options: Any) -> Callable:
    return lambda *tensors: function(*tensors, **options)


def loop(u, dt, a, b, c, d):
    """The definition, number by number."""
    share = u.shape[1] // b.shape[1]
    rows = []
    for i in range(u.shape[0]):
        for e in range(u.shape[1]):
            h, row = [torch.zeros((), dtype=u.dtype)] * a.shape[1], []
            for t in range(u.shape[2]):
                into, out = b[i, e // share, :, t], c[i, e // share, :, t]
                h = [
                    torch.exp(dt[i, e, t] * r) * h_s + dt[i, e, t] * b_s * u[i, e, t]
                    for h_s, r, b_s in zip(h, a[e], into)
                ]
                row.append(sum(c_s * h_s for c_s, h_s in zip(out, h)) + d[e] * u[i, e, t])
            rows.append(torch.stack(row))
    return torch.stack(rows).view_as(u)


def test_plain_is_the_definition() -> None:
    tensors = inputs(2, 4, 6, 3, 2)
    assert_same(selective_scan_plain, loop, tensors)


@pytest.mark.parametrize("short", [0, 2**11], ids=["step_by_step", "chunks"])
@pytest.mark.parametrize("cells", [40, 600, 2**18])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast(shape: tuple[int, ...], cells: int, short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks from a token or a part of its channels to everything at once."""
    monkeypatch.setattr(op, "CELLS_CPU", cells)
    monkeypatch.setattr(op, "SHORT_CPU", short)
    for options in ({}, {"softplus": True}, {"reverse": True}, {"softplus": True, "reverse": True}):
        fast, plain = with_options(selective_scan, **options), with_options(selective_scan_plain, **options)
        assert_same(fast, plain, inputs(*shape))
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(*shape)), plain(*inputs(*shape)))


def test_without_a_direct_path() -> None:
    assert_same(selective_scan, selective_scan_plain, inputs(2, 6, 37, 4, 2)[:-1])


def test_strides_do_not_matter() -> None:
    tensors = inputs(2, 6, 37, 4, 2)
    turned = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in tensors]
    assert not turned[0].is_contiguous()
    assert_same(selective_scan, selective_scan_plain, turned)
    assert selective_scan(*tensors).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("size", [1, 15, 16, 23, 48])
@pytest.mark.parametrize("backwards", [False, True])
def test_recurrence(size: int, backwards: bool) -> None:
    x, decay, state = (t.detach() for t in leaves((size, 3), (size, 3), (3,)))
    decay = 0.9 * torch.sigmoid(decay)
    wanted, before = x.clone(), state
    for t in reversed(range(size)) if backwards else range(size):
        wanted[t] = before = wanted[t] + decay[t] * before
    for short in (0, 100):
        found = x.clone()
        recur_(found, decay, state, short, backwards)
        torch.testing.assert_close(found, wanted)


def test_bf16() -> None:
    assert_bf16_close(with_options(selective_scan, softplus=True), inputs(2, 8, 65, 4, 2))


def test_autocast_keeps_float32() -> None:
    tensors = inputs(1, 8, 65, 4, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = selective_scan(*tensors)
    grads = torch.autograd.grad(out.sum(), tensors)
    wanted = selective_scan(*tensors)
    torch.testing.assert_close(out, wanted, rtol=0, atol=0)
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), tensors)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("short", [0, 2**11], ids=["step_by_step", "chunks"])
def test_vanishing_decays(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step sizes of 1000 wipe the state out, and every token starts anew; tiny ones forget nothing."""
    monkeypatch.setattr(op, "SHORT_CPU", short)
    u, _, a, b, c, d = inputs(1, 4, 200, 2, 1, dtype=torch.float32)
    dt = torch.full_like(u, 1e3).requires_grad_()
    out = selective_scan(u, dt, a, b, c, d)
    torch.testing.assert_close(out, dt * u * (b * c).sum(2) + d[:, None] * u)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (u, dt, a, b, c, d)))
    ones = torch.ones_like(u)
    out = selective_scan(ones, 1e-6 * ones, a, torch.ones_like(b), torch.ones_like(c))
    torch.testing.assert_close(out, 2e-6 * ones.cumsum(-1), rtol=1e-3, atol=0)


def test_keeps_no_states() -> None:
    """Of N x E x S = 16 times an input: the inputs, and a state every 32 tokens or more."""
    e, n, s = 128, 2048, 16
    tensors = inputs(1, e, n, s, 1, dtype=torch.float32)
    sizes: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = selective_scan(*tensors)
    own = sum(t.numel() * t.element_size() for t in tensors)
    assert out.requires_grad and own <= sum(sizes.values()) <= own + 4 * n * e * s / 32


@pytest.mark.slow
def test_peak_memory() -> None:
    """Forward and backward take less than half of one N x E x S tensor above the inputs' own gradients."""
    e, n, s = 256, 8192, 16
    tensors = [t.detach().requires_grad_() for t in inputs(1, e, n, s, 1, dtype=torch.float32)]
    selective_scan(*[t[..., :64] if t.shape[-1] == n else t for t in tensors]).sum().backward()
    low = high = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal high
        while not done.wait(0.001):
            high = max(high, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    selective_scan(*tensors).sum().backward()
    done.set()
    watcher.join()
    one = 4 * e * n
    # the output, its gradient, those of u and dt, and the blocks
    assert high - low <= 6 * one + 24 * op.CELLS_CPU <= one * s / 2


def resident() -> int:
    """Bytes of memory in use."""
    try:
        with open("/proc/self/statm") as file:
            return 4096 * int(file.read().split()[1])
    except OSError:
        pytest.skip("memory in use is read from /proc")


@pytest.mark.slow
def test_faster_than_a_loop() -> None:
    """At least 20 times, forward and backward, at 4096 tokens; about 60 measured."""
    tensors = inputs(1, 96, 4096, 8, 1, dtype=torch.float32)

    def seconds(function: Callable) -> float:
        start = time.process_time()
        function(*tensors).sum().backward()
        return time.process_time() - start

    seconds(selective_scan)
    assert seconds(selective_scan_plain) >= 20 * min(seconds(selective_scan) for _ in range(3))


def test_compiles_as_one_operator() -> None:
    """Not a graph with every token's step."""
    graphs = []

    def note(graph: torch.fx.GraphModule, _: Any) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    tensors = inputs(1, 4, 300, 2, 1)
    found = torch.compile(selective_scan, fullgraph=True, backend=note)(*tensors)
    torch.testing.assert_close(found, selective_scan(*tensors))
    assert len(graphs) == 1 and len(graphs[0].graph.nodes) < 20


@pytest.mark.parametrize("d", [True, False])
def test_operator_keeps_torch_rules(d: bool) -> None:
    tensors = inputs(2, 6, 37, 4, 2)
    d_given = tensors[-1] if d else None
    torch.library.opcheck(op._scan_op, (*tensors[:-1], d_given, True, True, True))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, torch.ones(1, 4, 6), r"share one shape .* \(1, 4, 5\) and \(1, 4, 6\)"),
        (0, torch.ones(4, 5), "share one shape"),
        (2, torch.ones(3, 2), r"E = 4 and S >= 1, got \(3, 2\)"),
        (3, torch.ones(1, 2, 3, 5), r"\(1, G, 2, 5\), got \(1, 2, 3, 5\)"),
        (4, torch.ones(1, 1, 2, 5), r"got \(1, 2, 2, 5\) and \(1, 1, 2, 5\)"),
        (5, torch.ones(5), r"d must be \(E\) = \(4,\), got \(5,\)"),
    ],
    ids=str,
)
def test_wrong_shapes(place: int, value: torch.Tensor, message: str) -> None:
    tensors = [t.detach() for t in inputs(1, 4, 5, 2, 2)]
    tensors[place] = value
    with pytest.raises(ValueError, match=message):
        selective_scan(*tensors)


def test_groups_of_unequal_size() -> None:
    u, dt, a, b, c, d = inputs(1, 4, 5, 2, 3)
    with pytest.raises(ValueError, match="4 channels do not fall into 3 equal groups"):
        selective_scan(u, dt, a, b, c, d)


def test_backend_that_cannot() -> None:
    with pytest.raises(ValueError, match=r"'mamba_ssm' cannot run this: it runs on CUDA alone"):
        selective_scan(*inputs(1, 4, 5, 2, 1), backend="mamba_ssm")
    with pytest.raises(ValueError, match="unknown backend 'triton'; known ones: auto, torch, mamba_ssm"):
        selective_scan(*inputs(1, 4, 5, 2, 1), backend="triton")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_the_package_as_it_asks(reverse: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that asks what the kernels do: one dtype, tokens innermost, float32 rates."""
    seen = []

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        assert u.dtype == delta.dtype == B.dtype == C.dtype == dtype
        assert A.dtype == D.dtype == torch.float32
        assert all(t.stride(-1) == 1 for t in (u, delta, B, C))
        assert z is None and delta_bias is None
        seen.append(u.shape)
        return selective_scan_plain(*(t.float() for t in (u, delta, A, B, C, D)), softplus=delta_softplus).to(dtype)

    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.selective_scan_fn = selective_scan_fn
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(op, "_why_not_mamba", lambda u, a: None)
    u, dt, a, b, c, d = inputs(2, 6, 37, 4, 2, dtype=dtype)
    b = b.float()
    options = {"softplus": True, "reverse": reverse}
    found = selective_scan(u, dt, a, b, c, d, **options)
    assert seen == [(2, 6, 37)] and found.dtype == dtype
    wanted = selective_scan(u, dt, a, b, c, d, **options, backend="torch")
    assert len(seen) == 1
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.gpu
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and chunks as a GPU has them."""
    monkeypatch.setattr(op, "CELLS", 2**14)
    for options in ({}, {"softplus": True, "reverse": True}):
        tensors = [t.detach().cuda().requires_grad_() for t in inputs(2, 6, 1000, 4, 2)]
        options["backend"] = "torch"
        plain = with_options(selective_scan_plain, **{k: v for k, v in options.items() if k != "backend"})
        assert_same(lambda *t, o=options: selective_scan(*t, **o).cpu(), lambda *t, p=plain: p(*t).cpu(), tensors)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm(reverse: bool) -> None:
    pytest.importorskip("mamba_ssm")
    tensors = [t.detach().cuda().requires_grad_() for t in inputs(2, 8, 333, 4, 2, dtype=torch.float32)]
    options = {"softplus": True, "reverse": reverse}
    results = []
    for backend in ("mamba_ssm", "torch"):
        out = selective_scan(*tensors, **options, backend=backend)
        results.append([out, *torch.autograd.grad(out.sin().sum(), tensors)])
    for a, b in zip(*results):
        assert (a - b).norm() <= 1e-3 * b.norm()
