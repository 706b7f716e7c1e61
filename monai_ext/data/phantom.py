"""Phantoms: made-up data sets in exactly the official layout, so that everything runs the same way on either."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.random import Generator, default_rng  # here, not at first use: its import swallows a Ctrl-C
from tqdm import tqdm

from monai_ext.data.datalists import PHANTOM_MARK, is_phantom, parent_of
from monai_ext.data.manifest import SPLITS, Manifest, load_manifest
from monai_ext.data.phantom_hippocampus import draw_hippocampus
from monai_ext.data.staging import locked, staged


@dataclass(frozen=True)
class Phantom:
    """How to draw one case, and how the data set numbers its cases."""

    draw: Callable[[Generator], tuple[np.ndarray, np.ndarray]]
    case: str
    numbers: range


PHANTOMS: dict[str, Phantom] = {
    "task04_hippocampus": Phantom(draw_hippocampus, "hippocampus_{:03d}", range(1, 1000)),
}


def choose_cases(manifest: Manifest, phantom: Phantom, cases: int) -> list[tuple[int, str]]:
    """The first numbers that fill the manifest's split fractions, with a case in every split, however few."""
    if cases < len(SPLITS):
        raise ValueError(f"--cases {cases} is too few: {len(SPLITS)} at least, one for each of {', '.join(SPLITS)}.")
    fractions = manifest.content["split"]["fractions"]
    quota = {split: max(1, round(cases * fractions[split])) for split in SPLITS[1:]}
    quota["train"] = max(1, cases - sum(quota.values()))
    chosen = []
    for number in phantom.numbers:
        case = phantom.case.format(number)
        if quota[manifest.split_of(case)] > 0:
            quota[manifest.split_of(case)] -= 1
            chosen.append((number, case))
    if any(quota.values()):
        raise ValueError(f"--cases {cases} is too many: {phantom.case.format(phantom.numbers[-1])} is the last name.")
    return chosen


def draw_phantom(name: str, root: str | Path, cases: int = 12, seed: int = 0, progress: bool = True) -> Path:
    """Draws a phantom of the data set `name` below `root` and returns its folder.

    A case depends on the seed and its number only. An earlier phantom is replaced; anything else is left alone.

    Raises:
        ValueError: no phantom of that data set; a number of cases or a seed that cannot be.
        FileExistsError: the folder exists and holds something that is not a phantom.
    """
    manifest = load_manifest(name)
    if manifest.name not in PHANTOMS:
        raise ValueError(f"There is no phantom of {manifest.name}: there are phantoms of {', '.join(PHANTOMS)}.")
    for option, value in (("--cases", cases), ("--seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{option} must be a whole number that is not negative, not {value!r}.")
    phantom = PHANTOMS[manifest.name]
    chosen = choose_cases(manifest, phantom, cases)
    root = parent_of(manifest, Path(root).expanduser())
    target = root / manifest.folder
    with locked(root):
        if target.exists() and not is_phantom(target) and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(
                f"{target} exists and is no phantom, so it is left alone: choose another folder with --root."
            )
        with staged(target) as folder:
            (folder / "imagesTr").mkdir()
            (folder / "labelsTr").mkdir()
            for number, case in tqdm(chosen, desc=f"drawing {manifest.folder}", unit="case", disable=not progress):
                rng = default_rng([seed, number])
                image, label = phantom.draw(rng)
                origin = 0.0 if rng.random() < 0.07 else 1.0  # the two origins that the real volumes have, in mm
                for kind, array in (("imagesTr", image), ("labelsTr", label)):
                    nib.save(_nifti(array, origin), folder / kind / f"{case}.nii.gz")
            content = _dataset_json(manifest, [case for _, case in chosen], seed)
            (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def _nifti(array: np.ndarray, origin: float) -> nib.Nifti1Image:
    affine = np.eye(4)
    affine[:3, 3] = origin
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image


def _dataset_json(manifest: Manifest, cases: list[str], seed: int) -> dict[str, Any]:
    """The fields of the official dataset.json; `reference` marks the phantom."""
    content = manifest.content
    return {
        "name": manifest.folder.split("_", 1)[-1],
        "description": f"{PHANTOM_MARK} in the layout of {content['title']}",
        "reference": f"{PHANTOM_MARK}, seed {seed}, {len(cases)} cases",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": f"{content['spatial_dims']}D",
        "modality": {"0": content["modality"]},
        "labels": {str(entry["label"]): entry["name"] for entry in content["classes"]},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases],
        "test": [],
    }
