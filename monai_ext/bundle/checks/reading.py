"""A bundle's configs as the checks read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["KINDS", "config_file", "config_files", "metadata_of", "workflow"]

SUFFIXES = ("json", "yaml", "yml")
KINDS = {"train": "train", "inference": "infer", "evaluate": "infer"}  # config -> the workflow's type


def config_file(bundle: Path, stem: str) -> Path | None:
    """``configs/STEM`` with any suffix that MONAI reads."""
    found = (bundle / "configs" / f"{stem}.{suffix}" for suffix in SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def config_files(bundle: Path) -> list[Path]:
    """All configs but the metadata."""
    found = [path for suffix in SUFFIXES for path in (bundle / "configs").glob(f"*.{suffix}")]
    return sorted(path for path in found if path.stem != "metadata")


def metadata_of(bundle: Path) -> dict[str, Any]:
    """The metadata.

    Raises:
        ValueError: it is missing, or no JSON.
    """
    path = bundle / "configs" / "metadata.json"
    if not path.is_file():
        raise ValueError("configs/metadata.json is missing.")
    return load(path)


def load(path: Path) -> dict[str, Any]:
    """A config of any suffix.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return ConfigParser.load_config_file(str(path))
    except Exception as error:
        raise ValueError(f"configs/{path.name} cannot be read: {' '.join(str(error).split())}.") from error


def workflow(bundle: Path, stem: str) -> list[Path]:
    """The configs of a workflow: one, or ``train`` before it where it holds only what differs; empty without it."""
    path = config_file(bundle, stem)
    if path is None:
        return []
    whole = stem == "train" or "network_def" in load(path) or "imports" in load(path)
    train = config_file(bundle, "train")
    return [path] if whole or train is None else [train, path]
