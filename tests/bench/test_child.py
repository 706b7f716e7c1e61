from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.bench import child
from monai_ext.bench.child import ALLOCATORS, at_most, find_allocators, one_sentence, run_child

CPU = torch.device("cpu")

# stand-ins for a worker that need no PyTorch, and so start fast
WORKERS = {
    "tells": "import os; told = {'request': request, 'env': dict(os.environ)}\n"
    "(folder / 'answer.json').write_text(json.dumps(told))",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "fails": "print('first'); raise RuntimeError('no such thing')",
    "sleeps": "import time; time.sleep(60)",
}


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    head = "import json, sys\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n"
    head += "request = json.loads((folder / 'request.json').read_text())\n"
    for name, body in WORKERS.items():
        (tmp_path / f"worker_{name}.py").write_text(head + body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(name: str, **options: Any) -> dict[str, Any]:
        return run_child(f"worker_{name}", {"a": [1]}, **{"threads": 2, "seconds": 30.0, **options})

    return run


def test_a_child_gets_the_request_the_threads_and_the_allocator(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # of the user's shell: not part of "default"
    default, retained = ask("tells"), ask("tells", allocator="retained")
    assert default["request"] == {"a": [1]} and default["env"]["OMP_NUM_THREADS"] == "2"
    assert not {*ALLOCATORS["retained"]} & {*default["env"]}
    assert retained["env"].items() >= ALLOCATORS["retained"].items()


def test_a_dead_child_is_a_sentence(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = ask("dies")
    assert killed["status"] == "failed" and "SIGKILL, probably for lack of memory" in killed["reason"]
    assert ask("fails") == {
        "status": "failed",
        "reason": "the process ended with exit code 1: RuntimeError: no such thing",
    }
    monkeypatch.setattr(child, "START_SECONDS", 0.0)
    late = ask("sleeps", seconds=0.5)
    assert late == {"status": "skipped", "reason": "took longer than max_seconds=0.5."}


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path, repository: Path) -> None:
    body = "import time; from monai_ext.bench.child import answer; answer(lambda request, give_up: time.sleep(60))"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "request.json").write_text("{}")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", body, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    process.stdin.close()  # as when the parent is killed
    assert process.wait(40) == 1 and not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_worker_fails_before_the_machine_runs_out_of_memory(repository: Path) -> None:
    body = """
import torch
from monai_ext.bench import child
total = child.kilobytes("/proc/meminfo", "MemTotal")
child.MEMORY_SHARE = 0.05
child.guard_memory()
try:
    torch.empty(1024 * total // 2, dtype=torch.uint8)
except RuntimeError as error:
    print(child.one_sentence(error))
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    run = subprocess.run([sys.executable, "-c", body], env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "out of memory.", run.stdout + run.stderr


def test_answer_tells_a_failure_from_figures(tmp_path: Path, repository: Path) -> None:
    def work(request: dict[str, Any], _give_up: child.GiveUp) -> dict[str, Any]:
        if request["fail"]:
            raise ValueError("such a grid\nis refused.")
        return {"time": 1.0}

    answers = []
    for fail in (False, True):
        (tmp_path / "request.json").write_text(json.dumps({"fail": fail}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["worker", str(tmp_path)])
            patch.setattr(child, "end_with_parent", lambda _first: None)
            child.answer(work)
        answers.append(json.loads((tmp_path / "answer.json").read_text()))
    assert answers[0] == {"status": "measured", "reason": "", "time": 1.0}
    assert answers[1] == {"status": "failed", "reason": "such a grid is refused."}


def test_at_most_gives_up_in_the_middle() -> None:
    said: list[str] = []
    with at_most(0.05, said.append):  # type: ignore[arg-type]
        for _ in range(200):
            time.sleep(0.0 if said else 0.05)
    assert said == ["one pass takes longer than max_seconds=0.05."]
    with at_most(0.5, said.append):  # type: ignore[arg-type]
        pass
    time.sleep(0.7)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory."),
        (ValueError("grid must be even."), "grid must be even."),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_one_sentence(error: Exception, text: str) -> None:
    assert one_sentence(error) == text


def test_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert find_allocators("both", CPU) == ["default", "retained"]
    assert find_allocators("retained", CPU) == ["retained"]
    assert find_allocators("both", torch.device("cuda")) == ["default"]
    with pytest.raises(ValueError, match="for a CPU"):
        find_allocators("retained", torch.device("cuda"))
    with pytest.raises(ValueError, match="allocator must be"):
        find_allocators("jemalloc", CPU)
    monkeypatch.setattr(child.platform, "libc_ver", lambda: ("", ""))
    assert find_allocators("both", CPU) == ["default"]
