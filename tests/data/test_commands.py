from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monai_ext import cli
from monai_ext.__main__ import GROUPS

NAME = "task04_hippocampus"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines of stderr that are not progress bars."""
    code = cli.main(GROUPS, [str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, [line for line in said.err.splitlines() if line.strip() and "%|" not in line]


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "data", "list")
    assert code == 0 and not err and NAME in out and "CC-BY-SA-4.0" in out
    code, out, err = run(capsys, "data", "show", NAME)
    assert code == 0 and not err and json.loads(out)["name"] == NAME


def test_phantom_then_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "data", "phantom", NAME, "--root", tmp_path, "--cases", "3", "--seed", "5")
    assert code == 0 and out.strip() == str(tmp_path / "Task04_Hippocampus") and not err
    code, out, err = run(capsys, "data", "check", NAME, "--root", tmp_path, "--json", tmp_path / "report.json")
    assert code == 0 and "3 of 260 official cases present, 257 absent" in out and not err
    assert json.loads((tmp_path / "report.json").read_text())["ok"]


def test_check_fails_where_there_are_problems(
    capsys: pytest.CaptureFixture[str], phantom: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(phantom, tmp_path / phantom.name)
    victim = sorted((folder / "labelsTr").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:100])
    code, out, _ = run(capsys, "data", "check", NAME, "--root", tmp_path)
    assert code == 1 and victim.name in out and "problems: 1" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dat"], "Unknown command 'dat': known are data"),
        (["data", "get"], "Unknown command 'data get': known are list, show, fetch, check, phantom"),
        (["data", "fetch", NAME], "root"),
        (["data", "fetch", NAME, "--root", "ROOT", "--retries", "3"], "--retries"),
        (["data", "phantom", NAME, "--root", "ROOT", "extra", "1", "2", "3"], "Could not consume"),
    ],
)
def test_misuse_is_one_sentence_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    root = tmp_path / "root"
    code, out, err = run(capsys, *(str(root) if word == "ROOT" else word for word in arguments))
    assert code == 2 and not out and len(err) == 1 and words in err[0]
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "task99", "--root", "."], "Unknown data set 'task99'"),
        (["check", NAME, "--root", "/nowhere"], f"data fetch {NAME} --root /nowhere"),
        (["phantom", NAME, "--root", "/dev/null/x"], "/dev/null"),
        (["fetch", NAME, "--root", "/dev/null/x"], "/dev/null"),
    ],
)
def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, out, err = run(capsys, "data", *arguments)
    assert code == 1 and not out and len(err) == 1 and words in err[0]


def test_the_traceback_is_there_for_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError, match="task99"):
        cli.main(GROUPS, ["data", "show", "task99"])


def test_help_names_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "phantom" in run(capsys, "data")[1]
    code, out, _ = run(capsys, "data", "phantom", "--help")
    assert code == 0 and "data phantom NAME --root ROOT [--cases CASES] [--seed SEED]" in out


def test_ctrl_c_is_one_sentence_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    command = [sys.executable, "-m", "monai_ext", "data", "phantom", NAME, "--root", str(root), "--cases", "900"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        # what a shell starts in the background ignores interrupts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    said = process.stderr.read(40)  # the progress bar: it is drawing
    rest = ""
    for _ in range(3):  # Python loses one that comes while an object is deleted; a busy machine takes its time
        process.send_signal(signal.SIGINT)
        try:
            rest = process.communicate(timeout=6)[1]
            break
        except subprocess.TimeoutExpired:
            continue
    said += rest
    assert process.returncode == 130 and "Interrupted." in said and "Traceback" not in said
    assert not any(root.iterdir())


def test_commands_start_without_torch(repository: Path) -> None:
    """They answer at once: PyTorch and MONAI take seconds to import."""
    modules = "monai_ext.data.commands, monai_ext.data.check, monai_ext.data.download"
    code = f"import sys, {modules}; print({{'torch', 'monai'}} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stdout + result.stderr
