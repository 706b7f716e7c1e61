"""Code that travels with a bundle: which modules, under which names."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from monai_ext.bundle.carry import carry, names_in, rewrite_names

TOY = {
    "__init__.py": '__version__ = "3.1"\n',
    "net.py": "import torch\nfrom toy.parts import half\nfrom toy.parts.table import NAMES\nclass Net:\n    out = half",
    "parts/__init__.py": "from toy.parts.half import half\n",
    "parts/half.py": '"""See toy.parts.table."""\n\n\ndef half():\n    from toy import late\n\n    return late.VALUE\n',
    "parts/table.py": "NAMES = ['toy.late', 'toy::operator']\n",
    "late.py": (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n\nimport json\n\n"
        "if TYPE_CHECKING:\n    from toy.never import Nothing\n\nVALUE = 'python -m toy run'\n"
    ),
    "never.py": "Nothing = 1\n",
    "unused.py": "from toy.never import Nothing\n",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy"
    for name, text in TOY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_imports_are_followed_wherever_they_stand(toy: Path) -> None:
    carried = carry(['{"_target_": "toy.net.Net"}'], "scripts.mine", toy, "toy")
    assert list(carried.files) == [
        "__init__.py",
        "late.py",
        "net.py",
        "parts/__init__.py",
        "parts/half.py",
        "parts/table.py",
    ]
    assert list(carried.packages) == ["torch"] and "+" not in carried.packages["torch"]


def test_a_function_brings_its_module_and_no_more(toy: Path) -> None:
    carried = carry(["$from toy.parts.half import half"], "scripts.mine", toy, "toy")
    assert set(carried.files) == {"__init__.py", "late.py", "parts/__init__.py", "parts/half.py"}


def test_names_are_those_of_the_new_package(toy: Path) -> None:
    files = carry(["toy.net.Net"], "scripts.mine", toy, "toy").files
    assert "from scripts.mine.parts.table import NAMES" in files["net.py"]
    assert "from scripts.mine import late" in files["parts/half.py"]
    assert files["parts/table.py"].endswith("NAMES = ['scripts.mine.late', 'scripts_mine::operator']\n")
    assert "python -m toy run" in files["late.py"], "what a person types stays"
    assert all(text.startswith("# Generated from toy ") for text in files.values())


def test_the_carried_package_works(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in carry(["toy.net.Net"], "scripts_of_a_test.mine", toy, "toy").files.items():
        path = tmp_path / "bundle" / "scripts_of_a_test" / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "bundle"))
    try:
        assert importlib.import_module("scripts_of_a_test.mine.net").Net.out() == "python -m toy run"
        assert "toy" not in sys.modules
    finally:
        for name in [name for name in sys.modules if name.startswith("scripts_of_a_test")]:
            del sys.modules[name]


def test_a_name_that_leads_nowhere(toy: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no module toy\.nowhere\.Net in toy"):
        carry(["toy.nowhere.Net"], "scripts.mine", toy, "toy")


def test_names_in_configs() -> None:
    text = json.dumps(
        ["$from monai_ext.data import datalist", "monai_ext.networks.MixerViT", "python -m monai_ext data", "monai.x"]
    )
    assert names_in(text) == ["monai_ext.data.datalist", "monai_ext.networks.MixerViT"]
    assert rewrite_names(text, "scripts.b").count("scripts.b") == 2


def test_a_manifest_travels_where_a_config_names_it() -> None:
    text = "$from monai_ext.data import datalist\n$datalist('chase_db1', @dataset_dir, 'train')"
    files = carry([text], "scripts.b").files
    assert {"data_manifests/chase_db1.json", "data_manifests/schema.json"} <= set(files)
    assert not [name for name in files if name.startswith(("study", "bench", "networks"))]
    assert 'files("scripts.b.data_manifests")' in files["data/manifest.py"]


def test_any_mixer_can_be_chosen_in_an_exported_bundle() -> None:
    from monai_ext.mixers import MIXERS

    files = carry(["monai_ext.networks.MixerSwinUNETR"], "scripts.b").files
    assert {f"mixers/{kind.__module__.rpartition('.')[2]}.py" for kind in MIXERS.values()} <= set(files)
    assert 'custom_op("scripts_b::selective_scan"' in files["ops/selective_scan.py"], "two copies in one process"
