"""Bundles: sharing them and checking them."""

from __future__ import annotations

from monai_ext.bundle.check_command import check
from monai_ext.bundle.export_command import export

COMMANDS = {"export": export, "check": check}
