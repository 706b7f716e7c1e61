"""The installed package: complete, usable outside the repository, and of the version that the changelog names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import monai_ext
from monai_ext.data import list_manifests

BUILD_INPUTS = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "monai_ext", "data_manifests")


@pytest.fixture(scope="module")
def unpacked(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built without a network from a copy of the sources, and unpacked."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in BUILD_INPUTS:
        path = repository / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy2(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run = subprocess.run([*command, "-w", str(wheels), str(source)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name == f"monai_ext-{monai_ext.__version__}-py3-none-any.whl"
    target = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def python_outside(folder: Path, *arguments: str) -> str:
    """What Python prints with ``folder`` in front of the path, and not the repository."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_every_module_and_manifest_is_in_the_wheel(unpacked: Path, repository: Path) -> None:
    def below(root: Path, pattern: str) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob(pattern)}

    assert below(unpacked / "monai_ext", "*.py") == below(repository / "monai_ext", "*.py")
    manifests = below(repository / "data_manifests", "*.json")
    assert manifests, "data_manifests/ holds no manifest"
    assert below(unpacked / "monai_ext" / "data_manifests", "*.json") == manifests


def test_only_this_package_is_in_the_wheel(unpacked: Path) -> None:
    metadata = f"monai_ext-{monai_ext.__version__}.dist-info"
    assert {path.name for path in unpacked.iterdir()} == {"monai_ext", metadata}
    assert list((unpacked / metadata).rglob("LICENSE"))


def test_the_wheel_works_outside_the_repository(unpacked: Path) -> None:
    where = "import monai_ext.networks, monai_ext.mixers; print(monai_ext.__file__)"
    assert Path(python_outside(unpacked, "-c", where)).is_relative_to(unpacked)
    where = "from importlib.resources import files; print(files('monai_ext.data_manifests') / 'schema.json')"
    assert Path(python_outside(unpacked, "-c", where)).is_relative_to(unpacked)
    assert "task04_hippocampus" in python_outside(unpacked, "-m", "monai_ext", "data", "list")


def test_a_checkout_finds_its_own_manifests(repository: Path) -> None:
    in_repository = {path.stem for path in (repository / "data_manifests").glob("*.json")} - {"schema"}
    assert set(list_manifests()) == in_repository


def test_every_folder_is_a_package_that_setup_cfg_lists(repository: Path) -> None:
    folders = {path.parent for path in (repository / "monai_ext").rglob("*.py")}
    without = [str(folder.relative_to(repository)) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not without, f"no __init__.py in {without}"
    config = ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    listed = set(config["options"]["packages"].split()) - {"monai_ext.data_manifests"}
    assert listed == {".".join(folder.relative_to(repository).parts) for folder in folders}


def test_the_changelog_names_the_version(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    versions = [heading for heading in headings if heading != "Unreleased"]
    assert versions and versions[0] == monai_ext.__version__
