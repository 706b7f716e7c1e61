"""A linear classifier of what is measured of a shape, fitted at once.

Legend: B batch, F numbers, K classes, N shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.blocks.shape_descriptors import ShapeDescriptors

LIMIT = 8.0  # standard deviations; what lies further from the training shapes counts as this far


class ShapeMeasures(nn.Module):
    """Logistic regression on the numbers of :class:`monai_ext.blocks.shape_descriptors.ShapeDescriptors`.

    With z the numbers, standardised by the training shapes and clipped, the logits are W z + c, where W and c minimise

        sum_i cross-entropy(W z_i + c, y_i) + |W|^2 / strength

    (for two classes scikit-learn's ``LogisticRegression(C=strength)``). The problem is convex: :meth:`fit` solves it in
    float64 by L-BFGS and draws no random number. Measures are near multiples of each other, and steps of stochastic
    gradients come to the minimum too slowly. Everything is a buffer: gradients change nothing. Before a fit the logits
    are 0.

    Args:
        spatial_dims: 2 or 3.
        num_classes: K.
        strength: how far the data may move W from 0.
        descriptors: options of the descriptors.

    Raises:
        ValueError: for a strength that is not positive, and what the descriptors refuse.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        num_classes: int = 2,
        strength: float = 10.0,
        descriptors: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not strength > 0:
            raise ValueError(f"strength must be positive, got {strength}.")
        self.strength = strength
        self.descriptors = ShapeDescriptors(spatial_dims, **(descriptors or {}))
        count = self.descriptors.num_features
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("weight", torch.zeros(num_classes, count))
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape and distance (B, 2, *size) to logits (B, K)."""
        numbers = self.descriptors(x)
        with torch.autocast(x.device.type, enabled=False):
            z = self._standard(numbers, self.mean, self.deviation)
            return z @ self.weight.to(z).T + self.bias.to(z)

    @torch.no_grad()
    def fit(self, items: Iterable[Mapping[str, Any]], image: str = "image", label: str = "label") -> None:
        """Fit to labelled shapes, one pass over them.

        Args:
            items: a dataset; each item has the shape with its distances, (2, *size), and the number of its class.
            image: key of the shape.
            label: key of the class.

        Raises:
            ValueError: no items, or a class beyond ``num_classes``.
        """
        numbers, classes = [], []
        for item in items:
            shape = torch.as_tensor(item[image]).as_subclass(torch.Tensor)
            numbers.append(self.descriptors(shape[None].to(self.mean.device))[0].double())
            classes.append(int(item[label]))
        if not numbers:
            raise ValueError("no shapes to fit the measures to; give a data set with at least one.")
        count = len(self.bias)
        if not 0 <= min(classes) <= max(classes) < count:
            raise ValueError(f"a label is {max(classes)}, but the classes go from 0 to {count - 1}; raise num_classes.")
        x, y = torch.stack(numbers), torch.tensor(classes, device=self.mean.device)
        mean = x.mean(0)
        deviation = (x - mean).square().mean(0).sqrt()
        deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
        weight, bias = self._solved(self._standard(x, mean, deviation), y)
        for buffer, value in ((self.mean, mean), (self.deviation, deviation), (self.weight, weight), (self.bias, bias)):
            buffer.copy_(value)

    @torch.enable_grad()
    def _solved(self, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = z.new_zeros(self.weight.shape, requires_grad=True)
        bias = z.new_zeros(self.bias.shape, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=2000, history_size=30, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
        )

        def objective() -> torch.Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(z @ weight.T + bias, y) + weight.square().sum() / (self.strength * len(y))
            loss.backward()
            return loss

        solver.step(objective)
        return weight.detach(), bias.detach()

    @staticmethod
    def _standard(x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        return ((x - mean) / deviation).clamp(-LIMIT, LIMIT)
