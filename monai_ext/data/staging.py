"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock between two commands
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Makes `root` and keeps every other fetch or phantom out of it; the lock is on the folder, no file is left."""
    root.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(
                    f"Another command is writing a data set to {root}: wait until it has ended, then run this again."
                ) from error
            # a file system without locks: go on without
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def staged(target: Path, inner: str = "") -> Iterator[Path]:
    """Gives an empty folder beside `target`; if the block ends well, it (or `inner` in it) is renamed to `target`.

    Otherwise it is removed. An existing `target` stays until the new one is whole. Call under `locked`: what a killed
    command left is cleared.
    """
    fresh, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            target.rename(old)
        (fresh / inner).rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
