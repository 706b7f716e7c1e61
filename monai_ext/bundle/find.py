"""Bundles by name or path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_folder", "known_names"]

REPOSITORY = Path(__file__).resolve().parents[2] / "bundles"  # of an editable installation
METADATA = Path("configs") / "metadata.json"


def find_folder(word: str, more: Sequence[Path] = ()) -> Path:
    """The folder of a bundle: a path, or a name in ``bundles``, here or in the repository.

    Args:
        word: the name or path.
        more: further folders in which names are looked for.

    Raises:
        FileNotFoundError: neither.
    """
    folders = [Path(word).expanduser(), *[root / word for root in (Path("bundles"), REPOSITORY, *more)]]
    folder = next((folder for folder in folders if (folder / METADATA).is_file()), None)
    if folder is None:
        names = known_names(more)
        there = f"; there are {', '.join(names)}" if names else ""
        raise FileNotFoundError(
            f"no bundle {word!r}: neither a folder with configs/metadata.json nor a name in bundles{there}."
        )
    return folder.resolve()


def known_names(more: Sequence[Path] = ()) -> list[str]:
    """Names of the bundles that `find_folder` finds."""
    roots = (Path("bundles"), REPOSITORY, *more)
    return sorted({path.parent.parent.name for root in roots for path in root.glob(f"*/{METADATA.as_posix()}")})
