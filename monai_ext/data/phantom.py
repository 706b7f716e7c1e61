"""Phantoms: made-up data sets in exactly the official layout, so that everything runs the same way on either."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.random import Generator, default_rng  # here, not at first use: its import swallows a Ctrl-C
from tqdm import tqdm

from monai_ext.data.datalists import PHANTOM_MARK, is_phantom, parent_of
from monai_ext.data.manifest import SPLITS, Manifest, load_manifest
from monai_ext.data.phantom_adrenal import draw_gland
from monai_ext.data.phantom_bccd import WIDTH as SMEAR_WIDTH
from monai_ext.data.phantom_bccd import draw_smear, save_smear
from monai_ext.data.phantom_chase import WIDTH, draw_fundus, save_fundus
from monai_ext.data.phantom_hagen import draw_exposures, save_exposures
from monai_ext.data.phantom_hippocampus import draw_hippocampus
from monai_ext.data.rows import Row
from monai_ext.data.staging import locked, staged


def save_decathlon(folder: Path, case: str, drawn: tuple[np.ndarray, np.ndarray], rng: Generator) -> dict[str, str]:
    """Writes an image and its label map as NIfTI in the layout of the Decathlon, and gives their names."""
    origin = 0.0 if rng.random() < 0.07 else 1.0  # the two origins that the real volumes have, in mm
    names = {kind: f"{kind}sTr/{case}.nii.gz" for kind in ("image", "label")}
    for name, array in zip(names.values(), drawn):
        (folder / name).parent.mkdir(exist_ok=True)
        nib.save(_nifti(array, origin), folder / name)
    return names


@dataclass(frozen=True)
class Phantom:
    """How to draw one case and how to write it.

    Where the manifest splits by a rule, `case` and `numbers` say how the data set numbers its cases; where it lists
    them, the lists do. Where pictures may have any size, `size` is the usual width, and `draw` takes the case's name
    and the width, too. Where the cases are rows of arrays, `draw` takes the class, the classes take turns, and
    nothing is saved by case. `cases` is the usual number.
    """

    draw: Callable[..., tuple[np.ndarray, ...]]
    case: str = ""
    numbers: range = range(0)
    save: Callable[[Path, str, Any, Generator], dict[str, str]] = save_decathlon
    size: int | None = None
    cases: int = 12


PHANTOMS: dict[str, Phantom] = {
    "adrenalmnist3d": Phantom(draw_gland, cases=120),
    "bccd": Phantom(draw_smear, save=save_smear, size=SMEAR_WIDTH, cases=24),
    "chase_db1": Phantom(draw_fundus, save=save_fundus, size=WIDTH),
    "hagen2021": Phantom(draw_exposures, save=save_exposures, size=256),
    "task04_hippocampus": Phantom(draw_hippocampus, "hippocampus_{:03d}", range(1, 1000)),
}
_ARRAY_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
SMALLEST = 32  # pixels: below, nothing of the structures is left


def choose_cases(manifest: Manifest, phantom: Phantom, cases: int) -> list[tuple[int, str]]:
    """The first numbers that fill the manifest's splits in their shares, with a case in every split, however few."""
    if cases < len(SPLITS):
        raise ValueError(f"--cases {cases} is too few: {len(SPLITS)} at least, one for each of {', '.join(SPLITS)}.")
    listed = manifest.listed
    if manifest.arrays:
        fractions = {split: _ARRAY_SHARES[split] for split in SPLITS}
        names = [
            (number, Row(Path(), manifest.arrays[split]["images"], row).case)
            for number, (row, split) in enumerate(itertools.product(range(cases), SPLITS), start=1)
        ]
    elif listed:
        names = list(enumerate(sorted(listed), start=1))
        fractions = {split: list(listed.values()).count(split) / len(listed) for split in SPLITS}
    else:
        names = [(number, phantom.case.format(number)) for number in phantom.numbers]
        fractions = manifest.content["split"]["fractions"]
    quota = {split: max(1, round(cases * fractions[split])) for split in SPLITS[1:]}
    quota["train"] = max(1, cases - sum(quota.values()))
    chosen = []
    for number, case in names:
        if quota[manifest.split_of(case)] > 0:
            quota[manifest.split_of(case)] -= 1
            chosen.append((number, case))
    if any(quota.values()):
        raise ValueError(f"--cases {cases} is too many: {names[-1][1]} is the last of {len(names)} names.")
    return chosen


