"""The attention operators against double loops over tokens in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from monai_ext.ops import seqnorm
from monai_ext.ops.linear import linear_attention, linear_attention_plain
from monai_ext.ops.seqnorm import seqnorm_attention, seqnorm_attention_plain
from monai_ext.ops.sima import sima_attention, sima_attention_plain
from monai_ext.ops.softmax import softmax_attention, softmax_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# more tokens than channels and fewer
SHAPES = [(2, 3, 7, 5), (1, 2, 3, 5), (2, 1, 1, 3)]


def loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weight: Callable) -> torch.Tensor:
    """Every output token as a sum over all tokens, with ``weight(q_n, [k_1 ..])`` as the weights."""
    out = []
    for qs, ks, vs in zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)):
        for q_n in qs:
            weights = weight(q_n, ks)
            out.append(sum(w * v_m for w, v_m in zip(weights, vs)))
    return torch.stack(out).reshape(v.shape)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum(x * y for x, y in zip(a, b))


def softmax_loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    def weight(q_n: torch.Tensor, ks: torch.Tensor) -> list[torch.Tensor]:
        scores = [torch.exp(dot(q_n, k_m) / math.sqrt(len(q_n))) for k_m in ks]
        return [s / sum(scores) for s in scores]

    return loops(q, k, v, weight)


def linear_loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    def feature(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x + 1, torch.exp(x))

    def weight(q_n: torch.Tensor, ks: torch.Tensor) -> list[torch.Tensor]:
        scores = [dot(feature(q_n), feature(k_m)) for k_m in ks]
        return [s / sum(scores) for s in scores]

    return loops(q, k, v, weight)


def sima_loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k = (torch.stack([t[..., n, :] / sum(t.abs().unbind(-2)) for n in range(t.shape[-2])], -2) for t in (q, k))
    return loops(q, k, v, lambda q_n, ks: [dot(q_n, k_m) for k_m in ks])


def seqnorm_loops(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: str = "n"
) -> torch.Tensor:
    n = q.shape[-2]
    normed = []
    for t, w, b in zip((q, k, v), weight, bias):
        tokens = t.unbind(-2)
        mean = sum(tokens) / n
        var = sum((x - mean) ** 2 for x in tokens) / n
        normed.append(torch.stack([(x - mean) / torch.sqrt(var + 1e-5) * w + b for x in tokens], -2))
    factor = 1 / n if scale == "n" else 1 / math.sqrt(n)
    return loops(*normed, lambda q_n, ks: [factor * dot(q_n, k_m) for k_m in ks])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("fast", "plain", "definition"),
    [
        (softmax_attention, softmax_attention_plain, softmax_loops),
        (linear_attention, linear_attention_plain, linear_loops),
        (sima_attention, sima_attention_plain, sima_loops),
    ],
    ids=["softmax", "linear", "sima"],
)
def test_definition(shape: tuple[int, ...], fast: Callable, plain: Callable, definition: Callable) -> None:
    inputs = leaves(shape, shape, shape)
    assert_same(fast, definition, inputs)
    assert_same(plain, definition, inputs)


@pytest.mark.parametrize("block", [1, 2**18], ids=["token_by_token", "one_block"])
@pytest.mark.parametrize("scale", seqnorm.SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_seqnorm_definition(shape: tuple[int, ...], scale: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqnorm, "BLOCK_CPU", block)
    _, h, _, d = shape
    inputs = leaves(shape, shape, shape, (3, h, d), (3, h, d))
    assert_same(lambda *t: seqnorm_attention(*t, scale=scale), lambda *t: seqnorm_loops(*t, scale), inputs)
    if block > 1:
        assert_same(lambda *t: seqnorm_attention_plain(*t, scale=scale), lambda *t: seqnorm_loops(*t, scale), inputs)
    with torch.no_grad():
        torch.testing.assert_close(seqnorm_attention(*inputs, scale=scale), seqnorm_loops(*inputs, scale))


@pytest.mark.parametrize("function", [softmax_attention, linear_attention, sima_attention])
@pytest.mark.parametrize("shape", [(2, 2, 65, 8), (2, 2, 5, 8)], ids=str)
def test_bf16(function: Callable, shape: tuple[int, ...]) -> None:
    assert_bf16_close(function, leaves(shape, shape, shape))


def test_seqnorm_bf16_far_off_centre() -> None:
    # a mean of 40 standard deviations: E[x^2] - E[x]^2 or a product in bfloat16 would leave nothing
    q, k, v, w, b = leaves((2, 2, 65, 8), (2, 2, 65, 8), (2, 2, 65, 8), (3, 2, 8), (3, 2, 8))
    assert_bf16_close(seqnorm_attention, [q + 40, k - 40, v + 40, w, b])


def test_seqnorm_constant_tokens() -> None:
    # air: all tokens equal, where rounding is what is left of the variance
    tokens = torch.full((1, 1, 4099, 8), 5.3)
    weight, bias = torch.ones(3, 1, 8), torch.full((3, 1, 8), 0.1)
    out = seqnorm_attention(tokens, -tokens, 3 * tokens, weight, bias)
    torch.testing.assert_close(out, torch.full_like(out, 8 * 0.1**3), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("function", [linear_attention, sima_attention, seqnorm_attention])
def test_autocast_keeps_float32(function: Callable) -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, *[(3, 2, 4)] * (2 * (function is seqnorm_attention)), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = function(*inputs)
    grads = torch.autograd.grad(out.sum(), inputs)
    assert out.dtype == torch.float32
    wanted = function(*inputs)
    torch.testing.assert_close(out, wanted)
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), inputs)):
        torch.testing.assert_close(a, b)


def test_linear_safe_denominator() -> None:
    # exp(-200) is zero in float32: no token has weight
    tokens = torch.full((1, 1, 3, 4), -200.0, requires_grad=True)
    out = linear_attention(tokens, tokens, torch.ones_like(tokens))
    (grad,) = torch.autograd.grad(out.sum(), tokens)
    assert out.isfinite().all() and grad.isfinite().all()


def test_sima_empty_channel() -> None:
    q = torch.zeros(1, 1, 5, 3, requires_grad=True)
    out = sima_attention(q, q, torch.ones_like(q))
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert (out == 0).all() and grad.isfinite().all()


def test_output_size_over_tokens() -> None:
    """Independent unit tokens: the 1/N scale gives sqrt(D / N), the other sqrt(D)."""
    d = 16
    weight, bias = torch.ones(3, 1, d), torch.zeros(3, 1, d)
    for n in (64, 4096):
        q, k, v = torch.randn(3, 1, 1, n, d, generator=torch.Generator().manual_seed(0))
        assert seqnorm_attention(q, k, v, weight, bias).std() == pytest.approx(math.sqrt(d / n), rel=0.3)
        other = seqnorm_attention(q, k, v, weight, bias, scale="sqrt_n")
        assert other.std() == pytest.approx(math.sqrt(d), rel=0.3)


def saved_bytes(function: Callable, *inputs: torch.Tensor) -> int:
    """Bytes of the storages that autograd keeps between forward and backward."""
    sizes: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = function(*inputs)  # held until the count, or storages would be freed and counted as one
    assert out.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_seqnorm_keeps_no_normalised_copies(dtype: torch.dtype) -> None:
    h, n, d = 2, 1024, 8
    qkv = torch.randn(3, 1, n, h, d, dtype=dtype, requires_grad=True)
    weight, bias = torch.ones(3, h, d, requires_grad=True), torch.zeros(3, h, d, requires_grad=True)

    def split(function: Callable) -> Callable:
        return lambda qkv: function(*qkv.transpose(2, 3).unbind(0), weight, bias)

    own = qkv.numel() * qkv.element_size()
    small = 4 * (2 * h * d * d + 24 * h * d)
    assert saved_bytes(split(seqnorm_attention), qkv) <= own + small
    assert saved_bytes(split(seqnorm_attention_plain), qkv) >= 3 * own


@pytest.mark.parametrize("function", [linear_attention, sima_attention, seqnorm_attention])
def test_wrong_shapes(function: Callable) -> None:
    q, k = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 6, 4)
    affine = [torch.ones(3, 2, 4)] * (2 * (function is seqnorm_attention))
    with pytest.raises(ValueError, match=r"\(1, 2, 6, 4\)"):
        function(q, k, k, *affine)
    with pytest.raises(ValueError, match="share one shape"):
        function(q[0], q[0], q[0], *affine)


def test_seqnorm_wrong_affine_and_scale() -> None:
    q, affine = torch.zeros(1, 2, 5, 4), torch.ones(3, 2, 4)
    with pytest.raises(ValueError, match=r"\(3, H, D\) = \(3, 2, 4\), got \(3, 8\)"):
        seqnorm_attention(q, q, q, affine.flatten(1), affine)
    with pytest.raises(ValueError, match="'n', 'sqrt_n', got 'max'"):
        seqnorm_attention(q, q, q, affine, affine, scale="max")
    with pytest.raises(ValueError, match="N >= 1"):
        seqnorm_attention(q[:, :, :0], q[:, :, :0], q[:, :, :0], affine, affine)
