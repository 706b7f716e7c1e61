"""Bring an image of any size to one that a network's strides divide, and maps to one another's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def check_widths(**widths: int | None) -> None:
    """Refuse numbers of channels that are none.

    Raises:
        ValueError: for a width below 1; None is passed over.
    """
    for name, width in widths.items():
        if width is not None and width < 1:
            raise ValueError(f"{name} must be at least 1, got {width}.")


def check_image(x: torch.Tensor, in_channels: int, spatial_dims: int, network: str) -> None:
    """Refuse an input that the network cannot mean.

    Raises:
        ValueError: for the wrong number of dimensions or channels.
    """
    if x.ndim != spatial_dims + 2:
        axes = "(B, C, H, W)" if spatial_dims == 2 else "(B, C, D, H, W)"
        raise ValueError(f"{network} with spatial_dims={spatial_dims} takes {axes}, got the shape {tuple(x.shape)}.")
    if x.shape[1] != in_channels:
        raise ValueError(f"{network} was built for in_channels={in_channels}, got {x.shape[1]} channels.")


def is_unknown(size: Sequence[int]) -> bool:
    """Whether an export leaves a size open: then nothing may be decided by it, and what serves any size runs."""
    return any(isinstance(s, torch.SymInt) for s in size)


def pad_to_multiple(x: torch.Tensor, multiple: Sequence[int]) -> torch.Tensor:
    """Repeat the last values of each spatial axis until its length is a multiple."""
    if is_unknown(x.shape[2:]):
        sizes = x.shape[2:]
        places = [torch.arange((s + m - 1) // m * m, device=x.device).clamp(max=s - 1) for s, m in zip(sizes, multiple)]
        return x[(slice(None), slice(None), *torch.meshgrid(places, indexing="ij"))]
    pads: list[int] = []
    for size, m in zip(reversed(x.shape[2:]), reversed(tuple(multiple))):
        pads += [0, -size % m]
    return F.pad(x, pads, mode="replicate") if any(pads) else x


def crop_to(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The leading part of the given spatial size."""
    for axis, s in enumerate(size, start=2):
        if is_unknown([s]):  # not a view, whose strides would tell whether something was cut
            x = x.index_select(axis, torch.arange(s, device=x.device))
        elif x.shape[axis] != s:
            x = x.narrow(axis, 0, s)
    return x


def resize_to(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate a map linearly along each axis, cells being areas (not points at the corners)."""
    if not is_unknown([*x.shape[2:], *size]) and tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode={4: "bilinear", 5: "trilinear"}[x.ndim], align_corners=False)
