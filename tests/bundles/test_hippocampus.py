"""The bundle end to end: training, resuming, evaluation and inference, tiny on a phantom, and its weights on scans."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from monai_ext.data import datalist
from monai_ext.handlers.overlay import dice_of_classes
from monai_ext.handlers.training_log import read_log
from monai_ext.mixers import MIXERS
from tests.bundles.running import (
    TINY,
    TINY_NETWORK,
    arguments,
    complete,
    fresh_python,
    monai_bundle,
    workflow,
)
from tests.data.test_readers import oblique, write_series
from tests.states import differing
from tests.voxels import keeps_voxels

NAME = "task04_hippocampus"
COLUMNS = [f"{metric}_{name}" for metric in ("dice", "hd95") for name in ("anterior", "posterior", "mean")]
WRITTEN = {"model.pt", "training_state.pt", "training_log.csv", "training_curve.png"}


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def paths_of(phantom: Path, folder: Path) -> dict[str, str]:
    return {"dataset_dir": str(phantom), "output_dir": str(folder), "model_path": str(folder / "model.pt")}


def written(folder: Path) -> set[str]:
    """Names of the files, without TensorBoard's."""
    names = [path.name for path in folder.iterdir()]
    assert sum(name.startswith("events.out.tfevents") for name in names) == 2, "one of training, one of validation"
    return {name for name in names if not name.startswith("events.")}


# training


