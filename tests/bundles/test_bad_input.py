"""What a user can do wrong with the bundle's commands: one sentence each, exit code 1, and nothing lost."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.data import datalist
from tests.bundles.running import (
    TINY,
    TINY_NETWORK,
    Outcome,
    arguments,
    copy_of,
    fresh_python,
    monai_bundle,
    quoted,
)

NAME = "task04_hippocampus"


@pytest.fixture
def train(phantom: Path, hippocampus: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Train for an epoch by the command."""

    def run(*words: str, data: Path = phantom, output: Path = tmp_path / "run", **overrides: Any) -> Outcome:
        paths = {"dataset_dir": str(data), "output_dir": str(output), "model_path": str(output / "model.pt")}
        options = {**TINY, "max_epochs": 1, **paths, **overrides}
        config = str(hippocampus / "configs" / "train.json")
        return monai_bundle("run", "training", "--config_file", config, *arguments(**options), *words)

    return run


@pytest.fixture
def evaluate(trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Evaluate the tiny network by the command."""

    def run(**overrides: Any) -> Outcome:
        options = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "model_path": str(trained / "model.pt")}
        files = ",".join(f"'{hippocampus}/configs/{name}.json'" for name in ("train", "evaluate"))
        return monai_bundle("run", "--config_file", f"[{files}]", *arguments(**{**TINY, **options, **overrides}))

    return run


@pytest.fixture
def infer(trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Segment by the command, with the tiny network."""

    def run(**overrides: Any) -> Outcome:
        options = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "model_path": str(trained / "model.pt")}
        config = str(hippocampus / "configs" / "inference.json")
        return monai_bundle("run", "--config_file", config, *arguments(**{**TINY_NETWORK, **options, **overrides}))

    return run


# files


def nifti(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def truncate(image: Path, label: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])


def no_nifti(image: Path, label: Path) -> None:
    with gzip.open(image, "wb") as file:
        file.write(b"patient,age\n" * 99)


def no_gzip(image: Path, label: Path) -> None:
    image.write_bytes(b"<html>Not found</html>")


def no_label(image: Path, label: Path) -> None:
    label.unlink()


def cut_label(image: Path, label: Path) -> None:
    nifti(np.asarray(nib.load(label).dataobj)[:-1], label, nib.load(label).affine)


def move_label(image: Path, label: Path) -> None:
    affine = nib.load(label).affine.copy()
    affine[0, 3] += 3
    nifti(np.asarray(nib.load(label).dataobj), label, affine)


def further_class(image: Path, label: Path) -> None:
    array = np.array(nib.load(label).dataobj)
    array[3, 4, 5] = 7
    nifti(array, label, nib.load(label).affine)


def soft_label(image: Path, label: Path) -> None:
    nifti(np.asarray(nib.load(label).dataobj) * np.float32(0.5), label, nib.load(label).affine)


def not_a_number(image: Path, label: Path) -> None:
    array = nib.load(image).get_fdata(dtype=np.float32)
    array[2, :3, 4] = np.nan
    nifti(array, image, nib.load(image).affine)


def constant(image: Path, label: Path) -> None:
    nifti(np.full(nib.load(image).shape, 7, np.int16), image, nib.load(image).affine)


def time_series(image: Path, label: Path) -> None:
    nifti(np.stack([nib.load(image).get_fdata(dtype=np.float32)] * 4, -1), image, nib.load(image).affine)


def one_slice(image: Path, label: Path) -> None:
    nifti(nib.load(image).get_fdata(dtype=np.float32)[:, :, 9], image, nib.load(image).affine)


