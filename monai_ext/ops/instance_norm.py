"""Instance norm, residual and leaky ReLU in one step that keeps its output alone.

Legend: B batch, C channels, V voxels of a map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Voxels that are worked on at a time: what bounds the working memory. A CPU is fastest where they fit its cache; but
# its kernels give whole maps to threads, so there is one for each thread, up to a number.
BLOCK_CPU, BLOCK = 2**19, 2**26
MAPS_CPU = 8


def normalized(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Each map (B, C, *size) of its own to mean 0 and variance 1, with the biased variance."""
    var, mean = torch.var_mean(x, dim=tuple(range(2, x.ndim)), keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(var + eps)


def instance_norm_leaky_relu_plain(
    x: torch.Tensor,
    residual: torch.Tensor | None = None,
    normalize_residual: bool = False,
    eps: float = 1e-5,
    slope: float = 0.01,
) -> torch.Tensor:
    """The definition, in the dtype of the inputs."""
    out = normalized(x, eps)
    if residual is not None:
        out = out + (normalized(residual, eps) if normalize_residual else residual)
    return F.leaky_relu(out, slope)


def instance_norm_leaky_relu(
    x: torch.Tensor,
    residual: torch.Tensor | None = None,
    normalize_residual: bool = False,
    eps: float = 1e-5,
    slope: float = 0.01,
) -> torch.Tensor:
    """``leaky_relu(norm(x) + r)`` with r nothing, the residual or its norm: the end of a residual block.

    The backward needs the normalised x, which the output gives back, since a leaky ReLU can be inverted (as in the
    in-place norm of Rota Bulo et al., arXiv 1712.02616, 2018). So x itself is free to go: kept are the output, which
    the next layer keeps anyway, and the residual. Statistics are in float32 at least. Not twice differentiable.

    The inverse has the rounding of the output: a residual without a norm whose numbers are hundreds of times those of
    the norm (1) leaves so many times the rounding error in the gradient of x, which in bfloat16 is a tenth from a
    hundred on.

    Args:
        x: maps (B, C, *size).
        residual: the same shape.
        normalize_residual: give the residual a norm of its own.
        eps: added to the variance.
        slope: of the leaky ReLU below 0; above 0.

    Returns:
        the shape and dtype of x

    Raises:
        ValueError: for a residual of another shape, or a slope that cannot be inverted.
    """
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"the residual must have the shape {tuple(x.shape)}, got {tuple(residual.shape)}.")
    if slope <= 0:
        raise ValueError(f"slope must be above 0, got {slope}.")
    wants = torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad))
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # neither can keep a Python function
        return _composite(x, residual, normalize_residual, eps, slope)
    if wants:
        return _InstanceNorm.apply(x, residual, normalize_residual, eps, slope)
    return _forward(x, residual, normalize_residual, eps, slope)[0]


def _composite(x, residual, normalize_residual: bool, eps: float, slope: float) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        out = F.instance_norm(x, eps=eps)
        if residual is not None:
            out = out + (F.instance_norm(residual, eps=eps) if normalize_residual else residual).to(x.dtype)
        return F.leaky_relu(out, slope)


def _blocks(x: torch.Tensor) -> list[slice]:
    """Slices of maps (B C) that hold about ``BLOCK`` voxels."""
    maps, voxels = x.shape[0] * x.shape[1], x[0, 0].numel()
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(BLOCK_CPU // voxels, min(torch.get_num_threads(), MAPS_CPU))
    else:
        step = max(BLOCK // voxels, 1)
    step = min(step, maps)
    return [slice(start, min(start + step, maps)) for start in range(0, maps, step)]


def _maps(x: torch.Tensor) -> torch.Tensor:
    """Each map a channel of one image (1, B C, V): instance norms are batch norms then, which have kernels."""
    return x.reshape(1, x.shape[0] * x.shape[1], -1)


def _standardized(x: torch.Tensor, acc: torch.dtype, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps of mean 0 and variance 1; the means, and the factors, of each map."""
    return torch.native_batch_norm(x.to(acc), None, None, None, None, True, 0.0, eps)


def _standardized_backward(grad: torch.Tensor, z: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """From the gradient of the standardised maps z to that of the maps: ``scale (g - mean g - z mean(g z))``."""
    mean, one = torch.zeros_like(scale), torch.ones_like(scale)  # those of z
    arguments = grad, z, scale, None, None, mean, one, True, 0.0, [True, False, False]
    return torch.ops.aten.native_batch_norm_backward(*arguments)[0]


def _forward(x, residual, normalize_residual: bool, eps: float, slope: float) -> tuple[torch.Tensor, ...]:
    """The output; of each map the factor, and the residual's mean and factor if it has a norm (1 or 3, B C)."""
    acc = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    maps, flat = _maps(x), _maps(out)
    others = None if residual is None else _maps(residual)
    statistics = []
    for at in _blocks(x):
        z, _, scale = _standardized(maps[:, at], acc, eps)
        kept = [scale]
        if others is not None and normalize_residual:
            r, mean, r_scale = _standardized(others[:, at], acc, eps)
            z += r
            kept += [mean, r_scale]
        elif others is not None:
            z += others[:, at]
        flat[:, at] = F.leaky_relu_(z, slope)
        statistics.append(torch.stack(kept))
    return out, torch.cat(statistics, 1)


class _InstanceNorm(torch.autograd.Function):
    """The step with a backward from its output."""

    @staticmethod
    def forward(ctx: Any, x, residual, normalize_residual: bool, eps: float, slope: float) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out, statistics = _forward(x, residual, normalize_residual, eps, slope)
        ctx.save_for_backward(out, residual, statistics)
        ctx.options = normalize_residual, slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, residual, statistics = ctx.saved_tensors
        normalize_residual, slope = ctx.options
        acc = torch.promote_types(out.dtype, torch.float32)
        d_x = torch.empty_like(out)
        d_residual = None if residual is None else torch.empty_like(out, dtype=residual.dtype)
        grads, maps, d_maps = _maps(grad), _maps(out), _maps(d_x)
        for at in _blocks(out):
            y = maps[:, at].to(acc)
            d_z = torch.ops.aten.leaky_relu_backward(grads[:, at].to(acc), y, slope, True)
            z = F.leaky_relu(y, 1 / slope)
            if residual is not None:
                r, d_r = _maps(residual)[:, at].to(acc), _maps(d_residual)
                if normalize_residual:
                    mean, scale = statistics[1:, at].unsqueeze(-1)
                    r = (r - mean).mul_(scale)
                    d_r[:, at] = _standardized_backward(d_z, r, statistics[2, at])
                else:
                    d_r[:, at] = d_z
                z -= r
            d_maps[:, at] = _standardized_backward(d_z, z, statistics[0, at])
        return d_x, d_residual, None, None, None
