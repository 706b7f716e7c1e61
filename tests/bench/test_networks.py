from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import ViT

from monai_ext import cli
from monai_ext.__main__ import GROUPS
from monai_ext.bench import networks as bench
from monai_ext.bench import peers, plot
from monai_ext.bench.child import one_sentence
from monai_ext.bench.network_report import RESULTS, derive, to_csv, to_markdown
from monai_ext.bench.networks import Case, Choice, parse_checkpoint, parse_precision, plan
from monai_ext.bench.peers import MODES, NETWORKS, PRESETS, Preset, WiredUNETR, build, check_size
from monai_ext.bench.settings import parse_counts, parse_names
from monai_ext.networks import MixerUNETR

VIT = {"hidden_size": 12, "mlp_dim": 16, "num_layers": 2, "num_heads": 3}
SWIN = {"feature_size": 12, "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1), "mlp_ratio": 1.0}
TINY = {
    "tiny_vit": Preset("vit", 2, (16,), (4,), options=VIT),
    "tiny_swin": Preset("swin_unetr", 2, (64,), (5,), MODES, options=SWIN),
    "tiny_alone": Preset("vit", 2, (16,), (4,), ("train",), VIT, {"mixer": "seqnorm"}, ""),
    # has no place for some of MONAI's weights
    "tiny_other": Preset("vit", 2, (16,), (4,), ("train",), VIT, {"block": {"norm": "rmsnorm"}}),
}


class InProcess:
    """Stands in for `run_child`: no process is started."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, str]] = []

    def __call__(self, _module: str, request: Mapping[str, Any], **_options: Any) -> dict[str, Any]:
        request = json.loads(json.dumps(request))
        self.tasks.append((request["task"], request.get("side", "")))
        try:
            return {"status": "measured", "reason": "", **bench.work(request, never)}
        except Exception as error:
            return {"status": "failed", "reason": one_sentence(error)}


def never(reason: str) -> Any:
    raise AssertionError(reason)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    stand_in = InProcess()
    monkeypatch.setattr(bench, "run_child", stand_in)
    monkeypatch.setattr(bench, "guard_memory", lambda: None)  # it would bind the tests' own process
    for name, preset in TINY.items():
        monkeypatch.setitem(PRESETS, name, preset)
    return stand_in


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    def run(*arguments: str | Path) -> tuple[int, str, list[str]]:
        common = ("--allocator", "default", "--device", "cpu", "--threads", "1", "--output_dir", str(tmp_path))
        code = cli.main(GROUPS, ["bench", "networks", *map(str, arguments), *common])
        said = capsys.readouterr()
        return (
            code,
            said.out,
            [line for line in said.err.splitlines() if line.strip() and not line.startswith("networks:")],
        )

    return run


def stored(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "networks.json").read_text())["cases"]


def test_a_whole_run(command: Any, children: InProcess, tmp_path: Path) -> None:
    code, out, err = command("--cases", "tiny_vit,tiny_alone,hyena_nd_unetr", "--precision", "both", "--repeats", "2")
    assert code == 0 and not err, (out, err)
    cases = stored(tmp_path)
    assert [case["status"] for case in cases[:6]] == ["measured"] * 6
    both, lower = cases[0], cases[1]
    assert both["check"]["output"] < 1e-4 and both["check"]["gradient"] < 1e-4
    assert both["time_ratio"] == both["ratio"]["median"] > 0 and both["ratio"]["repeats"] >= 2
    assert both["memory"] is not None and both["monai_memory"] is not None and not both["monai_reason"]
    assert both["float32_time_ratio"] is None and both["tokens"] == 16
    assert lower["precision"] == "bfloat16" and lower["float32_time_ratio"] > 0
    assert children.tasks[:4] == [("check", ""), ("memory", "ours"), ("memory", "monai"), ("time", "")]
    assert children.tasks.count(("check", "")) == 1
    alone = cases[4]
    assert alone["mode"] == "train" and alone["check"] is None and alone["time_ratio"] is None
    if not peers.is_nvsubquadratic_available():
        assert cases[-1]["status"] == "skipped" and "needs the package nvsubquadratic" in cases[-1]["reason"]
    with (tmp_path / "networks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cases) and float(rows[0]["time_ratio"]) == pytest.approx(both["time_ratio"])
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "networks.md").read_text(encoding="utf-8")
    assert table in out and "| tiny_vit 16² patch 4" in table and "not the same weights" in table
    assert "Measured 6 of" in out


def test_the_encoder_and_the_precisions_of_a_swin(command: Any, children: InProcess, tmp_path: Path) -> None:
    code, _, err = command("--cases", "tiny_swin", "--precision", "float32", "--checkpoint")
    assert code == 0 and not err
    cases = stored(tmp_path)
    assert [case["mode"] for case in cases] == list(MODES) and all(case["time_ratio"] for case in cases)
    assert cases[0]["checkpoint"] == "ours" and "ours checkpointed" in cases[0]["label"]
    assert cases[0]["check"]["gradients_in"] in ("float32", "float64")
    assert children.tasks.count(("check", "")) == 1


def test_what_differs_is_refused_and_not_timed(
    command: Any, children: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(ours: torch.nn.Module, monai: torch.nn.Module) -> None:
        ours.load_state_dict(monai.state_dict())
        with torch.no_grad():
            ours.blocks[1].mlp.linear1.weight[0, 0] += 0.5  # type: ignore[index, union-attr]

    monkeypatch.setattr(bench, "load_weights", wrong)
    code, out, _ = command("--cases", "tiny_vit", "--modes", "train", "--precision", "float32")
    (case,) = stored(tmp_path)
    assert code == 1 and case["status"] == "refused" and "time" not in case
    assert case["reason"].startswith("with MONAI's weights the outputs of train differ by")
    assert case["check"]["output"] > 1e-4 and children.tasks == [("check", "")]
    assert "Refused 1, since" in out and "do not agree:" in out
    # once it is repaired, the next run measures it
    monkeypatch.undo()
    monkeypatch.setattr(bench, "run_child", children)
    monkeypatch.setattr(bench, "guard_memory", lambda: None)
    monkeypatch.setitem(PRESETS, "tiny_vit", TINY["tiny_vit"])
    assert command("--cases", "tiny_vit", "--modes", "train", "--precision", "float32", "--resume")[0] == 0
    assert [case["status"] for case in stored(tmp_path)] == ["measured"]


def test_weights_that_do_not_fit_are_refused(command: Any, children: InProcess, tmp_path: Path) -> None:
    assert command("--cases", "tiny_other", "--precision", "float32")[0] == 1
    assert stored(tmp_path)[0]["status"] == "refused" and children.tasks == [("check", "")]


def test_gradients_that_differ_are_found() -> None:
    preset = TINY["tiny_vit"]
    ours, monai = (build(preset, side, (16, 16), 4, "no") for side in ("ours", "monai"))
    bench.load_weights(ours, monai)
    x = torch.randn(2, 1, 16, 16)
    for net in (ours, monai):
        (net(x)[0] * torch.linspace(-1, 1, 12)).sum().backward()
    assert bench.compare_gradients(ours, monai)["gradient"] < 1e-5
    gradient = ours.blocks[0].mlp.linear1.bias.grad  # type: ignore[index, union-attr]
    gradient.mul_(1.01)
    found = bench.compare_gradients(ours, monai)
    assert found["gradient_of"] == "blocks.0.mlp.linear1.bias" and 1e-3 < found["gradient"] < 1.1e-2
    gradient.mul_(float("nan"))
    assert bench.compare_gradients(ours, monai)["gradient"] > 1
    assert bench.compare_outputs({"train": [x * float("inf")]}, {"train": [x]})["output"] > 1
    with pytest.raises(ValueError, match="shapes"):
        bench.compare_outputs({"train": [x]}, {"train": [x[:1]]})


class NaN(ViT):
    def forward(self, x: torch.Tensor) -> Any:
        out, hidden_states = super().forward(x)
        # as it is where it is compared, at another size
        return (out if x.shape[-1] != x.shape[-2] else out * float("nan")), hidden_states


def test_where_monai_fails_ours_is_measured(
    command: Any, children: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "vit", peers.Network(NETWORKS["vit"].ours, NaN, "patch", {"in_channels": 1}))
    assert command("--cases", "tiny_vit", "--modes", "inference", "--precision", "float32")[0] == 0
    (case,) = stored(tmp_path)
    assert case["status"] == "measured" and case["time"]["median"] > 0 and case["time_ratio"] is None
    assert case["monai_reason"] == "it gives numbers that are not finite."
    assert "it gives numbers that are not finite." in (tmp_path / "networks.md").read_text(encoding="utf-8")


def test_what_ours_cannot_do_is_recorded_and_does_not_stop_the_rest(
    command: Any, children: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Preset("vit", 2, (16,), (4,), ("train",), VIT, {"mixer": "softmaxx"}, "")
    monkeypatch.setitem(PRESETS, "tiny_bad", bad)
    assert command("--cases", "tiny_bad,tiny_alone", "--precision", "float32")[0] == 0
    failed, measured = stored(tmp_path)
    assert failed["status"] == "failed" and "unknown mixer 'softmaxx'" in failed["reason"]
    assert measured["status"] == "measured"


def test_resume_keeps_what_there_is(command: Any, children: InProcess, tmp_path: Path) -> None:
    arguments = ("--cases", "tiny_alone", "--precision", "float32", "--repeats", "1")
    assert command(*arguments)[0] == 0
    count = len(children.tasks)
    code, _, err = command(*arguments)
    assert code == 1 and len(err) == 1 and "go on with them with --resume" in err[0]
    assert command(*arguments, "--resume")[0] == 0 and len(children.tasks) == count
    assert command(*arguments, "--resume", "--sizes", "20")[0] == 0 and len(children.tasks) > count
    assert [case["size"] for case in stored(tmp_path)] == [16, 20]
    code, _, err = command(*arguments, "--resume", "--batch", "2")
    assert code == 1 and "was measured with batch 1, not 2" in err[0]


def test_in_real_processes(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny_alone", TINY["tiny_alone"])
    assert command("--cases", "tiny_alone", "--precision", "float32", "--repeats", "1")[0] == 0
    (case,) = stored(tmp_path)
    assert case["status"] == "measured" and case["time"]["median"] > 0


def test_plans() -> None:
    assert {preset.network for preset in PRESETS.values()} == set(NETWORKS)
    every = plan(Choice(list(PRESETS), allocators=("default", "retained")))
    assert len(set(every)) == len(every) and all(Case.of(case.record()) == case for case in every)
    train = Choice(["swin_unetr", "vit_192"], modes=["train"], precisions=["float32"])
    assert [str(case) for case in plan(train)] == [
        "swin_unetr 64³ window 7, train float32 default",
        "swin_unetr 96³ window 7, train float32 default",
        "vit_192 256² patch 4, train float32 default",
    ]
    other = Choice(["swin_unetr", "vit_192"], [32], [4, 6], [8], ["train"], ["float32"], checkpoint="ours")
    assert [(case.size, case.part) for case in plan(other)] == [(32, 4), (32, 6), (32, 8)]
    with pytest.raises(ValueError, match="none of the modes encoder"):
        plan(Choice(["vit_192"], modes=["encoder"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "swin"], "cases must be some of swin_unetr"),
        (["--sizes", "big"], "sizes must be whole numbers"),
        (["--modes", "test"], "modes must be some of train"),
        (["--precision", "half"], "precision must be"),
        (["--checkpoint", "theirs"], "checkpoint must be one of no, ours, both"),
        (["--repeats", "0"], "repeats must be"),
        (["--cases", "vit_192", "--modes", "encoder"], "none of the modes encoder"),
    ],
)
def test_an_error_is_one_sentence(command: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, out, err = command(*arguments)
    assert code == 1 and not out and len(err) == 1 and words in err[0]
    assert not list(tmp_path.iterdir())


def test_options() -> None:
    assert parse_counts("64, 96,64", "sizes") == parse_counts("(64, 96)", "sizes") == [64, 96]
    assert parse_names("b,a", ("a", "b"), "x") == ["b", "a"]
    assert parse_precision("both") == ["float32", "bfloat16"] and parse_checkpoint("True") == "ours"
    assert parse_checkpoint(None) is None


def test_monai_cannot_do_everything() -> None:
    with pytest.raises(ValueError, match="patches of 16 only"):
        build(PRESETS["unetr"], "monai", (16, 16, 16), 8, "no")
    with pytest.raises(ValueError, match="has no checkpointing"):
        build(TINY["tiny_vit"], "monai", (16, 16), 4, "both")


@pytest.mark.parametrize("patch", [4, 8])
def test_the_wired_unetr_is_monais(patch: int) -> None:
    options = {"in_channels": 1, "out_channels": 2, "img_size": (24, 16), "feature_size": 4, **VIT, "spatial_dims": 2}
    options["num_layers"] = 6
    monai, ours = WiredUNETR(patch_size=patch, **options), MixerUNETR(patch_size=patch, **options)
    ours.load_state_dict(monai.state_dict(), strict=True)
    x = torch.randn(2, 1, 24, 16)
    torch.testing.assert_close(ours(x), monai(x), atol=1e-4, rtol=0)


def test_sizes_at_which_both_are_compared() -> None:
    assert check_size(PRESETS["vit_192"], 4) == (20, 12) and check_size(PRESETS["unetr"], 16) == (80, 48, 32)
    assert all(size % 32 == 0 for size in check_size(PRESETS["swin_unetr"], 7))


def record(**changes: Any) -> dict[str, Any]:
    case = Case("swin_unetr", 64, 7, "train", "no", False, "float32", "default")
    spread = {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": 3}
    figures = {"time": spread, "monai_time": {**spread, "median": 4.0}, "ratio": {**spread, "median": 0.5}}
    state = {"status": "measured", "reason": "", "monai_reason": "", "cold": False, "load": 0.5}
    return {**case.record(), **state, **figures, "memory": 100 * 2**20, "monai_memory": 400 * 2**20, **changes}


def content() -> dict[str, Any]:
    cases = [record(), record(precision="bfloat16", memory=50 * 2**20, float32_ratio={"median": 0.7})]
    cases.append(record(allocator="retained", monai_reason="out of memory.", monai_memory=None, ratio=None))
    cases.append(record(mode="inference", status="refused", reason="they differ."))
    machine = {"gpu": None, "cpu": "CPU", "threads": 1, "cores": 2, "torch": "2.13", "date": "2026-01-02T03:04:05"}
    return {"cases": derive(cases), "settings": {"batch": 1}, "machine": machine}


def test_ratios_and_shares_of_float32() -> None:
    full, lower, alone, _ = content()["cases"]
    assert (full["time_ratio"], full["memory_ratio"], full["float32_memory_ratio"]) == (0.5, 0.25, None)
    assert (lower["float32_time_ratio"], lower["float32_memory_ratio"]) == (0.7, 0.5)
    assert alone["time_ratio"] is None and alone["memory_ratio"] is None
    assert len({RESULTS.key(case) for case in content()["cases"]}) == 4


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    text = to_markdown(content())
    (row,) = [line for line in text.splitlines() if "| train" in line and "float32 " in line and "default" in line]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "swin_unetr 64³ window 7"
    assert cells[4:10] == ["2.00 s", "4.00 s", "0.500", "100", "400", "0.250"]
    assert "retained: out of memory." in text and "inference, float32, default: they differ." in text
    assert to_csv([]) == "label\n"
    plot.draw_ratios(content()["cases"], "title", tmp_path / "full.png")
    plot.draw_ratios([], "title", tmp_path / "empty.png")
    assert (tmp_path / "full.png").stat().st_size > (tmp_path / "empty.png").stat().st_size > 1000


def test_the_bars_of_a_case_stand_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In whatever order they were measured: each name is at the middle of its own bars."""
    figures: list[Any] = []
    monkeypatch.setattr(plot.Figure, "savefig", lambda figure, path: figures.append(figure))
    drawn = [record(), record(name="vit", label="vit"), record(precision="bfloat16"), record(allocator="retained")]
    for number, one in enumerate(drawn):
        one["memory"] = (number + 1) * 2**20
    plot.draw_ratios(derive(drawn), "title", tmp_path / "unused.png")
    time, memory = figures[0].axes
    bars = {round(400 * (1 + bar.get_width())): bar.get_y() + bar.get_height() / 2 for bar in memory.patches}
    ticks = {text.get_text().split()[0]: place for text, place in zip(time.get_yticklabels(), time.get_yticks())}
    assert ticks["vit,"] == pytest.approx(bars[2])
    assert ticks["swin_unetr"] == pytest.approx((bars[1] + bars[3] + bars[4]) / 3)
    assert max(bars[n] for n in (1, 3, 4)) - min(bars[n] for n in (1, 3, 4)) == pytest.approx(2)
