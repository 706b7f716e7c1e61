"""One file over HTTP, resumable.

MONAI's `download_url` cannot resume and leaves no part behind; this can, and that is all that is written anew here.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18  # bytes


class DownloadError(RuntimeError):
    """Why a file did not come, as a clause; `offline` where no server answered."""

    def __init__(self, message: str, offline: bool = False) -> None:
        super().__init__(message)
        self.offline = offline


def download(
    url: str,
    part: Path,
    resume: bool,
    expected: int | None,
    reserve: Callable[[int, int], None],
    progress: bool = True,
) -> bool:
    """Brings `part` to the whole file and says whether it went on from bytes that were there before.

    Args:
        resume: go on from what `part` holds, if the server can; otherwise begin again.
        expected: size in bytes, None where it is not known.
        reserve: called with the bytes to come and in all, before any is written; raises where they cannot be held.

    Raises:
        DownloadError: what is in `part` stays, to go on from.
    """
    have = part.stat().st_size if resume and part.exists() else 0
    try:
        response = _open(url, have)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return _after_the_end(url, part, error, expected, reserve, progress)
        raise DownloadError(f"{url} answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DownloadError(f"{url} cannot be reached ({_reason(error)})", offline=True) from error
    with response:
        start, total = _span(response)
        if start not in (0, have):
            return download(url, part, False, expected, reserve, progress)
        if expected is not None and total not in (None, expected):
            raise DownloadError(f"{url} has {total} bytes, not the {expected} of the official file")
        total = total or expected
        if total is not None:
            reserve(total - start, total)
        _copy(url, response, part, start, total, progress)
    return start > 0


def _open(url: str, have: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "monai_ext"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _span(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the answer begins in the file (-1 if it does not say so), and the file's size if it is known."""
    if response.status == http.client.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None:
            return -1, None
        return int(span.group(1)), None if span.group(2) == "*" else int(span.group(2))
    length = response.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _after_the_end(
    url: str,
    part: Path,
    error: urllib.error.HTTPError,
    expected: int | None,
    reserve: Callable[[int, int], None],
    progress: bool,
) -> bool:
    """The part is as long as the server's file (nothing is left to fetch), or longer (another file: begin again)."""
    size = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
    if size and int(size.group(1)) == part.stat().st_size:
        return True
    return download(url, part, False, expected, reserve, progress)


def _copy(
    url: str, response: http.client.HTTPResponse, part: Path, start: int, total: int | None, progress: bool
) -> None:
    done = start
    bar = tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, disable=not progress)
    with bar, part.open("ab" if start else "wb") as file:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise DownloadError(f"{url} broke off at {_of(done, total)} ({_reason(error)})") from error
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
    if total is not None and done != total:
        raise DownloadError(f"{url} broke off at {_of(done, total)}")


def _of(done: int, total: int | None) -> str:
    return f"{done} bytes" if total is None else f"{done} of {total} bytes"


def _reason(error: BaseException) -> str:
    """The operating system's words, without class names and numbers."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, OSError) and inner.errno is not None and inner.errno in errno.errorcode:
        return os.strerror(inner.errno)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
