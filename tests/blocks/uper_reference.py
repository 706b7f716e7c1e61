"""The head of UPerNet and the pyramid of a plain transformer by PyTorch's functions alone, from a state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

State = Mapping[str, torch.Tensor]
CONV = {4: F.conv2d, 5: F.conv3d}
TRANSPOSED = {4: F.conv_transpose2d, 5: F.conv_transpose3d}
AVERAGE = {4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
MAXIMUM = {4: F.max_pool2d, 5: F.max_pool3d}


def norm(x: torch.Tensor, kind: str, state: State, name: str) -> torch.Tensor:
    """As in training; one value a channel passes an instance norm, and takes a batch norm's statistics at its start."""
    one = x[0, 0].numel() == 1
    if kind == "group":
        return F.group_norm(x, 1, state[f"{name}.weight"], state[f"{name}.bias"])
    if kind == "batch":
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if one and len(x) == 1:
            shape = [-1] + [1] * (x.ndim - 2)
            return x / (1 + 1e-5) ** 0.5 * weight.reshape(shape) + bias.reshape(shape)
        return F.batch_norm(x, None, None, weight, bias, training=True)
    if kind == "instance":
        return x if one else F.instance_norm(x)
    return x


def conv(x: torch.Tensor, kind: str, state: State, name: str) -> torch.Tensor:
    """Convolution, norm and ReLU."""
    weight = state[f"{name}.conv.weight"]
    x = CONV[x.ndim](x, weight, state.get(f"{name}.conv.bias"), padding=weight.shape[-1] // 2)
    return norm(x, kind, state, f"{name}.adn.N").relu()


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def head(
    maps: Sequence[torch.Tensor],
    state: State,
    kind: str = "group",
    pool_sizes: Sequence[int] = (1, 2, 3, 6),
    shared: bool = False,
) -> torch.Tensor:
    """Maps, finest first, to logits at the finest."""
    deepest = maps[-1]
    context = [deepest]
    for number, bins in enumerate(pool_sizes):
        pooled = AVERAGE[deepest.ndim](deepest, bins)
        context.append(resize(conv(pooled, kind, state, f"pooled.{number}"), deepest.shape[2:]))
    top = conv(torch.cat(context, 1), kind, state, "context")
    out = [top]
    for i in range(len(maps) - 2, -1, -1):
        top = conv(maps[i], kind, state, f"laterals.{i}") + resize(top, maps[i].shape[2:])
        out.insert(0, conv(top, kind, state, f"smoothing.{0 if shared else i}"))
    fused = conv(torch.cat([resize(level, maps[0].shape[2:]) for level in out], 1), kind, state, "fusion")
    return CONV[fused.ndim](fused, state["out.weight"], state["out.bias"])


def pyramid_of_four(maps: Sequence[torch.Tensor], state: State) -> list[torch.Tensor]:
    """Maps of a grid of patches to 4, 2, 1 and 1/2 times its resolution."""
    up, dims = TRANSPOSED[maps[0].ndim], maps[0].ndim
    x = up(maps[0], state["levels.0.0.conv.weight"], stride=2)
    x = F.gelu(norm(x, "group", state, "levels.0.0.adn.N"))
    finest = up(x, state["levels.0.1.conv.weight"], state["levels.0.1.conv.bias"], stride=2)
    second = up(maps[1], state["levels.1.0.conv.weight"], state["levels.1.0.conv.bias"], stride=2)
    odd = [place for size in reversed(maps[3].shape[2:]) for place in (0, size % 2)]
    coarsest = MAXIMUM[dims](F.pad(maps[3], odd, value=-torch.inf), 2)
    return [finest, second, maps[2], coarsest]
