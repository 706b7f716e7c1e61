"""A folder that one process has to itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ext.files import LOCK, hold_folder, release_folder

pytest.importorskip("fcntl")


def other_process(folder: Path, then: str = "") -> subprocess.Popen:
    """Tells whether it holds the folder, and ends when it is told to."""
    code = f"from monai_ext.files import hold_folder; print(hold_folder({str(folder)!r}), flush=True); {then}input()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen) -> bool:
    assert process.stdout is not None
    return process.stdout.readline().strip() == "True"


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert hold_folder(folder) and hold_folder(folder), "the same process may train twice"
    with other_process(folder) as other:
        assert not answer(other)
        other.communicate("")
    release_folder(folder)
    assert not (folder / LOCK).exists()
    with other_process(folder) as other:
        assert answer(other) and not hold_folder(folder)
        other.kill()
    assert hold_folder(folder), "a killed process holds nothing"
    release_folder(folder)


def test_orphans_hold_nothing(tmp_path: Path) -> None:
    """As the workers of a data loader are, for seconds after their parent was killed."""
    with other_process(tmp_path, "import os, time; (os.fork() or time.sleep(5)); ") as other:
        assert answer(other)
        other.kill()
        other.wait()
        assert hold_folder(tmp_path)
        release_folder(tmp_path)
