"""Inferers that MONAI lacks: mixed precision on any device, and averaging over mirrored images."""

from monai_ext.inferers.autocast import AutocastInferer
from monai_ext.inferers.mirror import MirrorInferer

__all__ = ["AutocastInferer", "MirrorInferer"]
