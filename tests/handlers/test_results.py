"""What an evaluation leaves behind: table of cases, pictures; and what a training shows of itself."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.image import imread
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted, Compose, Orientation, Spacing
from torch import nn

from monai_ext.data.case_name import case_name
from monai_ext.handlers import overlay
from monai_ext.handlers.best_model import BestModelSaver
from monai_ext.handlers.case_metrics import CaseMetricsSaver, HausdorffDistanceMM, confidence_interval
from monai_ext.handlers.overlay import OverlaySaver, dice_of_classes, draw_overlay
from monai_ext.handlers.progress import LossProgressBar
from monai_ext.handlers.training_log import TrainingLogHandler, draw_curve, read_log

CLASSES = ("anterior", "posterior")


def cube(at: int, size: int = 4, value: int = 1, shape: tuple[int, ...] = (12, 11, 10)) -> torch.Tensor:
    volume = torch.zeros(1, *shape)
    volume[:, at : at + size, 2 : 2 + size, 3 : 3 + size] = value
    return volume


def case(name: str, label: torch.Tensor, guess: torch.Tensor, spacing: tuple[float, ...]) -> dict[str, MetaTensor]:
    """The 'image' is what the network is to answer, so that its answer is known."""
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": name}
    return {"image": MetaTensor(guess, affine, meta), "label": MetaTensor(label, affine, dict(meta))}


class Echo(nn.Module):
    """Logits of the label map that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x == index).float() for index in range(3)], dim=1)


def evaluate(items: list, handlers: list, **metrics) -> SupervisedEvaluator:
    keys = from_engine(["pred", "label"])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=1),
        network=Echo(),
        inferer=SimpleInferer(),
        postprocessing=Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)]),
        key_val_metric={"val_mean_dice": MeanDice(include_background=False, output_transform=keys)},
        additional_metrics={
            "val_hd95": HausdorffDistanceMM(include_background=False, percentile=95, output_transform=keys)
        },
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


def read_table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row.pop("case"): row for row in csv.DictReader(file)}


SUMMARY = ("mean", "std", "ci95_low", "ci95_high")
TITLES = {"val_mean_dice": "dice", "val_hd95": "hd95"}


def test_distances_in_a_slice_that_has_an_affine_of_three_dimensions() -> None:
    reference, guess = (torch.zeros(2, 12, 10) for _ in range(2))
    reference[1, 2:6, 3:7] = 1
    guess[1, 3:7, 3:7] = 1
    affine = torch.diag(torch.tensor([2.5, 1.0, 7.0, 1.0], dtype=torch.float64))
    metric = HausdorffDistanceMM(include_background=False)
    metric.metric_fn.reset()
    metric.update(([guess], [MetaTensor(reference[..., None], affine)[..., 0]]))
    assert metric.metric_fn.aggregate() == 2.5


def test_table_of_cases(tmp_path: Path) -> None:
    first, second = cube(1), cube(6, value=2)
    items = [
        case("/x/b.nii.gz", first + second, first + second, (1, 1, 1)),
        case("/x/a.nii.gz", first + second, cube(2) + second, (2.5, 1, 1)),  # class 1 is off by a voxel of 2.5 mm
    ]
    evaluate(items, [CaseMetricsSaver(tmp_path / "new" / "metrics.csv", CLASSES, TITLES)])
    text = (tmp_path / "new" / "metrics.csv").read_text()
    header = "case,dice_anterior,dice_posterior,dice_mean,hd95_anterior,hd95_posterior,hd95_mean"
    assert text.splitlines()[0] == header
    rows = read_table(tmp_path / "new" / "metrics.csv")
    assert list(rows) == ["a", "b", *SUMMARY]
    assert list(rows["a"].values()) == ["0.7500", "1.0000", "0.8750", "2.5000", "0.0000", "1.2500"]
    assert list(rows["b"].values()) == ["1.0000", "1.0000", "1.0000", "0.0000", "0.0000", "0.0000"]
    assert rows["mean"]["dice_mean"] == "0.9375" and rows["std"]["dice_mean"] == "0.0625"
    assert rows["mean"]["hd95_anterior"] == "1.2500"
    # of two cases a quarter of all draws holds one of them twice
    assert rows["ci95_low"]["dice_mean"] == "0.8750" and rows["ci95_high"]["dice_mean"] == "1.0000"
    assert rows["ci95_low"]["dice_posterior"] == rows["ci95_high"]["dice_posterior"] == "1.0000"


