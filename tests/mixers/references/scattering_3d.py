"""Scattering in 3D: the reference of ``scattering`` knows any number of axes."""

from __future__ import annotations

from tests.mixers.references.scattering import reference

__all__ = ["OPTIONS", "reference"]

OPTIONS = [{}, {"num_blocks": 2}]
