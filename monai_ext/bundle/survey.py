"""What is found in someone's images: sizes, spacing, intensities, classes, and what is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from monai_ext.bundle.files_seen import Header, Label, read_header, read_image, read_label
from monai_ext.bundle.pairing import Case
from monai_ext.data.check_case import Finding
from monai_ext.data.intensity import gain_and_offset
from monai_ext.data.transforms import corner_distance
from monai_ext.data.volume_files import UnreadableError

LABELS_READ = 2000
GRID_TOLERANCE = 0.1  # voxels, as CheckVolumed asks for
OBLIQUE = 5.0  # degrees
_FOREGROUND = 2000  # voxels kept of a case

Problem = Callable[[Case, str, str], None]


@dataclass
class Survey:
    """The sound cases and what they have in common; arrays have a row a case.

    Args:
        cases: those without a problem.
        headers: of their first files.
        dims: 2 or 3.
        channels: what the network takes: grey saved as colour counts as grey.
        findings: problems, which prevent training, and warnings.
        intensity: percentiles over the images read: `low` (0.5), `high` (99.5) and `least`, `most`; `foreground_low`
            and `foreground_high` within the labels' foreground, where there is any.
        whole: whether all numbers of the images read are whole.
        values: the labels' values with the number of voxels.
        classes: the number of cases with each class.
        empty: cases without foreground.
        one_hot: channels of the labels that have one a class, else 0.
        background: whether the first of these is the background.
        gains: of clean images, the factor that brings each to the scale of its noisy one.
        read: number of images and of labels whose voxels were read.
    """

    cases: list[Case] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    dims: int = 3
    channels: int = 1
    findings: list[Finding] = field(default_factory=list)
    intensity: dict[str, float] = field(default_factory=dict)
    whole: bool = True
    values: Counter[int] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    one_hot: int = 0
    background: bool = True
    gains: list[float] = field(default_factory=list)
    read: tuple[int, int] = (0, 0)

    @property
    def shapes(self) -> np.ndarray:
        """Voxels of each image, axes as in `Header.shape`."""
        return np.asarray([header.shape for header in self.headers])

    @property
    def spacings(self) -> np.ndarray:
        """Their sizes in mm."""
        return np.asarray([header.spacing for header in self.headers])

    @property
    def class_values(self) -> list[int]:
        """What the labels hold, in the classes' order: they rise, but 0, the background, comes first."""
        return sorted(self.values, key=lambda value: (value != 0, value))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.warning]

    @property
    def pictures(self) -> bool:
        """Whether the files are pictures, which say nothing of spacing."""
        return all(header.kind == "picture" for header in self.headers)


def survey(
    cases: Sequence[Case], task: str, dims: int | None = None, sample: int = 200, seed: int = 0, progress: bool = True
) -> Survey:
    """Read the headers of all images, the voxels of a seeded sample of them, and the labels.

    Args:
        task: segmentation, denoising or classification.
        dims: take the images of 2 or of 3 dimensions where there are both.
        sample: images of which the voxels are read; labels are read up to 2000.
        seed: of the sample.
        progress: show progress bars.
    """
    found = Survey()
    bad: set[str] = set()

    def problem(case: Case, kind: str, message: str) -> None:
        bad.add(case.name)
        found.findings.append(Finding(case.name, kind, message))

    headers = _headers(cases, problem, progress)
    _choose_dims(found, cases, headers, dims)
    kept = [case for case in cases if case.name in headers and headers[case.name].dims == found.dims]
    labelled = [case for case in kept if isinstance(case.label, Path)]
    chosen = {case.name for case in _some(kept, sample, seed)}
    if task == "segmentation":
        read = {case.name for case in _some(labelled, LABELS_READ, seed)}
        labels = _Labels(found, read, problem)
    else:
        read = set()
        labels = None
    _voxels(found, kept, headers, chosen, labels, task, problem, progress)
    found.read = (len(chosen), len(read))
    found.cases = [case for case in kept if case.name not in bad]
    found.headers = [headers[case.name] for case in found.cases]
    found.classes.update(case.label for case in found.cases if isinstance(case.label, str))
    _oblique(found)
    return found


