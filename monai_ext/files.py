"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["atomic_write", "hold_folder", "release_folder", "remove_leftovers"]

LOCK = ".training.lock"
_held: dict[Path, int] = {}


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


def hold_folder(folder: str | os.PathLike) -> bool:
    """Whether this process has the folder to itself, until ``release_folder`` or its end, however it ends.

    A lock of the operating system on a hidden file. Where there are none (Windows, some network file systems), True.
    """
    folder = Path(folder).resolve()
    if fcntl is None or folder in _held:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            # by process: the workers of a data loader that outlive their parent do not hold it
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            return not isinstance(error, (BlockingIOError, PermissionError))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
                _held[folder] = descriptor
                return True
        os.close(descriptor)  # its holder has removed it meanwhile


def release_folder(folder: str | os.PathLike) -> None:
    """Let other processes have the folder."""
    descriptor = _held.pop(Path(folder).resolve(), None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            (Path(folder) / LOCK).unlink()
        os.close(descriptor)


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
