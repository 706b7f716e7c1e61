"""The environments of the two files of constraints agree where they can."""

from __future__ import annotations

from pathlib import Path

DIFFERENT = {"setuptools", "pydicom"}


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==", 1) for line in lines)


def test_versions_agree(repository: Path) -> None:
    ours, label = pins(repository / "constraints.txt"), pins(repository / "constraints-label.txt")
    assert {name for name in set(ours) & set(label) if ours[name] != label[name]} == DIFFERENT
    for name in ("torch", "monai", "numpy", "nibabel", "simpleitk", "pytorch-ignite", "fastapi", "torchvision"):
        assert name in label, name
