from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext import cli
from monai_ext.__main__ import GROUPS
from monai_ext.bench import mixers as bench
from tests.bench.stand_ins import Children

BAD = '["seqnorm", {"name": "seqnorm", "scale": "bad"}]'


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines of stderr that are not progress bars."""
    code = cli.main(GROUPS, ["bench", "mixers", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, [line for line in said.err.splitlines() if line.strip() and "case" not in line]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    stand_in = Children()
    monkeypatch.setattr(bench, "run_child", stand_in)
    return stand_in


def test_a_whole_run_with_a_mixer_that_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sizes = ("--tokens", "64", "--dims", "2", "--width", "12", "--heads", "3", "--threads", "1", "--repeats", "2")
    code, out, err = run(
        capsys, "--mixers", BAD, *sizes, "--allocator", "default", "--device", "cpu", "--output_dir", tmp_path
    )
    assert code == 0 and not err
    content = json.loads((tmp_path / "mixers.json").read_text())
    softmax, seqnorm, bad = content["cases"]
    assert content["settings"]["width"] == 12 and content["machine"]["torch"] == torch.__version__
    assert softmax["mixer"] == "softmax" and softmax["status"] == "measured" and softmax["time"]["median"] > 0
    assert seqnorm["share_from"] == "in turn" and seqnorm["memory"] is not None and seqnorm["grid"] == [8, 8]
    assert bad["mixer"] == "seqnorm(scale=bad)" and bad["status"] == "failed"
    assert bad["reason"] == "scale must be one of 'n', 'sqrt_n', got 'bad'."
    with (tmp_path / "mixers.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["measured", "measured", "failed"]
    assert (tmp_path / "mixers_2d_default.png").stat().st_size > 10_000
    table = (tmp_path / "mixers.md").read_text()
    assert table in out and "- seqnorm(scale=bad) (2D 64 default): scale must be" in table
    *_, files, summary = out.strip().splitlines()
    assert str(tmp_path / "mixers_2d_default.png") in files and summary.startswith("Measured 2 of 3 cases.")


def test_resume_goes_on_and_keeps_what_there_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, children: Children
) -> None:
    common = ("--allocator", "default", "--device", "cpu", "--output_dir", tmp_path)
    assert run(capsys, "--mixers", "linear", "--tokens", "64,128", "--dims", "2", *common)[0] == 0
    assert len(children.requests) == 4
    path = tmp_path / "mixers.json"
    content = json.loads(path.read_text())
    del content["cases"][-1]  # killed before the last case
    content["cases"][-1]["status"] = "failed"  # softmax at 128: tried again
    path.write_text(json.dumps(content))
    code, _, err = run(capsys, "--mixers", "linear", "--tokens", "64,128", "--dims", "2", *common)
    assert code == 1 and len(err) == 1 and "holds results already: go on with them with --resume" in err[0]
    assert run(capsys, "--mixers", "linear", "--tokens", "64,128", "--dims", "2", *common, "--resume")[0] == 0
    assert len(children.requests) == 6
    # another mixer joins those that are there
    code, out, _ = run(capsys, "--mixers", "sima", "--tokens", "64,128", "--dims", "2", *common, "--resume")
    assert code == 0 and len(children.requests) == 8 and "Measured 6 of 6 cases" in out
    cases = json.loads(path.read_text())["cases"]
    assert [(c["mixer"], c["tokens"]) for c in cases][:3] == [("softmax", 64), ("linear", 64), ("sima", 64)]
    assert all(case["status"] == "measured" for case in cases)


def test_what_took_too_long_is_tried_again_with_a_higher_limit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, children: Children
) -> None:
    common = ("--mixers", "linear", "--tokens", "1k", "--dims", "2", "--allocator", "default", "--device", "cpu")
    common += ("--output_dir", str(tmp_path))
    assert run(capsys, *common, "--max_seconds", "1")[0] == 0 and len(children.requests) == 2
    assert run(capsys, *common, "--max_seconds", "0.5", "--resume")[0] == 0 and len(children.requests) == 2
    assert run(capsys, *common, "--max_seconds", "10", "--resume")[0] == 0 and len(children.requests) == 3


@pytest.mark.usefixtures("children")
def test_results_of_other_settings_or_machines_are_not_mixed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    common = ("--mixers", "linear", "--tokens", "64", "--dims", "2", "--device", "cpu", "--output_dir", tmp_path)
    assert run(capsys, *common)[0] == 0
    code, _, err = run(capsys, *common, "--resume", "--width", "96")
    assert code == 1 and len(err) == 1 and "was measured with width 192, not 96" in err[0]
    path = tmp_path / "mixers.json"
    content = json.loads(path.read_text())
    content["machine"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    code, _, err = run(capsys, *common, "--resume")
    assert code == 1 and "was measured with torch '1.0'" in err[0]
    path.write_text("[]")
    code, _, err = run(capsys, *common, "--resume")
    assert code == 1 and "is no file of results" in err[0] and path.read_text() == "[]"


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> dict[str, Any]:
        if len(children.requests) == 1:
            raise KeyboardInterrupt
        return children(*arguments, **options)

    monkeypatch.setattr(bench, "run_child", interrupted)
    common = ("--tokens", "64", "--dims", "2", "--device", "cpu", "--output_dir", tmp_path)
    code, _, _ = run(capsys, "--mixers", "linear", *common)
    assert code == 130 and len(json.loads((tmp_path / "mixers.json").read_text())["cases"]) == 1


def test_nothing_measured_is_an_error_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run_child", lambda *_, **__: {"status": "failed", "reason": "no."})
    code, out, _ = run(capsys, "--mixers", "linear", "--tokens", "64", "--device", "cpu", "--output_dir", tmp_path)
    assert code == 1 and "Measured 0 of" in out


@pytest.mark.usefixtures("children")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mixers", "soft"], "unknown mixer 'soft'"),
        (["--tokens", "1000"], "tokens must be powers of two"),
        (["--dims", "1"], "dims must be"),
        (["--device", "cuda"], "no CUDA device"),
        (["--precision", "half"], "precision must be"),
        (["--allocator", "x"], "allocator must be"),
        (["--repeats", "0"], "repeats must be"),
        (["--width", "100"], "not divisible by heads"),
        (["--output_dir", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_an_error_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 1 and not out and len(err) == 1 and words in err[0]
    assert not (tmp_path / "bench_output").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "[--max_seconds MAX_SECONDS]" in out and "go on with the results" in out
