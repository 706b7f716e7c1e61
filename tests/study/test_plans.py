"""The studies that come with the package: what they vary, and that their set-ups are those of the papers and train."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.properties import TrainProperties
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_ext.bench.estimate import Estimate, _Contexts
from monai_ext.data.manifest import load_manifest
from monai_ext.data.phantom import draw_phantom
from monai_ext.handlers.training_log import read_log
from monai_ext.study.axes import combinations
from monai_ext.study.bundle_config import BundleConfig
from monai_ext.study.plan import plan
from monai_ext.study.spec import Spec, list_plans, load_spec

FAMILIES = ("vit", "swin")
MIXERS = ("softmax", "hyena_study", "hyena", "mambavision")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a study of a task is to have: `vit` and `swin` are tokens that a mixer sees, by patch and by window."""

    manifest: str
    channels: int
    size: tuple[int, ...]
    rate: float
    batch: int
    metric: str
    vit: dict[int, int]
    swin: dict[int, int]
    classes: int | None = None
    brightness: float = 0.9


PICTURE = {"vit": {32: 1024, 16: 4096, 8: 16384, 4: 65536}, "swin": {4: 16, 8: 64, 16: 256, 32: 1024}}
VOLUME = {"vit": {32: 128, 16: 1024, 8: 8192, 4: 65536}, "swin": {4: 64, 8: 512, 16: 4096}}
CINE = {"vit": {32: 16, 16: 128, 8: 1024, 4: 8192}, "swin": {4: 64, 8: 512, 16: 4096}}
SQUARE, CT = (1024, 1024), (256, 256, 64)  # the study writes 64 x 256 x 256, slices first
TASKS = {
    "abdominal_ct": Task("abdomenatlas_mini", 1, CT, 1e-4, 2, "val_mean_dice", **VOLUME, classes=10),
    "retinal_vessels": Task("chase_db1", 3, SQUARE, 1e-3, 4, "val_mean_dice", **PICTURE, classes=2),
    "microscopy": Task("hagen2021", 1, SQUARE, 1e-5, 4, "val_ssim", **PICTURE),
    "cardiac_cine": Task("acdc", 1, (128, 128, 32), 1e-5, 16, "val_ssim", **CINE, brightness=0.0),
    "pneumothorax": Task("siim_acr_pneumothorax", 1, SQUARE, 1e-5, 4, "val_roc_auc", **PICTURE, classes=2),
    "pulmonary_embolism": Task("rsna_pulmonary_embolism", 1, CT, 1e-5, 4, "val_roc_auc", **VOLUME, classes=2),
}
SCALING = ("softmax_free_scaling", "softmax_free_scaling_cpu")
EVERY = [(task, family) for task in TASKS for family in FAMILIES]
every_study = pytest.mark.parametrize(("task", "family"), EVERY, ids=lambda value: str(value))
# a network of the same kind that is soon built
TINY: dict[str, dict[str, Any]] = {
    "vit": {
        "network_def#hidden_size": 12,
        "network_def#mlp_dim": 12,
        "network_def#num_layers": 5,
        "network_def#num_heads": 2,
    },
    "swin": {
        "network_def#feature_size": 16,
        "network_def#depths": [1, 1, 1, 1],
        "network_def#num_heads": [1, 1, 1, 1],
    },
}
SMALLER = {"segmentation": {"network_def#head_channels": 4}, "denoising": {"network_def#feature_size": 4}}


def study_of(task: str, family: str) -> BundleConfig:
    return BundleConfig(load_spec(f"{task}_{family}"))


def tiny_of(spec: Spec, family: str) -> dict[str, Any]:
    task = spec.config_files[0].stem
    return {**TINY[family], **(SMALLER.get(task, {}) if family == "vit" or task == "segmentation" else {})}


# the files


def test_every_study_of_the_package_loads() -> None:
    names = list_plans()
    assert {f"{task}_{family}" for task, family in EVERY} | set(SCALING) <= set(names)
    for name in names:
        assert load_spec(name).title != name


