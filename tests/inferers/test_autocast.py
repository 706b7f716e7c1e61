"""Mixed precision of the network alone."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_ext.inferers import AutocastInferer
from monai_ext.inferers.autocast import has_bfloat16


class Spy(torch.nn.Conv2d):
    """A convolution that notes the type of what it gives."""

    def __init__(self) -> None:
        super().__init__(1, 2, 3, padding=1)
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        self.seen.append(out.dtype)
        return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_network_low_output_float32(dtype: str) -> None:
    net, x = Spy(), torch.randn(2, 1, 9, 7)
    out = AutocastInferer(dtype=dtype)(x, net)
    assert net.seen == [getattr(torch, dtype)] and out.dtype == torch.float32
    torch.testing.assert_close(out, net(x), atol=0.03, rtol=0.03)
    out.sum().backward()
    assert net.weight.grad.dtype == torch.float32 and net.weight.grad.isfinite().all()


def test_float32_is_a_plain_call() -> None:
    net, x = Spy(), torch.randn(2, 1, 9, 7)
    assert torch.equal(AutocastInferer(dtype="float32")(x, net), net(x))
    assert net.seen == [torch.float32] * 2


def test_auto_asks_the_device() -> None:
    net, x = Spy(), torch.randn(2, 1, 9, 7)
    assert AutocastInferer()(x, net).dtype == torch.float32
    assert net.seen == [torch.bfloat16 if has_bfloat16(x.device) else torch.float32]


def test_sliding_window_adds_in_float32() -> None:
    """Three thousand windows that each give 1 + 2^-7: sums in bfloat16 would stop growing."""
    x = torch.zeros(1, 1, 24, 24)

    def network(patch: torch.Tensor) -> torch.Tensor:
        assert torch.is_autocast_enabled("cpu")
        return torch.full_like(patch, 1 + 2**-7, dtype=torch.bfloat16)

    window = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=64, overlap=0.875)
    out = AutocastInferer(window, "bfloat16")(x, network)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full_like(x, 1 + 2**-7), rtol=1e-6, atol=0)


def test_hidden_states_and_labels() -> None:
    """Every output in a lower type comes back in float32, others as they are."""

    def network(x: torch.Tensor) -> tuple:
        return x.bfloat16(), [x.bfloat16(), x.double()], {"label": x.long()}

    logits, hidden, labels = AutocastInferer(dtype="bfloat16")(torch.ones(1, 1, 4, 4), network)
    assert [t.dtype for t in (logits, *hidden)] == [torch.float32, torch.float32, torch.float64]
    assert labels["label"].dtype == torch.int64


def test_arguments_reach_the_network() -> None:
    def network(x: torch.Tensor, factor: float, *, offset: float) -> torch.Tensor:
        return x * factor + offset

    assert AutocastInferer(dtype="bfloat16")(torch.ones(1, 1, 2, 2), network, 2.0, offset=1.0).unique().item() == 3


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="'auto', 'float32', 'bfloat16', 'float16', got 'int8'"):
        AutocastInferer(dtype="int8")