def test_training(trained: Path, hippocampus: Path) -> None:
    assert written(trained) == WRITTEN
    rows = read_log(trained / "training_log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["val_mean_dice"]) <= 1 and float(row["train_loss"]) > 0 for row in rows)
    assert (trained / "training_curve.png").read_bytes()[:4] == b"\x89PNG"
    state = weights(trained / "training_state.pt")
    assert state["epoch"] == 2 and state["iteration"] == 4
    assert state["best_metric"] == pytest.approx(max(float(row["val_mean_dice"]) for row in rows), abs=1e-5)
    parser = ConfigParser(ConfigParser.load_config_files(str(hippocampus / "configs" / "inference.json")))
    parser.update(TINY_NETWORK)
    parser.get_parsed_content("network_def").load_state_dict(weights(trained / "model.pt"), strict=True)


@pytest.mark.parametrize("affine_prob", [0.0, 1.0])
def test_a_crop_that_is_not_deformed_keeps_its_voxels(hippocampus: Path, affine_prob: float) -> None:
    """At odd sizes too, where resampling to the size of the crop would put every voxel between two."""
    parser = ConfigParser()
    parser.read_config([str(hippocampus / "configs" / name) for name in ("train.json", "sharp_crops.json")])
    parser["affine_prob"] = affine_prob
    crop = Compose(parser.get_parsed_content("train#random_transforms")[:3]).set_random_state(0)
    image = 1 + torch.arange(35.0 * 51 * 37).view(1, 35, 51, 37)
    found: Any = crop({"image": image, "label": image % 3})
    kept = keeps_voxels(image, found, [40, 56, 40])
    assert kept == (affine_prob == 0)
    if kept:
        assert (found["image"] > 0).sum() >= 33 * 49 * 35, "shifted by two voxels at most"


def test_the_same_seed_makes_the_same_weights(trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    states = [weights(trained / "training_state.pt")]
    for seed in (20260, 1):
        folder = tmp_path / str(seed)
        complete(workflow(hippocampus, ["train.json"], "train", **TINY, **paths_of(phantom, folder), seed=seed))
        states.append(weights(folder / "training_state.pt"))
    assert differing(states[0], states[1]) == []
    assert differing(weights(trained / "model.pt"), weights(tmp_path / "20260" / "model.pt")) == []
    assert differing(states[0]["network"], states[2]["network"])


def test_training_begins_with_given_weights(trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    begin = {"initial_weights": str(trained / "model.pt")}
    flow = workflow(hippocampus, ["train.json"], "train", **TINY, **paths_of(phantom, tmp_path), **begin)
    flow.initialize()
    assert differing(dict(flow.network_def.state_dict()), dict(weights(trained / "model.pt"))) == []
    averaged = flow.parser.get_parsed_content("ema").ema_model
    assert differing(dict(averaged.state_dict()), dict(weights(trained / "model.pt"))) == []


@pytest.mark.parametrize("mixer", [name for name, cls in MIXERS.items() if 3 in cls.dims])
def test_the_mixer_is_one_option(mixer: str, phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    short = {"max_epochs": 1, "val_interval": 2, "warmup_epochs": 0, "train#trainer#epoch_length": 1}
    overrides = {**TINY, **short, "network_def#mixer": mixer}
    flow = workflow(hippocampus, ["train.json"], "train", **overrides, **paths_of(phantom, tmp_path))
    flow.initialize()
    network = flow.network_def
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    flow.run()
    found = {type(module) for module in network.modules() if isinstance(module, tuple(MIXERS.values()))}
    assert found == {MIXERS[mixer]}
    assert np.isfinite(float(read_log(tmp_path / "training_log.csv")[0]["train_loss"]))
    assert any(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert all(torch.isfinite(value).all() for value in network.parameters())


def test_the_demo(phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    small = {name: value for name, value in TINY.items() if name not in ("val_interval", "warmup_epochs")}
    paths = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "max_epochs": 1, "val_interval": 1}
    flow = workflow(hippocampus, ["train.json", "demo.json"], "train", **{**small, **paths})
    complete(flow)
    assert written(tmp_path) == WRITTEN


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_end(
    trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path
) -> None:
    """Killed in epoch 2, once its first half is done; `trained` is the same training without the kill."""
    handler = {"_target_": "tests.bundles.kill.KillOnce", "iteration": 3, "mark": str(tmp_path / "killed")}
    (tmp_path / "kill.json").write_text(json.dumps({"+train#handlers": [handler]}))
    files = f"['{hippocampus}/configs/train.json','{tmp_path}/kill.json']"
    folder = tmp_path / "run"
    command = ["-m", "monai.bundle", "run", "training", "--config_file", files]
    command += arguments(**TINY, **paths_of(phantom, folder))
    killed = fresh_python(*command)
    assert killed.code == -signal.SIGKILL, killed.text
    assert weights(folder / "training_state.pt")["epoch"] == 1
    resumed = fresh_python(*command, "--resume", "true")
    assert resumed.code == 0, resumed.text
    assert "resuming from" in resumed.text
    assert {path.name for path in folder.iterdir() if not path.name.startswith("events.")} == WRITTEN
    assert differing(weights(trained / "training_state.pt"), weights(folder / "training_state.pt")) == []
    assert differing(weights(trained / "model.pt"), weights(folder / "model.pt")) == []
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(run / "training_log.csv")]
        for run in (trained, folder)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_two_processes(phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    files = f"['{hippocampus}/configs/train.json','{hippocampus}/configs/multi_gpu_train.json']"
    everything = f"$datalist('{NAME}', @dataset_dir, 'all')"  # 4 cases, 2 for each process
    small = {name: value for name, value in TINY.items() if name != "device"}
    result = fresh_python(
        *["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"],
        *["run", "training", "--config_file", files, *arguments(**small, **paths_of(phantom, tmp_path))],
        *["--train#dataset#data", everything, "--validate#dataset#data", everything],
    )
    assert result.code == 0, result.text
    assert written(tmp_path) == WRITTEN
    assert [row["epoch"] for row in read_log(tmp_path / "training_log.csv")] == ["1", "2"]
    state = weights(tmp_path / "training_state.pt")
    assert state["epoch_length"] == 2 and not any(name.startswith("module.") for name in state["network"])


# evaluation


@pytest.fixture(scope="module")
def evaluated(trained: Path, phantom: Path, hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    paths = {**paths_of(phantom, folder), "model_path": str(trained / "model.pt")}
    flow = workflow(hippocampus, ["train.json", "evaluate.json"], "eval", **TINY, **paths)
    complete(flow)
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row.pop("case"): row for row in csv.DictReader(file)}


def test_evaluation(evaluated: Path, phantom: Path) -> None:
    case = datalist(NAME, phantom, "test")[0]["case"]
    rows = table(evaluated / "metrics.csv")
    assert list(rows) == [case, "mean", "std", "ci95_low", "ci95_high"]
    assert list(rows[case]) == COLUMNS
    for name in COLUMNS[:3]:
        assert 0 <= float(rows[case][name]) <= 1 and rows[case][name] == rows["mean"][name]
        assert float(rows["std"][name]) == 0
    assert [path.name for path in (evaluated / "overlays").iterdir()] == [f"{case}.png"]
    assert (evaluated / "overlays" / f"{case}.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in evaluated.iterdir()} == {"metrics.csv", "overlays"}, "evaluation trains nothing"


# inference


def segment(bundle: Path, source: Path, output: Path, model: Path, **overrides: Any) -> dict[str, nib.Nifti1Image]:
    """Run inference; the label maps by name."""
    paths = {"dataset_dir": str(source), "output_dir": str(output), "model_path": str(model)}
    complete(workflow(bundle, ["inference.json"], "infer", **{**overrides, **paths}))
    return {path.name: nib.load(path) for path in output.glob("*.nii.gz")}


def check(found: nib.Nifti1Image, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A label map on the very grid of its image; its labels."""
    assert found.shape == shape
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(affine)
    assert found.get_data_dtype() == np.uint8
    labels = np.asarray(found.dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2}
    return labels


@pytest.fixture(scope="module")
def volume(phantom: Path) -> np.ndarray:
    """Whole numbers, as DICOM needs them; larger than the tiny network's patch along two axes."""
    image = nib.load(datalist(NAME, phantom, "test")[0]["image"]).get_fdata()[4:31, 5:35, 2:24]
    return np.round(1000 * image / image.max()).astype(np.int16)


def turned(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with its axes in another order and direction, and the affine that says so."""
    affine = np.zeros((4, 4))
    affine[[1, 2, 0, 3], [0, 1, 2, 3]] = 1, -1, -1, 1  # axes: anterior, inferior, left
    array = volume.transpose(1, 2, 0)[:, ::-1, ::-1]
    affine[2, 3], affine[0, 3] = array.shape[1] - 1, array.shape[2] - 1
    return np.ascontiguousarray(array), affine


def test_inference_on_nifti(trained: Path, hippocampus: Path, volume: np.ndarray, tmp_path: Path) -> None:
    oblique_affine = np.eye(4)
    oblique_affine[:3, :3] = oblique() @ np.array([[0, 0, -2.4], [-0.8, 0, 0], [0, 1.1, 0]])
    oblique_affine[:3, 3] = 12.5, -40.0, 7.25
    turned_volume, turned_affine = turned(volume)
    given = {
        "plain.nii.gz": (volume, np.eye(4)),
        "turned.nii": (turned_volume, turned_affine),
        "oblique.nii.gz": (volume[:, :, ::2], oblique_affine),
        "smaller.nii": (volume[:10, :12, :9], np.diag([1.0, 1.0, 1.5, 1.0])),  # than the patch
    }
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, (array, affine) in given.items():
        nib.save(nib.Nifti1Image(array, affine), scans / name)
    found = segment(hippocampus, scans, tmp_path / "out", trained / "model.pt", **TINY_NETWORK)
    assert set(found) == {f"{name.split('.')[0]}_seg.nii.gz" for name in given}
    labels = {
        name: check(found[f"{name.split('.')[0]}_seg.nii.gz"], array.shape, affine)
        for name, (array, affine) in given.items()
    }
    assert len(np.unique(labels["plain.nii.gz"])) > 1, "or the next line would prove nothing"
    back = labels["turned.nii"][:, ::-1, ::-1].transpose(2, 0, 1)
    assert (back == labels["plain.nii.gz"]).mean() > 0.999
    pictures = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert pictures == {f"{name.split('.')[0]}.png" for name in given}


def test_inference_on_dicom(trained: Path, hippocampus: Path, volume: np.ndarray, tmp_path: Path) -> None:
    """An oblique series, and a straight one, which gives what a NIfTI file of the same volume gives."""
    volume = volume[:, :, ::3]
    series = {"1.2.840.7": (oblique(), (1.1, 0.9, 3.0)), "1.2.840.8": (np.eye(3), (1.0, 1.25, 3.0))}
    affines = {}
    for name, (direction, spacing) in series.items():  # folders are often named by numbers
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
        image.SetSpacing(spacing)
        image.SetOrigin((-12.5, 30.25, 7.75))
        image.SetDirection(direction.ravel().tolist())
        write_series(image, tmp_path / "scans" / name)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = direction @ np.diag(spacing), image.GetOrigin()
        affines[name] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's axes point left and posterior
    model = trained / "model.pt"
    found = segment(hippocampus, tmp_path / "scans", tmp_path / "a", model, **TINY_NETWORK)
    assert set(found) == {f"{name}_seg.nii.gz" for name in series}
    labels = {name: check(found[f"{name}_seg.nii.gz"], volume.shape, affines[name]) for name in series}
    nib.save(nib.Nifti1Image(volume, affines["1.2.840.8"]), tmp_path / "b.nii")
    (nifti,) = segment(hippocampus, tmp_path / "b.nii", tmp_path / "b", model, **TINY_NETWORK).values()
    assert len(np.unique(labels["1.2.840.8"])) > 1
    assert (np.asarray(nifti.dataobj) == labels["1.2.840.8"]).mean() > 0.999


def test_the_command(trained: Path, phantom: Path, hippocampus: Path, tmp_path: Path) -> None:
    """In the folder of the bundle, as one who got it alone would call it."""
    scan = datalist(NAME, phantom, "test")[0]["image"]
    paths = {"dataset_dir": scan, "output_dir": str(tmp_path), "model_path": str(trained / "model.pt")}
    words = ["run", "--config_file", "configs/inference.json", *arguments(**TINY_NETWORK, **paths)]
    result = monai_bundle(*words, cwd=hippocampus)
    assert result.code == 0, result.text
    assert (tmp_path / Path(scan).name.replace(".nii.gz", "_seg.nii.gz")).is_file()


# the shipped weights on real scans


@pytest.mark.slow
def test_shipped_weights_on_real_scans(real_data: Path, hippocampus: Path, tmp_path: Path) -> None:
    folder = real_data / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no Task04_Hippocampus in {real_data}")
    both = f"$datalist('{NAME}', @dataset_dir, 'validation') + datalist('{NAME}', @dataset_dir, 'test')"
    flow = workflow(
        hippocampus,
        ["train.json", "evaluate.json"],
        "eval",
        dataset_dir=str(folder),
        output_dir=str(tmp_path),
        **{"num_workers": 0, "dataset#data": both, "handlers#2#_disabled_": True},  # no pictures
    )
    flow.initialize()
    flow.run()
    rows = table(tmp_path / "metrics.csv")
    cases = [entry["case"] for split in ("validation", "test") for entry in datalist(NAME, folder, split)]
    assert list(rows) == [*sorted(cases), "mean", "std", "ci95_low", "ci95_high"]
    assert float(rows["mean"]["dice_mean"]) == pytest.approx(0.886, abs=0.002)  # what the bundle's README says
    assert min(float(rows[case]["dice_mean"]) for case in cases) >= 0.7
    assert float(rows["mean"]["hd95_mean"]) <= 2.0
    assert not (tmp_path / "overlays").exists()


def test_shipped_weights_segment_a_scan_they_have_not_seen(real_data: Path, hippocampus: Path, tmp_path: Path) -> None:
    folder = real_data / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no Task04_Hippocampus in {real_data}")
    entry = datalist(NAME, folder, "test")[0]
    model = hippocampus / "models" / "model.pt"
    (found,) = segment(hippocampus, Path(entry["image"]), tmp_path, model).values()
    image, label = nib.load(entry["image"]), nib.load(entry["label"])
    labels = check(found, image.shape, image.affine)
    assert min(dice_of_classes(np.asarray(label.dataobj), labels, 2)) > 0.75