@every_study
def test_what_is_varied(task: str, family: str) -> None:
    config, sizes = study_of(task, family), getattr(TASKS[task], family)
    spec = config.spec
    mixers, second = spec.axes
    assert mixers.labels == MIXERS and list(second.labels) == list(sizes)
    trials = [config.settings(spec.axes, values) for _, values in combinations(spec.axes, spec.skip)]
    assert len(trials) == 4 * len(sizes)
    assert len({config.key(settings) for settings in trials}) == len(trials)
    for settings in trials:
        softmax = settings["network_def#mixer"] == "softmax"
        assert family == "swin" or settings["network_def#pos_embed_type"] == ("learnable" if softmax else "none")
    assert dict(spec.budget) == {"epochs": 250}
    assert vars(spec.metric) == {"name": TASKS[task].metric, "maximize": True, "split": "test", "at": "best"}


@every_study
def test_the_settings_of_the_study(task: str, family: str) -> None:
    config, want = study_of(task, family), TASKS[task]
    parser = config.parser({"dataset_dir": "nowhere"})
    found = {name: parser.get_parsed_content(name) for name in ("manifest", "learning_rate", "precision", "seed")}
    assert found == {"manifest": want.manifest, "learning_rate": want.rate, "precision": "float32", "seed": 1}
    assert config.image_shape(parser) == (want.batch, want.channels, want.size)
    assert parser["affine_prob"] == 0.9 and parser["brightness_prob"] == want.brightness
    assert parser["max_epochs"] == 250 and parser["val_interval"] == 1
    if want.classes is not None:
        assert parser["classes"] == want.classes
    network = parser["network_def"]
    if family == "vit":
        sizes = {"hidden_size": 384, "mlp_dim": 1536, "num_layers": 12, "num_heads": 6}
    else:
        sizes = {"feature_size": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "patch_size": 2}
        sizes["downsample"] = "mergingv2"
    assert {name: network[name] for name in sizes} == sizes
    if want.metric == "val_mean_dice":
        assert network["pool_sizes"] == [1, 2, 4, 6] and network["shared_smoothing"]
        assert network["head_channels"] == {"vit": 384, "swin": 192}[family]
        assert network.get("pyramid") is (False if family == "vit" else None)
    if want.metric == "val_ssim" and family == "vit":
        assert network["feature_size"] == 32


def test_the_head_reads_the_blocks_of_the_study() -> None:
    config = study_of("retinal_vessels", "vit")
    small = {"network_def#hidden_size": 6, "network_def#mlp_dim": 6, "network_def#head_channels": 4}
    network = config.parser({**small, "image_size": [32, 32]}).get_parsed_content("network_def")
    assert network.taps == [3, 6, 9, 11]  # counted from 0, the last behind the norm
    assert len(network.head.smoothing) == 1 and network.pyramid is None


@pytest.mark.parametrize("task", ["pneumothorax", "cardiac_cine"])
def test_the_mixers_are_those_of_the_study(task: str) -> None:
    config = study_of(task, "vit")
    built = {}
    for labels, values in combinations(config.spec.axes, [{"patch_size": [16, 8, 4]}]):
        settings = {**config.settings(config.spec.axes, values), **tiny_of(config.spec, "vit")}
        settings["image_size"] = [32] * len(TASKS[task].size)
        network = config.parser(settings).get_parsed_content("network_def")
        built[labels["mixer"]] = getattr(network, "vit", network)
    study, repaired = (built[name].blocks[0].mixer for name in ("hyena_study", "hyena"))
    assert study.causal and study.max_length == 66000 and study.copies == 2 and study.short_kernel == 5
    assert study.filter.z.shape == (66000, 3) and not study.filter.normalized
    assert not repaired.causal and repaired.max_length is None
    assert (
        built["mambavision"].blocks[0].mixer.double_dt_bias and not built["mambavision"].blocks[0].mixer.bidirectional
    )
    if task == "pneumothorax":
        assert built["softmax"].cls_token is not None and built["hyena"].cls_token is None
        assert isinstance(built["hyena"].classification_head[1], torch.nn.Tanh)


# the plan


