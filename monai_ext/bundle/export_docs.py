"""What the documents of an exported bundle say: commands of its own folder, and the model card of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from monai_ext.bundle.carry import STAYING_GROUPS, renamed_words

__all__ = ["licence_id", "model_card", "own_readme", "requirements"]

# what the metadata's task says -> what Hugging Face calls it
PIPELINES = {"segment": "image-segmentation", "classif": "image-classification", "denois": "image-to-image"}
_LICENCES = {
    "apache-2.0": ("Apache License", "Version 2.0"),
    "mit": ("MIT License",),
    "cc-by-4.0": ("Attribution 4.0 International",),
}


def requirements(metadata: Mapping[str, Any]) -> list[str]:
    """Packages with their tested versions, as pip takes them."""
    base = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    rows = [f"{name}=={metadata[key]}" for name, key in base.items() if key in metadata]
    return rows + [f"{name}=={version}" for name, version in metadata.get("required_packages_version", {}).items()]


def own_readme(text: str, name: str, package: str, new: str, metadata: Mapping[str, Any]) -> str:
    """``docs/README.md`` with commands for the bundle's own folder, and a section on what must be installed."""
    text = re.sub(r"^From the folder that contains `bundles`[^\n]*$", "From the bundle's folder:", text, flags=re.M)
    text = text.replace(f"bundles/{name}/", "").replace(" (what `make demo` does)", "")
    # commands that do not travel, with the remark above them
    staying = rf"^(?:# [^\n]*\n)?python -m {package} (?:{'|'.join(STAYING_GROUPS)})\b[^\n]*\n\n?"
    text = re.sub(staying, "", text, flags=re.MULTILINE)
    text = renamed_words(text, package, new)
    if re.search(r"^## Installation$", text, flags=re.MULTILINE):
        return text
    install = (
        "## Installation\n\n"
        "MONAI and the packages below, at the versions with which the bundle is tested, are all that it needs; its own "
        f"code lies in `scripts`. All commands on this page run in the bundle's folder, the one with `configs` in it. "
        "From elsewhere, give the paths of the configs and `--bundle_root FOLDER`.\n\n"
        f"```\npip install {' '.join(requirements(metadata))}\n```\n\n"
    )
    second = re.search(r"^## ", text, flags=re.MULTILINE)  # after title and overview's heading
    following = re.search(r"^## ", text[second.end() :], flags=re.MULTILINE) if second else None
    at = second.end() + following.start() if second and following else len(text)
    return text[:at] + ("" if at < len(text) else "\n\n") + install + text[at:]


def model_card(readme: str, metadata: Mapping[str, Any], licence: str) -> str:
    """``README.md`` at the top of the bundle, as Hugging Face shows it: front matter, then the bundle's own page."""
    task = str(metadata.get("task", "")).lower()
    front: dict[str, Any] = {"license": licence, "library_name": "monai", "tags": ["monai", "medical"]}
    for word, pipeline in PIPELINES.items():
        if word in task:
            front["pipeline_tag"] = pipeline
            break
    front["model_name"] = str(metadata.get("name", ""))
    front["version"] = str(metadata.get("version", ""))
    body = re.sub(r"(\]\()(?![a-z]+:|#|/)([^)\s]+\))", r"\1docs/\2", readme)
    matter = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n{body}"


def licence_id(text: str) -> str:
    """What Hugging Face calls the licence of a text; "other" where it is none of the usual ones."""
    for name, words in _LICENCES.items():
        if all(word in text for word in words):
            return name
    return "other"
