"""Archives and data sets that came by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import load_manifest
from monai_ext.data.download import FetchError, fetch
from monai_ext.data.unpack import UnpackError, unpack

FOLDER = "Task04_Hippocampus"
FILES = {f"{FOLDER}/{kind}/hippocampus_001.nii.gz": kind.encode() * 500 for kind in ("imagesTr", "labelsTr")}
PAGE = {"kind": "manual", "how": "Press the button.", "url": "https://example.org/page"}


def zipped(files: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def opened(tmp_path: Path, body: bytes, reserve: Callable[[int], None] = lambda need: None) -> list[str]:
    """What an archive leaves below the folder that it is unpacked into."""
    (tmp_path / "a.zip").write_bytes(body)
    (tmp_path / "fresh").mkdir()
    unpack(tmp_path / "a.zip", "zip", tmp_path / "fresh", FOLDER, reserve, progress=False)
    return sorted(str(p.relative_to(tmp_path / "fresh")) for p in (tmp_path / "fresh").rglob("*") if p.is_file())


def test_a_zip_archive(tmp_path: Path) -> None:
    debris = {f"__MACOSX/{FOLDER}/imagesTr/._hippocampus_001.nii.gz": b"x", f"{FOLDER}/imagesTr/._x": b"x"}
    needed: list[int] = []
    assert opened(tmp_path, zipped({**FILES, **debris, f"{FOLDER}/empty/": b""}), needed.append) == sorted(FILES)
    assert needed == [8000]
    for name, content in FILES.items():
        assert (tmp_path / "fresh" / name).read_bytes() == content


def test_an_archive_without_its_folder(tmp_path: Path) -> None:
    inner = {name.removeprefix(f"{FOLDER}/"): content for name, content in FILES.items()}
    assert opened(tmp_path, zipped(inner)) == sorted(FILES)


def test_a_packed_file_goes_into_the_folder(tmp_path: Path) -> None:
    packed = gzip.compress(b"rows" * 500)
    (tmp_path / "fresh").mkdir()
    for name in ("x.h5.gz", "y.h5.gz.part"):
        (tmp_path / name).write_bytes(packed)
        unpack(tmp_path / name, "gzip", tmp_path / "fresh", FOLDER, lambda need: None, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "fresh" / FOLDER).iterdir()} == {
        "x.h5": b"rows" * 500,
        "y.h5": b"rows" * 500,
    }
    (tmp_path / "z.h5.gz").write_bytes(packed[:-6])
    with pytest.raises(UnpackError):
        unpack(tmp_path / "z.h5.gz", "gzip", tmp_path / "fresh", FOLDER, lambda need: None, progress=False)


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{FOLDER}/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("../outside", "would land outside"),
        (f"{FOLDER}/../../outside", "would land outside"),
        ("/outside", "would land outside"),
        ("C:/outside", "would land outside"),
        ("..\\outside", "would land outside"),
        (link(), "is a link"),
    ],
)
def test_unsafe_members_write_nothing(tmp_path: Path, member: Any, words: str) -> None:
    with pytest.raises(UnpackError, match=words):
        opened(tmp_path, zipped({**FILES, member: b"/etc/passwd"}))
    assert not any((tmp_path / "fresh").iterdir()) and not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"no archive" * 99,
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: body.replace(b"imagesTr" * 2, b"imagesXr" * 2, 1),
    ],
)
def test_damaged_archives(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, not packed: only the checksum tells
        for name, content in FILES.items():
            archive.writestr(name, content)
    with pytest.raises(UnpackError):
        opened(tmp_path, change(buffer.getvalue()))


def manual(write_manifest: Any, body: bytes | None = None) -> Path:
    files = []
    if body is not None:
        hashes = [{"hash_type": "sha256", "hash": hashlib.sha256(body).hexdigest()}]
        files = [{"name": "a.zip", "url": "https://example.org/page", "hashes": hashes, "unpack": "zip"}]
    return write_manifest(access=PAGE, files=files)


def test_what_must_be_got_by_hand_is_explained(write_manifest: Any, tmp_path: Path) -> None:
    root = tmp_path / "my data"
    with pytest.raises(FetchError) as caught:
        fetch(manual(write_manifest), root, progress=False)
    message = str(caught.value)
    for words in (
        "CC-BY-SA-4.0",
        "https://example.org/page: Press the button.",
        f"{root / FOLDER / 'imagesTr/*.nii.gz'} is there",
        f"data check mine --root '{root}'",
    ):
        assert words in message
    assert "\n" not in message and not root.exists()
    (root / FOLDER / "imagesTr").mkdir(parents=True)
    (root / FOLDER / "imagesTr/hippocampus_001.nii.gz").touch()
    assert fetch(manual(write_manifest), root, progress=False) == root / FOLDER


def test_an_archive_got_by_hand_is_verified_and_unpacked(write_manifest: Any, tmp_path: Path) -> None:
    body, root = zipped(FILES), tmp_path / "root"
    manifest = manual(write_manifest, body)
    with pytest.raises(FetchError, match=rf"Put a\.zip into {root} and run this again"):
        fetch(manifest, root, progress=False)
    root.mkdir()
    (root / "a.zip").write_bytes(body + b"x")
    with pytest.raises(FetchError, match="is not the official archive"):
        fetch(manifest, root, progress=False)
    (root / "a.zip").write_bytes(body)
    assert fetch(manifest, root, progress=False) == root / FOLDER
    assert (root / FOLDER / "labelsTr/hippocampus_001.nii.gz").read_bytes() == b"labelsTr" * 500


def test_a_zip_of_something_else_leaves_nothing(write_manifest: Any, tmp_path: Path) -> None:
    body, root = zipped({"../outside": b"x"}), tmp_path / "root"
    root.mkdir()
    (root / "a.zip").write_bytes(body)
    with pytest.raises(FetchError, match=r"a\.zip was not unpacked: .* nothing was written"):
        fetch(manual(write_manifest, body), root, progress=False)
    assert [path.name for path in root.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", ["bccd", "chase_db1", "hagen2021"])
def test_the_shipped_ones_say_how(name: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"free to use \((CC|MIT).*only to be had by hand at http.*data check"):
        fetch(name, tmp_path, progress=False)
    assert not any(tmp_path.iterdir())


def test_a_file_that_is_no_archive_is_fetched_as_it_is(gland_phantom: Path, tmp_path: Path) -> None:
    """Again by force, also where the one that is there is damaged."""
    name, root = "adrenalmnist3d_64.npz", tmp_path / "root"
    body = (gland_phantom / name).read_bytes()
    hashes = [{"hash_type": "sha256", "hash": hashlib.sha256(body).hexdigest()}]
    content = dict(load_manifest("adrenalmnist3d").content) | {"name": "mine"}
    entry = {"name": name, "url": "https://example.org/x", "bytes": len(body), "hashes": hashes, "unpack": "none"}
    (tmp_path / "mine.json").write_text(json.dumps({**content, "files": [entry]}))
    root.mkdir()
    (root / name).write_bytes(body)
    target = root / "adrenalmnist3d" / name
    assert fetch(tmp_path / "mine.json", root, progress=False) == target.parent
    assert target.read_bytes() == body and [path.name for path in target.parent.iterdir()] == [name]
    target.write_bytes(b"damaged")
    fetch(tmp_path / "mine.json", root, force=True, progress=False)
    assert target.read_bytes() == body


def test_a_finished_download_loses_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.npz.part").write_bytes(b"rows")
    (tmp_path / "fresh").mkdir()
    needed: list[int] = []
    unpack(tmp_path / "a.npz.part", "none", tmp_path / "fresh", FOLDER, needed.append, progress=False)
    assert (tmp_path / "fresh" / FOLDER / "a.npz").read_bytes() == b"rows" and needed == [4]
