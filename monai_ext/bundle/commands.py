"""Bundles: made from your own data."""

from __future__ import annotations

from monai_ext.bundle.new_command import new

COMMANDS = {"new": new}
