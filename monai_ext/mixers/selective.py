"""What the mixers with a selective scan share: their parameters, as Mamba starts them, and the scan of tokens.

Legend: B batch, N tokens, E scanned channels, S states of a channel, R rank of the step size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_ext.ops.backends import check_backend
from monai_ext.ops.depthwise import depthwise_convolution
from monai_ext.ops.selective_scan import BACKENDS, selective_scan

# the range of the step sizes at the start
DT_MIN, DT_MAX = 0.001, 0.1


def check_options(d_state: int, d_conv: int, expand: float, dim: int, backend: str) -> int:
    """The inner width, ``expand * dim``.

    Raises:
        ValueError: for no states, no taps, an inner width that is not a whole number, or an unknown backend.
    """
    if d_state < 1 or d_conv < 1:
        raise ValueError(f"d_state and d_conv must be at least 1, got {d_state} and {d_conv}.")
    inner = round(expand * dim)
    if inner < 1 or not math.isclose(inner, expand * dim):
        raise ValueError(f"expand * dim must be a whole number of channels, got {expand} * {dim} = {expand * dim}.")
    check_backend(backend, BACKENDS)
    return inner


def rank_of(dim: int) -> int:
    """The rank of the step size."""
    return math.ceil(dim / 16)


def step_projection(rank: int, channels: int) -> nn.Linear:
    """The map R to E whose softplus is the step size, at the start about log-uniform between DT_MIN and DT_MAX."""
    layer = nn.Linear(rank, channels)
    nn.init.uniform_(layer.weight, -(rank**-0.5), rank**-0.5)
    low, high = math.log(DT_MIN), math.log(DT_MAX)
    dt = torch.exp(low + (high - low) * torch.rand(channels)).clamp_min(1e-4)
    with torch.no_grad():
        layer.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
    return layer


def rates(channels: int, states: int) -> torch.Tensor:
    """Logarithms of the rates of decay (E, S) at the start: 1, 2 .. S in every channel."""
    return torch.arange(1, states + 1, dtype=torch.float32).log().repeat(channels, 1)


def remade(function: Callable[..., torch.Tensor], *inputs: torch.Tensor | None) -> torch.Tensor:
    """``function(*inputs)``, of which the backward keeps the inputs alone."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, ahead: int, reverse: bool = False
) -> torch.Tensor:
    """Depthwise convolution along the tokens (B, N, E), then SiLU.

    Of the k taps the last ``ahead`` lie on tokens ahead, the others on a token itself and those before it. In reverse,
    ahead and before change places.
    """
    taps = weight.shape[-1]

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        front = taps - 1 - ahead if reverse else ahead
        return F.silu(depthwise_convolution(x, (x.shape[1],), weight.flip(-1) if reverse else weight, bias, front))

    return remade(run, x, weight, bias)


def scan_tokens(
    u: torch.Tensor,
    x_proj: torch.Tensor,
    step: tuple[torch.Tensor, torch.Tensor],
    a_log: torch.Tensor,
    d: torch.Tensor,
    ways: tuple[bool, ...] = (False,),
    backend: str = "auto",
) -> torch.Tensor:
    """The selective scan of tokens, with step size, input and output vectors projected from them.

    Args:
        u: tokens (B, N, E).
        x_proj: (R + 2S, E), to the step size's R numbers, b and c.
        step: weight (E, R) and bias (E) that make the step size of them.
        a_log: logarithms of the rates of decay (E, S).
        d: weight of the direct path (E).
        ways: for each of as many equal parts of the channels, whether its scan is reversed.
        backend: of the scan.

    Returns:
        tokens (B, N, E)
    """
    weight, bias = step
    states = a_log.shape[1]
    # split with the tokens innermost, since few numbers a token would be put together again slowly by the backward
    low, b, c = F.linear(u, x_proj).mT.split([weight.shape[1], states, states], 1)
    dt = F.linear(low.mT, weight, bias)
    a = -torch.exp(a_log.to(torch.promote_types(a_log.dtype, torch.float32)))
    b, c = b.unsqueeze(1), c.unsqueeze(1)

    def run(u: torch.Tensor, dt: torch.Tensor, a: torch.Tensor, d: torch.Tensor, reverse: bool) -> torch.Tensor:
        return selective_scan(u, dt, a, b, c, d, softplus=True, reverse=reverse, backend=backend)

    if len(ways) == 1:
        return run(u.mT, dt.mT, a, d, ways[0]).mT
    parts = (t.chunk(len(ways), axis) for t, axis in ((u.mT, 1), (dt.mT, 1), (a, 0), (d, 0)))
    return torch.cat([run(*part, reverse) for *part, reverse in zip(*parts, ways)], 1).mT


def gate(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """``y * silu(z)``, to be remade."""
    return y * F.silu(z)
