"""Performer attention against its definition, and what it approximates."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.ops import performer
from monai_ext.ops.performer import FEATURES, orthogonal_features, performer_attention, performer_attention_plain
from monai_ext.ops.softmax import softmax_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves


def directions(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return orthogonal_features(count, dim).double()


# blocks of one token, of four tokens, of two samples, of all
@pytest.mark.parametrize("block", [1, 60, 2 * 7 * 15, 2**19])
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("n", [1, 7])
def test_definition(n: int, feature: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performer, "BLOCK_CPU", block)
    w = directions(5, 4)
    inputs = leaves(*[(3, 3, n, 4)] * 3)
    fast, plain = (lambda *t, op=op: op(*t, w, feature) for op in (performer_attention, performer_attention_plain))
    assert_same(fast, plain, inputs)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), plain(*inputs))


def test_eps() -> None:
    w = directions(5, 4)
    inputs = leaves(*[(2, 2, 7, 4)] * 3)
    fast, plain = (lambda *t, op=op: op(*t, w, eps=1e-6) for op in (performer_attention, performer_attention_plain))
    assert_same(fast, plain, inputs)
    assert (fast(*inputs) - performer_attention(*inputs, w)).abs().max() > 1e-6


def test_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(5, 2, 7, 1)
    for block, groups, tokens in [(1, 5, 7), (60, 5, 2), (250, 3, 1), (10**6, 1, 1)]:
        monkeypatch.setattr(performer, "BLOCK_CPU", block)
        found = performer._blocks(x, 6)
        assert (len(found), len(found[0][1])) == (groups, tokens)


def test_joint_projection() -> None:
    """Gradients of views of one tensor, as the mixer has them."""
    (joint,) = leaves((2, 7, 3, 3, 4))
    w = directions(5, 4)
    fast, plain = (
        lambda qkv, op=op: op(*qkv.permute(2, 0, 3, 1, 4).unbind(0), w)
        for op in (performer_attention, performer_attention_plain)
    )
    assert_same(fast, plain, [joint])


def test_directions() -> None:
    w = directions(11, 4)
    for rows in w.split(4):
        gram = rows @ rows.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-5, rtol=0)
    # as long as normal vectors, and no preferred direction
    many = torch.cat([directions(4, 4, seed) for seed in range(500)])
    assert many.square().sum(1).mean() == pytest.approx(4, rel=0.1)
    assert many.mean(0).abs().max() < 0.15


def test_approximates_softmax() -> None:
    """The error falls with the number of features (quickly only where scores are moderate)."""
    q, k, v = 0.5 * torch.randn(3, 1, 2, 40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = softmax_attention_plain(q, k, v)
    errors = [
        (performer_attention(q, k, v, directions(count, 8)) - wanted).norm() / wanted.norm()
        for count in (16, 256, 4096)
    ]
    assert errors[0] > 1.5 * errors[1] > 4 * errors[2] and errors[2] < 0.05


def test_samples_do_not_see_each_other() -> None:
    q, k, v = (t.detach() for t in leaves(*[(3, 2, 9, 4)] * 3))
    w = directions(5, 4)
    out = performer_attention(q, k, v, w)
    k = torch.cat([k[:1], 3 * k[1:]])
    torch.testing.assert_close(performer_attention(q, k, v, w)[:1], out[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("size", [30.0, 0.0])
def test_extreme_tokens(size: float, feature: str) -> None:
    # all exponentials but one underflow, or all tokens are zero
    q, k, v = (size * t.detach().float() for t in leaves(*[(1, 1, 50, 8)] * 3))
    q.requires_grad_()
    out = performer_attention(q, k, v, directions(16, 8), feature)
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert out.isfinite().all() and grad.isfinite().all()
    assert out.abs().max() <= v.abs().max() * (1 + 1e-5)


def test_keeps_no_features() -> None:
    n, d, m = 512, 8, 64
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 1, 2, n, d))
    sizes = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = performer_attention(q, k, v, torch.randn(m, d))
    own = 4 * 2 * n * d
    assert out.requires_grad and sum(sizes.values()) <= 3 * own + 4 * 4 * m * (d + 1)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("shape", [(2, 2, 65, 8), (2, 2, 5, 8)], ids=str)
def test_bf16(shape: tuple[int, ...], feature: str) -> None:
    w = directions(int(8 * math.log(8)), 8)
    assert_bf16_close(lambda *t: performer_attention(*t, w, feature), leaves(*[shape] * 3))


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, dtype=torch.float32)
    w = directions(5, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = performer_attention(*inputs, w)
    grads = torch.autograd.grad(out.sum(), inputs)
    wanted = performer_attention(*inputs, w)
    torch.testing.assert_close(out, wanted)
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), inputs)):
        torch.testing.assert_close(a, b)


def test_errors() -> None:
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="share one shape"):
        performer_attention(q, q[:, :, :3], q, torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"D = 4, got \(4, 5\)"):
        performer_attention(q, q, q, torch.zeros(4, 5))
    with pytest.raises(ValueError, match="'exp', 'relu', got 'cos'"):
        performer_attention(q, q, q, torch.zeros(5, 4), "cos")
    with pytest.raises(ValueError, match="above 0, got 0"):
        performer_attention(q, q, q, torch.zeros(5, 4), eps=0)
