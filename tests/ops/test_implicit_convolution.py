"""The convolution with an implicit kernel against the same kernel made as a whole, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from monai_ext.ops import implicit_convolution as module
from monai_ext.ops import long_convolution as long
from monai_ext.ops.implicit_convolution import ImplicitKernel, implicit_convolution
from monai_ext.ops.long_convolution import long_convolution_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

GRIDS = [(5,), (1, 4), (4, 5), (1, 1), (3, 2, 3)]


def length(taps: tuple[int, ...], causal: bool, scale: float = 1.0) -> torch.Tensor:
    """Of every offset, as the sum over the axes, row by row."""
    ways = [range(k) if causal else range(-(k // 2), k // 2 + 1) for k in taps]
    return torch.tensor([scale * sum(map(abs, o)) for o in itertools.product(*ways)], dtype=torch.float64)


def pair(taps: tuple[int, ...], causal: bool, scale: float = 1.0):
    """The operator and its definition, as functions of x, features, weight, decay, shift and skip."""
    distance = length(taps, causal, scale)

    def fast(x, features, weight, decay, shift=None, skip=None):
        return implicit_convolution(
            x, ImplicitKernel(features, weight, decay.abs(), distance.to(decay), taps, shift), skip, causal
        )

    def plain(x, features, weight, decay, shift=None, skip=None):
        envelope = torch.exp(-decay.abs().unsqueeze(-1) * distance)
        if shift is not None:
            envelope = envelope + shift.unsqueeze(-1)
        kernel = (weight @ features * envelope).view(-1, *taps)
        y = long_convolution_plain(x, kernel, causal)
        return y if skip is None else y + skip.view(-1, *[1] * (x.ndim - 2)) * x

    return fast, plain


def tensors(grid: tuple[int, ...], taps: tuple[int, ...], channels: int = 3) -> list[torch.Tensor]:
    return leaves((2, channels, *grid), (4, math.prod(taps)), (channels, 4), *[(channels,)] * 3)


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("given", [4, 5, 6], ids=["bare", "shift", "skip"])
def test_definition(grid: tuple[int, ...], causal: bool, given: int) -> None:
    taps = tuple(g if causal else 2 * g - 1 for g in grid)
    assert_same(*pair(taps, causal), tensors(grid, taps)[:given])


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
def test_skip_without_a_shift(causal: bool) -> None:
    fast, plain = pair((3, 4) if causal else (3, 5), causal)
    inputs = tensors((4, 5), (3, 4) if causal else (3, 5))
    chosen = [*inputs[:4], inputs[5]]
    assert_same(lambda *t: fast(*t[:4], None, t[4]), lambda *t: plain(*t[:4], None, t[4]), chosen)


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
def test_in_groups(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "GROUP_CPU", 40)
    taps = (4, 3) if causal else (7, 5)
    assert_same(*pair(taps, causal), tensors((4, 3), taps, 7))


@pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])
def test_kernels_that_reach_less_far(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels differ in how far they reach: taps that a float64 does not see are not made, and nothing changes."""
    monkeypatch.setattr(module, "channel_groups", lambda n, *_: [slice(c, c + 1) for c in range(n)])
    grid = (9, 8)
    taps = grid if causal else (17, 15)
    inputs = tensors(grid, taps)[:4]
    inputs[3] = torch.tensor([0.1, 9.0, 40.0], dtype=torch.float64, requires_grad=True)
    made = module._blocks(inputs[0], inputs[3], None, length(taps, causal), taps, causal)
    assert [block.plan.taps for block in made] == ([(9, 8), (5, 5), (1, 1)] if causal else [(17, 15), (9, 9), (1, 1)])
    assert_same(*pair(taps, causal), inputs)


def test_layout() -> None:
    """Tokens seen as a map stay tokens, forward and backward."""
    fast, plain = pair((7, 9), False)
    x, *rest = tensors((4, 5), (7, 9))
    tokens = x.detach().movedim(1, -1).contiguous().requires_grad_()
    out = fast(tokens.movedim(-1, 1), *rest)
    assert out.movedim(1, -1).is_contiguous()
    torch.testing.assert_close(out, plain(x, *rest))


def test_only_some_gradients() -> None:
    fast, plain = pair((7, 9), False)
    inputs = tensors((4, 5), (7, 9))
    for wanted in range(6):
        given = [t if i == wanted else t.detach() for i, t in enumerate(inputs)]
        found = [torch.autograd.grad(f(*given).square().sum(), given[wanted])[0] for f in (fast, plain)]
        torch.testing.assert_close(*found)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), plain(*inputs))


def test_bf16() -> None:
    """x in bfloat16, the kernel in float32, also under autocast."""
    taps = (7, 9)
    fast, _ = pair(taps, False)
    x, *rest = tensors((4, 5), taps)
    kernel = {torch.bfloat16: torch.float32, torch.float64: torch.float64}
    assert_bf16_close(lambda x: fast(x, *[t.detach().to(kernel[x.dtype]) for t in rest]), [x])
    low = [t.detach().float() for t in (x, *rest)]
    wanted = fast(*low)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(*low), wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": (7, 8)}, "an odd number"),
        ({"taps": (7,)}, "as many axes"),
        ({"taps": (5, 9)}, "needs a distance and features for each"),
        ({"skip": torch.randn(2)}, "skip must be (C,) = (3,)"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    x, features, weight, decay, *_ = tensors((4, 5), (7, 9))
    taps = change.get("taps", (7, 9))
    kernel = ImplicitKernel(features, weight, decay, torch.zeros(63, dtype=torch.float64), taps)
    with pytest.raises(ValueError) as error:
        implicit_convolution(x, kernel, change.get("skip"))
    assert message in str(error.value)
