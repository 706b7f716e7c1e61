"""Packages that may be missing, or be there and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.ops.backends import check_backend, choose_backend, why_not_installed


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package as one built for another version of PyTorch: found, but it does not load."""
    (tmp_path / "kernels_for_another_torch.py").write_text("raise OSError('undefined symbol: _ZN3c10\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "kernels_for_another_torch"


def test_a_package_that_does_not_load_is_passed_over(broken: str) -> None:
    known = {broken: lambda: why_not_installed(broken)}
    assert choose_backend("auto", known) == "torch"
    with pytest.raises(ValueError, match=r"does not load: undefined symbol: _ZN3c10\. Use backend='auto' or 'torch'"):
        choose_backend(broken, known)


def test_missing_present_and_unknown() -> None:
    assert why_not_installed("no_such_package_anywhere") == "the package no_such_package_anywhere is not installed."
    assert why_not_installed("json") is None
    known = {"no_such": lambda: "no.", "json": lambda: why_not_installed("json")}
    assert choose_backend("auto", known) == choose_backend("json", known) == "json"
    assert choose_backend("torch", known) == "torch"
    with pytest.raises(ValueError, match="unknown backend 'tritton'; known ones: auto, torch, no_such, json"):
        choose_backend("tritton", known)
    with pytest.raises(ValueError, match="unknown backend"):
        check_backend("tritton", ("json",))
