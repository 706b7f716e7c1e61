"""Files, their sizes, and documents."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from monai_ext.bundle import large_files as large
from monai_ext.bundle.checks.problems import Problem
from monai_ext.bundle.checks.reading import config_file

__all__ = ["SECTIONS", "documentation", "large_files", "licence", "logging_conf", "required_files"]

SECTIONS = {
    "overview": "what the model does, and its network",
    "data": "which data it was trained on, their licence, and where to download them",
    "train": "how it was trained, and the memory that takes",
    "input": "channels, size and values of the input",
    "output": "channels and meaning of the output",
    "performance": "what was measured, on which cases",
    "command": "the commands that train, evaluate and infer",
    "licen[cs]e": "the licence of code, weights and data",
}
_LOGGING_CLASS = re.compile(r"(?:logging\.)?(?:handlers\.)?\w+")
_LITERAL = re.compile(r"(?:sys\.std(?:out|err)|['\"][^'\"]*['\"]|[-\d.]+|True|False|None|[(),\s])*")


def required_files(bundle: Path) -> list[Problem]:
    """What the specification and the model zoo ask for."""
    wanted = {
        "configs/metadata.json": "write it after MONAI's bundle specification",
        "LICENSE": "add the text of the licence under this very name",
        "models/model.pt": "train, or copy the weights (a state dict) there",
        "docs/README.md": "describe model, data, performance and commands in it",
    }
    found = [Problem(f"{name} is missing", mend) for name, mend in wanted.items() if not (bundle / name).is_file()]
    found += [Problem(f"{name} is empty", mend) for name, mend in wanted.items() if _empty(bundle / name)]
    if config_file(bundle, "inference") is None:
        found.append(Problem("configs/inference.json is missing", "add the config of the inference"))
    return found


def licence(bundle: Path) -> list[Problem]:
    """Whether LICENSE is a text of some length."""
    path = bundle / "LICENSE"
    if path.is_file() and len(path.read_text(encoding="utf-8", errors="replace").split()) < 50:
        return [Problem("LICENSE holds no whole licence", "put the full text of the licence into it")]
    return []


def large_files(bundle: Path) -> list[Problem]:
    """Single files over 25 MB stand in large_files.yml, with address and hash."""
    found = []
    listed = large.listed_files(bundle)
    for path in large.large_files(bundle):
        name = path.relative_to(bundle).as_posix()
        if name not in listed:
            what = f"{name} has {path.stat().st_size / 1e6:.0f} MB and is not in large_files.yml"
            found.append(Problem(what, "list it there (`bundle export` does), and upload it elsewhere"))
    for name, entry in listed.items():
        for key in ("url", "hash_val", "hash_type"):
            if not entry.get(key):
                mend = "fill it in; without hash_type MONAI takes the hash for sha256 here and md5 there"
                found.append(Problem(f"large_files.yml: {name} has no {key}", mend))
    return found


def logging_conf(bundle: Path) -> list[Problem]:
    """MONAI refuses classes outside of logging, and arguments that are more than literals."""
    path = bundle / "configs" / "logging.conf"
    if not path.is_file():
        return []
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except configparser.Error as error:
        return [Problem(f"logging.conf cannot be read: {' '.join(str(error).split())}", "mend its syntax")]
    found = []
    for section in parser.sections():
        if not _LOGGING_CLASS.fullmatch(parser.get(section, "class", fallback="X")):
            what = f"logging.conf: class of {section} is {parser.get(section, 'class')}"
            found.append(Problem(what, "use a class of logging or logging.handlers"))
        for key in ("args", "kwargs"):
            if not _LITERAL.fullmatch(parser.get(section, key, fallback="")):
                what = f"logging.conf: {key} of {section} is {parser.get(section, key)}"
                found.append(Problem(what, "use literals, sys.stdout and sys.stderr only"))
    return found


def documentation(bundle: Path) -> list[Problem]:
    """The sections of docs/README.md, and a command in it."""
    path = bundle / "docs" / "README.md"
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    found = [
        Problem(f"docs/README.md has no section on {section.replace('[cs]', 'c')}", f"add one: {content}")
        for section, content in SECTIONS.items()
        if not any(re.search(section, title) for title in titles)
    ]
    if "monai.bundle run" not in text:
        found.append(Problem("docs/README.md shows no command", "show `python -m monai.bundle run ...`"))
    return found


def _empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0
