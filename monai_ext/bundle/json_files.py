"""JSON files of a bundle; without PyTorch, so that commands start at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json", "write_json"]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as the bundles' are laid out."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
