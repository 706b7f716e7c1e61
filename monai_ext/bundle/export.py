"""A bundle as a folder and a zip that run with MONAI alone."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai_ext
from monai_ext.bundle.carry import Package, needed_modules, outside_packages, write_carried
from monai_ext.bundle.carry_configs import (
    NAMES_MODULE,
    carried_config,
    dotted_names,
    imported_names,
    rooted,
)
from monai_ext.bundle.export_docs import licence_id, model_card, own_readme
from monai_ext.bundle.export_models import add_onnx, add_torchscript, rewrite_zip
from monai_ext.bundle.find import LEFT_BEHIND, find_bundle
from monai_ext.bundle.json_files import read_json, write_json
from monai_ext.bundle.large_files import list_large_files
from monai_ext.data.manifest import list_manifests, manifest_folder
from monai_ext.data.staging import locked, staged
from monai_ext.files import atomic_write

__all__ = ["Exported", "export_bundle"]

PACKAGE = Package("monai_ext", Path(monai_ext.__file__).resolve().parent)
COMMAND = "python -m monai_ext bundle export"
DATA_LIST = Path("data") / "datalist.json"  # of a bundle made from someone's own data
# as its user has it, not where it was made
ROOT = "$'{name}' if os.path.isfile('{name}/configs/metadata.json') else '.'"
_ENTRY_POINT = '''"""Entry point of `python -m {new}`."""

from __future__ import annotations

import sys

from {new}.cli import main

# group -> the module that holds its COMMANDS
GROUPS = {{"data": "{new}.data.commands"}}

if __name__ == "__main__":
    sys.exit(main(GROUPS, sys.argv[1:]))
'''


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    archive: Path
    modules: int  # files of the package that travel
    differences: Mapping[str, float]  # model file -> largest difference from model.pt's output

    def __str__(self) -> str:
        rows = [f"{self.folder}", f"{self.archive}  {self.archive.stat().st_size / 1e6:.1f} MB"]
        rows.append(f"{self.modules} modules of {PACKAGE.name} {monai_ext.__version__} travel in scripts/")
        rows += [f"{name}: output as model.pt's, within {value:.1g}" for name, value in self.differences.items()]
        return "\n".join(rows)


def export_bundle(
    name: str | Path,
    out: str | Path,
    *,
    torchscript: bool = True,
    onnx: bool = False,
    overwrite: bool = False,
    large_files_url: str | None = None,
) -> Exported:
    """Write a bundle to ``out/NAME`` and ``out/NAME.zip``; both appear whole or not at all.

    Args:
        name: a bundle's name or path.
        out: the folder to write to; made if it is not there.
        torchscript: add ``models/model.ts``.
        onnx: add ``models/model.onnx``.
        overwrite: replace what is there.
        large_files_url: the address of the folder from which files over 25 MB will be downloaded.

    Raises:
        FileNotFoundError: no such bundle, or it lacks weights, licence or a config.
        FileExistsError: ``out`` has the bundle already.
        ValueError: a config that cannot be exported, or a model file with another output than the weights.
    """
    bundle = find_bundle(name)
    for file in ("models/model.pt", "LICENSE", "configs/metadata.json", "configs/inference.json"):
        if not (bundle / file).is_file():
            way = ": train the bundle first" if file.startswith("models") else ""
            raise FileNotFoundError(f"{bundle.name} has no {file}, which an exported bundle needs{way}.")
    out = Path(out).expanduser().resolve()
    target, archive = out / bundle.name, out / f"{bundle.name}.zip"
    if bundle == target or bundle in target.parents:
        raise ValueError(f"--out {out} is the bundle's own place: name a folder elsewhere.")
    for path in (target, archive):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: add --overwrite to replace it, or name another folder.")
    with locked(out):
        with staged(target) as folder:
            modules = _fill(bundle, folder)
            differences = {"models/model.ts": add_torchscript(folder)} if torchscript else {}
            if onnx:
                differences["models/model.onnx"] = add_onnx(folder)
            _describe_models(folder)
            list_large_files(folder, large_files_url)
            for cache in sorted(folder.rglob("__pycache__")):
                shutil.rmtree(cache)
            with atomic_write(archive) as file:
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                rewrite_zip([(f"{bundle.name}/{_inside(path, folder)}", path.read_bytes()) for path in files], file)
    return Exported(target, archive, modules, differences)


def _fill(bundle: Path, folder: Path) -> int:
    """Everything but the models that are made from the weights; gives back how many modules travel."""
    _copy(bundle, folder)
    configs = {path.name: read_json(path) for path in sorted((bundle / "configs").glob("*.json"))}
    metadata = configs.pop("metadata.json")
    new = f"scripts.{_identifier(bundle.name)}"
    wanted = {name for config in configs.values() for name in dotted_names(config, PACKAGE.name)}
    readme = (
        (bundle / "docs" / "README.md").read_text(encoding="utf-8") if (bundle / "docs/README.md").is_file() else ""
    )
    modules = _carry(folder, new, configs, readme, wanted) if wanted else {}
    metadata = _metadata(metadata, modules)
    write_json(folder / "configs" / "metadata.json", metadata)
    for file, former in configs.items():
        config = rooted(former, bundle.name)
        if wanted and isinstance(config, dict) and isinstance(config.get("bundle_root"), str):
            config["bundle_root"] = ROOT.format(name=bundle.name)
        if wanted and isinstance(config, dict):
            config = carried_config(config, PACKAGE.name, new, _names(configs))
        if config != former:
            write_json(folder / "configs" / file, config)
    page = own_readme(readme or _plain_readme(metadata), bundle.name, PACKAGE.name, new, metadata)
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "README.md").write_text(page, encoding="utf-8")
    licence = licence_id((bundle / "LICENSE").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(model_card(page, metadata, licence), encoding="utf-8")
    return len(modules)


def _copy(bundle: Path, folder: Path) -> None:
    """The bundle's files, without hidden ones, what runs left, and models other than ``model.pt``."""
    for path in sorted(bundle.rglob("*")):
        inside = path.relative_to(bundle)
        left_out = inside.parts[0] in LEFT_BEHIND or any(
            part[0] == "." or part == "__pycache__" for part in inside.parts
        )
        left_out |= inside.parts[0] == DATA_LIST.parts[0] and inside != DATA_LIST  # images that lie there
        made_anew = inside.parts[0] == "models" and inside.name != "model.pt"
        if path.is_file() and not left_out and not made_anew:
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / inside)
    if (folder / DATA_LIST).is_file():  # the maker's folder is nobody's business
        write_json(folder / DATA_LIST, {**read_json(folder / DATA_LIST), "folder": DATA_LIST.parts[0]})