def _some(cases: Sequence[Case], number: int, seed: int) -> Sequence[Case]:
    """Some of the cases, the same ones whichever others there are."""
    if len(cases) <= number:
        return cases
    return sorted(cases, key=lambda case: hashlib.sha256(f"{seed}/{case.name}".encode()).digest())[:number]


def _headers(cases: Sequence[Case], problem: Problem, progress: bool) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    for case in tqdm(cases, desc="reading headers", unit="case", disable=not progress):
        try:
            seen = [read_header(path) for path in case.images]
        except UnreadableError as error:
            problem(case, "unreadable", f"the image {case.images[0].name} cannot be read: {error}")
            continue
        if any(other.stored != seen[0].stored for other in seen):
            sizes = ", ".join(_size(other.stored) for other in seen)
            problem(case, "channels differ", f"its files have different sizes: {sizes}; resample them to one grid")
            continue
        headers[case.name] = seen[0]
    return headers


def _choose_dims(found: Survey, cases: Sequence[Case], headers: dict[str, Header], dims: int | None) -> None:
    counts = Counter(header.dims for header in headers.values())
    found.dims = dims or (counts.most_common(1)[0][0] if counts else 3)
    other = 5 - found.dims
    if dims is None and len(counts) > 1:
        message = (
            f"{counts[3]} images have three dimensions and {counts[2]} have two; "
            "--dims 3 or --dims 2 takes one kind and leaves the other out"
        )
        found.findings.append(Finding("images", "mixed dimensions", message))
    elif dims is not None and counts[other]:
        message = f"{counts[other]} images of {other} dimensions are left out, as --dims {dims} says"
        found.findings.append(Finding("images", "mixed dimensions", message, warning=True))


class _Labels:
    """Reads label maps and gathers what they hold."""

    def __init__(self, found: Survey, chosen: set[str], problem: Problem) -> None:
        self.found, self.chosen, self.problem = found, chosen, problem
        self.with_background: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        self.channels: Counter[int] = Counter()

    def read(self, case: Case, header: Header) -> Label | None:
        """The label map, where it is sound."""
        assert isinstance(case.label, Path)
        name = case.label.name
        try:
            grid = read_header(case.label)
            label = read_label(case.label)
        except UnreadableError as error:
            self.problem(case, "unreadable", f"the label {name} cannot be read: {error}")
            return None
        message = _apart(header, grid, name)
        if message or label.problem:
            kind = "misaligned" if message else "no label map"
            self.problem(case, kind, message or f"the label {name} {label.problem}")
            return None
        self.channels[label.one_hot] += 1
        self.with_background[label.background] += label.values
        if label.classes is not None and set(label.values) == {0}:
            self.found.empty.append(case.name)
        return label

    def gather(self) -> None:
        if not self.channels:
            return
        if len(self.channels) > 1:
            kinds = ", ".join(f"{n} with {c} channels" if c else f"{n} with one" for c, n in self.channels.items())
            message = f"labels have different numbers of channels ({kinds}); save all alike"
            self.found.findings.append(Finding("labels", "channels differ", message))
        self.found.one_hot = max(self.channels)
        self.found.background = not self.with_background[False]
        if self.found.one_hot and not self.found.background:  # the first channel is a class in every file
            shifted = Counter({value + 1: times for value, times in self.with_background[True].items()})
            self.found.values = self.with_background[False] + shifted
        else:
            self.found.values = self.with_background[True] + self.with_background[False]


def _apart(image: Header, label: Header, name: str) -> str:
    """Why the two do not lie on one grid; empty if they do."""
    if image.stored != label.stored:
        return (
            f"the image has {_size(image.stored)} voxels, the label {name} {_size(label.stored)}; resample the label "
            "to its image by nearest neighbour"
        )
    if image.dims == 2 or "picture" in (image.kind, label.kind):
        return ""
    distance = corner_distance(image.affine, label.affine, image.stored)
    if distance > GRID_TOLERANCE:
        return (
            f"by their affines the image and the label {name} are up to {distance:.2f} voxels apart; save the label "
            "with its image's affine or resample it"
        )
    return ""


