"""Images that are rows of an array in a NumPy archive (.npz), as MedMNIST has them, or in an HDF5 file (.h5).

`PATH::ARRAY[ROW]` is the address of one, and stands wherever a path may.
"""

from __future__ import annotations

import functools
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.optional import load

__all__ = ["Row", "array_lengths", "file_behind", "is_row", "parse_row", "prefix_of", "read_array", "read_row"]

_ADDRESS = re.compile(r"(?P<path>.+\.(?:npz|h5))::(?P<array>[^\[\]:]+)\[(?P<row>\d+)\]", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Row:
    """Row `row` of the array `array` of the archive `path`."""

    path: Path
    array: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}::{self.array}[{self.row}]"

    @property
    def prefix(self) -> str:
        """What the names of this row and of its neighbours begin with."""
        return prefix_of(self.path.name, self.array)

    @property
    def case(self) -> str:
        """What the row is called in results."""
        return f"{self.prefix}_{self.row:04d}"


def prefix_of(file: str, array: str) -> str:
    """What distinguishes an array: its name in an archive, its file's name where each split has a file (HDF5)."""
    return file[: -len(".h5")] if file.endswith(".h5") else array


def parse_row(address: str | os.PathLike) -> Row | None:
    """The row that an address means; None for any other path."""
    found = _ADDRESS.fullmatch(f"{address}")
    return Row(Path(found["path"]), found["array"], int(found["row"])) if found else None


def is_row(address: str | os.PathLike) -> bool:
    return parse_row(address) is not None


def array_lengths(path: str | os.PathLike) -> dict[str, int]:
    """The arrays of a file and how many rows each has, from their headers alone.

    Raises:
        ValueError: a damaged file.
        ImportError: HDF5, and h5py is not installed.
    """
    if _is_hdf5(Path(path)):
        return _hdf5_lengths(Path(path))
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
    """The values of a row; an archive's array is kept in memory for the next one, of HDF5 only the row is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no address of a row, a damaged file, no such array or row.
        ImportError: HDF5, and h5py is not installed.
    """
    row = parse_row(address)
    if row is None:
        raise ValueError(f"{address} is no address of a row: expected PATH.npz::ARRAY[ROW] or PATH.h5::ARRAY[ROW].")
    if _is_hdf5(row.path):
        return _read_hdf5(row.path.expanduser(), row.array, row.row)
    array = read_array(row.path, row.array)
    if row.row >= len(array):
        raise ValueError(_no_row(row.path, row.array, row.row, len(array)))
    return array[row.row]


def read_array(path: str | os.PathLike, name: str) -> np.ndarray:
    """A whole array of a file, read-only; the last few are kept in memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or no such array in it.
        ImportError: HDF5, and h5py is not installed.
    """
    path = Path(path).expanduser()
    return _read(str(path), path.stat().st_mtime_ns, name)


@functools.lru_cache(maxsize=4)  # images and labels of two splits
def _read(path: str, _changed: int, name: str) -> np.ndarray:
    array = _read_hdf5(Path(path), name) if _is_hdf5(Path(path)) else _read_archive(path, name)
    array.flags.writeable = False
    return array


def _read_archive(path: str, name: str) -> np.ndarray:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array, not an archive (.npz)")
        with archive:
            if name not in archive.files:
                raise ValueError(_no_array(name, archive.files))
            array = archive[name]
            if not getattr(array, "ndim", 0):  # bytes of a file that is no array
                raise ValueError(f"{name!r} in it has no rows")
            return array
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, OSError) as error:
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise ValueError(_damaged(path, error)) from error


def _is_hdf5(path: Path) -> bool:
    return path.suffix.lower() == ".h5"


def _read_hdf5(path: Path, name: str, row: int | None = None) -> np.ndarray:
    """One row or all; the file is opened anew, as one held open would not survive a worker's fork."""
    h5py = load("h5py")
    path.stat()  # a missing file is not a damaged one
    try:
        with h5py.File(path, "r") as file:
            if name not in file:
                raise ValueError(_no_array(name, file))
            array = file[name]
            if row is None:
                return np.asarray(array)
            if row < len(array):
                return np.asarray(array[row])
            rows = len(array)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(_damaged(path, error)) from error
    raise ValueError(_no_row(path, name, row, rows))


def _hdf5_lengths(path: Path) -> dict[str, int]:
    h5py = load("h5py")
    try:
        with h5py.File(path, "r") as file:
            return {name: array.shape[0] for name, array in file.items() if getattr(array, "shape", ())}
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(_damaged(path, error)) from error


def _no_array(name: str, known: Iterable[str]) -> str:
    return f"there is no array {name!r} in it, it holds {', '.join(known) or 'nothing'}"


def _no_row(path: Path, name: str, row: int, rows: int) -> str:
    return f"{path} has no row {row} in {name}: it holds {rows}."


def _damaged(path: str | Path, error: Exception) -> str:
    reason = f"{error}".splitlines()[0].rstrip(".") if f"{error}" else type(error).__name__
    return f"{path} cannot be read ({reason}); fetch it again."
