"""The texts of an exported bundle: its docs, and the model card that Hugging Face shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["model_card", "own_docs"]

HERE = (
    "## This folder\n\n"
    "It runs with MONAI alone: the code that it needs is in `scripts`. Install the packages at the versions with which "
    "it was tested, and run its commands in this folder, where Python finds `scripts` (from elsewhere, set "
    "`PYTHONPATH` to it):\n\n```\n{install}\n```\n\n"
    "Messages that name `python -m monai_ext` mean the commands of the package in which the bundle was made; they "
    "fetch, check and draw data, and are not needed to run it.\n"
)


def own_docs(bundle: Path, metadata: Mapping[str, Any]) -> str:
    """``docs/README.md`` of a bundle with paths as they are seen in its own folder, and how to install."""
    path = bundle / "docs" / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {metadata.get('name', bundle.name)}\n"
    text = text.replace(f"bundles/{bundle.name}/", "")
    text = re.sub(r"From the folder that contains `bundles`[^\n:]*:", "In this folder:", text)
    here = HERE.format(install=install_command(metadata))
    head = re.search(r"^## .*commands?.*$", text, flags=re.IGNORECASE | re.MULTILINE)
    if head is None:
        return f"{text.rstrip()}\n\n{here}"
    return f"{text[: head.start()]}{here}\n{text[head.start() :]}"


def install_command(metadata: Mapping[str, Any]) -> str:
    """``pip install`` with the versions that the metadata names."""
    found = {"monai": metadata.get("monai_version"), "torch": metadata.get("pytorch_version")}
    found |= {"numpy": metadata.get("numpy_version"), **(metadata.get("required_packages_version") or {})}
    return "pip install " + " ".join(f"{name}=={version}" for name, version in found.items() if version)


def model_card(name: str, metadata: Mapping[str, Any], docs: str) -> str:
    """The docs under the head that Hugging Face reads; pictures are named as seen from the top."""
    tags = ["monai", "medical", *re.findall(r"segmentation|classification|denoising", name)]
    head = {
        "library_name": "monai",
        "license": "apache-2.0",
        "tags": list(dict.fromkeys(tags)),
        "pipeline_tag": _pipeline(name),
    }
    lines = yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=True)
    docs = re.sub(r"(!\[[^\]]*\]\()(?!https?:|/|docs/)", r"\1docs/", docs)
    docs = re.sub(r"(?<!!)(\[[^\]]*\]\()(?!https?:|/|#|docs/|\.\./)", r"\1docs/", docs)
    return f"---\n{lines}---\n\n{docs}"


def _pipeline(name: str) -> str:
    """What Hugging Face calls the task."""
    for word, pipeline in (("segmentation", "image-segmentation"), ("classification", "image-classification")):
        if word in name:
            return pipeline
    return "image-to-image"