def _carry(folder: Path, new: str, configs: Mapping[str, Any], readme: str, wanted: Iterable[str]) -> dict[str, Path]:
    """The package's modules, the names for expressions, the manifests, and the commands that fetch data."""
    modules = needed_modules(PACKAGE, wanted)
    uses_data = f"{PACKAGE.name}.data.manifest" in modules
    if uses_data:  # its messages name the commands that fetch and check data
        modules = needed_modules(PACKAGE, [*modules, f"{PACKAGE.name}.cli", f"{PACKAGE.name}.data.commands"])
    package = folder.joinpath(*new.split("."))
    write_carried(PACKAGE, modules, package, new, monai_ext.__version__, COMMAND)
    above = package.parent / "__init__.py"
    if not above.exists():
        above.write_text(
            '"""Code of this bundle."""\n\nfrom pkgutil import extend_path\n\n'
            "__path__ = extend_path(__path__, __name__)  # other bundles' `scripts` may be on the path as well\n",
            encoding="utf-8",
        )
    line = f"# Generated from {PACKAGE.name} {monai_ext.__version__} by `{COMMAND}`."
    statements = sorted({_renamed_import(text, new) for text in _names(configs).values()})
    names = "\n".join([line, '"""What expressions in the configs call."""\n', *statements, ""])
    (package / f"{NAMES_MODULE}.py").write_text(names, encoding="utf-8")
    if uses_data:
        (package / "__main__.py").write_text(f"{line}\n{_ENTRY_POINT.format(new=new)}", encoding="utf-8")
        _copy_manifests(package / "data_manifests", json.dumps(configs) + readme)
    return modules


def _copy_manifests(folder: Path, text: str) -> None:
    """The schema, and the manifests of the data sets that the configs or the README name."""
    folder.mkdir()
    for name in ("schema", *list_manifests()):
        if name == "schema" or re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", text):
            (folder / f"{name}.json").write_bytes((manifest_folder() / f"{name}.json").read_bytes())


def _names(configs: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file, config in configs.items():
        for name, statement in imported_names(config, PACKAGE.name).items():
            if found.setdefault(name, statement) != statement:
                raise ValueError(f"configs/{file} imports another {name} than the other configs: rename one of them.")
    return found


def _renamed_import(statement: str, new: str) -> str:
    (node,) = ast.parse(statement).body
    alias = node.names[0]
    if isinstance(node, ast.ImportFrom):
        node.module = new + (node.module or "").removeprefix(PACKAGE.name)
    elif alias.asname is None:  # `import monai_ext.data` binds the package's own name
        return f"import {new}{alias.name.removeprefix(PACKAGE.name)}\nimport {new} as {PACKAGE.name}"
    else:
        alias.name = new + alias.name.removeprefix(PACKAGE.name)
    return ast.unparse(node)


def _metadata(metadata: dict[str, Any], modules: Mapping[str, Path]) -> dict[str, Any]:
    """Without the package itself among the requirements, and with all that its modules import."""
    required = {
        name: version
        for name, version in metadata.get("required_packages_version", {}).items()
        if re.sub(r"[-_.]+", "-", name).lower() != "monai-ext"
    }
    known = {re.sub(r"[-_.]+", "-", name).lower() for name in (*required, "monai", "torch", "numpy")}
    distributions = importlib.metadata.packages_distributions()
    for module in sorted(outside_packages(modules.values(), PACKAGE)):
        for name in sorted(set(distributions.get(module, [])))[:1]:
            if re.sub(r"[-_.]+", "-", name).lower() not in known:
                required[name] = importlib.metadata.version(name)
    result = {**metadata, "required_packages_version": required}
    return {**result, "monai_ext_version": monai_ext.__version__} if modules else result


def _describe_models(folder: Path) -> None:
    """The checksums of all model files, in the metadata."""
    path = folder / "configs" / "metadata.json"
    models = sorted(file for file in (folder / "models").iterdir() if file.is_file())
    sums = {f"models/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in models}
    write_json(path, {**read_json(path), "models_sha256": sums})


def _plain_readme(metadata: Mapping[str, Any]) -> str:
    title, about = metadata.get("name", metadata.get("task", "")), metadata.get("description", "")
    return f"# {title}\n\n## Model overview\n\n{about}\n"


def _identifier(name: str) -> str:
    word = re.sub(r"\W", "_", name)
    return f"_{word}" if word[:1].isdigit() else word


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
