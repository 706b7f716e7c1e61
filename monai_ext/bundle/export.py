"""A bundle for others: a folder and a zip that run with MONAI alone.

The modules of this package that the bundle needs travel in its ``scripts``, and its configs name them there; beside
``model.pt`` stand a traced ``model.ts`` and, on request, ``model.onnx``. Layout of the model zoo, with a model card for
Hugging Face.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ext.bundle import models
from monai_ext.bundle.card import model_card, own_docs
from monai_ext.bundle.carry import Carried, carry, rewrite_names
from monai_ext.bundle.find import find_folder
from monai_ext.data.staging import locked, staged
from monai_ext.files import atomic_write

__all__ = ["export_bundle"]

LEFT_OUT = ("runs", "eval", "__pycache__", ".*", "*.pyc")  # what trainings and evaluations wrote
LARGE = 25 * 2**20  # bytes; above it the zoo keeps a file elsewhere
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# packages that metadata names in fields of their own
_OWN_FIELDS = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
# of a name that two bundles' scripts have, Python takes the first: this finds the rest
_INIT = '''"""The code of this bundle; generated, with one folder for each bundle that is on the path."""

import sys
from pathlib import Path


class _Folders(list):
    """Where the modules of ``scripts`` are: here, and in other bundles that are loaded beside this one."""

    def __iter__(self):
        others = (str(Path(place) / "scripts") for place in sys.path if place)
        return iter(dict.fromkeys([*super().__iter__(), *(path for path in others if Path(path).is_dir())]))


__path__ = _Folders(__path__)
'''


def export_bundle(
    name: str, out: str | Path, onnx: bool = False, torchscript: bool = True, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write a bundle that runs where this package is not installed.

    Args:
        name: of a bundle, or its folder.
        out: the folder for the exported bundle and its zip.
        onnx: write ``models/model.onnx``, too.
        torchscript: write ``models/model.ts``.
        overwrite: replace what an earlier export left there.

    Returns:
        the folder and the zip

    Raises:
        FileNotFoundError: no such bundle, or one without weights.
        FileExistsError: the target exists.
        ValueError: a config cannot be read, or the exported model's output is not that of the bundle.
        OSError: the target cannot be written; nothing is left there then.
    """
    source, out = find_folder(name), Path(out).expanduser().absolute()
    if not (source / models.WEIGHTS).is_file():
        raise FileNotFoundError(f"{source} has no {models.WEIGHTS}: train the bundle first, or put its weights there.")
    target, metadata = out / source.name, read_json(source / "configs" / "metadata.json")
    archive = out / f"{source.name}_v{metadata.get('version', '0')}.zip"
    if target.resolve() == source:
        raise ValueError(f"--out {out} is where the bundle itself is: name another folder.")
    there = next((path for path in (target, archive) if path.exists()), None)
    if there is not None and not overwrite:
        raise FileExistsError(f"{there} exists: remove it, name another folder, or give --overwrite.")
    with locked(out), staged(target) as fresh:
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
        package = f"scripts.{re.sub(r'[^a-zA-Z0-9_]', '_', source.name)}"
        carried = _carry(fresh, package)
        for path in sorted((fresh / "configs").glob("*.json")):
            _rewrite_config(path, package)
        made = models.write_models(source, fresh, onnx, torchscript)
        metadata = _metadata(metadata, fresh, carried, made)
        _write(fresh / "configs" / "metadata.json", json.dumps(metadata, indent=4, ensure_ascii=False) + "\n")
        _large_files(fresh)
        docs = rewrite_names(own_docs(source, metadata), package)
        _write(fresh / "docs" / "README.md", docs)
        _write(fresh / "README.md", model_card(source.name, metadata, docs))
        for path in fresh.rglob("*"):  # of whoever copies it
            path.chmod(0o755 if path.is_dir() else 0o644)
        _try(fresh, [*made, models.WEIGHTS])
    _zip(target, archive)
    return target, archive


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError, ValueError: there is none; the sentence names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values.")
    return content


def _carry(folder: Path, package: str) -> Carried:
    """Put the code into ``scripts``; modules that the bundle has there already stay, and name the carried ones."""
    own = sorted((folder / "scripts").rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in (*sorted((folder / "configs").glob("*.json")), *own)]
    carried = carry(texts, package)
    for path in own:
        _write(path, rewrite_names(path.read_text(encoding="utf-8"), package))
    inside = folder.joinpath(*package.split("."))
    for name, text in carried.files.items():
        _write(inside / name, text)
    if carried.files and not (folder / "scripts" / "__init__.py").is_file():
        _write(folder / "scripts" / "__init__.py", _INIT)
    return carried


def _rewrite_config(path: Path, package: str) -> None:
    """Names of the carried code, and a ``bundle_root`` that is this folder."""
    content = json.loads(rewrite_names(path.read_text(encoding="utf-8"), package))
    root = content.get("bundle_root")
    if isinstance(root, str) and "bundles/" in root:  # found from the repository, too
        content["bundle_root"] = "."
    _write(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def _metadata(metadata: Mapping[str, Any], folder: Path, carried: Carried, made: list[str]) -> dict[str, Any]:
    """Required packages without this one, and the checksums of the models."""
    needed = {**dict(metadata.get("required_packages_version") or {})}
    needed.pop("monai-ext", None)
    known = {name.lower() for name in (*needed, *_OWN_FIELDS)}
    needed |= {name: version for name, version in carried.packages.items() if name.lower() not in known}
    found = {**metadata, "required_packages_version": dict(sorted(needed.items()))}
    paths = [models.WEIGHTS, *made]
    found["checksums"] = {name: {"hash_type": "sha256", "hash_val": sha256(folder / name)} for name in paths}
    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _digest(file)


def _digest(file: Any) -> str:
    found = hashlib.sha256()
    while block := file.read(2**20):
        found.update(block)
    return found.hexdigest()


def _large_files(folder: Path) -> None:
    """``large_files.yml`` names what is over 25 MB; where it will be is for the person who uploads it to say."""
    large = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > LARGE]
    if not large:
        return
    lines = ["large_files:"]
    for path in large:
        lines += [f'- path: "{path.relative_to(folder).as_posix()}"', '  url: ""']
        lines += [f'  hash_val: "{sha256(path)}"', '  hash_type: "sha256"']
    _write(folder / "large_files.yml", "\n".join(lines) + "\n")


def _try(folder: Path, made: list[str]) -> None:
    """Load the exported bundle in a process that cannot import this package, and compare its models."""
    with tempfile.TemporaryDirectory() as elsewhere:
        script = Path(elsewhere) / "try.py"
        script.write_text(models.TRY, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-B", str(script), str(folder), *made], capture_output=True, text=True, cwd=elsewhere
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it died"])[-1]
        raise ValueError(f"the exported bundle does not run by itself ({last[:500]}); nothing was written.")


def _zip(folder: Path, archive: Path) -> None:
    """The same folder gives the same bytes."""
    with atomic_write(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", ZIP_TIME)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                packed.writestr(entry, path.read_bytes())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
