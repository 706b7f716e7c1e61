"""What a case is called, whatever kind of file it comes from."""

from __future__ import annotations

import pytest

from monai_ext.data.case_name import stem


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/scans/case_1.nii.gz", "case_1"),
        ("/scans/SCAN.NII", "SCAN"),
        ("slice.IMA", "slice"),
        ("a.dcm.png", "a.dcm"),
        ("eye.left.TIFF", "eye.left"),
        ("/series/1.2.840.7", "1.2.840.7"),
    ],
)
def test_stem(file: str, name: str) -> None:
    assert stem(file) == name
