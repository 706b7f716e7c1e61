"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monai_ext.mixers import MIXERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in ROOT.rglob("*.md") if not {part for part in p.relative_to(ROOT).parts if part.startswith(".")}]
PAGES = [p for p in PAGES if p.relative_to(ROOT).parts[0] in ("bundles", "docs", "monai_ext") or p.parent == ROOT]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_is_described(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"**{name}** (" in (ROOT / "monai_ext/mixers/README.md").read_text(encoding="utf-8")
