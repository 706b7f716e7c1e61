"""From a manifest to a whole data set on disk: download, size and hash, unpacking, or nothing at all."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import urllib.parse
from pathlib import Path

from monai_ext.data.datalists import has_images, is_phantom, parent_of, phantom_command
from monai_ext.data.http import DownloadError, download
from monai_ext.data.manifest import Archive, Manifest, load_manifest
from monai_ext.data.staging import locked, staged
from monai_ext.data.unpack import UnpackError, unpack

logger = logging.getLogger(__name__)

URL_VARIABLE = "MONAI_EXT_DATA_URL"


class FetchError(RuntimeError):
    """Why the data set is not there, and what to do, in one sentence."""


def fetch(
    name: str | Path, root: str | Path, url: str | None = None, force: bool = False, progress: bool = True
) -> Path:
    """Makes the data set `name` exist below `root` and returns its folder.

    An archive that lies in `root` already is used as it is; a `.part` that an earlier fetch left is gone on from. The
    archive's size and hash are checked before it is unpacked, and the folder appears whole or not at all.

    Args:
        url: folder on a mirror that the archives are taken from, else the environment's MONAI_EXT_DATA_URL.
        force: fetch again where the data set is present; the old one is replaced when the new one is whole.

    Raises:
        FetchError, ValueError, OSError: with a message of one sentence.
    """
    manifest = load_manifest(name)
    root = parent_of(manifest, Path(root).expanduser())
    url = url or os.environ.get(URL_VARIABLE) or None
    _explain_access(manifest, root, url, force)
    try:
        with locked(root):
            target = root / manifest.folder
            if _present(manifest, target, force):
                logger.warning("%s is present: nothing to do (--force fetches it again).", target)
                return target
            archives = [_archive(manifest, archive, root, url, progress) for archive in manifest.archives]
            _unpack(manifest, archives, target, progress)
            for path in archives:
                if path.suffix == ".part":
                    path.unlink()
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise FetchError(_no_space(root, None)) from error
        raise FetchError(
            f"Cannot write to {error.filename or root} ({error.strerror or error}): "
            "choose a folder of your own with --root."
        ) from error
    return target


def _explain_access(manifest: Manifest, root: Path, url: str | None, force: bool) -> None:
    """Says how to get by hand what no program can fetch; silent where all is there, or a mirror was given."""
    access, target = manifest.content["access"], root / manifest.folder
    if access["kind"] == "open" or (target.is_dir() and any(target.iterdir()) and _present(manifest, target, force)):
        return
    put = f"Put the files so that {target / manifest.content['pairs']['images']} is there"
    see = (
        "then see whether all is well with "
        f"`python -m monai_ext data check {manifest.name} --root {shlex.quote(str(root))}`."
    )
    if access["kind"] == "request":
        where = f" ({access['url']})" if "url" in access else ""
        raise FetchError(
            f"{manifest.content['title']} is handed out by request only{where}: {access['how']} {put}, {see}"
        )
    archives = manifest.archives
    if archives and (url is not None or all((root / archive.name).exists() for archive in archives)):
        return
    if archives:
        put = f"Put {', '.join(archive.name for archive in archives)} into {root} and run this again"
    raise FetchError(
        f"{manifest.content['title']} is free to use ({manifest.content['licence']['spdx']}), but only to be had by "
        f"hand at {access['url']}: {access['how']} {put}, {see}"
    )


def _present(manifest: Manifest, target: Path, force: bool) -> bool:
    """Whether there is nothing to do; raises where something lies in the way."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if not target.is_dir() or not has_images(manifest, target):
        raise FetchError(
            f"{target} exists but is not {manifest.content['title']}: move it away, or choose another --root."
        )
    if is_phantom(target) and not force:
        raise FetchError(
            f"{target} is a phantom, not the real data: pass --force to replace it, or choose another --root."
        )
    return not force


