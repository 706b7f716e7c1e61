"""What a training step will take, found before anything is trained.

A training step of the network runs on tensors that have shapes but no numbers
(`torch._subclasses.FakeTensorMode`): nothing is computed and nothing large allocated, and yet every operator that would
run, and every tensor that would be kept for the backward, is seen.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from monai_ext.bench.measure import timed
from monai_ext.mixers import Mixer

# float32: weights, gradients, Adam's two averages, the average of the weights
COPIES = 5
ATTENTION = "scaled_dot_product"
# operators that move no bytes
VIEWS = (
    "view",
    "reshape",
    "expand",
    "permute",
    "transpose",
    "detach",
    "slice",
    "select",
    "split",
    "alias",
    "as_strided",
)


class Speed(NamedTuple):
    """A machine's operations a second, those of fused attention, and bytes moved a second."""

    flops: float
    attention: float
    traffic: float


@dataclass(frozen=True)
class Estimate:
    """An estimate of one training step.

    Args:
        context: tokens that one call of a mixer sees at most; None for a network without our mixers.
        tokens: tokens of an image in the finest call.
        parameters: of the network.
        flops: floating point operations of products and convolutions.
        attention: those inside PyTorch's fused attention, which runs at a pace of its own.
        traffic: bytes that operators read and write.
        memory: bytes at the peak: what the backward needs, and the copies of the weights that training holds.
    """

    context: int | None
    tokens: int | None
    parameters: int
    flops: float
    attention: float
    traffic: float
    memory: int

    def seconds(self, speed: Speed) -> float:
        """Of a step, on a machine of this speed."""
        return self.flops / speed.flops + self.attention / speed.attention + self.traffic / speed.traffic

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.attention = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if ATTENTION in func.name():
            # two products forward; five backward, the scores once more among them
            backward = "backward" in func.name()
            q, k = args[1:3] if backward else args[:2]
            self.attention += (10 if backward else 4) * q.numel() * k.shape[-2]
        if not any(name in func.name() for name in VIEWS):
            self.bytes += sum(_bytes(t) for t in (*_tensors(args), *_tensors([out])))
        return out


class _Contexts:
    """Notes how many tokens the mixers see."""

    def __init__(self, network: nn.Module) -> None:
        self.context = self.tokens = 0
        self.handles = [
            module.register_forward_pre_hook(self._note) for module in network.modules() if isinstance(module, Mixer)
        ]
        for module in network.modules():
            if isinstance(module, Mixer) and module.takes_windows:
                module.mix_windows = functools.partial(self._windows, module.mix_windows)  # type: ignore[method-assign]

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, grid = inputs[0], inputs[1] if len(inputs) > 1 else ()
        n = int(torch.Size(grid).numel()) if len(grid) else x.shape[1]
        self.context, self.tokens = max(self.context, n), max(self.tokens, x.shape[0] * n)

    def _windows(self, run: Any, x: torch.Tensor, grid: Sequence[int], plan: Any, *rest: Any) -> Any:
        n = int(torch.Size(plan.window).numel())
        self.context = max(self.context, n)
        self.tokens = max(self.tokens, x.shape[0] * int(torch.Size(grid).numel()))
        return run(x, grid, plan, *rest)


def estimate(network: nn.Module, batch: int, channels: int, size: Sequence[int]) -> Estimate:
    """Estimate the training step of a network on a batch of images: that on two of them at most, in proportion.

    Raises:
        ValueError, RuntimeError: the network cannot take such images.
    """
    network.train()
    few = min(batch, 2)  # some operators work image by image, which would take long; batch norm refuses a single one
    share = batch / few
    contexts, traffic = _Contexts(network), _Traffic()
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        whole = t if t._base is None else t._base
        if not (whole.is_leaf and whole.requires_grad):  # a weight is there anyway
            storage = t.untyped_storage()
            kept[storage._cdata] = storage  # views of one tensor keep it once
        return t

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        FlopCounterMode(display=False) as flops,
        traffic,
    ):
        out = network(torch.empty(few, channels, *size))
        total = sum(t.float().mean() for t in _tensors([out]))
        total.backward()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    fused = sum(n for op, n in flops.get_flop_counts()["Global"].items() if ATTENTION in str(op))
    saved = sum(storage.nbytes() for storage in kept.values())
    return Estimate(
        context=contexts.context or None,
        tokens=contexts.tokens // few or None,
        parameters=parameters,
        flops=share * (flops.get_total_flops() - fused),
        attention=share * traffic.attention,
        traffic=share * traffic.bytes,
        memory=int(share * saved + 4 * COPIES * parameters),
    )


def machine_speed(device: torch.device, seconds: float = 0.2) -> Speed:
    """The best of a few products, fused attentions of narrow heads, and sums, of large tensors."""
    a = torch.randn(1024, 1024, device=device)
    b = torch.randn(2**23, device=device)
    c = torch.empty_like(b)
    q = torch.randn(1, 4, 1024, 32, device=device)
    best = []
    for step, amount in (
        (lambda: a @ a, 2 * 1024.0**3),
        (lambda: F.scaled_dot_product_attention(q, q, q), 4 * 4 * 1024.0**2 * 32),
        (lambda: torch.add(b, 1, out=c), 2.0 * 4 * 2**23),
    ):
        timed(step, device)
        end, times = time.perf_counter() + seconds, []
        while not times or time.perf_counter() < end:
            times.append(timed(step, device))
        best.append(amount / min(times))
    return Speed(*best)


def _bytes(t: torch.Tensor) -> float:
    return t.numel() * t.element_size()


def _tensors(items: Any) -> list[torch.Tensor]:
    if isinstance(items, torch.Tensor):
        return [items]
    if isinstance(items, (list, tuple)):
        return [t for item in items for t in _tensors(item)]
    return []
