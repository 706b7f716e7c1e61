"""Bundles: made from your own data, checked, exported for others."""

from __future__ import annotations

from monai_ext.bundle.check_command import check
from monai_ext.bundle.export_command import export
from monai_ext.bundle.new_command import new

COMMANDS = {"new": new, "check": check, "export": export}
