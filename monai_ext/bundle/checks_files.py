"""Checks of a bundle's files: which there are, metadata, docs, large files, logging."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from monai_ext.bundle.models import quiet
from monai_ext.bundle.problem import Problem, Skipped

LARGE = 25 * 2**20
REQUIRED = {
    "LICENSE": "add the licence's text, Apache-2.0 for most bundles of the zoo",
    "configs/metadata.json": "write it; a bundle is known by it",
    "docs/README.md": "say what the model does, how well, on which data, and with which commands",
}
WEIGHTS = "models/model.pt"
# what MONAI's schema meta_schema_20240725 requires, and the zoo
FIELDS: Mapping[str, type] = {
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
SECTIONS = {
    "overview": "what the model is",
    "data": "what it was trained on, with licence and source",
    "preprocess": "what happens to an image before the network",
    "train": "how it was trained, with time and memory",
    "input": "what it takes",
    "output": "what it gives",
    "performance": "how well it does, on which split, found with which command",
    "command": "how to run it",
    "limit": "what it is not for",
    "reference": "papers",
    "licen[cs]e": "of code, weights and data",
}
HANDLERS = r"(?:logging\.)?(?:handlers\.)?\w*Handler"


def files(bundle: Path) -> Iterator[Problem]:
    """What every bundle has."""
    for name, mend in REQUIRED.items():
        path = bundle / name
        if not path.is_file() or not path.stat().st_size:
            yield Problem(f"{name} is {'empty' if path.is_file() else 'missing'}.", f"{mend}.")
    if not any((bundle / "configs" / f"{name}.json").is_file() for name in ("train", "inference")):
        yield Problem(
            "there is neither configs/train.json nor configs/inference.json.",
            "write them in JSON: monai.bundle.load() reads no other form.",
        )
    listed = {entry.get("path") for entry in _listed(bundle)}
    if not (bundle / WEIGHTS).is_file() and WEIGHTS not in listed:
        yield Problem(f"{WEIGHTS} is missing.", "train the bundle, or name the file in large_files.yml.")


def metadata(bundle: Path) -> Iterator[Problem]:
    """The fields that MONAI's schema and the zoo require, and that they are of one mind."""
    content = read_metadata(bundle)
    for name, kind in FIELDS.items():
        if not isinstance(content.get(name), kind):
            yield Problem(f"metadata.json: {name} is missing, or no {kind.__name__}.", f"add {name}.")
        elif not content[name] and name != "required_packages_version":
            yield Problem(f"metadata.json: {name} is empty.", f"fill in {name}.")
    if "optional_packages_version" in content:
        yield Problem("metadata.json: optional_packages_version is the old name.", "name it required_packages_version.")
    schema_name = str(content.get("schema", ""))
    if not re.fullmatch(r"https://\S+/meta_schema_\d{8}\.json", schema_name):
        yield Problem(
            f"metadata.json: schema is {schema_name!r}.",
            "give https://project-monai.github.io/schema/meta_schema_20240725.json.",
        )
    yield from _versions(content)
    if not isinstance(content.get("references", []), list):
        yield Problem("metadata.json: references is no list.", "make it a list of texts.")
    data = content.get("network_data_format")
    data = data if isinstance(data, dict) else {}
    for side, wanted in (("inputs", "image"), ("outputs", "pred")):
        tensors = data.get(side)
        if not isinstance(tensors, dict) or wanted not in tensors:
            yield Problem(
                f"metadata.json: network_data_format#{side} has no {wanted!r}.",
                f"describe the tensor under the key {wanted!r}, which transforms and MONAI Label use.",
            )
        for name, tensor in (tensors if isinstance(tensors, dict) else {}).items():
            yield from _tensor(f"network_data_format#{side}#{name}", tensor)


def _versions(content: Mapping[str, Any]) -> Iterator[Problem]:
    version, changes = content.get("version"), content.get("changelog")
    if not isinstance(version, str) or not isinstance(changes, dict) or not changes:
        return
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield Problem(f"metadata.json: version {version!r} is not of the form 1.2.3.", "number it so.")
        return
    if version not in changes:
        yield Problem(f"metadata.json: changelog says nothing about version {version}.", "add what changed.")
        return
    numbered = [name for name in changes if re.fullmatch(r"\d+(\.\d+)*", name)]
    newest = max(numbered, key=lambda name: tuple(map(int, name.split("."))))
    if newest != version:
        yield Problem(
            f"metadata.json: version is {version}, and the newest in changelog {newest}.", "make them the same."
        )


def _tensor(where: str, tensor: Any) -> Iterator[Problem]:
    missing = [key for key in TENSOR if not isinstance(tensor, dict) or key not in tensor]
    if missing:
        yield Problem(f"metadata.json: {where} lacks {', '.join(missing)}.", "add them.")
        return
    named = tensor.get("channel_def")
    if isinstance(named, dict) and len(named) != tensor["num_channels"]:
        yield Problem(
            f"metadata.json: {where} names {len(named)} channels, and has {tensor['num_channels']}.",
            "name each channel once in channel_def.",
        )


