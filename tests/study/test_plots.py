from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from monai_ext.study import plots
from monai_ext.study.summary import Summary, summarize
from tests.study.made_up import content, crossed

PATCHES = {16: 256, 8: 1024, 4: 4096}


def law(mixer: str, context: int, seed: int) -> tuple[float | None, float, float]:
    if (mixer, context) == ("linear", 4096):
        return None, 1.0, 1.0
    return 0.6 + 0.1 * (context // 1024) / 4 + 0.01 * seed, context * 1e-3, 2.0**20 * context


def summary(**more: Any) -> Summary:
    return summarize(content(crossed(("softmax", "linear", "mamba"), PATCHES, (0, 1), law), **more))


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_accuracy_draws_means_spread_and_seeds() -> None:
    figure = plots.accuracy(summary())
    assert figure is not None
    (axes,) = figure.axes
    assert texts(figure) == {"softmax", "linear", "mamba"}
    softmax = axes.containers[0]
    assert list(softmax[0].get_ydata()) == pytest.approx([0.605, 0.63, 0.705])
    # moved aside a little, and by the same for each context
    assert [x / context for x, context in zip(softmax[0].get_xdata(), PATCHES.values())] == pytest.approx(
        [softmax[0].get_xdata()[0] / 256] * 3
    )
    bar = softmax[2][0].get_segments()[0]
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * 0.01 / 2**0.5)
    assert len(axes.containers[1][0].get_ydata()) == 2  # linear failed at the longest
    dots = [
        dot
        for collection in axes.collections
        if hasattr(collection, "get_sizes") and len(collection.get_offsets())
        for dot in collection.get_offsets()
    ]
    assert sorted(y for _, y in dots)[:2] == pytest.approx([0.6, 0.6])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "1k", "4k"]


def test_cost_draws_seconds_and_mebibytes() -> None:
    figure = plots.cost(summary())
    assert figure is not None
    time, memory = figure.axes
    softmax = next(line for line in time.lines if line.get_color() == "black" and len(line.get_xdata()) == 3)
    assert list(softmax.get_xdata()) == [256, 1024, 4096] and list(softmax.get_ydata()) == pytest.approx(
        [0.256, 1.024, 4.096]
    )
    assert any(
        list(line.get_ydata()) == pytest.approx([256, 1024, 4096])
        for line in memory.lines
        if len(line.get_ydata()) == 3
    )
    assert time.get_xscale() == time.get_yscale() == "log"


def test_pareto_draws_the_front_and_the_contexts() -> None:
    figure = plots.pareto(summary())
    assert figure is not None
    for axes in figure.axes:
        front = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
        assert list(front.get_ydata())[-2:] == pytest.approx([0.705, 0.705])
        assert {text.get_text() for text in axes.texts} == {"256", "1k", "4k"} and len(axes.texts) == 8


def test_labels_of_points_avoid_one_another() -> None:
    figure = Figure(figsize=(6, 6), dpi=plots.DPI)
    axes = figure.subplots()
    axes.set_xlim(0, 1), axes.set_ylim(0, 1)
    points = [(0.5, 0.5), (0.53, 0.5), (0.5, 0.53), (0.98, 0.5), (0.5, 0.99)]
    plots._mark(axes, points, ["256", "1k", "4k", "16k", "64k"], ["black"] * 5)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    for one, other in itertools.combinations(boxes, 2):
        overlap = max(0, min(one.x1, other.x1) - max(one.x0, other.x0)) * max(
            0, min(one.y1, other.y1) - max(one.y0, other.y0)
        )
        assert overlap < 0.15 * one.width * one.height
    assert all(axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and box.y1 < axes.bbox.y1 for box in boxes)


def test_learning_draws_the_mean_at_the_longest_context() -> None:
    figure = plots.learning(summary())
    assert figure is not None
    loss, value = figure.axes
    assert texts(figure) == {"softmax", "mamba", "linear (at 1k)"}
    black = next(line for line in value.lines if line.get_color() == "black" and len(line.get_xdata()) == 5)
    # the even epochs, (1 - 0.5**e) of 0.7 and 0.71
    assert list(black.get_xdata()) == [2, 4, 6, 8, 10]
    assert black.get_ydata()[0] == pytest.approx(0.705 * 0.75)
    assert any(len(line.get_xdata()) == 10 and line.get_ydata()[0] == pytest.approx(0.9) for line in loss.lines)


def test_names_stand_beside_their_lines() -> None:
    figure = plots.learning(summary())
    assert figure is not None
    figure.canvas.draw()
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            assert box.x0 > axes.bbox.x1 and box.x1 < figure.bbox.x1
    # what leads from a line to its name begins inside the panel
    leaders = [line for line in figure.axes[1].lines if line.get_linewidth() == 0.5]
    assert leaders and all(0 < line.get_xdata()[0] < 1 and 0 < line.get_ydata()[0] < 1 for line in leaders)


def test_no_two_lines_look_alike() -> None:
    names = ["softmax", *(f"mixer{i}" for i in range(23))]
    styles = plots._styles(summarize(content(crossed(names, {8: 1024}, (0,), law))))
    assert styles["softmax"]["color"] == "black"
    for key in ("linestyle", "marker"):
        assert len({(style["color"], style[key]) for style in styles.values()}) == len(names)


def test_lines_stay_inside_their_panel_however_many() -> None:
    for lines, contexts in itertools.product((1, 2, 13, 40), ([1024], [256, 4096], [49, 50])):
        shifts = plots._shifts(lines, contexts)
        assert len(shifts) == lines and max(shifts) < 1.15 and min(shifts) > 1 / 1.15
        if len(contexts) > 1:
            assert max(shifts) * contexts[0] < min(shifts) * contexts[1]


def test_names_of_contexts_that_would_meet_are_left_out() -> None:
    figure = plots.accuracy(summarize(content(crossed(("softmax",), {i: 10000 + i for i in range(5)}, (0,), law))))
    assert figure is not None
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert boxes and all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


def test_nothing_to_draw(tmp_path: Path) -> None:
    failed = crossed(("softmax",), PATCHES, (0,), lambda m, c, s: (None, None, None))
    assert plots.draw_all(summarize(content(failed)), tmp_path) == [] and not list(tmp_path.iterdir())
    paths = plots.draw_all(summary(), tmp_path)
    assert [path.name for path in paths] == list(plots.PICTURES)
    for path in paths:
        picture = imread(path)
        assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.01
