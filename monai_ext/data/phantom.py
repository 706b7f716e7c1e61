"""Phantoms: made-up data sets in exactly the official layout, so that everything runs the same way on either."""

from __future__ import annotations

import functools
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
from monai_ext.data.phantom_abdomen import ATLAS, FLARE, draw_abdomen, save_atlas, save_flare
from monai_ext.data.phantom_adrenal import draw_gland
from monai_ext.data.phantom_bccd import WIDTH as SMEAR_WIDTH
from monai_ext.data.phantom_bccd import draw_smear, save_smear
from monai_ext.data.phantom_breast import draw_breasts, save_breasts
from monai_ext.data.phantom_chase import WIDTH, draw_fundus, save_fundus
from monai_ext.data.phantom_chest import draw_findings, draw_pneumothorax, save_findings, save_pneumothorax
from monai_ext.data.phantom_cine import draw_cine, save_cine
from monai_ext.data.phantom_embolism import draw_angiogram, save_angiogram
from monai_ext.data.phantom_hagen import draw_exposures, save_exposures
from monai_ext.data.phantom_hippocampus import draw_hippocampus
from monai_ext.data.phantom_small_pictures import draw_graded_fundus, draw_lesion, draw_tile
from monai_ext.data.rows import Row
from monai_ext.data.staging import locked, staged
from monai_ext.optional import load


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

    Where the manifest splits by a rule, `case` and `numbers` say how the data set numbers its cases (or groups), in
    one way or in several; where it lists them, the lists do. Where pictures may have any size, `size` is the usual
    width, and `draw` takes the case's name and the width, too. Where classes stand in tables or arrays, `draw` takes
    the label in place of the name, and the classes take turns; rows of arrays are not saved by case. `cases` is the
    usual number.
    """

    draw: Callable[..., tuple[np.ndarray, ...]]
    case: str | tuple[str, ...] = ""
    numbers: range = range(0)
    save: Callable[[Path, str, Any, Generator], dict[str, str]] = save_decathlon
    size: int | None = None
    cases: int = 12


PHANTOMS: dict[str, Phantom] = {
    "abdomenatlas_mini": Phantom(
        functools.partial(draw_abdomen, structures=ATLAS), "BDMAP_{:08d}", range(1, 5196), save_atlas
    ),
    "acdc": Phantom(draw_cine, "patient{:03d}", range(1, 151), save_cine),
    "adrenalmnist3d": Phantom(draw_gland, cases=120),
    "bccd": Phantom(draw_smear, save=save_smear, size=SMEAR_WIDTH, cases=24),
    "chase_db1": Phantom(draw_fundus, save=save_fundus, size=WIDTH),
    "dermamnist": Phantom(draw_lesion, size=224, cases=70),
    "duke_breast_mri": Phantom(draw_breasts, "Breast_MRI_{:03d}", range(1, 923), save_breasts, cases=20),
    "flare22": Phantom(
        functools.partial(draw_abdomen, structures=FLARE), "FLARE22_Tr_{:04d}", range(1, 51), save_flare
    ),
    "hagen2021": Phantom(draw_exposures, save=save_exposures, size=256),
    "patchcamelyon": Phantom(draw_tile, size=96, cases=120),
    "retinamnist": Phantom(draw_graded_fundus, size=224, cases=50),
    "rsna_pulmonary_embolism": Phantom(
        draw_angiogram, "1.2.826.0.1.3680043.{}", range(1, 7280), save_angiogram, cases=20
    ),
    "siim_acr_pneumothorax": Phantom(
        draw_pneumothorax,
        *("1.2.276.0.7230010.3.1.4.8323329.{}.1517875162.0", range(1, 10676), save_pneumothorax),
        **{"size": 1024, "cases": 20},
    ),
    "task04_hippocampus": Phantom(draw_hippocampus, "hippocampus_{:03d}", range(1, 1000)),
    "vindr_cxr": Phantom(
        draw_findings, ("train/{:032x}", "test/f{:031x}"), range(1, 15001), save_findings, size=1024, cases=25
    ),
}
_USUAL_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}  # where the manifest gives none
SMALLEST = 32  # pixels: below, nothing of the structures is left


def choose_cases(manifest: Manifest, phantom: Phantom, cases: int) -> list[tuple[int, str]]:
    """The first numbers that fill the manifest's splits in their shares, with a case in every split, however few."""
    if cases < len(SPLITS):
        raise ValueError(f"--cases {cases} is too few: {len(SPLITS)} at least, one for each of {', '.join(SPLITS)}.")
    listed = manifest.listed
    if manifest.arrays:
        fractions = _USUAL_SHARES
        names = [
            (number, _row(manifest, split, row).case)
            for number, (row, split) in enumerate(itertools.product(range(cases), SPLITS), start=1)
        ]
    elif listed:
        names = list(enumerate(sorted(listed), start=1))
        fractions = {split: list(listed.values()).count(split) / len(listed) for split in SPLITS}
    else:
        patterns = [phantom.case] if isinstance(phantom.case, str) else phantom.case
        cases_in_order = (pattern.format(number) for number in phantom.numbers for pattern in patterns)
        names = list(enumerate(cases_in_order, start=1))
        fractions = manifest.content["split"].get("fractions", _USUAL_SHARES)
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


