"""Measuring inside a process: times in turn, peak memory, and what the machine is."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import monai_ext

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# a pass shorter than this is preceded by one that does not count
WARM_UP_SECONDS = 1.0
# passes are repeated more often than asked while they take less than the first in all, less often beyond the second
SHORT_SECONDS, LONG_SECONDS = 0.5, 10.0


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that `step` takes; on a GPU those between two CUDA events."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def without_gradients(
    step: Callable[[], object], holders: Sequence[torch.nn.Module | torch.Tensor], device: torch.device
) -> Callable[[], float]:
    """Times `step` after the holders' gradients of an earlier pass have been dropped."""

    def run() -> float:
        for holder in holders:
            for tensor in holder.parameters() if isinstance(holder, torch.nn.Module) else [holder]:
                tensor.grad = None
        return timed(step, device)

    return run


def time_in_turn(
    passes: Sequence[Callable[[], float]], expected: Sequence[float], repeats: int, seconds: float
) -> list[list[float]]:
    """Times of several contestants, A B A B …, so that what disturbs the machine disturbs all of them.

    Short passes (`WARM_UP_SECONDS`) are preceded by one each that does not count. Passes are repeated more often than
    asked where they are very short, less often (but twice, where asked for two) where they are very long, and never
    begun where they would end beyond the limit.

    Args:
        passes: each runs once and gives the seconds it took.
        expected: what a pass of each will probably take.
        repeats: how many of each are wanted.
        seconds: the limit for all of them together.

    Returns:
        for each contestant its times, round by round; an empty list where none fitted
    """
    start = time.perf_counter()
    times: list[list[float]] = [[] for _ in passes]
    seen = [run() if short < WARM_UP_SECONDS else short for run, short in zip(passes, expected)]
    stopped = [False] * len(passes)
    while not all(stopped):
        for i, run in enumerate(passes):
            late = time.perf_counter() - start + seen[i] > seconds
            stopped[i] = stopped[i] or late or len(times[i]) >= _enough(repeats, seen[i])
            if not stopped[i]:
                seen[i] = run()
                times[i].append(seen[i])
    return times


def _enough(repeats: int, seconds: float) -> int:
    seconds = max(seconds, 1e-9)
    at_least_two = min(repeats, max(2, int(LONG_SECONDS / seconds)))
    return max(at_least_two, min(5 * repeats, int(SHORT_SECONDS / seconds)))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least, greatest and number of the values."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return {"median": middle, "min": ordered[0], "max": ordered[-1], "repeats": len(ordered)}


def peak_memory(step: Callable[[], object], device: torch.device) -> tuple[int | None, str]:
    """Bytes that `step` holds at its peak above what is held before it, and how they were found.

    - ``"cuda"``: `torch.cuda.max_memory_allocated` above `memory_allocated`.
    - ``"peak_rss"`` (Linux): the peak resident memory ``VmHWM`` of ``/proc/self/status``, which writing 5 to
      ``/proc/self/clear_refs`` has set back to the present, above the resident memory before.
    - ``"max_rss"``: where that is forbidden, `ru_maxrss`, the peak since the process began, above the resident memory
      before; valid only if the step raises it.
    - ``"sampled"``: else, on Linux, the greatest resident memory that a thread sees, looking every millisecond; what
      lives for less may be missed.
    - ``"none"``: no figure; on other systems than Linux where `ru_maxrss` did not rise, or does not exist.

    Resident memory counts pages that were touched, holes that a heap keeps between its blocks among them (so that
    glibc's "retained" allocator varies from run to run), not bytes that were asked for. Before the step, glibc is
    asked to give back what is free in its heap, which would else be used again without being counted; pages of
    libraries that the step touches for the first time are taken off. Measure the first large step of a fresh process,
    after a tiny one that loads libraries.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "cuda"
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    status = "/proc/self/status"
    try:
        Path("/proc/self/clear_refs").write_text("5")
        resident, libraries = kilobytes(status, "VmRSS"), kilobytes(status, "RssFile")
    except (OSError, KeyError):
        return _peak_without_reset(step)
    step()
    libraries = kilobytes(status, "RssFile") - libraries
    return 1024 * max(0, kilobytes(status, "VmHWM") - resident - libraries), "peak_rss"


def _peak_without_reset(step: Callable[[], object]) -> tuple[int | None, str]:
    highest_before = _max_rss()
    resident, sampling = _resident(), threading.Event()
    samples = [resident or 0]

    def look() -> None:
        while not sampling.wait(1e-3):
            samples.append(_resident() or 0)

    watcher = threading.Thread(target=look, daemon=True)
    if resident is not None:
        watcher.start()
    try:
        step()
    finally:
        sampling.set()
    highest = _max_rss()
    if highest is not None and highest_before is not None and highest > highest_before:
        return highest - (highest_before if resident is None else resident), "max_rss"
    if resident is None:
        return None, "none"
    watcher.join()
    return max(samples) - resident, "sampled"


def _max_rss() -> int | None:
    if resource is None:
        return None
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else 1024 * value  # bytes there, kilobytes elsewhere


def _resident() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def kilobytes(path: str, field: str) -> int:
    """A line such as `VmRSS:   1234 kB`.

    Raises:
        OSError, KeyError: where there is no such file or line.
    """
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise KeyError(field)


def find_device(name: str) -> torch.device:
    """The device that ``"auto"``, ``"cpu"`` or ``"cuda"`` means here.

    Raises:
        ValueError: for another name, or for CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but PyTorch finds no CUDA device here: use device=cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load() -> float | None:
    """Processes that ran or waited for a core during the last minute, on average; None where it is not known."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What the figures were measured on, and when."""
    memory = math.nan
    with contextlib.suppress(OSError, KeyError):
        memory = round(kilobytes("/proc/meminfo", "MemTotal") / 2**20, 1)
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": None if math.isnan(memory) else memory,
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "monai_ext": monai_ext.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