def test_absent_classes_are_left_out_of_means(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = cube(1) + cube(6, value=2)
    items = [
        case("/x/a.nii", both, both, (1, 1, 1)),
        case("/x/b.nii", cube(1), cube(1), (1, 1, 1)),  # no class 2 in the reference
        case("/x/c.nii", both, cube(1), (1, 1, 1)),  # class 2 not found
    ]
    evaluate(items, [CaseMetricsSaver(tmp_path / "m.csv", CLASSES, TITLES)])
    rows = read_table(tmp_path / "m.csv")
    assert rows["b"]["dice_posterior"] == "" and rows["b"]["dice_mean"] == "1.0000"
    assert rows["c"]["dice_posterior"] == "0.0000" and rows["c"]["dice_mean"] == "0.5000"
    assert rows["c"]["hd95_posterior"] in ("inf", "") and rows["mean"]["hd95_posterior"] == "0.0000"
    assert rows["mean"]["dice_posterior"] == "0.5000"
    assert "dice_posterior: 1 of 3 cases have no value" in caplog.text
    assert "nan" not in (tmp_path / "m.csv").read_text()


def test_cases_of_one_file_name_are_told_apart(tmp_path: Path) -> None:
    items = [case(f"/x/{name}/image.nii.gz", cube(1), cube(1), (1, 1, 1)) for name in ("p1", "p2")]
    evaluate(items, [CaseMetricsSaver(tmp_path / "m.csv", CLASSES, TITLES)])
    assert list(read_table(tmp_path / "m.csv")) == ["p1/image", "p2/image", *SUMMARY]


def test_confidence_interval() -> None:
    """That of the normal distribution for many cases, and close to the exact one for three."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = confidence_interval(values)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.02)
    assert high == pytest.approx(values.mean() + error, abs=0.02)
    assert confidence_interval(values) == (low, high), "seeded"
    # of the 27 draws from 0, 0 and 9 eight have the mean 0 (30 %), one has 9 (3.7 %, above 2.5)
    assert confidence_interval(np.asarray([0.0, 0.0, 9.0])) == (0.0, 9.0)
    assert np.isnan(confidence_interval(np.asarray([1.0]))).all()


def finished(details: dict[str, list[float]], files: list[str], **overall: float) -> Engine:
    """An engine at the end of an evaluation."""
    engine = Engine(lambda *_: None)
    engine.state.metric_details = {key: torch.tensor(value)[:, None] for key, value in details.items()}
    engine.state.metrics = overall
    engine.state.batch = [{"image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": file})} for file in files]
    return engine


def test_table_without_classes(tmp_path: Path) -> None:
    engine = finished({"val_psnr": [31.0, math.inf], "val_auc": [0.5, 0.75]}, ["/x/b.tif", "/x/a.jpg"], val_auc=0.7)
    saver = CaseMetricsSaver(tmp_path / "m.csv", metrics={"val_psnr": "psnr", "val_auc": "auc"}, pooled=["val_auc"])
    saver._add(engine)
    saver(engine)
    rows = read_table(tmp_path / "m.csv")
    assert list(rows) == ["a", "b", *SUMMARY, "pooled"]
    assert rows["b"] == {"psnr": "31.0000", "auc": "0.5000"} and rows["a"]["psnr"] == "inf"
    assert rows["mean"] == {"psnr": "31.0000", "auc": "0.6250"}
    assert rows["ci95_low"] == {"psnr": "", "auc": "0.5000"}, "one finite value has no interval"
    assert rows["pooled"] == {"psnr": "", "auc": "0.7000"}


def test_wrong_options_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics is empty"):
        CaseMetricsSaver(tmp_path / "m.csv")
    with pytest.raises(ValueError, match=r"pooled must name metrics of one column, got \['b'\]: \['b'\] is not in"):
        CaseMetricsSaver(tmp_path / "m.csv", metrics={"a": "a"}, pooled=["b"])
    with pytest.raises(ValueError, match="there are classes"):
        CaseMetricsSaver(tmp_path / "m.csv", CLASSES, {"a": "a"}, pooled=["a"])
    with pytest.raises(ValueError, match="there are groups"):
        CaseMetricsSaver(tmp_path / "m.csv", metrics={"a": "a"}, pooled=["a"], group_key="level")
    items = [case("/x/a.nii", cube(1), cube(1), (1, 1, 1))]
    with pytest.raises(ValueError, match="values for 1 cases and 2 classes, there are 1 cases and no class_names"):
        evaluate(items, [CaseMetricsSaver(tmp_path / "m.csv", metrics=TITLES)])


def test_a_wrong_list_of_classes_or_metrics(tmp_path: Path) -> None:
    items = [case("/x/a.nii", cube(1), cube(1), (1, 1, 1))]
    with pytest.raises(ValueError, match="has values for 1 cases and 2 classes, there are 1 cases and the classes one"):
        evaluate(items, [CaseMetricsSaver(tmp_path / "m.csv", ["one"], TITLES)])
    with pytest.raises(ValueError, match="has no metric 'dice' with details; it has: val_mean_dice, val_hd95"):
        evaluate(items, [CaseMetricsSaver(tmp_path / "m.csv", CLASSES, {"dice": "dice"})])


def test_distance_is_monais_at_one_millimetre_and_scales(tmp_path: Path) -> None:
    from monai.metrics import HausdorffDistanceMetric

    label, guess = cube(1), cube(3, size=5)
    reference = HausdorffDistanceMetric(percentile=95)(guess[None], label[None]).item()
    for scale in (1.0, 3.0):
        engine = evaluate([case("a", label, guess, (scale,) * 3)], [])
        found = engine.state.metric_details["val_hd95"][0, 0].item()
        assert found == pytest.approx(scale * reference) and found > 0


def test_names() -> None:
    assert case_name(MetaTensor(torch.zeros(1), meta={"filename_or_obj": "/a/case.1.nii.gz"})) == "case.1"
    assert case_name(MetaTensor(torch.zeros(1), meta={"filename_or_obj": "/a/series/"})) == "series"
    assert case_name(torch.zeros(1), "case_0") == "case_0"


def test_pictures_of_an_evaluation(tmp_path: Path) -> None:
    both = cube(1) + cube(6, value=2)
    items = [case(f"/x/{name}.nii.gz", both, both, (1, 1, 2)) for name in ("a", "b")]
    evaluate(items, [OverlaySaver(tmp_path, CLASSES, max_cases=1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
    picture = imread(tmp_path / "a.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 600


def test_the_image_follows_a_prediction_on_the_grid_of_the_file(tmp_path: Path, monkeypatch) -> None:
    """Preprocessing turned and resampled the image; the picture is drawn on the file's voxels all the same."""
    smooth = torch.from_numpy(np.add.outer(np.add.outer(np.arange(9.0), np.arange(8.0) ** 1.5), np.arange(7.0)))
    meta = {"filename_or_obj": "/x/a.nii.gz"}
    filed = MetaTensor(
        smooth[None].float(), torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0], dtype=torch.float64)), meta
    )
    turned = Orientation(axcodes="RAS", labels=None)(filed)
    assert turned.shape == filed.shape and not torch.equal(turned, filed)
    drawn = {}
    monkeypatch.setattr(
        overlay, "draw_overlay", lambda image, label, pred, path, **rest: drawn.update(image=image, **rest)
    )
    for image in (turned, Spacing(pixdim=(1.0, 1.0, 1.0))(turned)):
        engine = Engine(lambda *_: None)
        engine.state.batch = [{"image": image}]
        engine.state.output = [{"pred": filed * 0}]
        OverlaySaver(tmp_path)(engine)
        np.testing.assert_allclose(drawn["image"][..., 1:-1], filed[0, ..., 1:-1].numpy(), atol=1e-3)
        np.testing.assert_array_equal(drawn["affine"], filed.affine)
        assert drawn["title"] == "a"