def _row(manifest: Manifest, split: str, row: int) -> Row:
    names = manifest.arrays[split]
    return Row(Path(names.get("images_file", "")), names["images"], row)


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
                written = [_draw_arrays(manifest, phantom, folder, progress_bar, seed, size)]
            else:
                labels = _labels(manifest, chosen) if manifest.tables else {}
                written = [
                    _draw_case(phantom, folder, case, labels.get(case), default_rng([seed, number]), size)
                    for number, case in progress_bar
                ]
            content = _dataset_json(manifest, written, seed)
            (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def _labels(manifest: Manifest, cases: Iterable[tuple[int, str]]) -> dict[str, int | list[int]]:
    """The classes by turns, in each split for itself."""
    drawn = dict.fromkeys(SPLITS, 0)
    labels: dict[str, int | list[int]] = {}
    for _, case in cases:
        split = manifest.split_of(case)
        labels[case] = _in_turn(manifest, drawn[split])
        drawn[split] += 1
    return labels


def _in_turn(manifest: Manifest, turn: int) -> int | list[int]:
    """One class after the other; of several at once a quarter at a time, and the last one, that nothing is there."""
    if not manifest.multi_label:
        return manifest.labels[turn % len(manifest.labels)]
    *others, _ = manifest.labels
    return [int(label % 4 == turn % 5) for label in others] + [int(turn % 5 == 4)]


def _draw_case(
    phantom: Phantom, folder: Path, case: str, label: int | list[int] | None, rng: Generator, size: int | None
) -> dict[str, str]:
    what = [case if label is None else label] if phantom.size is not None or label is not None else []
    drawn = phantom.draw(rng, *what, *([] if phantom.size is None else [size or phantom.size]))
    return phantom.save(folder, case, drawn, rng)


def _draw_arrays(
    manifest: Manifest, phantom: Phantom, folder: Path, cases: Iterable[tuple[int, str]], seed: int, size: int | None
) -> dict[str, str]:
    """All cases as rows of arrays, of every split's rows the classes by turns."""
    images: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    values: dict[str, list[int | str]] = {split: [] for split in SPLITS}
    width = [] if phantom.size is None else [size or phantom.size]
    for number, case in cases:
        split = manifest.split_of(case)
        place = len(images[split]) % len(manifest.labels)
        images[split].append(phantom.draw(default_rng([seed, number]), manifest.labels[place], *width))
        values[split].append(manifest.values[place])
    archive = manifest.content["pairs"]["images"]
    files: dict[str, dict[str, np.ndarray]] = {}
    for split, names in manifest.arrays.items():
        labels = np.asarray(values[split], np.uint8)
        labels = labels.reshape(-1, 1, 1, 1) if "labels_file" in names else labels[:, None]
        files.setdefault(names.get("images_file", archive), {})[names["images"]] = np.stack(images[split])
        files.setdefault(names.get("labels_file", archive), {})[names["labels"]] = labels
    for name, arrays in files.items():
        _save_arrays(folder / name, arrays)
    first = manifest.arrays["train"]
    return {"image": first.get("images_file", archive), "label": first.get("labels_file", archive)}


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix != ".h5":
        np.savez_compressed(path, **arrays)
        return
    with load("h5py").File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


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
