"""``large_files.yml``: the files of a bundle that the model zoo keeps outside its repository."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from monai_ext.bundle.find import LEFT_BEHIND

__all__ = ["LIMIT", "large_files", "list_large_files", "listed_files"]

LIMIT = 25 * 1024 * 1024  # bytes of a single file
NAMES = ("large_files.yml", "large_files.yaml", "large_files.json")


def large_files(bundle: Path) -> list[Path]:
    """The files over 25 MB, without those that trainings and evaluations left behind."""
    found = (path for path in bundle.rglob("*") if path.relative_to(bundle).parts[0] not in LEFT_BEHIND)
    return sorted(path for path in found if path.is_file() and path.stat().st_size > LIMIT)


def listed_files(bundle: Path) -> dict[str, dict[str, Any]]:
    """The entries of ``large_files.yml`` by path; empty where there is no such file.

    Raises:
        ValueError: the file is none that MONAI reads.
    """
    for name in NAMES:
        path = bundle / name
        if path.is_file():
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
                return {str(entry["path"]): dict(entry) for entry in content["large_files"]}
            except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{name} has no list `large_files` of entries with `path`: {error}.") from error
    return {}


def list_large_files(bundle: Path, url: str | None) -> None:
    """Write ``large_files.yml`` if a file is over 25 MB, with the hash of each.

    Args:
        url: the address of the folder from which they will be downloaded; without it the entries' addresses stay
            as an earlier list had them, else empty, to be filled in when the files are uploaded.
    """
    former = listed_files(bundle)
    found = large_files(bundle)
    for name in NAMES:
        (bundle / name).unlink(missing_ok=True)
    if not found:
        return
    entries = []
    for path in found:
        inside = path.relative_to(bundle).as_posix()
        address = f"{url.rstrip('/')}/{inside}" if url else former.get(inside, {}).get("url", "")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"path": inside, "url": address, "hash_val": digest, "hash_type": "sha256"})
    text = yaml.safe_dump({"large_files": entries}, sort_keys=False)
    (bundle / NAMES[0]).write_text(text, encoding="utf-8")