def shows(picture: np.ndarray, colour: tuple[float, ...]) -> bool:
    return bool((np.abs(picture[..., :3] - np.asarray(colour)).max(-1) < 0.02).any())


ORANGE, BLUE = (230 / 255, 159 / 255, 0.0), (86 / 255, 180 / 255, 233 / 255)


@pytest.mark.parametrize(
    ("shape", "given"),
    [((20, 15), ("label", "pred")), ((20, 15), ()), ((12, 11, 10), ("label", "pred")), ((12, 11, 10), ("pred",))],
)
def test_pictures(tmp_path: Path, shape: tuple[int, ...], given: tuple[str, ...]) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    labels = np.zeros(shape, int)
    labels[2:8, 3:8], labels[8:11, 3:8] = 1, 2
    maps = {key: labels if key in given else None for key in ("label", "pred")}
    draw_overlay(image, **maps, path=tmp_path / "a.png", class_names=CLASSES, title="case")
    picture = imread(tmp_path / "a.png")
    assert shows(picture, ORANGE) == bool(given) and shows(picture, BLUE) == bool(given)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_empty_and_constant_pictures(tmp_path: Path) -> None:
    empty = np.zeros((6, 5, 4), int)
    draw_overlay(np.ones((6, 5, 4)), empty, empty, tmp_path / "a.png", CLASSES)
    with pytest.raises(ValueError, match=r"image and reference have different shapes, \(6, 5, 4\) and \(6, 5\)"):
        draw_overlay(np.ones((6, 5, 4)), empty[..., 0], None, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_a_volume_is_put_upright(tmp_path: Path) -> None:
    """The same volume in another order of axes makes the same picture."""
    image = np.random.default_rng(0).normal(size=(8, 7, 6))
    labels = (image > 1).astype(int)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = affine.copy()[:, [2, 0, 1, 3]]
    turned[:, 0] *= -1
    draw_overlay(image, labels, None, tmp_path / "a.png", affine=affine)
    order = (2, 0, 1)
    draw_overlay(image.transpose(order)[::-1], labels.transpose(order)[::-1], None, tmp_path / "b.png", affine=turned)
    assert np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_colour_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels of a 2D image are its colours; of any other image the first channel is drawn."""
    shape = (20, 15)
    image = torch.zeros(3, *shape)
    image[0, :10], image[2, 10:] = 9.0, 9.0  # red and blue
    engine = Engine(lambda *_: None)
    engine.state.batch = [{"image": MetaTensor(image, meta={"filename_or_obj": "/x/eye.jpg"})}]
    engine.state.output = [{"pred": torch.ones(1, *shape).tril()}]
    OverlaySaver(tmp_path, ["vessel"])(engine)
    picture = imread(tmp_path / "eye.png")
    assert shows(picture, (1, 0, 0)) and shows(picture, (0, 0, 1))
    with pytest.raises(ValueError, match=r"in colour must be \[W, H, 3\], got the shape \(20, 15, 2\)"):
        draw_overlay(np.zeros((*shape, 2)), None, None, tmp_path / "b.png", colour=True)
    drawn = {}
    monkeypatch.setattr(overlay, "draw_overlay", lambda image, label, pred, path, **rest: drawn.update(image=image))
    volume = torch.rand(3, 6, 5, 4)
    engine.state.batch, engine.state.output = [{"image": volume}], [{"pred": torch.zeros(1, 6, 5, 4)}]
    OverlaySaver(tmp_path)(engine)
    np.testing.assert_array_equal(drawn["image"], volume[0])


def test_another_entry_as_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    monkeypatch.setattr(overlay, "draw_overlay", lambda image, *_, **__: drawn.update(image=image))
    photograph = torch.rand(3, 6, 5)
    engine = Engine(lambda *_: None)
    engine.state.batch = [{"image": torch.zeros(3, 6, 5), "photograph": photograph}]
    engine.state.output = [{"pred": torch.zeros(1, 6, 5)}]
    OverlaySaver(tmp_path, image_key="photograph")(engine)
    np.testing.assert_array_equal(drawn["image"], photograph.movedim(0, -1))


def test_errors_in_colours_of_their_own(tmp_path: Path) -> None:
    label, pred = np.zeros((20, 15), int), np.zeros((20, 15), int)
    label[2:9, 3:8] = 1
    found, missed, false = (0, 158 / 255, 115 / 255), BLUE, (204 / 255, 121 / 255, 167 / 255)
    for name, shift in (("same", 0), ("apart", 5)):
        pred[:] = np.roll(label, shift, axis=0)
        # classes of another colour, so that the reference's panel shows none of the three
        draw_overlay(np.zeros((20, 15)), 4 * label, 4 * pred, tmp_path / f"{name}.png", errors=True)
    for name, apart in (("same", False), ("apart", True)):
        picture = imread(tmp_path / f"{name}.png")[150:-150]  # without title and legend
        painted = [shows(picture, tuple(0.9 * value for value in colour)) for colour in (found, missed, false)]
        assert painted == [True, apart, apart]


def test_dice_of_classes() -> None:
    label, pred = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    one, two, three = dice_of_classes(label, pred, 3)
    assert one == pytest.approx(2 / 3) and two == pytest.approx(2 / 3) and math.isnan(three)


def counting_engine(losses: list[float]) -> Engine:
    def step(engine: Engine, _batch: object) -> list[dict[str, float]]:
        return [{"loss": losses[(engine.state.iteration - 1) % len(losses)]}]

    return Engine(step)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    engine = counting_engine([1.0, 2.0])
    LossProgressBar().attach(engine)
    engine.run([0, 1], max_epochs=2)
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    assert lines[-1].startswith("epoch 2/2: 100%") and "loss=1.5000" in lines[-1]
    assert len(lines) <= 4, "seldom where the output is no terminal"


def test_training_log(tmp_path: Path) -> None:
    engine = counting_engine([1.0, 2.0])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    TrainingLogHandler(tmp_path, optimizer, curve_every=0).attach(engine)
    engine.run([0, 1], max_epochs=3)
    rows = read_log(tmp_path / "training_log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {row["train_loss"] for row in rows} == {"1.5"} and {row["learning_rate"] for row in rows} == {"0.25"}
    assert not (tmp_path / "training_curve.png").exists()
    engine = counting_engine([3.0])
    TrainingLogHandler(tmp_path, optimizer, curve_every=0).attach(engine)
    engine.run([0], max_epochs=1)
    assert [row["train_loss"] for row in read_log(tmp_path / "training_log.csv")] == ["3"], "a new run begins anew"


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "training_log.csv"
    path.write_text("epoch,train_loss,val_mean_dice,learning_rate,seconds\n1,0.5,,0.1,2\n2,0.4,0.8,0.1,2\n3,0.")
    assert [row["epoch"] for row in read_log(path)] == ["1", "2"]
    draw_curve(path, tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").ndim == 3


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    engine = counting_engine([1.0])
    engine.state.key_metric_name, engine.state.best_metric_epoch = "dice", -1
    network = nn.Linear(2, 2)
    saver = BestModelSaver(tmp_path / "model.pt", network)
    engine.state.epoch = engine.state.best_metric_epoch = 1
    engine.state.best_metric = math.nan
    saver(engine)
    assert not (tmp_path / "model.pt").exists() and engine.state.best_metric_epoch == -1
    engine.state.best_metric, engine.state.best_metric_epoch = 0.5, 1
    saver(engine)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert type(state["weight"]) is torch.Tensor and not state["weight"].requires_grad