UNREADABLE = r"{image} \(the item's 'image'\) cannot be read as an image: .+; fetch it again or take it out .*\."
DAMAGES = [
    (truncate, UNREADABLE),
    (no_nifti, UNREADABLE),
    (no_gzip, UNREADABLE),
    (no_label, r"No label for {name} in .*: expected under the same name in labelsTr/.*; see `.* data check .*`\."),
    (cut_label, r"the image {image} and the label {label} have different grids: .* voxels; resample the label .*\."),
    (move_label, r"the image {image} and the label {label} lie at different places: .* 3\.00 voxels apart .*\."),
    (further_class, r"the label {label} has the label value 7, the classes are 0 to 2; map the labels .*\."),
    (soft_label, r"the label {label} has the label value 0\.5, labels must be whole numbers; .*\."),
    (not_a_number, r"the image {image} has 3 voxels that are NaN or infinite; repair or mask them before, .*\."),
    (constant, r"the image {image} is constant \(every voxel is 7\); .* take it out of the data list\."),
    (time_series, r"the image {image} has 4 channels, this bundle takes 1; keep the wanted ones .*\."),
    (one_slice, r"the image {image} has 2 spatial dimensions \(shape .*\), this bundle takes 3; convert the file .*\."),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_bad_case(
    damage: Callable[[Path, Path], None],
    sentence: str,
    phantom: Path,
    tmp_path: Path,
    train: Callable[..., Outcome],
) -> None:
    data = copy_of(phantom, tmp_path / "data")
    case = datalist(NAME, data, "train")[-1]
    image, label = Path(case["image"]), Path(case["label"])
    damage(image, label)
    found = train(data=data).sentence
    assert re.fullmatch(sentence.format(image=quoted(image), label=quoted(label), name=re.escape(image.name)), found)


@pytest.mark.parametrize("damage", [truncate, not_a_number, time_series])
def test_a_bad_scan(
    damage: Callable[[Path, Path], None], phantom: Path, tmp_path: Path, infer: Callable[..., Outcome]
) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(Path(datalist(NAME, phantom, "test")[0]["image"]).read_bytes())
    damage(scan, scan)
    assert str(scan) in infer(dataset_dir=str(scan)).sentence
    assert {path.name for path in tmp_path.iterdir()} <= {"scan.nii.gz", "overlays"}


def test_volumes_smaller_than_the_patch_train(phantom: Path, tmp_path: Path, train: Callable[..., Outcome]) -> None:
    data = copy_of(phantom, tmp_path / "data")
    for path in [*data.glob("imagesTr/*.nii.gz"), *data.glob("labelsTr/*.nii.gz")]:
        loaded = nib.load(path)
        nifti(np.asarray(loaded.dataobj)[8:22, 15:35, 9:20], path, loaded.affine)
    result = train(data=data)
    assert result.code == 0, result.text
    assert (tmp_path / "run" / "model.pt").is_file()


# folders and files that are not there


def test_no_data(tmp_path: Path, train: Callable[..., Outcome], evaluate: Callable[..., Outcome]) -> None:
    folder = tmp_path / "nowhere"
    for found in (train(data=folder).sentence, evaluate(dataset_dir=str(folder)).sentence):
        assert f"is not in {folder}" in found
        assert f"`python -m monai_ext data fetch {NAME} --root {folder}`" in found
        assert f"`python -m monai_ext data phantom {NAME} --root {folder}`" in found


def test_no_scan(tmp_path: Path, infer: Callable[..., Outcome]) -> None:
    missing = tmp_path / "scan.nii.gz"
    assert infer(dataset_dir=str(missing)).sentence == (
        f"no file or folder {missing}; give dataset_dir the path of a scan or a folder of scans."
    )
    (tmp_path / "notes.txt").touch()
    assert infer(dataset_dir=str(tmp_path)).sentence.startswith(f"no image in {tmp_path}; give dataset_dir a NIfTI")


def test_an_unknown_split(evaluate: Callable[..., Outcome]) -> None:
    assert evaluate(split="tset").sentence == "Unknown split 'tset': known are train, validation, test and all."


# the network


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"network_def#mixer": "softmix"}, r"unknown mixer 'softmix'; known mixers: softmax, .* 'softmax'\?"),
        (
            {"network_def#mixer": {"name": "linear", "kernel": 3}},
            r"the mixer 'linear' has no option 'kernel'; its options: .*\.",
        ),
        (
            {"network_def#num_heads": [3, 6]},
            r"the width 8 is not divisible by num_heads 3: choose a multiple as width, or another number of heads\.",
        ),
        ({"network_def#mixer": ["softmax"]}, r"the list of mixers has 1 entries for 2 stages: .*\."),
        ({"precision": "float8"}, r"dtype must be one of .*, got 'float8'\."),
    ],
    ids=["mixer", "option", "heads", "stages", "precision"],
)
def test_a_bad_network(overrides: dict[str, Any], sentence: str, train: Callable[..., Outcome]) -> None:
    assert re.fullmatch(sentence, train(**overrides).sentence)


@pytest.mark.parametrize(
    ("misspelt", "sentence"),
    [
        ("max_epoch", r"unknown option --max_epoch: .*; did you mean --max_epochs\?"),
        ("network_def#featur_size", r"MixerSwinUNETR has no option 'featur_size'; did you mean 'feature_size'\?"),
    ],
)
def test_a_misspelt_option(misspelt: str, sentence: str, train: Callable[..., Outcome]) -> None:
    assert re.fullmatch(sentence, train(**{misspelt: 1}).sentence)