def _archive(manifest: Manifest, archive: Archive, root: Path, url: str | None, progress: bool) -> Path:
    """A verified archive: the one put into `root` by hand, or the finished `.part`."""
    by_hand, part = root / archive.name, root / f"{archive.name}.part"
    if by_hand.exists():
        wrong = _wrong(archive, by_hand)
        if wrong:
            raise FetchError(f"{by_hand} is not the official archive ({wrong}): delete it or put the right one there.")
        return by_hand
    if part.exists() and archive.hashes and not _wrong(archive, part):
        return part
    # without a hash nothing could tell a resumed file from two halves of different ones, so it begins again
    resume = bool(archive.hashes)
    resumed = _download(manifest, archive, part, url, resume, progress)
    wrong = _wrong(archive, part)
    if wrong and resumed:
        logger.warning("The resumed %s is wrong (%s), perhaps it changed on the server: starting over.", part, wrong)
        _download(manifest, archive, part, url, False, progress)
        wrong = _wrong(archive, part)
    if wrong:
        part.unlink()
        raise FetchError(
            f"What {_address(archive, url)} sends is not the official {archive.name} ({wrong}) and was deleted: "
            "run the same command again, or try another source with --url."
        )
    return part


def _download(manifest: Manifest, archive: Archive, part: Path, url: str | None, resume: bool, progress: bool) -> bool:
    address = _address(archive, url)

    def reserve(coming: int, total: int) -> None:
        need = coming + total  # the archive stays until it is unpacked, to its own size or more
        if shutil.disk_usage(part.parent).free < need:
            raise FetchError(_no_space(part.parent, need))

    try:
        return download(address, part, resume, archive.bytes, reserve, progress)
    except DownloadError as error:
        if part.exists() and (not archive.hashes or part.stat().st_size == 0):
            part.unlink()
        again = "check the network or the address"
        if part.exists():
            again = "run the same command again to go on from there"
        hashes = ", ".join(f"{kind} {value}" for kind, value in archive.hashes.items()) or "no hash known"
        raise FetchError(
            f"No download: {error}; {again}, or download {archive.url} by hand ({hashes}), put it at "
            f"{part.with_suffix('')} and run the same command again; "
            f"without the real data, draw made-up data with `{phantom_command(manifest, part.parent)}`."
        ) from error


def _address(archive: Archive, url: str | None) -> str:
    if url is None:
        return archive.url
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"--url {url!r} is no http or https address.")
    return url if url.endswith(f"/{archive.name}") else f"{url.rstrip('/')}/{archive.name}"


def _wrong(archive: Archive, path: Path) -> str | None:
    """What is wrong with an archive's size or hash, None if nothing is."""
    size = path.stat().st_size
    if archive.bytes is not None and size != archive.bytes:
        return f"{size} bytes, not {archive.bytes}"
    if not archive.hashes:
        logger.warning("The manifest knows no hash of %s: it goes unchecked.", archive.name)
        return None
    from monai.apps.utils import check_hash  # imports torch: only where it is needed

    talk = logging.getLogger("monai.apps.utils")
    level = talk.level
    talk.setLevel(logging.CRITICAL)  # it logs the mismatch that is reported here
    try:
        for kind, value in archive.hashes.items():
            if not check_hash(path, value, kind):
                return f"its {kind} is not {value}"
    finally:
        talk.setLevel(level)
    return None


def _unpack(manifest: Manifest, archives: list[Path], target: Path, progress: bool) -> None:
    def reserve(need: int) -> None:
        if shutil.disk_usage(target.parent).free < need:
            raise FetchError(_no_space(target.parent, need))

    with staged(target, manifest.folder) as fresh:
        for path, archive in zip(archives, manifest.archives):
            try:
                unpack(path, archive.unpack, fresh, manifest.folder, reserve, progress)
            except UnpackError as error:
                raise FetchError(
                    f"{path} was not unpacked: {str(error).rstrip('.')}; nothing was written, "
                    f"delete it with `rm {shlex.quote(str(path))}` and fetch again."
                ) from error
        if not has_images(manifest, fresh / manifest.folder):
            wanted = f"{manifest.folder}/{manifest.content['pairs']['images']}"
            raise FetchError(f"{archives[0]} holds no {wanted}: delete it, and see whether the manifest is right.")


def _no_space(root: Path, need: int | None) -> str:
    free = shutil.disk_usage(root).free
    wanted = f" of the {need / 1e6:.0f} MB needed" if need else ""
    return f"The disk is too full: {root} has {free / 1e6:.0f} MB free{wanted}; make room and run this again."
