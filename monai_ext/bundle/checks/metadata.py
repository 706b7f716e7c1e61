"""``configs/metadata.json``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

from monai_ext.bundle.checks.problems import NotChecked, Problem
from monai_ext.bundle.checks.reading import metadata_of

__all__ = ["REQUIRED", "TENSOR", "checksums", "packages", "required_keys", "schema", "tensors", "version"]

REQUIRED: dict[str, type] = {  # by MONAI's schema meta_schema_20240725, and `changelog` by the model zoo
    "schema": str,
    "version": str,
    "changelog": dict,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
TENSOR = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")
SCHEMA = re.compile(r"https://project-monai\.github\.io/schema/meta_schema_\d{8}\.json")


def required_keys(bundle: Path) -> list[Problem]:
    """The keys that the schema and the model zoo require, and their kinds."""
    content = metadata_of(bundle)
    found = []
    for key, kind in REQUIRED.items():
        if key not in content:
            found.append(Problem(f"metadata.json has no {key}", f"add it, a {kind.__name__}"))
        elif not isinstance(content[key], kind):
            what = f"metadata.json: {key} is a {type(content[key]).__name__}"
            found.append(Problem(what, f"write a {kind.__name__}"))
        elif not content[key] and key != "required_packages_version":
            found.append(Problem(f"metadata.json: {key} is empty", "fill it in"))
    if "optional_packages_version" in content:
        what = "metadata.json has optional_packages_version"
        found.append(Problem(what, "this is the old name: call it required_packages_version"))
    if isinstance(content.get("schema"), str) and not SCHEMA.fullmatch(content["schema"]):
        mend = "give https://project-monai.github.io/schema/meta_schema_20240725.json"
        found.append(Problem(f"metadata.json: schema is {content['schema']}", mend))
    for key, kind in {"references": list, "supported_apps": dict}.items():
        if key in content and not isinstance(content[key], kind):
            found.append(Problem(f"metadata.json: {key} is no {kind.__name__}", f"write a {kind.__name__}"))
    return found


def version(bundle: Path) -> list[Problem]:
    """The version is a number of three parts, and the newest in the changelog."""
    content = metadata_of(bundle)
    now, changes = content.get("version"), content.get("changelog")
    if not isinstance(now, str) or not isinstance(changes, dict):
        return []  # said by `required_keys`
    broken = [name for name in (now, *changes) if not re.fullmatch(r"\d+\.\d+\.\d+", name)]
    if broken:
        return [Problem(f"metadata.json: {broken[0]!r} is no version", "write three numbers, such as 1.0.2")]
    if now not in changes:
        return [Problem(f"metadata.json: {now} is not in the changelog", "say there what the version changes")]
    newest = max(changes, key=lambda name: tuple(map(int, name.split("."))))
    if now != newest:
        return [Problem(f"metadata.json: version is {now}, the changelog's newest {newest}", "make them the same")]
    return []


def tensors(bundle: Path) -> list[Problem]:
    """Inputs and outputs of the network are described in full."""
    content = metadata_of(bundle).get("network_data_format")
    if not isinstance(content, dict):
        return []
    found = []
    for side in ("inputs", "outputs"):
        entries: dict[str, Any] = content.get(side) or {}
        if not entries:
            found.append(Problem(f"metadata.json: network_data_format has no {side}", "describe every tensor"))
        for name, tensor in entries.items():
            lacking = [key for key in TENSOR if key not in tensor]
            if lacking:
                found.append(Problem(f"metadata.json: {side} {name} has no {', '.join(lacking)}", "add it"))
            elif len(tensor.get("channel_def", {})) not in (0, tensor["num_channels"]):
                what = f"metadata.json: {name} has {tensor['num_channels']} channels and another channel_def"
                found.append(Problem(what, "describe every channel"))
    return found


def packages(bundle: Path) -> list[Problem]:
    """Versions that pip understands."""
    content = metadata_of(bundle).get("required_packages_version")
    return [
        Problem(f"metadata.json: {name} has the version {text!r}", "give the version that is tested, such as 1.2.3")
        for name, text in (content.items() if isinstance(content, dict) else ())
        if not (isinstance(text, str) and re.fullmatch(r"(?:[<>=!~]=?\s*)?\d[\w.+!-]*(?:,.*)?", text.strip()))
    ]


def checksums(bundle: Path) -> list[Problem]:
    """Where the metadata gives the models' checksums, they are those of the files."""
    found = []
    for name, digest in metadata_of(bundle).get("models_sha256", {}).items():
        path = bundle / name
        if not path.is_file():
            found.append(Problem(f"metadata.json has the checksum of {name}, which is missing", "export again"))
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            mend = "the file changed after the export: raise the version and export again, or download it anew"
            found.append(Problem(f"{name} has another checksum than metadata.json says", mend))
    return found


def schema(bundle: Path) -> list[Problem]:
    """MONAI's own check against the official schema, which it downloads."""
    from monai.bundle import verify_metadata

    path = bundle / "configs" / "metadata.json"
    try:
        importlib.metadata.version("jsonschema")
        with tempfile.TemporaryDirectory() as folder:
            verify_metadata(str(path), filepath=str(Path(folder) / "schema.json"))
    except (URLError, TimeoutError, ConnectionError) as error:
        raise NotChecked("no network: the official schema cannot be downloaded") from error
    except importlib.metadata.PackageNotFoundError as error:
        raise NotChecked("jsonschema is not installed") from error
    except ValueError as error:
        return [Problem(" ".join(str(error).split()), "write metadata.json as the schema says")]
    return []