def schema(bundle: Path) -> Iterator[Problem]:
    """MONAI's own check, which fetches the schema."""
    import jsonschema
    from monai.bundle import verify_metadata

    read_metadata(bundle)
    with tempfile.TemporaryDirectory() as folder, quiet(), contextlib.redirect_stderr(io.StringIO()):
        try:
            verify_metadata(str(bundle / "configs" / "metadata.json"), filepath=str(Path(folder) / "schema.json"))
        except Exception as error:
            cause = error.__cause__ or error
            if not isinstance(cause, jsonschema.ValidationError):
                raise Skipped(f"the schema cannot be fetched ({_first(error)})") from error
            yield Problem(f"metadata.json: {str(cause).splitlines()[0]}.", "correct the field.")


def docs(bundle: Path) -> Iterator[Problem]:
    """The sections that readers look for."""
    path = bundle / "docs" / "README.md"
    if not path.is_file():
        raise Skipped("there is no docs/README.md")
    text = path.read_text(encoding="utf-8")
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    for section, what in SECTIONS.items():
        if not any(re.search(section, title) for title in titles):
            yield Problem(f"docs/README.md has no section on {section.replace('[cs]', 'c')!r}.", f"add {what}.")
    for name in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:", name) and not (path.parent / name).is_file():
            yield Problem(f"docs/README.md shows {name}, which is not there.", "add the picture, or take it out.")


def large_files(bundle: Path) -> Iterator[Problem]:
    """Single files over 25 MB are kept elsewhere and named in large_files.yml."""
    entries = _listed(bundle)
    listed = {entry.get("path"): entry for entry in entries}
    for path in sorted(bundle.rglob("*")):
        if not path.is_file() or _hidden(path.relative_to(bundle)):
            continue
        name, size = path.relative_to(bundle).as_posix(), path.stat().st_size
        if size > LARGE and name not in listed:
            yield Problem(
                f"{name} has {size / 2**20:.0f} MB, and the zoo takes files up to 25 MB.",
                "name it in large_files.yml with path, url, hash_val and hash_type.",
            )
    for name, entry in listed.items():
        for key in ("path", "url"):
            if not entry.get(key):
                yield Problem(
                    f"large_files.yml: {key} of {name} is missing.", f"say it: {key} of the file once it is uploaded."
                )
        if entry.get("hash_val") and not entry.get("hash_type"):
            yield Problem(f"large_files.yml: hash_type of {name} is missing.", "say it, such as sha256.")


def logging_config(bundle: Path) -> Iterator[Problem]:
    """MONAI allows handlers of Python's logging alone, with literal arguments."""
    path = bundle / "configs" / "logging.conf"
    if not path.is_file():
        raise Skipped("there is no configs/logging.conf")
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except configparser.Error as error:
        yield Problem(f"logging.conf cannot be read ({_first(error)}).", "correct it.")
        return
    for section in parser.sections():
        if not section.startswith("handler_"):
            continue
        kind, arguments = parser.get(section, "class", fallback=""), parser.get(section, "args", fallback="()")
        if not re.fullmatch(HANDLERS, kind):
            yield Problem(f"logging.conf: {section} has the class {kind!r}.", "take one of logging or its handlers.")
        if not re.fullmatch(
            r"\(\s*(?:(?:sys\.std(?:out|err)|'[^']*'|\"[^\"]*\"|[\d.]+|None|True|False)\s*,?\s*)*\)", arguments
        ):
            yield Problem(f"logging.conf: args of {section} are {arguments}.", "give literals alone.")


def checksums(bundle: Path) -> Iterator[Problem]:
    """Files whose hash the metadata names are those files."""
    from monai_ext.bundle.export import sha256

    named = read_metadata(bundle).get("checksums")
    if not named:
        raise Skipped("metadata.json has no checksums")
    for name, entry in named.items():
        path = bundle / name
        if not path.is_file():
            yield Problem(f"metadata.json has a checksum of {name}, which is missing.", "put it there, or export anew.")
        elif entry.get("hash_type") == "sha256" and sha256(path) != entry.get("hash_val"):
            yield Problem(f"{name} is not the file whose checksum metadata.json has.", "export the bundle anew.")


def read_metadata(bundle: Path) -> dict[str, Any]:
    """The content of ``configs/metadata.json``; a check that needs it is skipped where it cannot be read."""
    path = bundle / "configs" / "metadata.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Skipped(f"configs/metadata.json cannot be read ({_first(error)})") from error
    if not isinstance(content, dict):
        raise Skipped("configs/metadata.json holds no names and values")
    return content


def _listed(bundle: Path) -> list[dict[str, Any]]:
    for name in ("large_files.yml", "large_files.yaml", "large_files.json"):
        path = bundle / name
        if path.is_file():
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise Skipped(f"{name} cannot be read ({_first(error)})") from error
            entries = content.get("large_files") if isinstance(content, dict) else None
            return [entry for entry in entries or [] if isinstance(entry, dict)]
    return []


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in ("runs", "eval") for part in path.parts)


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
