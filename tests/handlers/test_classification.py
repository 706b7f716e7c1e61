"""Tables and pictures of a classification, as an evaluator writes them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_ext.handlers import classification_pictures
from monai_ext.handlers.class_metrics import metrics_of
from monai_ext.handlers.classification import ClassificationSaver
from monai_ext.handlers.classification_pictures import ClassificationPictures
from monai_ext.handlers.classified_cases import ClassifiedCases

pytest.importorskip("sklearn")

NAMES = ["red cell", "white, cell", "platelet"]


class Mean(nn.Module):
    """The logits are what the corner of the image holds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[..., 0] * 4


def item(file: str | None, values: list[float], size: tuple[int, ...] = (5, 7), **entries: Any) -> dict[str, Any]:
    image = torch.rand(len(values), *size, generator=torch.Generator().manual_seed(len(entries)))
    image.flatten(1)[:, 0] = torch.tensor(values)
    meta = {} if file is None else {"filename_or_obj": file}
    return {"image": MetaTensor(image, meta=meta), **entries}


def evaluate(items: list[dict[str, Any]], *handlers: ClassifiedCases, batch_size: int = 2, **options: Any) -> None:
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=batch_size),
        network=Mean(),
        val_handlers=handlers,
        **options,
    ).run()


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_hot(*classes: int, number: int = 3) -> list[list[float]]:
    return np.eye(number)[list(classes)].tolist()


CELLS = [
    item("/x/b.png", [1, 0, 0], label=0, case="b_001", group="b", box=[1, 2, 30, 40]),
    item("/x/b.png", [0, 1, 0], label=2, case="b_002", group="b", box=[0, 0, 5, 5]),
    item("/x/a.png", [0, 0.5, 0], label=1, case="a_001", group="a", box=[-3, 7, 8, 9]),
]


# tables


def test_tables_of_boxes(tmp_path: Path) -> None:
    evaluate(CELLS, ClassificationSaver(tmp_path, NAMES, resamples=20))
    assert written(tmp_path) == ["confusion_matrix.csv", "metrics.csv", "predictions.csv"]
    header, *rows = table(tmp_path / "predictions.csv")
    assert header[:8] == ["case", "xmin", "ymin", "xmax", "ymax", "label", "prediction", "correct"]
    assert header[8:] == [f"probability_{name}" for name in NAMES]
    assert [row[:8] for row in rows] == [
        ["a_001", "-3", "7", "8", "9", "white, cell", "white, cell", "true"],
        ["b_001", "1", "2", "30", "40", "red cell", "red cell", "true"],
        ["b_002", "0", "0", "5", "5", "platelet", "white, cell", "false"],
    ]
    probability = torch.tensor([[0, 2.0, 0], [4, 0, 0], [0, 4, 0]]).softmax(1).numpy()
    np.testing.assert_allclose(np.array([row[8:] for row in rows], float), probability, atol=6e-6)
    header, *rows = table(tmp_path / "metrics.csv")
    assert header == ["metric", "value", "ci95_low", "ci95_high"]
    expected = metrics_of(probability, np.array([1, 0, 2]), NAMES)
    assert [row[0] for row in rows] == list(expected)
    for (name, value, low, high), wanted in zip(rows, expected.values()):
        assert (value == "" and np.isnan(wanted)) or float(value) == pytest.approx(wanted, abs=6e-5), name
        assert (low == "") == (high == "")
    assert table(tmp_path / "confusion_matrix.csv") == [
        ["label", *NAMES],
        ["red cell", "1", "0", "0"],
        ["white, cell", "0", "1", "0"],
        ["platelet", "0", "1", "0"],
    ]


def test_boxes_of_a_picture_are_drawn_together(tmp_path: Path) -> None:
    """Without their group the cells of one picture would have an interval."""
    evaluate(CELLS[:2], ClassificationSaver(tmp_path, NAMES, resamples=20))
    assert table(tmp_path / "metrics.csv")[1] == ["accuracy", "0.5000", "", ""]


def test_without_references(tmp_path: Path) -> None:
    items = [item(f"/x/{name}.nii.gz", values) for name, values in zip("cab", one_hot(0, 1, 1))]
    evaluate(items, ClassificationSaver(tmp_path, NAMES))
    assert written(tmp_path) == ["predictions.csv"]
    header, *rows = table(tmp_path / "predictions.csv")
    assert header == ["case", "prediction", *[f"probability_{name}" for name in NAMES]]
    assert [row[:2] for row in rows] == [["a", "white, cell"], ["b", "white, cell"], ["c", "red cell"]]


