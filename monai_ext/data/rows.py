"""Images that are rows of an array in a NumPy archive (.npz), as MedMNIST has them.

`PATH::ARRAY[ROW]` is the address of one, and stands wherever a path may.
"""

from __future__ import annotations

import functools
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Row", "array_lengths", "file_behind", "is_row", "parse_row", "read_array", "read_row"]

_ADDRESS = re.compile(r"(?P<path>.+\.npz)::(?P<array>[^\[\]:]+)\[(?P<row>\d+)\]", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Row:
    """Row `row` of the array `array` of the archive `path`."""

    path: Path
    array: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}::{self.array}[{self.row}]"

    @property
    def case(self) -> str:
        """What the row is called in results."""
        return f"{self.array}_{self.row:04d}"


def parse_row(address: str | os.PathLike) -> Row | None:
    """The row that an address means; None for any other path."""
    found = _ADDRESS.fullmatch(f"{address}")
    return Row(Path(found["path"]), found["array"], int(found["row"])) if found else None


def is_row(address: str | os.PathLike) -> bool:
    return parse_row(address) is not None


def array_lengths(path: str | os.PathLike) -> dict[str, int]:
    """The arrays of an archive and how many rows each has, from their headers alone.

    Raises:
        ValueError: a damaged archive.
    """
    lengths = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                    shape = read(member)[0]
                    lengths[name.removesuffix(".npy")] = shape[0] if shape else 0
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no NumPy archive ({error}); fetch it again.") from error
    return lengths


def file_behind(address: str | os.PathLike) -> Path:
    """The file that a path or an address needs."""
    row = parse_row(address)
    return Path(address if row is None else row.path).expanduser()


def read_row(address: str | os.PathLike) -> np.ndarray:
    """The values of a row; its array is kept in memory for the next one.

    Raises:
        FileNotFoundError: no such archive.
        ValueError: no address of a row, a damaged archive, no such array or row.
    """
    row = parse_row(address)
    if row is None:
        raise ValueError(f"{address} is no address of a row: expected PATH.npz::ARRAY[ROW].")
    array = read_array(row.path, row.array)
    if row.row >= len(array):
        raise ValueError(f"{row.path} has no row {row.row} in {row.array}: it holds {len(array)}.")
    return array[row.row]


def read_array(path: str | os.PathLike, name: str) -> np.ndarray:
    """An array of an archive, read-only; the last few are kept in memory.

    Raises:
        FileNotFoundError: no such archive.
        ValueError: a damaged archive, or no such array in it.
    """
    path = Path(path).expanduser()
    return _read(str(path), path.stat().st_mtime_ns, name)


@functools.lru_cache(maxsize=4)  # images and labels of two splits
def _read(path: str, _changed: int, name: str) -> np.ndarray:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array, not an archive (.npz)")
        with archive:
            if name not in archive.files:
                known = ", ".join(archive.files) or "nothing"
                raise ValueError(f"there is no array {name!r} in it, it holds {known}")
            array = archive[name]
            if not getattr(array, "ndim", 0):  # bytes of a file that is no array
                raise ValueError(f"{name!r} in it has no rows")
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, OSError) as error:
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        reason = f"{error}".splitlines()[0].rstrip(".") if f"{error}" else type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}); fetch it again.") from error
    array.flags.writeable = False
    return array
