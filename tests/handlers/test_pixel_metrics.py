"""Figures of a binary segmentation from its probabilities, inside a mask, of each case and of all pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.inferers import SimpleInferer
from torch import nn

from monai_ext.handlers.pixel_metrics import PIXEL_METRICS, PixelMetric, centre_line_dice

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


def plain(metric: str, probability: np.ndarray, reference: np.ndarray, threshold: float = 0.5) -> float:
    """By counting; the area under the curve as the part of pairs in the right order."""
    positive, negative = probability[reference], probability[~reference]
    if metric == "roc_auc":
        higher = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
        return float(higher)
    hits, passes = (positive >= threshold).sum(), (negative < threshold).sum()
    found = {
        "sensitivity": hits / len(positive),
        "specificity": passes / len(negative),
        "accuracy": (hits + passes) / len(probability),
        "dice": 2 * hits / (len(positive) + (probability >= threshold).sum()),
    }
    return float(found[metric])


def cases(count: int = 3) -> list[dict[str, torch.Tensor]]:
    """Guesses that lie near the reference, coarse so that some are equal; 'image' is what is answered."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(count):
        label = (torch.rand(1, 9, 7, generator=generator) > 0.7).float()
        noise = torch.rand(1, 9, 7, generator=generator)
        guess = ((0.3 * label + 0.7 * noise) * 20).round() / 20
        mask = torch.zeros(1, 9, 7)
        mask[:, 1:, 2:] = 1
        items.append({"image": guess, "label": label, "mask": mask})
    return items


def evaluate(items: list, **metrics: PixelMetric) -> SupervisedEvaluator:
    key = next(iter(metrics))
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=2),
        network=nn.Identity(),
        inferer=SimpleInferer(),
        key_val_metric={key: metrics.pop(key)},
        additional_metrics=metrics,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("mask_key", [None, "mask"])
@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_every_case_and_all_pixels(metric: str, mask_key: str | None) -> None:
    items = cases()
    for number, item in enumerate(items):  # masks of their own, so that a wrong one shows
        item["mask"][:, : 2 + number] = 0
    keys = {"output_transform": from_engine(["pred", "label"]), "threshold": 0.4, "mask_key": mask_key}
    engine = evaluate(items, mean=PixelMetric(metric, **keys), pooled=PixelMetric(metric, pooled=True, **keys))
    pixels = []
    for item in items:
        inside = item["mask"].numpy() > 0 if mask_key else np.ones((1, 9, 7), bool)
        pixels.append((item["image"].numpy()[inside], item["label"].numpy()[inside] > 0))
    each = [plain(metric, *pair, 0.4) for pair in pixels]
    for name in ("mean", "pooled"):
        assert engine.state.metric_details[name].shape == (3, 1)
        np.testing.assert_allclose(engine.state.metric_details[name][:, 0].numpy(), each, rtol=1e-5)
    assert engine.state.metrics["mean"] == pytest.approx(np.mean(each), rel=1e-5)
    together = plain(metric, *[np.concatenate(part) for part in zip(*pixels)], 0.4)
    assert engine.state.metrics["pooled"] == pytest.approx(together, rel=1e-5)
    if mask_key:
        assert together != pytest.approx(np.mean(each), rel=1e-5)
        engine.run()
        assert engine.state.metrics["pooled"] == pytest.approx(together, rel=1e-5), "a new run begins anew"


def test_a_reference_without_foreground() -> None:
    items = cases(2)
    items[0]["label"][:] = 0
    keys = {"output_transform": from_engine(["pred", "label"])}
    engine = evaluate(items, auc=PixelMetric("roc_auc", **keys), sensitivity=PixelMetric("sensitivity", **keys))
    for name, metric in (("auc", "roc_auc"), ("sensitivity", "sensitivity")):
        details = engine.state.metric_details[name][:, 0]
        assert details[0].isnan() and engine.state.metrics[name] == pytest.approx(details[1].item())
        expected = plain(metric, items[1]["image"].numpy().ravel(), items[1]["label"].numpy().ravel() > 0)
        assert details[1].item() == pytest.approx(expected, rel=1e-5)


def test_two_channels_are_background_and_foreground() -> None:
    item = cases(1)[0]
    both = {key: torch.cat([1 - item[key], item[key]])[None] for key in ("image", "label")}
    one = PixelMetric().metric_fn(item["image"][None], item["label"][None])
    assert torch.equal(PixelMetric().metric_fn(both["image"], both["label"]), one)


def test_centre_lines() -> None:
    """A line that is found thrice as thick has the same centre; one that ends early loses as much of its centre."""
    line = np.zeros((15, 41), bool)
    line[7, 5:36] = True
    thick = np.zeros_like(line)
    thick[6:9, 5:36] = True
    assert centre_line_dice(thick, line) > 0.98, "all but an end"
    half = line.copy()
    half[:, 21:] = False  # 16 of 31
    assert centre_line_dice(half, line) == pytest.approx(2 * (16 / 31) / (1 + 16 / 31))
    assert centre_line_dice(line[:5], line[:5] | True) == 0 and np.isnan(centre_line_dice(line[:5], line[:5]))
    tube = np.zeros((9, 9, 25), bool)
    tube[3:6, 3:6, 3:22] = True
    assert centre_line_dice(tube, tube) == 1
    assert centre_line_dice(np.roll(tube, 4, axis=0), tube) == 0


def test_centre_lines_inside_a_mask() -> None:
    label = torch.zeros(1, 15, 41)
    label[:, 7, 5:36] = 1
    wrong = label.clone()
    wrong[:, 2, :] = 1
    mask = torch.ones(1, 15, 41)
    mask[:, :4] = 0
    items = [{"image": wrong, "label": label, "mask": mask}]
    keys = {"metric": "centre_line_dice", "output_transform": from_engine(["pred", "label"])}
    engine = evaluate(items, inside=PixelMetric(mask_key="mask", **keys), everywhere=PixelMetric(**keys))
    assert engine.state.metrics["inside"] == pytest.approx(1) and engine.state.metrics["everywhere"] < 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelMetric("auc"), "unknown metric 'auc'; known ones: roc_auc, .*, centre_line_dice"),
        (lambda: PixelMetric("centre_line_dice", pooled=True), "centre_line_dice has no pooled value"),
        (
            lambda: PixelMetric().metric_fn(torch.full((1, 1, 3, 3), 4.0), torch.ones(1, 1, 3, 3)),
            "must lie between 0 and 1, got 4 to 4; apply softmax or sigmoid",
        ),
        (
            lambda: PixelMetric().metric_fn(torch.zeros(1, 3, 3, 3), torch.ones(1, 1, 3, 3)),
            "the prediction has 3 channels; a binary segmentation has 1",
        ),
        (
            lambda: PixelMetric().metric_fn(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 2)),
            r"different shapes: \(3, 3\), \(3, 2\)",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_or_empty_mask() -> None:
    keys = {"output_transform": from_engine(["pred", "label"]), "mask_key": "mask"}
    items = cases(1)
    items[0]["mask"][:] = 0
    with pytest.raises(ValueError, match="the mask is empty"):
        evaluate(items, auc=PixelMetric(**keys))
    del items[0]["mask"]
    with pytest.raises(ValueError, match="a case has no 'mask', named by mask_key"):
        evaluate(items, auc=PixelMetric(**keys))
