"""Code that travels: which modules of a package something needs, and their text under another name.

Imports are followed through the sources and nothing is imported, so that what a function imports only when it is
called travels as well, and so do all entries of a table.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "STAYING_GROUPS",
    "Package",
    "needed_modules",
    "outside_packages",
    "renamed",
    "renamed_words",
    "write_carried",
]

# groups of the command line that stay with the package: a hint at them keeps the package's name
STAYING_GROUPS = ("bench", "bundle", "label", "study")


@dataclass(frozen=True)
class Package:
    """A package of Python sources: its name and the folder of its ``__init__.py``."""

    name: str
    folder: Path

    def file_of(self, module: str) -> Path | None:
        """The source of a module of the package, or None where it has none of that name."""
        head, *parts = module.split(".")
        if head != self.name:
            return None
        path = self.folder.joinpath(*parts)
        for candidate in (path / "__init__.py", path.with_suffix(".py") if parts else None):
            if candidate is not None and candidate.is_file():
                return candidate
        return None

    def module_of(self, dotted: str) -> str | None:
        """The longest beginning of a dotted name that is a module: ``p.networks.Net`` lies in ``p.networks``."""
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            if self.file_of(".".join(parts[:end])) is not None:
                return ".".join(parts[:end])
        return None


def needed_modules(package: Package, names: Iterable[str]) -> dict[str, Path]:
    """All modules that these dotted names need, with the packages around them; sorted, each with its source.

    Args:
        package: where to look; what other packages hold is left alone.
        names: of modules, or of classes and functions in them.

    Raises:
        ValueError: a name of the package that no module holds.
    """
    waiting, found = [], {}
    for name in names:
        module = package.module_of(name)
        if module is None or (module == package.name and name != package.name):
            raise ValueError(f"{name} is not in {package.name}: no module of that name is in {package.folder}.")
        waiting.append(module)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = package.file_of(module)
        assert path is not None
        found[module] = path
        if "." in module:
            waiting.append(module.rpartition(".")[0])
        waiting += _named(package, module, path)
    return dict(sorted(found.items()))


def outside_packages(sources: Iterable[Path], package: Package) -> set[str]:
    """Top names of the packages that must be installed for the sources to be imported.

    What is imported within a function, within ``try`` or for type checkers only is optional.
    """
    found = set()
    for path in sources:
        for node in _at_import(ast.parse(path.read_text(encoding="utf-8")).body):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if not (isinstance(node, ast.ImportFrom) and node.level):
                found |= {name.split(".")[0] for name in names}
    return {name for name in found if name not in sys.stdlib_module_names and name not in ("", package.name)}


def renamed_words(text: str, old: str, new: str) -> str:
    """Any text with the package ``old`` called ``new``: dotted names, commands, and operators' names.

    ``old.data`` becomes ``new.data``, ``python -m old data`` becomes ``python -m new data``, ``old::scan`` takes the
    last part of ``new``. The bare word stays, since it may stand in files that both versions read.
    """
    word = rf"(?<![\w.]){re.escape(old)}"
    groups = "|".join(STAYING_GROUPS)
    text = re.sub(rf"(python3? -m ){re.escape(old)}\b(?! (?:{groups})\b)", rf"\g<1>{new}", text)
    text = re.sub(rf"{word}::", f"{new.rpartition('.')[2]}::", text)
    return re.sub(rf"{word}\.(?=[\w\"'])", f"{new}.", text)


def renamed(source: str, old: str, new: str, first_line: str = "") -> str:
    """A module's text with the package ``old`` called ``new``, in imports as well as in strings and comments.

    Args:
        source: the text of a module.
        old: a top-level package.
        new: a dotted name.
        first_line: a comment to begin with.

    Raises:
        ValueError: an import of ``old`` is left.
    """
    text = renamed_words(source, old, new)
    text = re.sub(rf"^(\s*(?:from|import) ){re.escape(old)}(?=\s)", rf"\g<1>{new}", text, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name.split(".")[0] == old for name in names):
            raise ValueError(f"line {node.lineno} still imports {old}: write the import on one line of its own.")
    return f"{first_line}\n{text}" if first_line else text


def write_carried(
    package: Package, modules: Mapping[str, Path], folder: Path, new: str, version: str, command: str
) -> None:
    """Write modules under ``folder``, which holds the package's own ``__init__.py``, with the package called ``new``.

    Args:
        version: of the package; the first line of every file names it.
        command: what generated the files, for the same line.
    """
    for path in modules.values():
        inside = path.relative_to(package.folder)
        line = f"# Generated from {package.name} {version} ({package.name}/{inside.as_posix()}) by `{command}`."
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(renamed(path.read_text(encoding="utf-8"), package.name, new, line), encoding="utf-8")


def _named(package: Package, module: str, path: Path) -> Iterator[str]:
    """The package's modules that a source imports, or whose full name stands in it as a string."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*inside.split(".")[: len(inside.split(".")) - node.level + 1], *filter(None, [base])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and package.file_of(node.value):
            names = [node.value]
        for name in names:
            if name.split(".")[0] == package.name and package.file_of(name) is not None:
                yield name


def _at_import(body: Iterable[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.With):
            yield from _at_import(node.body)
