"""A fresh process for every case, so that none sees what an earlier one left in caches, heaps and peaks.

The parent calls `run_child`, the worker's module `answer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import monai_ext
from monai_ext.bench.measure import kilobytes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# What glibc is told. "default" gives large tensors back to the system when they are freed and fetches fresh pages,
# zeroed one by one, for the next; "retained" keeps them. On a CPU a ratio of times depends on it.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "retained": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}

MEASURED, FAILED, SKIPPED = "measured", "failed", "skipped"
# share of the memory that is free which a case may take: beyond it, it fails by itself instead of the machine
MEMORY_SHARE = 0.9
# beside its limit, a process may take this long to start, to warm up and to finish its last pass
START_SECONDS = 120.0

GiveUp = Callable[[str], NoReturn]


def run_child(
    module: str, request: Mapping[str, Any], *, threads: int, allocator: str = "default", seconds: float
) -> dict[str, Any]:
    """What the worker `module` answers to `request` in a fresh process.

    Args:
        module: run as `python -m module FOLDER`; it calls `answer`.
        request: anything JSON can hold.
        threads: of PyTorch and of the libraries below it.
        allocator: a key of `ALLOCATORS`.
        seconds: after which (and `START_SECONDS`) the process is killed.

    Returns:
        the answer, with `status` "measured", or "failed" or "skipped" with a `reason` in one sentence
    """
    with tempfile.TemporaryDirectory(prefix="monai_ext_bench_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", module, str(folder)]
        with start_child(command, folder / "log", environment(threads, allocator)) as process:
            try:
                code = process.wait(seconds + START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return {"status": SKIPPED, "reason": f"took longer than max_seconds={seconds:g}."}
        with contextlib.suppress(OSError, ValueError):
            return json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return {"status": FAILED, "reason": why_it_died(code, folder / "log")}


@contextlib.contextmanager
def start_child(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when its standard input does, so that it does not outlive a parent that was killed.

    Args:
        command: the program calls `end_with_parent`.
        log: what it prints is added here.
        variables: its environment.
    """
    with (
        log.open("ab") as file,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=dict(variables)) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def environment(threads: int, allocator: str) -> dict[str, str]:
    """This process' environment with so many threads, an allocator of `ALLOCATORS`, and this very package."""
    of_allocators = {name for variables in ALLOCATORS.values() for name in variables}
    kept = {name: value for name, value in os.environ.items() if name not in of_allocators}
    # the child finds this very package, wherever the parent was started
    path = [str(Path(monai_ext.__file__).resolve().parent.parent), *filter(None, [kept.get("PYTHONPATH")])]
    counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return {**kept, **counts, **ALLOCATORS[allocator], "PYTHONPATH": os.pathsep.join(path)}


def why_it_died(code: int, log: Path) -> str:
    """One sentence about a process that ended without an answer."""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            lack = ", probably for lack of memory" if name == "SIGKILL" else ""
            return f"the process was ended by {name}{lack}."
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"the process ended with exit code {code}: {last[:300]}"


def answer(work: Callable[[dict[str, Any], GiveUp], dict[str, Any]]) -> None:
    """The worker's part of `run_child`: reads the request, works, writes the answer; a failure is an answer, too.

    Args:
        work: gets the request and a function that ends the process at once, with its argument as the reason why
            nothing was measured; gives the figures back.
    """
    folder = Path(sys.argv[1])
    end_with_parent(lambda: shutil.rmtree(folder, ignore_errors=True))  # nobody else is left to do it
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))

    def write(content: Mapping[str, Any]) -> None:
        part = folder / "answer.part"
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(folder / "answer.json")

    def give_up(reason: str) -> NoReturn:
        write({"status": SKIPPED, "reason": reason})
        os._exit(0)

    try:
        write({"status": MEASURED, "reason": "", **work(request, give_up)})
    except Exception as error:
        write({"status": FAILED, "reason": one_sentence(error)})


def end_with_parent(first: Callable[[], object] = lambda: None) -> None:
    """Ends this process at once, after `first`, when its standard input ends: then its parent is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        first()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def at_most(seconds: float, give_up: GiveUp, what: str = "one pass") -> Iterator[None]:
    """Gives up once the block takes longer, also in the middle of an operator that nothing else can interrupt."""
    timer = threading.Timer(seconds, give_up, [f"{what} takes longer than max_seconds={seconds:g}."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def one_sentence(error: BaseException) -> str:
    """Why a case failed."""
    text = " ".join(str(error).split())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out of memory."
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"[:300]


def guard_memory() -> None:
    """Lets this process, and no other, fail where memory runs out; Linux only, elsewhere nothing happens."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        free = kilobytes("/proc/meminfo", "MemAvailable")
        limit = 1024 * (kilobytes("/proc/self/status", "VmData") + int(MEMORY_SHARE * free))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def find_allocators(name: str, device: torch.device) -> list[str]:
    """The allocators that ``"default"``, ``"retained"`` or ``"both"`` means for a device.

    Raises:
        ValueError: for another name, or for ``"retained"`` on a GPU or without glibc.
    """
    if name not in (*ALLOCATORS, "both"):
        raise ValueError(f"allocator must be {', '.join(ALLOCATORS)} or both, got {name!r}.")
    choice = device.type == "cpu" and platform.libc_ver()[0] == "glibc"
    if name == "retained" and not choice:
        raise ValueError("allocator=retained is for a CPU under Linux with glibc: use allocator=default.")
    return list(ALLOCATORS) if name == "both" and choice else [name if name != "both" else "default"]
