"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["atomic_write", "remove_leftovers"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a file that takes the place of ``path`` when the block ends well.

    The bytes go to a temporary file in the same folder, are forced to the disk, and then replace ``path`` in one
    step: whatever happens, ``path`` is the old file or the new one, never a part of either.

    Raises:
        OSError: disk full, no permission; the sentence names the file, and the old one is kept.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode, newline="" if "b" not in mode else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        cause = _disk_error(error)
        if cause is not None:
            kept = "the file that was there is kept" if path.exists() else "nothing was written"
            reason = cause.strerror or str(cause)
            message = f"cannot write {path} ({reason}); {kept}: make room or check its folder"
            raise OSError(cause.errno, message) from error
        raise


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove the temporary files that a killed run left beside ``path``."""
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _disk_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind ``error``; torch wraps it in a RuntimeError."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
