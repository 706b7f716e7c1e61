"""Splits by a hash of the name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from monai_ext.bundle.pairing import Case
from monai_ext.bundle.splits import alike_across_splits, split_cases


def cases(number: int, **more: str) -> list[Case]:
    return [Case(f"case_{n}", (Path(f"case_{n}.nii"),), **more) for n in range(number)]


def test_a_case_keeps_its_split_whichever_others_there_are() -> None:
    many = split_cases(cases(1000), seed=3)
    counts = Counter(many.values())
    assert 760 < counts["train"] < 840 and 70 < counts["validation"] < 130 and 70 < counts["test"] < 130
    few = split_cases(cases(1000)[200:700], seed=3)
    assert few == {name: many[name] for name in few}
    assert split_cases(cases(1000), seed=4) != many


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", range(1, 9))
def test_few_cases_fill_the_splits(number: int, seed: int) -> None:
    counts = Counter(split_cases(cases(number), seed).values())
    assert counts["train"] >= 1
    assert number < 2 or counts["validation"] >= 1
    assert number < 3 or counts["test"] >= 1


def test_a_patient_stays_in_one_split() -> None:
    grouped = [Case(f"{p}_{n}", (Path(f"{p}_{n}.png"),), group=f"p{p}") for p in range(40) for n in range(3)]
    splits = split_cases(grouped, seed=0)
    for patient in range(40):
        assert len({splits[f"{patient}_{n}"] for n in range(3)}) == 1
    assert set(splits.values()) == {"train", "validation", "test"}


def test_every_class_is_in_every_split() -> None:
    rare = [Case(f"r{n}", (Path(f"r{n}.png"),), "rare") for n in range(3)]
    splits = split_cases([*cases(60, label="usual"), *rare], seed=0, by_class=True)
    assert {splits[f"r{n}"] for n in range(3)} == {"train", "validation", "test"}


def test_the_data_s_own_split_is_kept() -> None:
    own = [*cases(6, split="train"), Case("t", (Path("t.png"),), split="test")]
    splits = split_cases(own, seed=0)
    assert splits["t"] == "test" and Counter(splits.values()) == {"train": 5, "validation": 1, "test": 1}


def named(names: list[str]) -> list[Case]:
    return [Case(name, (Path(f"{name}.png"),)) for name in names]


@pytest.mark.parametrize(
    "form",
    ["Image_{:02d}{}", "sub-{:02d}_ses-{}", "p{:02d}/slice_{}", "{:02d}-{}"],
    ids=["side", "visit", "folder", "-"],
)
def test_one_patient_in_several_splits_is_seen(form: str) -> None:
    ends = ("L", "R") if form.startswith("Image") else (1, 2)
    several = named([form.format(n, end) for n in range(20) for end in ends])
    splits = {case.name: "train" for case in several} | {several[5].name: "test"}
    assert alike_across_splits(several, splits) == [several[4].name, several[5].name]
    known = [Case(case.name, case.images, group=case.name[:8]) for case in several]
    given = [Case(case.name, case.images, split=splits[case.name]) for case in several]
    assert not alike_across_splits(known, splits) and not alike_across_splits(given, splits)


@pytest.mark.parametrize("form", ["hippocampus_{:03d}", "{:03d}", "2019_{:03d}", "scan {:03d}"])
def test_a_series_of_numbers_is_no_patient(form: str) -> None:
    many = named([form.format(n) for n in range(30)])
    assert not alike_across_splits(many, {case.name: ("train", "test")[n % 2] for n, case in enumerate(many)})
