"""A study's file: every field, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_ext.study.axes import combinations, label_of, parse_axes
from monai_ext.study.spec import find_spec, list_plans, load_spec


def write(folder: Path, **fields: Any) -> Path:
    bundle = folder / "a_bundle" / "configs"
    bundle.mkdir(parents=True, exist_ok=True)
    for name in ("train.json", "evaluate.json"):
        (bundle / name).write_text("{}")
    content = {"bundle": "a_bundle", "axes": {"seed": [0]}, "budget": {"epochs": 1}}
    path = folder / "a_study.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**content, **fields}.items() if v is not None}))
    return path


def test_paths_are_found_beside_the_file(tmp_path: Path) -> None:
    spec = load_spec(str(write(tmp_path)))
    assert spec.name == "a_study" and spec.title == "a_study"
    assert spec.bundle == tmp_path / "a_bundle"
    assert spec.config_files == (tmp_path / "a_bundle" / "configs" / "train.json",) and spec.evaluate_files == ()
    assert spec.metric.split == "validation" and spec.metric.at == "best" and spec.metric.maximize


def test_the_test_split_takes_the_bundles_evaluation(tmp_path: Path) -> None:
    spec = load_spec(str(write(tmp_path, metric={"name": "dice", "split": "test", "maximize": False})))
    assert [path.name for path in spec.evaluate_files] == ["train.json", "evaluate.json"]
    assert spec.metric.name == "dice" and not spec.metric.maximize


def test_output_is_the_caller_s_the_file_s_or_a_folder_of_the_name(tmp_path: Path) -> None:
    spec = load_spec(str(write(tmp_path, output_dir="results")))
    assert spec.output("here") == Path("here").absolute() and spec.output() == Path("results").absolute()
    assert load_spec(str(write(tmp_path))).output() == Path("study_output/a_study").absolute()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bundel": "x"}, "unknown field 'bundel'"),
        ({"name": "a/b"}, "name must be of letters"),
        ({"bundle": None}, "say which bundle is trained"),
        ({"axes": {}}, "there is nothing to vary"),
        ({"axes": {"seed": 3}}, "seed must be a list of values"),
        ({"axes": {"seed": []}}, "seed must be a list of values"),
        ({"axes": {"seed": [1, 1]}}, "as many different labels as values"),
        ({"axes": {"seed": {"values": [1], "labels": ["a", "b"]}}}, "as many different labels as values"),
        ({"axes": {"size": {"points": {"a": 1}}}}, "points of size must be names"),
        ({"axes": {"size": {"ids": [1]}}}, "size must be a list, or have values"),
        ({"budget": {"epochs": 0}}, "epochs must be a positive whole number"),
        ({"budget": {"steps": 1.5}}, "steps must be a positive whole number"),
        ({"budget": {"hours": 1}}, "one of epochs, minutes, steps"),
        ({"budget": {"epochs": 1, "minutes": 1}}, "one of epochs, minutes, steps"),
        ({"metric": {"split": "train"}}, "split must be validation or test"),
        ({"metric": {"at": "first"}}, "at must be best or last"),
        ({"metric": {"names": "a"}}, "metric must be a name"),
        ({"skip": [{"mixer": "a"}]}, "the axes are seed"),
        ({"skip": {"seed": 0}}, "skip must be a list"),
        ({"tolerance": -1}, "tolerance must be a number from 0 on"),
        ({"threads": 0}, "threads must be a whole number from 1 on"),
        ({"processes": "two"}, "processes must be a whole number"),
        ({"train": "no"}, "train must be true or false"),
        ({"train": False}, "without budget and metric"),
        ({"train": False, "budget": None, "metric": "dice"}, "without budget and metric"),
        ({"train": False, "budget": None, "repeats": 0}, "repeats from 1 on"),
        ({"allocator": "mine"}, "allocator must be default or retained"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
        ({"phantom": {"cases": 3}}, "phantom must be a data set's name"),
        ({"context_axis": "mixer"}, "context_axis must be one of the axes"),
        ({"axes": {"size": ["a"]}, "context_axis": "size"}, "labels of size must be whole numbers of tokens"),
        ({"processes": 2, "budget": {"steps": 3}}, "processes above 1 go with a budget of epochs"),
        ({"processes": 2, "metric": {"split": "test"}}, "processes above 1 go with a budget of epochs"),
        ({"set": [1]}, "set must hold names and values"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_spec(str(write(tmp_path, **fields)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study file nothing; those of the package are: .*phantom"):
        find_spec("nothing")
    with pytest.raises(FileNotFoundError, match="there is no folder other"):
        load_spec(str(write(tmp_path, bundle="other")))
    with pytest.raises(FileNotFoundError, match=r"no config other\.json in"):
        load_spec(str(write(tmp_path, config_files=["train.json", "other.json"])))
    (tmp_path / "broken.yaml").write_text("axes: [")
    with pytest.raises(ValueError, match=r"broken\.yaml is no YAML"):
        load_spec(str(tmp_path / "broken.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must hold fields and values"):
        load_spec(str(tmp_path / "list.yaml"))


def test_studies_of_the_package_are_found_by_name() -> None:
    assert "phantom" in list_plans()
    assert load_spec("phantom").name == "phantom"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("softmax", "softmax"),
        (8, 8),
        ([4, 4], "4^2"),
        ([2, 4, 4], "2x4x4"),
        ({"name": "mamba", "d_state": 8}, "mamba (d_state=8)"),
        ({"name": "mamba"}, "mamba"),
        (["hyena", {"name": "softmax"}], "hyena/softmax"),
        (True, "true"),
        (None, "null"),
    ],
)
def test_labels_say_what_a_value_is(value: Any, label: Any) -> None:
    assert label_of(value) == label


def test_combinations_take_one_seed_after_the_other_and_leave_out_what_a_rule_names() -> None:
    axes = parse_axes({"seed": [0, 1], "mixer": ["a", "b"], "size": {"id": "x#y", "values": [[2, 2], [4, 4]]}})
    found = combinations(axes, [{"mixer": "b", "size": [[4, 4]]}, {"seed": 1, "mixer": ["a"], "size": "2^2"}])
    labels = [tuple(labels.values()) for labels, _ in found]
    assert labels == [(0, "a", "2^2"), (0, "a", "4^2"), (0, "b", "2^2"), (1, "a", "4^2"), (1, "b", "2^2")]
    assert found[1][1] == [0, "a", [4, 4]]
