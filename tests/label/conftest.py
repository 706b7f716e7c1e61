"""MONAI Label where it is installed; a stand-in for torchvision, where a machine has no build of it for its PyTorch."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from tests.bundles.conftest import phantom_of  # noqa: F401  a fixture

STAND_INS = Path(__file__).parent / "stand_ins"

if find_spec("monailabel") is not None:
    try:
        import torchvision.utils  # noqa: F401
    except Exception:  # absent, or built for another PyTorch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.path.insert(0, str(STAND_INS))