def test_some_references(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [item("a.png", [1, 0, 0], label=0), item("b.png", [1, 0, 0]), item("c.png", [1, 0, 0], label=2)]
    with caplog.at_level(logging.WARNING):
        evaluate(items, ClassificationSaver(tmp_path, NAMES, resamples=9), batch_size=1)
    assert "Some cases have no reference" in caplog.text
    rows = [row[:4] for row in table(tmp_path / "predictions.csv")]
    assert rows[1:] == [
        ["a", "red cell", "red cell", "true"],
        ["b", "", "red cell", ""],
        ["c", "platelet", "red cell", "false"],
    ]
    assert table(tmp_path / "metrics.csv")[1][:2] == ["accuracy", "0.5000"]


SAME = [1, 0, 0]


@pytest.mark.parametrize(
    ("items", "names"),
    [
        ([item("/x/a.png", SAME), item("/x/b.png", SAME)], ["a", "b"]),
        ([item("/x/1/scan.nii", SAME), item("/x/2/scan.nii", SAME), item("/x/b.nii", SAME)], ["1/scan", "2/scan", "b"]),
        ([item("/x/a.npz::i[3]", SAME), item("/x/a.npz::i[12]", SAME)], ["i_0003", "i_0012"]),
        # boxes of pictures of one name
        (
            [item(f"/x/{folder}/p.png", SAME, case="p_001", box=[0, 0, 1, 1]) for folder in "lr"]
            + [item("/x/l/p.png", SAME, case="p_002", box=[0, 0, 2, 2])],
            ["l/p_001", "p_002", "r/p_001"],
        ),
        (
            [item(f"/x/p.{kind}", SAME, case="p_001", box=[0, 0, 1, 1]) for kind in ("jpg", "png")],
            ["/x/p.jpg/p_001", "/x/p.png/p_001"],
        ),
        # boxes of a data list of one's own, without names
        ([item("/x/p.png", SAME, box=[0, 0, 9, right]) for right in (8, 7)], ["p_0_0_9_7", "p_0_0_9_8"]),
        ([item(None, SAME), item(None, SAME)], ["case_0", "case_1"]),
        # what a distributed sampler repeats
        ([item("/x/a.png", SAME), item("/x/b.png", SAME), item("/x/a.png", SAME)], ["a", "b"]),
    ],
    ids=["files", "folders", "rows", "boxes", "kinds", "nameless boxes", "nameless", "repeated"],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_case_has_a_name_of_its_own(
    items: list[dict[str, Any]], names: list[str], batch_size: int, tmp_path: Path
) -> None:
    evaluate(items, ClassificationSaver(tmp_path, NAMES), batch_size=batch_size)
    assert [row[0] for row in table(tmp_path / "predictions.csv")[1:]] == names


def test_a_second_run_begins_anew(tmp_path: Path) -> None:
    saver = ClassificationSaver(tmp_path, NAMES, resamples=9)
    evaluate(CELLS, saver)
    evaluate(CELLS[:1], saver)
    assert [row[0] for row in table(tmp_path / "predictions.csv")] == ["case", "b_001"]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda path: ClassificationSaver(path, ["one"]), "class_names must name at least two classes"),
        (lambda path: ClassificationPictures(path, NAMES, samples=0), "samples must be at least 1, got 0"),
        (
            lambda path: evaluate(CELLS, ClassificationSaver(path, NAMES[:2])),
            "the network gives 3 classes, class_names are red cell, white, cell",
        ),
        (
            lambda path: evaluate([item("a", SAME, label=3)], ClassificationSaver(path, NAMES)),
            r"must be the number of a class, 0 to 2, got \[3\.0\]",
        ),
        (
            lambda path: evaluate([item("a", SAME, label=torch.tensor([0, 1, 0]))], ClassificationSaver(path, NAMES)),
            "must be the number of a class",
        ),
        (
            lambda path: evaluate(CELLS, ClassificationSaver(path, NAMES), decollate=False),
            "must decollate its batches",
        ),
    ],
)
def test_mistakes(use: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        use(tmp_path)
    assert not written(tmp_path)


# pictures

ALL = ["calibration.png", "confusion_matrix.png", "roc.png", "samples.png"]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """What is drawn, by its file's name."""
    drawn: dict[str, Figure] = {}
    save = classification_pictures._save

    def remember(figure: Figure, path: Path) -> None:
        drawn[path.name] = figure
        save(figure, path)

    monkeypatch.setattr(classification_pictures, "_save", remember)
    return drawn


def labelled(right: int, wrong: int = 0, size: tuple[int, ...] = (5, 7)) -> list[dict[str, Any]]:
    """Cases of alternating classes; the wrong ones, called platelets, come last."""
    truth = [number % 2 for number in range(right + wrong)]
    said = [*truth[:right], *[2] * wrong]
    return [
        item(f"/x/{number:03d}.png", values, size, label=label)
        for number, (values, label) in enumerate(zip(one_hot(*said), truth))
    ]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("size", [(5, 7), (300, 200), (4, 6, 8)], ids=str)
def test_pictures_of_an_evaluation(size: tuple[int, ...], tmp_path: Path, figures: dict[str, Figure]) -> None:
    evaluate(labelled(5, 2, size), ClassificationPictures(tmp_path, NAMES))
    assert written(tmp_path) == ALL
    for name in ALL:
        picture = imread(tmp_path / name)
        assert picture.ndim == 3 and min(picture.shape[:2]) > 150 and picture.std() > 0.01
    shown = titles(figures["samples.png"])
    assert len(shown) == 7, "every case once"
    assert sorted(title for title in shown if "is" in title) == [
        "platelet 0.96\nis red cell",
        "platelet 0.96\nis white, cell",
    ]
    counts = [text.get_text().split("\n") for text in figures["confusion_matrix.png"].axes[0].texts]
    assert [int(number) for number, _ in counts] == [3, 0, 1, 0, 2, 1, 0, 0, 0]
    assert counts[0][1] == "75.0%" and counts[8][1] == "0.0%", "shares of the row"
    legend = [text.get_text() for text in figures["roc.png"].axes[0].get_legend().get_texts()]
    assert [text.rpartition(" ")[0] for text in legend] == NAMES[:2], "there is no platelet"
    calibration = figures["calibration.png"].axes[0]
    np.testing.assert_allclose(calibration.collections[0].get_offsets(), [[0.9647, 5 / 7]], atol=1e-4)


def test_without_references_only_samples(tmp_path: Path, figures: dict[str, Figure]) -> None:
    evaluate([item(f"{name}.png", SAME) for name in "abc"], ClassificationPictures(tmp_path, NAMES))
    assert written(tmp_path) == ["samples.png"] and titles(figures["samples.png"]) == ["red cell 0.96"] * 3


@pytest.mark.parametrize("label", [{}, {"label": 0}, {"label": 1}], ids=str)
def test_a_single_case(label: dict[str, int], tmp_path: Path, figures: dict[str, Figure]) -> None:
    handlers = ClassificationPictures(tmp_path, NAMES), ClassificationSaver(tmp_path, NAMES, resamples=9)
    evaluate([item("a.png", SAME, **label)], *handlers)
    tables = ["confusion_matrix.csv", "metrics.csv", "predictions.csv"] if label else ["predictions.csv"]
    assert written(tmp_path) == sorted([*(ALL if label else ["samples.png"]), *tables])
    assert len(titles(figures["samples.png"])) == 1
    if label:
        assert figures["roc.png"].axes[0].get_legend() is None


def test_samples_are_a_mixture(tmp_path: Path, figures: dict[str, Figure]) -> None:
    """Half of them wrong where there are so many, though they come last; others from the whole of the cases."""
    handler = ClassificationPictures(tmp_path, NAMES, samples=8)
    evaluate(labelled(60, 10), handler, batch_size=7)
    shown = titles(figures["samples.png"])
    wrong = [title for title in shown if "is" in title]
    assert len(shown) == 8 and 4 <= len(wrong) < 8
    places = [int(case.file[3:6]) for case, _ in handler._shown.values()]
    assert len(set(places)) == len(places) == 8 and max(places) >= 20, "not the first ones"
    evaluate(labelled(3), handler)
    assert len(titles(figures["samples.png"])) == 3, "a second run begins anew"


def test_what_is_shown(tmp_path: Path, figures: dict[str, Figure]) -> None:
    """Width to the right, colours as they are, from black to white; of a volume the view from the front."""
    picture = torch.zeros(3, 4, 2)
    picture[0, 3, 0] = 2.0  # red, the upper right corner
    volume = torch.zeros(2, 4, 3, 5)
    volume[0, 3, :, 4] = 1.0  # the upper right corner
    volume[1] = 9
    for shown, expected in ((picture, (2, 4, 3)), (volume, (5, 4))):
        evaluate([{**item("a.png", SAME), "shown": shown}], ClassificationPictures(tmp_path, NAMES, image_key="shown"))
        (axes,) = figures["samples.png"].axes
        drawn = axes.images[0].get_array()
        assert drawn.shape == expected
        assert np.argwhere(np.asarray(drawn) == 1).tolist() == [[0, 3, 0][: drawn.ndim]]
        assert drawn.sum() == 1
