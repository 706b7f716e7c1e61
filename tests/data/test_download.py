from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import http
from monai_ext.data.datalists import PHANTOM_MARK
from monai_ext.data.download import URL_VARIABLE, FetchError, fetch

FOLDER = "Task04_Hippocampus"
IMAGE = f"{FOLDER}/imagesTr/hippocampus_001.nii.gz"
ARCHIVE = f"{FOLDER}.tar"


def archive(*more: tarfile.TarInfo) -> bytes:
    """A tar in the official layout, macOS debris included, too large for one chunk of the download."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (IMAGE, IMAGE.replace("imagesTr", "labelsTr"), f"{FOLDER}/imagesTr/._hippocampus_001.nii.gz"):
            content = hashlib.sha256(name.encode()).digest() * 20_000
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `body`; the attributes make it misbehave. `asked` holds the Range header of every request."""

    daemon_threads = True
    body = archive()
    ranges = True
    status: int | None = None
    stop_after: int | None = None  # bytes of body sent, the connection then closed
    stall_after: int | None = None  # bytes of body sent, the connection then left open
    shift = 0  # answers a Range with one that begins elsewhere

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status is not None or self.path != f"/{ARCHIVE}":
            self.send_error(server.status or 404)
            return
        start = 0
        if asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) + server.shift
            if start >= len(server.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        rest = server.body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        for stop in (server.stop_after, server.stall_after):
            rest = rest if stop is None else rest[:stop]
        self.wfile.write(rest)
        if server.stall_after is not None:
            self.wfile.flush()
            server.released.wait(30)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.released.set()
        running.shutdown()


@pytest.fixture
def manifest(write_manifest: Callable[..., Path]) -> Callable[..., Path]:
    """A manifest of what the server should send; keywords replace fields of its one file."""

    def write(body: bytes = Server.body, **changes: Any) -> Path:
        hashes = [
            {"hash_type": "sha256", "hash": hashlib.sha256(body).hexdigest()},
            {"hash_type": "md5", "hash": hashlib.md5(body).hexdigest()},
        ]
        entry = {"name": ARCHIVE, "url": "http://127.0.0.1:9/x", "bytes": len(body), "hashes": hashes, "unpack": "tar"}
        return write_manifest(files=[{**entry, **changes}])

    return write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def get(manifest: Path, root: Path, server: Server, **options: Any) -> Path:
    return fetch(manifest, root, url=server.url, progress=False, **options)


def assert_whole(root: Path) -> None:
    assert left(root) == [FOLDER]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == [IMAGE, IMAGE.replace("imagesTr", "labelsTr")]
    assert (root / IMAGE).stat().st_size == 640_000


def test_a_whole_fetch_then_nothing_to_do_then_by_force(manifest: Any, root: Path, server: Server) -> None:
    assert get(manifest(), root, server) == root / FOLDER
    assert_whole(root)
    (root / IMAGE).write_bytes(b"spoilt")
    get(manifest(), root, server)
    get(manifest(), root / FOLDER, server)  # the folder itself as root: not fetched into itself
    assert len(server.asked) == 1
    get(manifest(), root, server, force=True)
    assert_whole(root)


def test_the_address_may_come_from_the_environment(
    manifest: Any, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, f"{server.url}/{ARCHIVE}")
    fetch(manifest(), root, progress=False)
    assert_whole(root)


def test_a_broken_download_goes_on_where_it_stopped(manifest: Any, root: Path, server: Server) -> None:
    server.stop_after = 300_000
    with pytest.raises(FetchError, match=rf"broke off at 300000 of {len(server.body)} bytes.*again to go on"):
        get(manifest(), root, server)
    assert left(root) == [f"{ARCHIVE}.part"]
    server.stop_after = None
    get(manifest(), root, server)
    assert server.asked == [None, "bytes=300000-"]
    assert_whole(root)


@pytest.mark.parametrize("trouble", ["no ranges", "another range", "another file before", "longer than the file"])
def test_what_cannot_be_resumed_begins_again(
    manifest: Any, root: Path, server: Server, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    root.mkdir()
    start = {"another file before": b"x" * 5000, "longer than the file": server.body + b"x"}
    (root / f"{ARCHIVE}.part").write_bytes(start.get(trouble, server.body[:5000]))
    server.ranges = trouble != "no ranges"
    server.shift = 7 if trouble == "another range" else 0
    get(manifest(), root, server)
    assert server.asked[0] is not None
    assert ("starting over" in caplog.text) == (trouble == "another file before")  # only the hash can tell that one
    assert_whole(root)


def test_a_finished_part_needs_no_server(manifest: Any, root: Path, server: Server) -> None:
    root.mkdir()
    (root / f"{ARCHIVE}.part").write_bytes(server.body)
    server.status = 500
    get(manifest(), root, server)
    assert_whole(root)


def test_without_a_hash_nothing_is_resumed(
    manifest: Any, root: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop_after = 5000
    with pytest.raises(FetchError, match="broke off"):
        get(manifest(hashes=[]), root, server)
    assert left(root) == []
    server.stop_after = None
    get(manifest(hashes=[]), root, server)
    assert server.asked == [None, None] and "unchecked" in caplog.text
    assert_whole(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hashes": [{"hash_type": "sha256", "hash": "0" * 64}]}, "sha256 is not 0000"),
        ({"hashes": [{"hash_type": "md5", "hash": "0" * 32}], "bytes": None}, "md5 is not 0000"),
        ({"bytes": 17}, "bytes, not the 17"),
    ],
)
def test_another_file_is_never_unpacked(
    manifest: Any, root: Path, server: Server, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(FetchError, match=words) as caught:
        get(manifest(**changes), root, server)
    assert left(root) == [] and "\n" not in str(caught.value)


def test_no_network_says_what_to_do_by_hand(manifest: Any, root: Path) -> None:
    path = manifest()
    with pytest.raises(FetchError) as caught:
        fetch(path, root, progress=False)  # port 9 of this machine: nobody answers
    message = str(caught.value)
    digest = json.loads(path.read_text())["files"][0]["hashes"][0]["hash"]
    for words in ("refused", "http://127.0.0.1:9/x by hand", digest, str(root / ARCHIVE), "data phantom"):
        assert words in message
    assert left(root) == []


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_that_has_it_not(manifest: Any, root: Path, server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(FetchError, match=f"answers {status}"):
        get(manifest(), root, server)
    assert left(root) == []


def test_an_archive_put_there_by_hand_is_used_if_it_is_right(manifest: Any, root: Path, server: Server) -> None:
    root.mkdir()
    (root / ARCHIVE).write_bytes(b"x" + server.body[1:])
    with pytest.raises(FetchError, match=r"not the official archive \(its sha256"):
        get(manifest(), root, server)
    assert left(root) == [ARCHIVE]
    (root / ARCHIVE).write_bytes(server.body)
    get(manifest(), root, server)
    assert left(root) == [FOLDER, ARCHIVE] and server.asked == []


def test_a_stalled_server_is_given_up(
    manifest: Any, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    server.stall_after = 1000
    with pytest.raises(FetchError, match=r"broke off at 1000 .*timed out"):
        get(manifest(), root, server)
    assert left(root) == [f"{ARCHIVE}.part"]


def test_a_killed_fetch_is_resumed(repository: Path, manifest: Any, root: Path, server: Server) -> None:
    server.stall_after = 400_000
    command = [sys.executable, "-m", "monai_ext", "data", "fetch", str(manifest()), "--root", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen([*command, "--url", server.url], env=environment, stderr=subprocess.DEVNULL)
    part, deadline = root / f"{ARCHIVE}.part", time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(BlockingIOError, match="Another command"):
        get(manifest(), root, server)
    process.kill()
    process.wait()
    have = part.stat().st_size
    assert have > 0 and left(root) == [part.name]
    server.stall_after = None
    get(manifest(), root, server)
    assert server.asked == [None, f"bytes={have}-"]
    assert_whole(root)


def test_what_a_kill_while_unpacking_left_is_cleared(manifest: Any, root: Path, server: Server) -> None:
    (root / f".{FOLDER}.new" / FOLDER / "imagesTr").mkdir(parents=True)
    get(manifest(), root, server)
    assert_whole(root)


def test_a_kill_between_the_two_renames_loses_nothing(manifest: Any, root: Path, server: Server) -> None:
    get(manifest(), root, server)
    (root / FOLDER).rename(root / f".{FOLDER}.old")
    server.body = archive(tarfile.TarInfo("../outside"))
    with pytest.raises(FetchError, match="was not unpacked"):
        get(manifest(server.body), root, server, force=True)
    (root / f"{ARCHIVE}.part").unlink()
    assert_whole(root)


def unsafe(name: str, link: str | None = None) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    if link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, link
    return member


@pytest.mark.parametrize(
    "member", [unsafe("../outside"), unsafe(f"{FOLDER}/../../outside"), unsafe(f"{FOLDER}/link", "/etc/passwd")]
)
def test_an_unsafe_archive_writes_nothing(manifest: Any, root: Path, server: Server, member: tarfile.TarInfo) -> None:
    server.body = archive(member)
    with pytest.raises(FetchError, match="was not unpacked"):
        get(manifest(server.body), root, server)
    assert left(root) == [f"{ARCHIVE}.part"]


@pytest.mark.parametrize("body", [b"not a tar" * 1000, archive()[:700_000], archive().replace(b"Task04", b"Task99")])
def test_an_archive_of_something_else(manifest: Any, root: Path, server: Server, body: bytes) -> None:
    server.body = body
    with pytest.raises(FetchError, match=r"not unpacked|holds no"):
        get(manifest(body), root, server)
    assert left(root) == [f"{ARCHIVE}.part"]


@pytest.mark.parametrize("moment", ["download", "unpacking"])
def test_a_disk_that_fills_up_leaves_only_the_part(
    manifest: Any, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        if moment == "download":
            (root / f"{ARCHIVE}.part").write_bytes(server.body[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if moment == "download":
            patch.setattr("monai_ext.data.http._copy", full)
        else:
            patch.setattr(tarfile.TarFile, "extract", full)
        with pytest.raises(FetchError, match="The disk is too full"):
            get(manifest(), root, server)
    assert left(root) == [f"{ARCHIVE}.part"]
    get(manifest(), root, server)
    assert_whole(root)


def test_free_space_is_checked_before_a_byte_is_written(
    manifest: Any, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=len(server.body))  # enough for the archive, not for its content
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"has 2 MB free of the 4 MB needed"):
        get(manifest(), root, server)
    assert left(root) == []


def test_what_lies_in_the_way_is_left_alone(manifest: Any, root: Path, server: Server) -> None:
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "thesis.txt").touch()
    with pytest.raises(FetchError, match="move it away"):
        get(manifest(), root, server, force=True)
    (root / FOLDER / "thesis.txt").unlink()
    (root / IMAGE).parent.mkdir()
    (root / IMAGE).touch()
    (root / FOLDER / "dataset.json").write_text(json.dumps({"reference": PHANTOM_MARK}))
    with pytest.raises(FetchError, match="is a phantom, not the real data"):
        get(manifest(), root, server)
    get(manifest(), root, server, force=True)
    assert_whole(root)


def test_data_by_request_are_explained(write_manifest: Any, root: Path) -> None:
    access = {"kind": "request", "how": "Sign the data use agreement.", "url": "https://example.org/request"}
    with pytest.raises(FetchError, match=r"by request only \(https://example.org/request\): Sign the"):
        fetch(write_manifest(files=[], access=access), root, progress=False)
    assert not root.exists()


def test_an_address_that_is_none(manifest: Any, root: Path) -> None:
    with pytest.raises(ValueError, match="--url 'file:///etc'"):
        fetch(manifest(), root, url="file:///etc", progress=False)
