from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import list_manifests, load_manifest
from monai_ext.data.manifest import Manifest


def test_every_shipped_manifest_is_valid() -> None:
    assert "task04_hippocampus" in list_manifests()
    for name in list_manifests():
        assert load_manifest(name).name == name


def test_hippocampus_is_what_the_archive_is() -> None:
    manifest = load_manifest("task04_hippocampus")
    (archive,) = manifest.archives
    assert manifest.labels == (0, 1, 2) and manifest.cases == 260
    assert archive.url == "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
    assert archive.hashes["md5"] == "9d24dba78a72977dbd1d2e110310f31b"
    assert archive.hashes["sha256"] == "282d808a3e84e5a52f090d9dd4c0b0057b94a6bd51ad41569aef5ff303287771"


def test_the_split_never_changes() -> None:
    """Trained weights were chosen on these cases: a changed rule would leak test cases into training."""
    manifest = load_manifest("task04_hippocampus")
    splits = {n: manifest.split_of(f"hippocampus_{n:03d}") for n in range(1, 40)}
    assert [n for n, split in splits.items() if split == "validation"] == [14, 20, 23, 36]
    assert [n for n, split in splits.items() if split == "test"] == [18, 33]


def with_table(task: str = "classification", **changes: Any) -> dict[str, Any]:
    table = {"file": "t.csv", "case": "id", "label": "class", **changes}
    table = {key: value for key, value in table.items() if value is not None}
    return {"task": task, "pairs": {"images": "a/*", "case": "(a)", "tables": [table]}}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"colour": "blue"}, "colour"),
        ({"split": None}, "split"),
        ({"cases": 0}, r"\$\.cases"),
        ({"split": {"rule": "hash", "seed": "s", "fractions": {"train": 0.8, "validation": 0.1, "test": 0.2}}}, "1.1"),
        ({"classes": [{"label": 1, "name": "a"}, {"label": 1, "name": "b"}]}, r"\$\.classes"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "case": "no group"}}, r"\$\.pairs\.case"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "case": "(("}}, r"\$\.pairs\.case"),
        ({"files": []}, r"\$\.files"),
        ({"files": [{"name": "../up.tar", "url": "http://h/a.tar", "unpack": "tar"}]}, r"\$\.files\[0\]\.name"),
        ({"name": "yours"}, "yours"),
        ({"classes": None}, "classes"),
        ({"task": "colouring"}, r"\$\.task"),
        (
            {"classes": [{"label": 0, "name": "a"}, {"label": 1, "name": "b", "value": 0}]},
            r"\$\.classes: a value stands twice in \[0, 0\]",
        ),
        ({"split": {"rule": "cases", "train": ["a"], "validation": ["b"], "test": ["a"]}}, "'a' stands in two splits"),
        ({"split": {"rule": "cases", "train": ["a"], "validation": ["b"]}}, r"\$\.split"),
        ({"cases": 2, "split": {"rule": "cases", "train": ["a"], "validation": ["b"], "test": ["c"]}}, "3 cases"),
        ({"access": {"kind": "manual", "how": "Ask."}}, r"\$\.access"),
        ({"multi_label": True}, r"\$\.multi_label: only pairs.tables"),
        ({"pairs": {"images": "a/*", "clean": True, "case": "(a)"}}, r"\$\.pairs\.clean"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "slices": True, "case": "(a)"}}, r"\$\.pairs\.slices"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "masks": {"9": "m"}, "case": "(a)"}}, "masks: 9 is no class"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "case": "(a)", "group": "b"}}, r"\$\.pairs\.group: it needs one"),
        ({"split": {"rule": "official", "test": "(", "validation": 0.1, "seed": "s"}}, r"\$\.split\.test"),
        (with_table(task="segmentation"), r"\$\.pairs\.tables"),
        (with_table(label=None), r"tables\[0\]: it needs `label`"),
        (with_table(values={"yes": 7}), r"tables\[0\]\.values: 7 is none of \[0, 1, 2\]"),
        (with_table(values={"(": 1}), r"tables\[0\]\.values"),
        (with_table(columns={"anterior": "A"}), r"tables\[0\]\.columns: 'anterior'"),
        (with_table(names=3, first=2), r"tables\[0\]\.first"),
        (with_table(rows="often"), r"\$\.pairs"),
    ],
)
def test_a_wrong_manifest_names_the_field(write_manifest: Any, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        load_manifest(write_manifest(**changes))


@pytest.mark.parametrize("digest", ["9d24dba78a72977dbd1d2e110310f31b", "z" * 64])
def test_a_hash_that_cannot_be_one_is_refused(write_manifest: Any, digest: str) -> None:
    hashes = [{"hash_type": "sha256", "hash": digest}]
    files = [{"name": "a.tar", "url": "http://h/a.tar", "unpack": "tar", "hashes": hashes}]
    with pytest.raises(ValueError, match=r"\$\.files\[0\]\.hashes\[0\]"):
        load_manifest(write_manifest(files=files))


def test_checksums_sizes_and_even_files_may_be_unknown(write_manifest: Any) -> None:
    files = [{"name": "a.tar", "url": "http://h/a.tar", "unpack": "tar", "bytes": None}]
    (archive,) = load_manifest(write_manifest(files=files)).archives
    assert archive.bytes is None and not archive.hashes
    access = {"kind": "request", "how": "Sign the agreement."}
    assert load_manifest(write_manifest(files=[], access=access)).archives == ()


def test_denoising_needs_no_classes(write_manifest: Any) -> None:
    manifest = load_manifest(write_manifest(task="denoising", classes=None))
    assert manifest.labels == manifest.values == ()


def test_unknown_names_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'task99'.*known are .*task04_hippocampus"):
        load_manifest("task99")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_manifest(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        load_manifest(tmp_path / "broken.json")


def test_manifests_are_found_in_an_installed_package(repository: Path, tmp_path: Path) -> None:
    """As a wheel lays them out: no checkout around the package, the manifests inside it."""
    for source, target in (("monai_ext/data", "data"), ("data_manifests", "data_manifests")):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / source, tmp_path / "monai_ext" / target, ignore=ignored)
    for name in ("__init__.py", "optional.py"):
        shutil.copy(repository / "monai_ext" / name, tmp_path / "monai_ext")
    code = "import monai_ext.data as d; print(d.__file__, d.load_manifest('task04_hippocampus').cases)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert run.stdout.split() == [str(tmp_path / "monai_ext/data/__init__.py"), "260"], run.stderr


def test_the_split_follows_seed_and_fractions() -> None:
    content = dict(load_manifest("task04_hippocampus").content)
    content["split"] = {"rule": "hash", "seed": "x", "fractions": {"train": 0.0, "validation": 1.0, "test": 0.0}}
    assert {Manifest(content).split_of(f"case{n}") for n in range(50)} == {"validation"}
