"""The part of this package that a bundle needs, as code that travels in the bundle.

A config names classes and functions by full dotted path. From these names imports are followed, module by module,
through the source; what is found is copied under another package's name, with imports and names of modules rewritten.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import monai_ext
from monai_ext.data.manifest import list_manifests, manifest_folder

__all__ = ["Carried", "carry", "names_in", "rewrite_names"]

PACKAGE = "monai_ext"
MANIFESTS = "data_manifests"
# what an optional backend or a rare format needs is not required of whoever runs the bundle
_OPTIONAL = ("h5py", "natten", "mamba_ssm", "fla", "pywt", "skimage", "sklearn")


@dataclass
class Carried:
    """Code for a bundle.

    Args:
        files: path inside the package to its text.
        packages: distributions that the code imports, with the versions installed here.
    """

    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def carry(texts: Iterable[str], target: str, root: Path | None = None, package: str = PACKAGE) -> Carried:
    """The modules that texts of configs or of code name, rewritten to stand in another package.

    Args:
        texts: contents of configs and of a bundle's own modules.
        target: dotted name of the new package, such as ``scripts.a_bundle``.
        root: the folder of the package; that of this one where it is not given.
        package: its name.

    Raises:
        ValueError: a text names a module that does not exist.
    """
    source = _Source(root or Path(monai_ext.__file__).parent, package)
    texts = list(texts)
    waiting = [source.module_of(name) for text in texts for name in names_in(text, package)]
    found: dict[str, str] = {}
    outside: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = text = source.path(module).read_text(encoding="utf-8")
        parents = [module.rpartition(".")[0]] if "." in module else []
        for name in _imports(ast.parse(text)):
            if name.split(".")[0] == package:
                parents.append(source.module_of(name))
            else:
                outside.add(name.split(".")[0])
        waiting += parents
    stamp = f"# Generated from {package} {source.version()}; change it there.\n"
    files = {source.inner(module): stamp + rewrite_names(text, target, package) for module, text in found.items()}
    if f"{package}.data.manifest" in found:
        files |= _manifests(texts)
    return Carried(dict(sorted(files.items())), _versions(outside))


def names_in(text: str, package: str = PACKAGE) -> list[str]:
    """Dotted names of the package in a text: ``_target_``, expressions and ``from ... import ...``."""
    joined = re.sub(rf"\bfrom\s+({package}[\w.]*)\s+import\s+(\w+)", r"\1.\2", text)
    return sorted({package + rest for rest in re.findall(rf"\b{package}((?:\.\w+)+)", joined)})


def rewrite_names(text: str, target: str, package: str = PACKAGE) -> str:
    """The same with the package's modules, and its operators of PyTorch's, under another name.

    What a person types, ``python -m monai_ext``, stays.
    """
    text = re.sub(rf"\b{package}(?=\.\w)", target, text)
    text = re.sub(rf"\b(from|import) {package}\b(?!\.)", rf"\1 {target}", text)
    return re.sub(rf"\b{package}::", f"{target.replace('.', '_')}::", text)


class _Source:
    """The modules of a package as files."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package

    def _place(self, module: str) -> Path:
        return self.root.joinpath(*module.split(".")[1:])

    def path(self, module: str) -> Path:
        place = self._place(module)
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    def inner(self, module: str) -> str:
        return self.path(module).relative_to(self.root).as_posix()

    def version(self) -> str:
        found = re.search(r'__version__ = "(.*)"', (self.root / "__init__.py").read_text(encoding="utf-8"))
        return found.group(1) if found else ""

    def module_of(self, name: str) -> str:
        """The module that a dotted name is, or is in."""
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            module = ".".join(parts[:length])
            if self.path(module).is_file():
                if length == 1 < len(parts):
                    break
                return module
        raise ValueError(f"there is no module {name} in {self.package}; correct the name in the config.")


def _imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports, at its top or inside functions, but not for type checkers alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def _manifests(texts: Iterable[str]) -> dict[str, str]:
    """The manifests that are named in quotes, and the schema."""
    words = {word for text in texts for word in re.findall(r"'(\w+)'", text)}
    names = ["schema", *(name for name in list_manifests() if name in words)]
    folder = manifest_folder()
    return {f"{MANIFESTS}/{name}.json": (folder / f"{name}.json").read_text(encoding="utf-8") for name in names}


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """The installed distributions that bring modules, without Python's own, optional ones, and builds' local marks."""
    known: Mapping[str, list[str]] = importlib.metadata.packages_distributions()
    found = {}
    for module in modules:
        if module in sys.stdlib_module_names or module in _OPTIONAL:
            continue
        for name in known.get(module, [])[:1]:
            found[name] = importlib.metadata.version(name).partition("+")[0]
    return dict(sorted(found.items()))
