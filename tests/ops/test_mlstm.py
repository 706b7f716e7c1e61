"""The matrix memory in chunks against its parallel form."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.ops import chunkwise
from monai_ext.ops.mlstm import mlstm, mlstm_plain
from tests.ops.compare import assert_bf16_close, assert_same

# around the chunk's borders, one token, fewer tokens than channels
LENGTHS = [1, 3, 8, 9, 41]


def inputs(n: int, input_gate: float = 0.0, forget_gate: float = 3.0, b: int = 2, h: int = 3, d: int = 5) -> list:
    rng = torch.Generator().manual_seed(n)
    drawn = [torch.randn(*s, generator=rng, dtype=torch.float64) for s in [(b, h, n, d)] * 3 + [(b, h, n)] * 2]
    drawn[3] = 2 * drawn[3] + input_gate
    drawn[4] = 2 * drawn[4] + forget_gate
    return [t.requires_grad_() for t in drawn]


def recurrent(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, i: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """One head without a stabiliser, as the paper introduces it: C = f C + i v k^T, n = f n + i k."""
    memory, normaliser, out = 0, 0, []
    for q_t, k_t, v_t, i_t, f_t in zip(q, k / math.sqrt(k.shape[-1]), v, i.exp(), torch.sigmoid(f)):
        memory = f_t * memory + i_t * torch.outer(v_t, k_t)
        normaliser = f_t * normaliser + i_t * k_t
        out.append(memory @ q_t / max(abs(normaliser @ q_t), 1))
    return torch.stack(out)


def test_plain_is_the_recurrence() -> None:
    tensors = inputs(20, b=1, h=1)
    found = mlstm_plain(*tensors, eps=0)[0, 0]
    torch.testing.assert_close(found, recurrent(*(t[0, 0] for t in tensors)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [1, 300, 2**17], ids=["chunk_by_chunk", "some_chunks", "one_block"])
@pytest.mark.parametrize("n", LENGTHS)
def test_definition(n: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkwise, "CHUNK", 4)
    monkeypatch.setattr(chunkwise, "BLOCK_CPU", block)
    # an eps that matters: the gradient through it must be right, too
    for eps in (1e-6, 0.3):
        assert_same(lambda *t, e=eps: mlstm(*t, eps=e), lambda *t, e=eps: mlstm_plain(*t, eps=e), inputs(n))
    with torch.no_grad():
        torch.testing.assert_close(mlstm(*inputs(n)), mlstm_plain(*inputs(n)))


def test_definition_at_the_chunk_in_use() -> None:
    assert_same(mlstm, mlstm_plain, inputs(chunkwise.CHUNK * 2 + 3, b=1, h=2))


@pytest.mark.parametrize("gates", [(0, -40), (0, 40), (40, 0), (-40, 0), (-40, 40), (300, -300), (-300, 300)], ids=str)
def test_strong_gates(gates: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkwise, "CHUNK", 4)
    assert_same(mlstm, mlstm_plain, inputs(18, *gates), tol=1e-9)
    low = [t.detach().float().requires_grad_() for t in inputs(18, *gates)]
    out = mlstm(*low)
    out.sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in low)
    wanted = mlstm_plain(*inputs(18, *gates))
    # sums of weights that nearly cancel magnify the rounding
    assert (out - wanted).norm() <= 1e-4 * wanted.norm() + 1e-30


def test_a_long_sequence_in_float32() -> None:
    """Sums of logarithms over thousands of tokens: in float32 their differences would have lost their digits."""
    tensors = inputs(3000, 0, 0, b=1, h=1)
    wanted = mlstm_plain(*tensors)
    assert (mlstm(*(t.float() for t in tensors)) - wanted).norm() <= 1e-5 * wanted.norm()
    plain = mlstm_plain(*(t.float() for t in tensors))
    assert (plain - wanted).norm() > 3e-5 * wanted.norm()


def test_bf16() -> None:
    assert_bf16_close(mlstm, inputs(70, b=1, h=2, d=8), tol=0.03)


def test_autocast_keeps_float32() -> None:
    tensors = [t.detach().float().requires_grad_() for t in inputs(33)]
    with torch.autocast("cpu", torch.bfloat16):
        out = mlstm(*tensors)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, mlstm(*tensors))


def test_strides_do_not_matter() -> None:
    tensors = inputs(9)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    torch.testing.assert_close(mlstm(*strided), mlstm(*tensors))


def test_memory_is_linear() -> None:
    """Kept for the backward are the inputs, the output and a few numbers per token and head."""
    h, n, d = 2, 1024, 16
    tensors = [t.detach().float().requires_grad_() for t in inputs(n, b=1, h=h, d=d)]
    sizes: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = mlstm(*tensors)
    assert out.requires_grad
    assert sum(sizes.values()) <= 4 * 4 * h * n * d + 100 * h * n


def test_wrong_shapes() -> None:
    q, gate = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5)
    with pytest.raises(ValueError, match="share one shape"):
        mlstm(q, q[:, :, :4], q, gate, gate)
    with pytest.raises(ValueError, match=r"\(B, H, N\) = \(1, 2, 5\), got \(1, 2, 5\) and \(1, 2, 4\)"):
        mlstm(q, q, q, gate, gate[..., :4])
