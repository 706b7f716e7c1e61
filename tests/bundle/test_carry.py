"""Following imports and renaming, on a toy package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ext.bundle.carry import Package, needed_modules, outside_packages, renamed, renamed_words, write_carried
from monai_ext.bundle.carry_configs import carried_config, dotted_names, imported_names, rooted

SOURCES = {
    "__init__.py": '"""Toy."""\n__version__ = "1.2.3"\n',
    "nets/__init__.py": "from toy.nets.net import Net\n",
    "nets/net.py": (
        "import numpy as np\nfrom typing import TYPE_CHECKING\nfrom toy.table import TABLE\n"
        "if TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import lxml\nexcept ImportError:\n    lxml = None\n"
        "class Net:\n    def __call__(self):\n        from toy import lazy\n        return lazy.WORD + TABLE['one']\n"
    ),
    "table.py": "from toy.ops import one, two\nTABLE = {'one': one.name(), 'two': two.name()}\n",
    "ops/__init__.py": "",
    "ops/one.py": "import toy\ndef name():\n    return 'one ' + toy.__version__\n",
    "ops/two.py": "from ..deep import inner\nfrom . import one\ndef name():\n    return 'two'\n",
    "deep/__init__.py": "",
    "deep/inner.py": "RESOURCE = 'toy.by_string'\n",
    "by_string.py": "",
    "lazy.py": "WORD = 'see `python -m toy data fetch`, `python -m toy bench`: '\nimport yaml\n",
    "unused.py": "import toy.table\n",
}
ALL = {"toy", "toy.nets", "toy.nets.net", "toy.table", "toy.ops", "toy.ops.one", "toy.ops.two", "toy.deep"}
ALL |= {"toy.deep.inner", "toy.by_string", "toy.lazy"}


@pytest.fixture
def toy(tmp_path: Path) -> Package:
    for name, text in SOURCES.items():
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Package("toy", tmp_path / "toy")


def test_imports_are_followed(toy: Package) -> None:
    """Through functions, relative imports, packages around a module, and names in strings; no further."""
    assert set(needed_modules(toy, ["toy.nets.Net"])) == ALL
    assert set(needed_modules(toy, ["toy.deep.inner"])) == {"toy", "toy.deep", "toy.deep.inner", "toy.by_string"}


@pytest.mark.parametrize("name", ["toy.nowhere.Net", "other.Net"])
def test_a_name_that_is_not_there(toy: Package, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        needed_modules(toy, [name])


def test_packages_that_must_be_installed(toy: Package) -> None:
    modules = needed_modules(toy, ["toy.nets.Net"])
    assert outside_packages(modules.values(), toy) == {"numpy", "yaml"}


def test_the_copy_runs_where_the_original_is_not(toy: Package, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_carried(toy, needed_modules(toy, ["toy.nets.Net"]), folder / "scripts" / "b", "scripts.b", "1.2.3", "make it")
    (folder / "scripts" / "__init__.py").touch()
    first = (folder / "scripts" / "b" / "ops" / "one.py").read_text().splitlines()[0]
    assert first == "# Generated from toy 1.2.3 (toy/ops/one.py) by `make it`."
    code = "from scripts.b.nets import Net; print(Net()(), sorted(__import__('sys').modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("see `python -m scripts.b data fetch`, `python -m toy bench`: one 1.2.3")
    assert "'toy" not in done.stdout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("from toy.a import b", "from s.n.a import b"),
        ("if x:\n    from toy import b", "if x:\n    from s.n import b"),
        ("import toy\nx = toy.y", "import s.n\nx = s.n.y"),
        ('op("toy::scan")', 'op("n::scan")'),
        ('x.startswith("toy.")', 'x.startswith("s.n.")'),
        ("word = 'drawn by toy'", "word = 'drawn by toy'"),
        ("import toyota, my.toy.x", "import toyota, my.toy.x"),
        ("y = 1  # made by toy. And so on", "y = 1  # made by toy. And so on"),
    ],
)
def test_renaming(text: str, wanted: str) -> None:
    assert renamed(text, "toy", "s.n") == wanted


def test_an_import_that_cannot_be_renamed_is_named() -> None:
    with pytest.raises(ValueError, match="line 1 still imports toy"):
        renamed("import os, toy", "toy", "s.n")


def test_commands_of_groups_that_stay() -> None:
    text = "python -m toy data check; python -m toy study run; python -m toy.x"
    assert renamed_words(text, "toy", "s.n") == "python -m s.n data check; python -m toy study run; python -m s.n.x"


CONFIG = {
    "imports": [
        "$import os",
        "$from toy.nets import Net",
        "$from toy.data import datalist as listed",
        "$import toy.ops",
    ],
    "bundle_root": "$'bundles/b' if os.path.isfile('bundles/b/x') else '.'",
    "listed": "$listed('listed', @root, listed=@listed)",
    "run": ["$Net()(@train#net)", "$toy.ops.one()", "$[Net for Net in @all]", '$f"{Net.x} {@a}"', "$Networks()"],
    "net": {
        "_target_": "toy.nets.Net",
        "_requires_": "@listed",
        "kind": "toy.nets.Net",
        "inner": {"_target_": "torch.nn.ReLU"},
    },
    "word": "toy",
}


def test_names_of_a_config() -> None:
    assert dotted_names(CONFIG, "toy") == {"toy.nets.Net", "toy.data.datalist", "toy.ops", "toy.ops.one"}
    assert imported_names(CONFIG, "toy") == {
        "Net": "from toy.nets import Net",
        "listed": "from toy.data import datalist as listed",
        "toy": "import toy.ops",
    }


def test_a_config_with_carried_code() -> None:
    found = carried_config(rooted(CONFIG, "b"), "toy", "scripts.b", imported_names(CONFIG, "toy"))
    assert found["imports"] == ["$import sys", "$import os"]
    assert found["bundle_root"] == "$'b' if os.path.isfile('b/x') else '.'"
    assert found["listed"] == "$@scripts.listed('listed', @root, listed=@listed)"
    assert found["run"] == [
        "$@scripts.Net()(@train#net)",
        "$@scripts.toy.ops.one()",
        "$[Net for Net in @all]",
        "$f'{@scripts.Net.x} {@a}'",
        "$Networks()",
    ]
    assert found["net"] == {
        "_target_": "scripts.b.nets.Net",
        "_requires_": ["@listed", "@scripts"],
        "kind": "scripts.b.nets.Net",
        "inner": {"_target_": "torch.nn.ReLU"},
    }
    assert found["word"] == "toy"
    assert found["scripts"]["name"] == "scripts.b.config_names"


def test_an_overlay_gets_no_entry_of_its_own() -> None:
    overlay = {"+imports": ["$from toy.nets import Net"], "run": ["$Net()"]}
    assert carried_config(overlay, "toy", "scripts.b", {"Net": ""}) == {"run": ["$@scripts.Net()"]}


def test_an_id_in_the_way() -> None:
    with pytest.raises(ValueError, match="'scripts'"):
        carried_config({"imports": [], "scripts": 1}, "toy", "scripts.b", {})
