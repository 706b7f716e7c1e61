"""A Swin transformer and a linear model of a shape's measures, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn

from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.shape_measures import ShapeMeasures
from monai_ext.networks.swin import MixerSwin


class ShapeSwin(nn.Module):
    """Classifier of outlined shapes: the mean of the logits of a :class:`MixerSwin` and of a linear model of measures.

    The linear model, :class:`monai_ext.blocks.shape_measures.ShapeMeasures`, learns from few shapes what a transformer
    is slow to find in them (volume, thickness by direction); the transformer sees what is not measured. Their errors
    differ, so the mean has fewer. Each is trained by itself: ``network.measures.fit(dataset)`` once, before the
    training, and the transformer, whose logits alone come out in training, by gradients as a ``MixerSwin``. Its state
    dict is that network's with ``swin.`` before every key, and the buffers of ``measures``.

    Args:
        in_channels: 2, the shape and the distance to its surface, as ``monai_ext.data.shapes.ShapeDistanced`` gives.
        num_classes: classes.
        spatial_dims: 2 or 3.
        measures: options of the linear model.
        swin: every other option is MixerSwin's (``mixer``, ``feature_size``, ``depths`` ...).

    Raises:
        ValueError: for other channels, and what MixerSwin and ShapeMeasures refuse.
    """

    def __init__(
        self,
        in_channels: int = 2,
        num_classes: int = 2,
        spatial_dims: int = 3,
        measures: Mapping[str, Any] | None = None,
        **swin: Any,
    ) -> None:
        super().__init__()
        if in_channels != 2:
            raise ValueError(f"in_channels must be 2, the shape and the distance to its surface, got {in_channels}.")
        own = {"classification": True, "hidden_states": False, "spatial_dims": spatial_dims}
        self.swin = MixerSwin(in_channels, num_classes=num_classes, **{**swin, **own})
        self.measures = ShapeMeasures(spatial_dims, num_classes, **(measures or {}))

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape and distance, (B, 2, *size) of any size, to logits (B, num_classes)."""
        seen = self.swin(x)
        return seen if self.training else (seen + self.measures(x)) / 2
