"""Packages that only a part of the project needs."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["load"]

# package: what pip calls it, and the extra of setup.cfg that brings it
EXTRAS = {
    "h5py": ("h5py", "hdf5"),
    "mlflow": ("mlflow", "tracking"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "optuna": ("optuna", "study"),
    "skimage": ("scikit-image", "metrics"),
    "sklearn": ("scikit-learn", "metrics"),
}


def load(module: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        ImportError: the package is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name, extra = EXTRAS[module.split(".")[0]]
        raise ImportError(
            f"{name} is not installed ({error}), which {module} needs; install it with pip install {name}, "
            f'in a checkout with pip install -c constraints.txt -e ".[{extra}]".'
        ) from error