@pytest.mark.parametrize("name", ["network_def#normalize", "validate#dataset#progress"])
def test_false_as_text(name: str, train: Callable[..., Outcome]) -> None:
    found = train(f"--{name}", "false").sentence
    assert found == f"--{name} false is text, which counts as true: write --{name} False."


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("max_epochs", 0, "--max_epochs 0: whole numbers from 1 on are possible."),
        ("max_epochs", "abc", "--max_epochs abc: a number, such as 84, is expected."),
        ("batch_size", 1.5, "--batch_size 1.5: whole numbers from 1 on are possible."),
        ("seed", -5, "--seed -5: whole numbers from 0 on are possible."),
        ("learning_rate", -1, "--learning_rate -1: numbers from 0 on are possible."),
        ("patch_size", "[40,56]", "--patch_size [40, 56]: a size for each of 3 axes is expected"),
        ("patch_size", "[0,0,0]", "--patch_size [0, 0, 0]: whole numbers from 1 on are possible."),
        ("train#dataset#progress", "maybe", "--train#dataset#progress maybe: write True or False."),
        ("network_def#feature_size", -4, "feature_size must be at least 1, got -4."),
        ("device", "cuda:99", "--device cuda:99: this machine has "),
    ],
)
def test_an_impossible_value(name: str, value: Any, sentence: str, train: Callable[..., Outcome]) -> None:
    assert train(f"--{name}", f"{value}").sentence.startswith(sentence)


# weights and training states


def test_weights_of_another_network(
    infer: Callable[..., Outcome], evaluate: Callable[..., Outcome], trained: Path
) -> None:
    for command in (infer, evaluate):
        found = command(**{"network_def#feature_size": 16}).sentence
        assert found.startswith(f"{trained / 'model.pt'} holds the weights of another network: shapes differ in ")
        assert found.endswith("Give the network's options it was trained with, or other weights.")
    assert "it lacks " in infer(**{"network_def#mixer": "hyena_nd"}).sentence


def test_damaged_weights(infer: Callable[..., Outcome], trained: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes((trained / "model.pt").read_bytes()[:-3000])
    found = infer(model_path=str(model)).sentence
    assert re.fullmatch(rf"{quoted(model)} cannot be read as weights: .*; fetch or train it again\.", found)
    model.unlink()
    found = infer(model_path=str(model)).sentence
    assert found == f"no file {model} to read the weights from; train first, or give the right path."


def resume_from(trained: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("training_state.pt", "training_log.csv", "model.pt"):
        (folder / name).write_bytes((trained / name).read_bytes())
    return folder


def test_nothing_to_resume(tmp_path: Path, train: Callable[..., Outcome]) -> None:
    found = train("--resume", "true", output=tmp_path).sentence
    assert found == f"nothing to resume from: there is no {tmp_path}/training_state.pt; start without resuming."


def test_resuming_is_what_was_asked_for(tmp_path: Path, train: Callable[..., Outcome]) -> None:
    """The command line hands over text, and any text is true."""
    result = train("--resume", "false", output=tmp_path)
    assert result.code == 0, result.text
    assert train("--resume", "yes", output=tmp_path).sentence == "resume must be true or false, got 'yes'."


@pytest.mark.parametrize("reason", ["another network", "damaged", "weights"])
def test_what_cannot_be_resumed_is_kept(
    reason: str, trained: Path, tmp_path: Path, train: Callable[..., Outcome]
) -> None:
    folder = resume_from(trained, tmp_path / "run")
    state = folder / "training_state.pt"
    overrides = {"network_def#feature_size": 16} if reason == "another network" else {}
    if reason == "damaged":
        state.write_bytes(state.read_bytes()[:-5000])
    if reason == "weights":
        torch.save(torch.load(folder / "model.pt", weights_only=True), state)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = train("--resume", "true", output=folder, max_epochs=3, **overrides).sentence
    assert found.startswith(str(state))
    expected = {
        "another network": "holds the weights of another network",
        "damaged": "cannot be read as state of a training run",
        "weights": "holds no training state",
    }
    assert expected[reason] in found
    assert {name: (folder / name).read_bytes() for name in before} == before


# the real command


@pytest.mark.slow
def test_in_a_new_python(hippocampus: Path, tmp_path: Path) -> None:
    """What the tests above see in a fork is what a user sees."""
    config = str(hippocampus / "configs" / "train.json")
    result = fresh_python("-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", str(tmp_path))
    assert f"is not in {tmp_path}" in result.sentence