def encoder_alone(network: torch.nn.Module, batch: int, channels: int, size: Sequence[int]) -> Estimate:
    """Stands for the estimate: the tokens of the forward without the head; a whole step takes ten times as long."""
    encoder = getattr(network, "vit", getattr(network, "swin", network))
    contexts = _Contexts(encoder)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        encoder(torch.empty(batch, channels, *size))
    return Estimate(contexts.context, contexts.tokens // batch, 0, 0.0, 0.0, 0.0, 0)


def few(config: BundleConfig, family: str, kept: Mapping[str, Any]) -> BundleConfig:
    """The trials that fit `kept`, with a tiny network and one image at a time."""
    spec = config.spec
    rules = tuple({axis.name: [v for v in axis.labels if v not in kept[axis.name]]} for axis in spec.axes)
    settings = {**spec.settings, **tiny_of(spec, family), "batch_size": 1}
    return BundleConfig(dataclasses.replace(spec, settings=settings, skip=rules))


@every_study
def test_contexts(task: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that the mixers are given, in the images' full size."""
    monkeypatch.setattr("monai_ext.study.plan.estimate", encoder_alone)
    config, sizes = study_of(task, family), getattr(TASKS[task], family)
    second = config.spec.axes[1].name
    planned = plan(few(config, family, {"mixer": ["softmax"], second: list(sizes)}), math.inf)
    assert [(trial.axes[second], trial.reason, trial.note) for trial in planned] == [(size, "", "") for size in sizes]
    grid = math.prod(side // 2 for side in TASKS[task].size)
    for trial in planned:
        context = sizes[trial.axes[second]]
        assert trial.estimate is not None
        assert (trial.estimate.context, trial.estimate.tokens) == (context, context if family == "vit" else grid)


@pytest.mark.parametrize(
    ("task", "family", "size"),
    [
        ("pneumothorax", "vit", 32),
        pytest.param("abdominal_ct", "vit", 32, marks=pytest.mark.slow),
        pytest.param("cardiac_cine", "vit", 32, marks=pytest.mark.slow),
        pytest.param("retinal_vessels", "swin", 8, marks=pytest.mark.slow),
    ],
)
def test_no_mixer_is_dropped(task: str, family: str, size: int) -> None:
    """A whole training step with every mixer, by the estimate."""
    config = study_of(task, family)
    planned = plan(few(config, family, {"mixer": list(MIXERS), config.spec.axes[1].name: [size]}), math.inf)
    assert [trial.reason or trial.note for trial in planned] == [""] * 4
    assert {trial.estimate and trial.estimate.context for trial in planned} == {getattr(TASKS[task], family)[size]}
    assert all(trial.estimate and trial.estimate.memory > 0 for trial in planned)


@pytest.mark.parametrize("name", SCALING)
def test_scaling(name: str) -> None:
    config = BundleConfig(load_spec(name))
    spec = config.spec
    mixers, sizes = spec.axes
    assert mixers.values == ("softmax", "sima", "seqnorm") and len(combinations(spec.axes, spec.skip)) == 15
    assert [list(size) for size in sizes.values] == [[side, side] for side in (128, 256, 512, 1024, 2048)]
    assert not spec.train and not spec.budget
    small = {**spec.settings, "network_def#hidden_size": 12, "network_def#num_layers": 1, "network_def#num_heads": 2}
    only = dataclasses.replace(spec, settings=small, skip=({"mixer": ["sima", "seqnorm"]},))
    planned = plan(BundleConfig(only), math.inf)
    assert [trial.estimate and trial.estimate.context for trial in planned] == [64, 256, 1024, 4096, 16384]
    assert all(trial.steps == 0 and not trial.reason for trial in planned)


# the set-ups


@pytest.mark.parametrize("name", ["segmentation", "denoising", "classification"])
def test_optimizer_and_schedule(name: str) -> None:
    task = {"segmentation": "retinal_vessels", "denoising": "microscopy", "classification": "pneumothorax"}[name]
    content = study_of(task, "vit").content
    optimizer, schedule = content["optimizer"], content["lr_scheduler"]
    assert optimizer["_target_"] == "torch.optim.Adam"
    assert optimizer["betas"] == [0.9, 0.99] and optimizer["weight_decay"] == 0
    assert schedule["_target_"] == "torch.optim.lr_scheduler.OneCycleLR" and schedule["pct_start"] == 0.3
    assert schedule["max_lr"] == optimizer["lr"] == "@learning_rate"
    (handler,) = [h for h in content["train"]["handlers"] if h["_target_"] == "monai.handlers.LrScheduleHandler"]
    assert handler["epoch_level"] is False
    if name == "denoising":
        loss = content["loss"]
        assert loss["weights"] == [1, 1, 1] and loss["epsilon"] == 1e-3 and content["loss_sigmas"] == [0.25, 0.5, 1]


def affine_of(task: str) -> Any:
    parser = study_of(task, "vit").parser({})
    transforms = parser.get_parsed_content("train#random_transforms")
    return next(transform for transform in transforms if type(transform).__name__ == "RandAffined")


@pytest.mark.parametrize("task", TASKS)
def test_augmentation(task: str) -> None:
    affine = affine_of(task)
    grid, size = affine.rand_affine.rand_affine_grid, TASKS[task].size
    assert affine.prob == 0.9
    assert grid.rotate_range[-1] == pytest.approx(math.radians(10), rel=1e-5)
    assert not any(grid.rotate_range[:-1])
    assert grid.shear_range == pytest.approx((math.tan(math.radians(10)),), rel=1e-5)
    assert grid.translate_range == pytest.approx([0.1 * side for side in size[:2]])
    assert tuple(grid.scale_range) == (0.05, 0.05)


def test_slices_and_times_are_not_mixed() -> None:
    affine = affine_of("cardiac_cine")
    affine.set_random_state(1)
    times = torch.arange(8.0).expand(1, 32, 32, 8).clone()
    out = affine({"image": times, "label": times.clone()})["image"]
    assert not torch.equal(torch.as_tensor(out), times), "the corners are turned out of the image"
    assert torch.allclose(torch.as_tensor(out)[0, 16, 16], torch.arange(8.0), atol=1e-4)


# training


@dataclasses.dataclass(frozen=True)
class Run:
    """A short training on a phantom of `cases` cases and `width` pixels."""

    cases: int
    width: int | None
    size: tuple[int, ...]
    family: str
    mixer: str


RUNS = {
    "retinal_vessels": Run(6, 64, (48, 48), "vit", "hyena_study"),
    "microscopy": Run(8, 64, (48, 48), "vit", "softmax"),
    "pneumothorax": Run(20, 64, (48, 48), "vit", "mambavision"),
    "abdominal_ct": Run(3, None, (32, 32, 16), "swin", "hyena"),
    "cardiac_cine": Run(3, None, (32, 32, 16), "vit", "softmax"),
    "pulmonary_embolism": Run(20, None, (32, 32, 16), "swin", "softmax"),
}
SHORT = {
    "vit": {**TINY["vit"], "network_def#patch_size": 8},
    "swin": {
        **TINY["swin"],
        "network_def#depths": [1, 1],
        "network_def#num_heads": [2, 4],
        "network_def#window_size": 4,
    },
}


def workflow(task: str, folder: Path, root: Path, kind: str = "train", **options: Any) -> ConfigWorkflow:
    run = RUNS[task]
    config = study_of(task, run.family)
    spec = config.spec
    _, values = next(c for c in combinations(spec.axes, spec.skip) if c[0]["mixer"] == run.mixer)
    data = config.get("train#dataset#data")
    settings = {**spec.settings, **config.settings(spec.axes, values), **tiny_of(spec, run.family), **SHORT[run.family]}
    places = {"dataset_dir": str(root), "output_dir": str(folder), "model_path": str(folder / "model.pt")}
    small = {"image_size": list(run.size), "batch_size": 1, "num_workers": 0, "max_epochs": 1}
    small |= {"device": "$torch.device('cpu')", "train#dataset#data": f"$({data[1:]})[:2]"}
    files = spec.config_files if kind == "train" else spec.evaluate_files
    both = {**settings, **places, **small, **options}
    flow = ConfigWorkflow([str(f) for f in files], workflow_type=kind, logging_file=False, **both)
    if kind == "train":
        flow.properties = dict(TrainProperties)  # without those of metadata, which a set-up has not
    flow.initialize()
    assert kind != "train" or flow.check_properties() == []
    flow.run()
    flow.finalize()
    return flow


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantoms")


def phantom(task: str, root: Path) -> None:
    run, name = RUNS[task], TASKS[task].manifest
    if not (root / load_manifest(name).folder).exists():
        draw_phantom(name, root, run.cases, seed=1, size=run.width, progress=False)


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] if run.width is None else []) for task, run in RUNS.items()]
)
def test_training_on_a_phantom(task: str, phantoms: Path, tmp_path: Path) -> None:
    phantom(task, phantoms)
    flow = workflow(task, tmp_path, phantoms, cache_dir=str(tmp_path / "cache"))
    trainer, evaluator = (flow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator"))
    steps = len(flow.parser.get_parsed_content("train#dataset"))  # batches of one
    assert trainer.state.iteration == steps > 0
    # a step of the schedule for each of the training, from the rate over 25 up to it and down by 10 000 times more
    schedule = flow.parser.get_parsed_content("lr_scheduler")
    assert schedule.last_epoch == schedule.total_steps == steps
    (group,) = schedule.optimizer.param_groups
    rate = TASKS[task].rate
    assert [group[name] for name in ("initial_lr", "max_lr", "min_lr")] == pytest.approx([rate / 25, rate, rate / 25e4])
    metrics = evaluator.state.metrics
    assert set(metrics) >= {"val_loss", TASKS[task].metric} and math.isfinite(metrics["val_loss"])
    assert evaluator.state.best_metric == metrics["val_loss"]
    levels = flow.parser.get("levels", [None])
    seen = len(flow.parser.get_parsed_content("validate#dataset"))
    assert len(list((tmp_path / "cache").iterdir())) == steps + seen and seen % len(levels) == 0
    (row,) = read_log(tmp_path / "training_log.csv")
    assert float(row["val_loss"]) == pytest.approx(metrics["val_loss"], rel=1e-4)
    weights = (tmp_path / "model.pt").read_bytes()
    tested = workflow(task, tmp_path / "test", phantoms, "eval", split="test", model_path=str(tmp_path / "model.pt"))
    found = tested.parser.get_parsed_content("validate#evaluator").state.metrics
    assert set(found) == set(metrics) and math.isfinite(found["val_loss"])
    assert (tmp_path / "model.pt").read_bytes() == weights


def test_the_lowest_loss_is_kept_and_a_training_goes_on(phantoms: Path, tmp_path: Path) -> None:
    task = "microscopy"
    phantom(task, phantoms)
    workflow(task, tmp_path, phantoms)
    flow = workflow(task, tmp_path, phantoms, max_epochs=3, resume=True)
    trainer, evaluator = (flow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator"))
    assert trainer.state.iteration == 6
    losses = [float(row["val_loss"]) for row in read_log(tmp_path / "training_log.csv")]
    assert len(losses) == 3
    assert evaluator.state.best_metric == pytest.approx(min(losses), rel=1e-4)
    assert evaluator.state.best_metric_epoch == 1 + losses.index(min(losses))


def test_random_images(tmp_path: Path) -> None:
    config = BundleConfig(load_spec("softmax_free_scaling_cpu"))
    parser = config.parser({"image_size": [48, 32], "channels": 3})
    train, again, validation = (
        parser.get_parsed_content(name, instantiate=True)
        for name in ("train#dataset", "train#dataset", "validate#dataset")
    )
    assert train[0]["image"].shape == (3, 48, 32) and not isinstance(train[0]["image"], str)
    assert torch.equal(train[1]["image"], again[1]["image"]) and torch.equal(train[1]["image"], validation[1]["image"])
    pairs = itertools.combinations([item["image"] for item in (train[i] for i in range(len(train)))], 2)
    assert not any(torch.equal(first, second) for first, second in pairs)
    options = {**config.spec.settings, "image_size": [32, 32], "cases": 2, "output_dir": str(tmp_path)}
    flow = ConfigWorkflow([str(f) for f in config.spec.config_files], logging_file=False, **options)
    flow.properties = dict(TrainProperties)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    assert flow.parser.get_parsed_content("train#trainer").state.iteration == 2
    assert math.isfinite(flow.parser.get_parsed_content("validate#evaluator").state.metrics["val_loss"])


def test_several_gpus_need_an_overlay_only() -> None:
    spec = load_spec("pneumothorax_vit")
    overlay = spec.config_files[0].with_name("multi_gpu.json")
    content = BundleConfig(dataclasses.replace(spec, config_files=(*spec.config_files, overlay))).content
    assert content["network"]["_target_"] == "torch.nn.parallel.DistributedDataParallel"
    for part in ("train", "validate"):
        assert content[part]["sampler"]["_target_"] == "monai.data.DistributedSampler"
        assert content[part]["dataloader"]["sampler"] == f"@{part}#sampler"
    assert content["train"]["dataloader"]["shuffle"] is False and "LOCAL_RANK" in content["device"]