def _voxels(
    found: Survey,
    cases: Sequence[Case],
    headers: dict[str, Header],
    chosen: set[str],
    labels: _Labels | None,
    task: str,
    problem: Problem,
    progress: bool,
) -> None:
    lows, highs, least, most, inside = [], [], [], [], []
    channels: Counter[int] = Counter()
    rng = np.random.default_rng(0)
    wanted = [case for case in cases if case.name in chosen or (labels and case.name in labels.chosen)]
    for case in tqdm(wanted, desc="reading voxels", unit="case", disable=not progress):
        header = headers[case.name]
        label = labels.read(case, header) if labels and case.name in labels.chosen else None
        if task == "denoising" and isinstance(case.label, Path):
            _check_clean(found, case, header, problem)
        if case.name not in chosen:
            continue
        try:
            parts = [read_image(path) for path in case.images]
        except UnreadableError as error:
            problem(case, "unreadable", f"the image {case.images[0].name} cannot be read: {error}")
            continue
        array = np.concatenate([part for part, _ in parts], axis=-1)
        grey = header.kind == "picture" and len(parts) == 1 and array.shape[-1] in (1, 3) and not parts[0][1]
        channels[1 if grey else array.shape[-1]] += 1
        array = array[..., :1] if grey else array
        if not np.isfinite(array).all():
            problem(case, "not finite", "the image holds NaN or infinity; mask or repair it")
            continue
        if array.min() == array.max():
            problem(case, "constant", f"every voxel of the image is {array.flat[0]:g}; it holds nothing")
            continue
        low, high = np.percentile(array, (0.5, 99.5))
        lows.append(low), highs.append(high), least.append(array.min()), most.append(array.max())
        found.whole &= bool((array == np.round(array)).all())
        if label is not None and label.classes is not None and array.shape[:-1] == label.classes.shape:
            voxels = array[label.classes > 0][:, 0]
            inside.append(rng.choice(voxels, _FOREGROUND) if len(voxels) > _FOREGROUND else voxels)
    if labels is not None:
        labels.gather()
    if lows:
        found.intensity = {
            "low": float(np.median(lows)),
            "high": float(np.median(highs)),
            "least": float(np.min(least)),
            "most": float(np.max(most)),
        }
    if inside and sum(map(len, inside)):
        low, high = np.percentile(np.concatenate(inside), (0.5, 99.5))
        found.intensity |= {"foreground_low": float(low), "foreground_high": float(high)}
    _choose_channels(found, channels, headers, cases, problem)


def _choose_channels(
    found: Survey, channels: Counter[int], headers: dict[str, Header], cases: Sequence[Case], problem: Problem
) -> None:
    pictures = all(headers[case.name].kind == "picture" for case in cases)
    if pictures and max((len(case.images) for case in cases), default=1) == 1:
        found.channels = 3 if channels[3] else 1
        if channels[1] and channels[3]:
            message = f"{channels[1]} pictures are grey and {channels[3]} in colour: grey ones become colour"
            found.findings.append(Finding("images", "mixed channels", message, warning=True))
        return
    of_headers = {
        case.name: len(case.images) if len(case.images) > 1 else headers[case.name].channels for case in cases
    }
    counts = Counter(of_headers.values())
    found.channels = counts.most_common(1)[0][0] if counts else 1
    for case in cases:
        number = of_headers[case.name]
        if number != found.channels:
            problem(case, "channels differ", f"it has {number} channels, most images have {found.channels}")


def _check_clean(found: Survey, case: Case, header: Header, problem: Problem) -> None:
    assert isinstance(case.label, Path)
    try:
        message = _apart(header, read_header(case.label), case.label.name)
        if not message:
            clean, noisy = read_image(case.label)[0], read_image(case.images[0])[0]
            if clean.shape == noisy.shape:
                found.gains.append(gain_and_offset(clean, noisy)[0])
    except UnreadableError as error:
        problem(case, "unreadable", f"the clean image {case.label.name} cannot be read: {error}")
        return
    if message:
        message = message.replace("the label", "the clean image").replace(" by nearest neighbour", "")
        problem(case, "misaligned", message)


def _oblique(found: Survey) -> None:
    oblique = [case.name for case, header in zip(found.cases, found.headers) if header.oblique > OBLIQUE]
    if oblique:
        most = max(header.oblique for header in found.headers)
        message = (
            f"{len(oblique)} volumes are oblique, up to {most:.0f} degrees: their own grids are kept, axes are named "
            "by the nearest of the body's"
        )
        found.findings.append(Finding(oblique[0], "oblique", message, warning=True))


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