def draw_phantom(
    name: str,
    root: str | Path,
    cases: int | None = None,
    seed: int = 0,
    size: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws a phantom of the data set `name` below `root` and returns its folder.

    A case depends on the seed, its number and its size only. An earlier phantom is replaced; anything else is left
    alone.

    Args:
        cases: how many; as many as the phantom usually has, or all where the official data set has fewer, if None.
        size: width of pictures; the usual one if None.

    Raises:
        ValueError: no phantom of that data set; a number of cases or a seed that cannot be.
        FileExistsError: the folder exists and holds something that is not a phantom.
    """
    manifest = load_manifest(name)
    if manifest.name not in PHANTOMS:
        raise ValueError(f"There is no phantom of {manifest.name}: there are phantoms of {', '.join(PHANTOMS)}.")
    phantom = PHANTOMS[manifest.name]
    cases = min(phantom.cases, len(manifest.listed) or phantom.cases) if cases is None else cases
    for option, value in (("--cases", cases), ("--seed", seed), ("--size", size or 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{option} must be a whole number that is not negative, not {value!r}.")
    if size is not None and phantom.size is None:
        raise ValueError(f"--size {size}: the volumes of {manifest.name} have their own sizes; leave it out.")
    if size is not None and size < SMALLEST:
        raise ValueError(f"--size {size} is too small: {SMALLEST} pixels at least.")
    chosen = choose_cases(manifest, phantom, cases)
    root = parent_of(manifest, Path(root).expanduser())
    target = root / manifest.folder
    with locked(root):
        if target.exists() and not is_phantom(target) and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(
                f"{target} exists and is no phantom, so it is left alone: choose another folder with --root."
            )
        with staged(target) as folder:
            progress_bar = tqdm(chosen, desc=f"drawing {manifest.folder}", unit="case", disable=not progress)
            if manifest.arrays:
                written = [_draw_arrays(manifest, phantom, folder, progress_bar, seed)]
            else:
                written = [_draw_case(phantom, folder, case, default_rng([seed, n]), size) for n, case in progress_bar]
            content = _dataset_json(manifest, written, seed)
            (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def _draw_case(phantom: Phantom, folder: Path, case: str, rng: Generator, size: int | None) -> dict[str, str]:
    drawn = phantom.draw(rng) if phantom.size is None else phantom.draw(rng, case, size or phantom.size)
    return phantom.save(folder, case, drawn, rng)


def _draw_arrays(
    manifest: Manifest, phantom: Phantom, folder: Path, cases: Iterable[tuple[int, str]], seed: int
) -> dict[str, str]:
    """All cases as rows of one archive, of every split's rows the classes by turns."""
    images: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    values: dict[str, list[int | str]] = {split: [] for split in SPLITS}
    for number, case in cases:
        split = manifest.split_of(case)
        place = len(images[split]) % len(manifest.labels)
        images[split].append(phantom.draw(default_rng([seed, number]), manifest.labels[place]))
        values[split].append(manifest.values[place])
    arrays = {names["images"]: np.stack(images[split]) for split, names in manifest.arrays.items()}
    arrays |= {
        names["labels"]: np.asarray(values[split], np.uint8)[:, None] for split, names in manifest.arrays.items()
    }
    name = manifest.content["pairs"]["images"]
    np.savez_compressed(folder / name, **arrays)
    return {"image": name, "label": name}


def _nifti(array: np.ndarray, origin: float) -> nib.Nifti1Image:
    affine = np.eye(4)
    affine[:3, 3] = origin
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image


def _dataset_json(manifest: Manifest, cases: list[dict[str, str]], seed: int) -> dict[str, Any]:
    """The fields of the Decathlon's dataset.json; `reference` marks the phantom."""
    content = manifest.content
    return {
        "name": manifest.folder.split("_", 1)[-1],
        "description": f"{PHANTOM_MARK} in the layout of {content['title']}",
        "reference": f"{PHANTOM_MARK}, seed {seed}, {len(cases)} cases",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": f"{content['spatial_dims']}D",
        "modality": {"0": content["modality"]},
        "labels": {str(entry["label"]): entry["name"] for entry in content.get("classes", [])},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{kind: f"./{name}" for kind, name in case.items()} for case in cases],
        "test": [],
    }
