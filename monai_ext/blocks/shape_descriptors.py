"""Numbers that say how large, how thick and how compact an outlined shape is.

Legend: B batch, F numbers, m the shape (0 or 1 in a voxel), V its voxels, d the distance to its surface in voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

DEPTHS = (1.1, 1.5, 2.1, 2.5, 3.1, 3.5, 4.1, 5.1, 6.1, 7.1)


class ShapeDescriptors(nn.Module):
    """What can be measured of a shape without learning; no place in the image changes it, nor mirroring an axis.

    For each image, in this order, with sums over all voxels x and e_a one voxel along axis a:

    * log V, the size;
    * along each axis a, with the lengths l = sum of m along a of the columns: log of how many are above 0 (the area of
      the shadow), max l, and sum l^2 / V (how long the column of a voxel is, on average);
    * along each axis a, for k = 1 ... ``runs``: the share of voxels after which the shape goes on for k more,
      1 / V sum_x m(x) m(x + e_a) ... m(x + k e_a): how thick the shape is in that direction;
    * for each t of ``depths``: the share of voxels with d > t; then the means of d and d^2 over the shape, and max d;
    * for each s of ``blurs``, with b = the shape blurred by a Gaussian of standard deviation s, cut off at 3 s and
      normalised: the means of b, b^2 and b^3 over the shape, and max b in it: how much of the shape is near a voxel.

    Counting thresholds has no gradient: the numbers are constants to the backward pass. They are computed in float32
    (or the input's float64), also under autocast. O(runs x voxels) time. An empty shape gives zeros.

    Args:
        spatial_dims: 2 or 3.
        runs: longest run, in voxels after the first.
        depths: thresholds of the distance, in voxels.
        blurs: standard deviations in voxels.
        unit: distance, in voxels, that is 1 in the input's second channel, as ``ShapeDistanced`` writes it.

    Raises:
        ValueError: for other dimensions, or runs, blurs or a unit that are not positive.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        runs: int = 14,
        depths: Sequence[float] = DEPTHS,
        blurs: Sequence[float] = (2.0, 4.0),
        unit: float = 4.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if runs < 1:
            raise ValueError(f"runs must be at least 1, got {runs}.")
        if not all(blur > 0 for blur in blurs):
            raise ValueError(f"blurs must be positive, got {tuple(blurs)}.")
        if not unit > 0:
            raise ValueError(f"unit must be positive, got {unit}.")
        self.spatial_dims, self.runs, self.unit = spatial_dims, runs, unit
        self.depths, self.blurs = tuple(depths), tuple(blurs)
        self.num_features = 1 + spatial_dims * (3 + runs) + len(self.depths) + 3 + 4 * len(self.blurs)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (whatever is above 0) and distance, (B, 2, *size), to the numbers, (B, F)."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        with torch.autocast(x.device.type, enabled=False):
            shape, distance = (x[:, 0] > 0).to(dtype), x[:, 1].to(dtype) * self.unit
            volume = _total(shape).clamp(min=1)
            axes = range(1, self.spatial_dims + 1)
            numbers = [volume.log()]
            for axis in axes:
                numbers += self._columns(shape, volume, axis)
            for axis in axes:
                numbers += self._runs(shape, volume, axis)
            numbers += [_total((distance > depth).to(dtype)) / volume for depth in self.depths]
            numbers += [_total(distance) / volume, _total(distance * distance) / volume, distance.flatten(1).amax(1)]
            for blur in self.blurs:
                inside = self._blurred(shape, blur) * shape
                square = inside * inside
                numbers += [_total(power) / volume for power in (inside, square, square * inside)]
                numbers.append(inside.flatten(1).amax(1))
            return torch.stack(numbers, 1)

    def _columns(self, shape: torch.Tensor, volume: torch.Tensor, axis: int) -> list[torch.Tensor]:
        length = shape.sum(axis).flatten(1)
        area = (length > 0).to(shape.dtype).sum(1).clamp(min=1)
        return [area.log(), length.amax(1), (length * length).sum(1) / volume]

    def _runs(self, shape: torch.Tensor, volume: torch.Tensor, axis: int) -> list[torch.Tensor]:
        run, found = shape, []
        for k in range(1, self.runs + 1):
            size = shape.shape[axis] - k
            if size < 1:  # no run is longer than the image
                found.append(torch.zeros_like(volume))
                continue
            run = run.narrow(axis, 0, size) * shape.narrow(axis, k, size)
            found.append(_total(run) / volume)
        return found

    def _blurred(self, shape: torch.Tensor, blur: float) -> torch.Tensor:
        """One product of matrices an axis: on a CPU faster than a convolution with one channel."""
        radius = int(3 * blur + 0.5)
        taps = torch.arange(-radius, radius + 1, device=shape.device, dtype=shape.dtype)
        weight = (-0.5 * (taps / blur) ** 2).exp().sum()
        for axis in range(1, shape.ndim):
            place = torch.arange(shape.shape[axis], device=shape.device, dtype=shape.dtype)
            apart = place[:, None] - place[None, :]
            band = (-0.5 * (apart / blur) ** 2).exp() * (apart.abs() <= radius).to(shape.dtype) / weight
            shape = (shape.movedim(axis, -1) @ band).movedim(-1, axis)
        return shape


def _total(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).sum(1)
