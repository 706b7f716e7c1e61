"""Configs that name a package, made to name a copy of it in the bundle's ``scripts``.

MONAI puts a bundle's folder on the path only when the workflow runs, after ``initialize`` and after the ``imports``;
an import that fails before stays a stub. So the copy is one entry of the config, ``scripts``, which puts the folder
on the path as it is evaluated: expressions take its functions as ``@scripts.name``, components ask for it by
``_requires_``. This works from any folder in which ``bundle_root`` is right.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["NAMES_MODULE", "carried_config", "dotted_names", "imported_names", "rooted", "scripts_entries", "walk"]

ENTRY = "scripts"  # the id
NAMES_MODULE = "config_names"  # the module with the names that expressions use
_NEEDED_IMPORTS = ("$import os", "$import sys")
_REFERENCE = re.compile(r"@\w*(?:(?:#|::)\w+)*")


def dotted_names(config: Any, package: str) -> set[str]:
    """The full names of the package's modules, classes and functions that a config speaks of."""
    found = {name for statement in _imports(config) for name in _names_in(statement, package)}
    for _, text in walk(config):
        if isinstance(text, str) and not _is_import(text):
            found |= set(re.findall(rf"(?<![\w.]){re.escape(package)}(?:\.\w+)+", text))
    return found


def imported_names(config: Any, package: str) -> dict[str, str]:
    """Name in expressions to the statement that imports it, for the imports from the package."""
    found = {}
    for text in _imports(config):
        node = ast.parse(text[1:].strip()).body[0]  # MONAI reads no further
        if isinstance(node, (ast.Import, ast.ImportFrom)) and _names_in(text, package):
            alias = node.names[0]
            found[alias.asname or alias.name.split(".")[0]] = text[1:].strip()
    return found


def scripts_entries(new: str) -> dict[str, Any]:
    """What puts the bundle on the path, and the module with the names, which needs it.

    Where another bundle's ``scripts`` was imported before, this one's folder joins it. The word "import" must not
    stand in an expression that refers to an id: MONAI would parse it as an import.
    """
    root = "os.path.abspath(@bundle_root)"
    return {
        f"{ENTRY}_path": (
            f"$[sys.path.insert(0, {root}), '{ENTRY}' in sys.modules and "
            f"sys.modules['{ENTRY}'].__path__.append(os.path.join({root}, '{ENTRY}'))]"
        ),
        ENTRY: {
            "_target_": "importlib.import_module",
            "_requires_": f"@{ENTRY}_path",
            "name": f"{new}.{NAMES_MODULE}",
        },
    }


def carried_config(config: dict[str, Any], package: str, new: str, names: Mapping[str, str]) -> dict[str, Any]:
    """A config that uses the copy ``new`` of ``package``.

    Args:
        config: one file, whole or an overlay.
        package: the installed package.
        new: the dotted name of its copy.
        names: what the expressions of the bundle's configs import from it, as ``imported_names`` gives it.

    Raises:
        ValueError: the config has an id ``scripts`` already.
    """
    for name in scripts_entries(new):
        if name in config:
            raise ValueError(f"the config has an id {name!r} already, which the export needs: rename it.")
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("imports", "+imports") and isinstance(value, list):
            value = [text for text in value if not _names_in(text, package)]
            if key == "imports":
                value = [*(text for text in _NEEDED_IMPORTS if text not in value), *value]
            elif not value:
                continue
        result[key] = _carried(value, package, new, names)
        if key == "bundle_root":
            result |= scripts_entries(new)
    if "imports" in config and ENTRY not in result:  # a whole config, not an overlay
        result |= {"bundle_root": ".", **scripts_entries(new)}
    return result


def rooted(value: Any, name: str) -> Any:
    """A config whose paths begin at the bundle or beside it, and no longer in ``bundles/NAME``."""
    if isinstance(value, dict):
        return {key: rooted(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [rooted(inner, name) for inner in value]
    return value.replace(f"bundles/{name}", name) if isinstance(value, str) else value


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep; "" for the entries of lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield "", inner
            yield from walk(inner)


def _carried(value: Any, package: str, new: str, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_carried(inner, package, new, names) for inner in value]
    if isinstance(value, dict):
        found = {key: _carried(inner, package, new, names) for key, inner in value.items()}
        target = found.get("_target_")
        if isinstance(target, str) and target.startswith(f"{new}."):
            former = found.pop("_requires_", None)
            required = f"@{ENTRY}" if former is None else [former, f"@{ENTRY}"]
            return {"_target_": target, "_requires_": required, **found}
        return found
    if isinstance(value, str) and value.startswith("$") and not _is_import(value):
        return "$" + _expression(value[1:], names)
    if isinstance(value, str):
        return re.sub(rf"^{re.escape(package)}\.(?=\w)", f"{new}.", value)
    return value


def _expression(text: str, names: Mapping[str, str]) -> str:
    """``datalist('x', @root)`` becomes ``@scripts.datalist('x', @root)``; ids, strings and keywords stay."""
    references: list[str] = []

    def hide(match: re.Match[str]) -> str:
        references.append(match.group())
        return f"__reference_{len(references) - 1}__"

    def show(plain: str) -> str:
        return re.sub(r"__reference_(\d+)__", lambda match: references[int(match.group(1))], plain)

    hidden = _REFERENCE.sub(hide, text)
    try:
        tree = ast.parse(hidden.strip(), mode="eval")
    except SyntaxError:  # no expression: text that begins with a dollar sign
        return text
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in set(names) - bound]
    if not used:
        return text
    for node in used:
        node.id = f"__scripts__.{node.id}"
    return show(ast.unparse(tree)).replace("__scripts__.", f"@{ENTRY}.")


def _imports(config: Any) -> Iterator[str]:
    for _, text in walk(config):
        if isinstance(text, str) and _is_import(text):
            yield text


def _is_import(text: str) -> bool:
    return re.match(r"\$\s*(?:import|from)\s", text) is not None


def _names_in(text: str, package: str) -> list[str]:
    """Full names that an import statement takes from the package."""
    if not (isinstance(text, str) and _is_import(text)):
        return []
    found = []
    for node in ast.parse(text[1:].strip()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == package]
