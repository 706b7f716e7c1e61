"""Archives of others, unpacked so that nothing lands outside the folder."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

__all__ = ["UnpackError", "unpack"]


class UnpackError(ValueError):
    """Why an archive was not unpacked, as a clause."""


def unpack(
    path: Path, kind: str, fresh: Path, folder: str, reserve: Callable[[int], None], progress: bool = True
) -> None:
    """Unpacks `path` into `fresh`, so that the files lie in `fresh / folder`.

    An archive without that folder at its top is taken for the folder's content. Debris of macOS is left out.

    Args:
        kind: `tar` (also packed), `zip`, `gzip` for one packed file, or `none` for a file that is no archive and is
            copied as it is.
        reserve: called with the bytes to be written, before any is; raises where they cannot be held.

    Raises:
        UnpackError: damaged, encrypted, or with members that would land elsewhere.
    """
    try:
        _UNPACKERS[kind](path, fresh, folder, reserve, progress)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise UnpackError(str(error) or type(error).__name__) from error


def _unpack_tar(path: Path, fresh: Path, folder: str, reserve: Callable[[int], None], progress: bool) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UnpackError("this Python cannot do that safely, use Python 3.10.12, 3.11.4, 3.12 or newer")
    with tarfile.open(path) as tar:
        members = [member for member in tar.getmembers() if not _is_debris(member.name)]
        reserve(sum(member.size for member in members))
        where = _where(fresh, folder, [member.name for member in members])
        for member in tqdm(members, desc=f"unpacking {path.name}", unit="file", disable=not progress):
            tar.extract(member, where, filter="data")


def _unpack_zip(path: Path, fresh: Path, folder: str, reserve: Callable[[int], None], progress: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not _is_debris(member.filename)]
        for member in members:
            _refuse_unsafe(member)
        reserve(sum(member.file_size for member in members))
        where = _where(fresh, folder, [member.filename for member in members])
        for member in tqdm(members, desc=f"unpacking {path.name}", unit="file", disable=not progress):
            target = where / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # not ZipFile.extract, which quietly mends bad names; reading to the end verifies the checksum
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _copy(path: Path, fresh: Path, folder: str, reserve: Callable[[int], None], _progress: bool) -> None:
    reserve(path.stat().st_size)
    (fresh / folder).mkdir(exist_ok=True)
    shutil.copyfile(path, fresh / folder / path.name.removesuffix(".part"))


def _unpack_gzip(path: Path, fresh: Path, folder: str, reserve: Callable[[int], None], _progress: bool) -> None:
    reserve(path.stat().st_size)  # at least: the format does not tell sizes above 4 GiB
    (fresh / folder).mkdir(exist_ok=True)
    name = path.name.removesuffix(".part").removesuffix(".gz")
    with gzip.open(path) as source, (fresh / folder / name).open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


_UNPACKERS: dict[str, Callable[..., None]] = {
    "tar": _unpack_tar,
    "zip": _unpack_zip,
    "gzip": _unpack_gzip,
    "none": _copy,
}


def _refuse_unsafe(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    windows = PureWindowsPath(name)
    if "\0" in name or windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise UnpackError(f"its member {name!r} would land outside the folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnpackError(f"its member {name!r} is a link or a device")
    if member.flag_bits & 1:
        raise UnpackError(f"its member {name!r} is encrypted")


def _where(fresh: Path, folder: str, names: list[str]) -> Path:
    within = any(PurePosixPath(name).parts[:1] == (folder,) for name in names)
    where = fresh if within else fresh / folder
    where.mkdir(exist_ok=True)
    return where


def _is_debris(name: str) -> bool:
    """macOS archives carry a `._` file beside each real one, in zip archives in a folder of their own."""
    path = PurePosixPath(name)
    return path.name.startswith("._") or "__MACOSX" in path.parts
