"""Which files of a folder are images, which are their labels, and what belongs together."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_ext.data.case_name import names_of, stem
from monai_ext.data.check_case import Finding, some
from monai_ext.data.listed import channel_groups
from monai_ext.data.pictures import is_picture
from monai_ext.data.readers import is_dicom, is_nifti

# words that say "label" or "image" at the end, or the beginning, of a name
LABEL_WORDS = (
    *("seg", "segmentation", "label", "labels", "labelmap", "mask", "masks"),
    *("gt", "groundtruth", "manual", "annotation", "clean", "target"),
)
IMAGE_WORDS = ("image", "images", "img", "im", "scan", "raw", "noisy", "input")
# folders of images and of their labels, as they are often called
FOLDER_PAIRS = (
    ("imagestr", "labelstr"),
    ("images", "labels"),
    ("images", "masks"),
    ("images", "segmentations"),
    ("image", "label"),
    ("image", "mask"),
    ("imgs", "masks"),
    ("img", "mask"),
)
NOISY_AND_CLEAN = (("noisy", "clean"), ("low", "high"), ("input", "target"), ("noisy_images", "clean_images"))
_PASSED_OVER = (".json", ".csv", ".txt", ".md", ".xlsx", ".xml", ".pdf", ".yaml", ".yml", ".ini", ".db", ".log")


@dataclass(frozen=True)
class Case:
    """An image, one file or one a channel, with its label: a file, a class's name, or None.

    `split` is train, validation or test where the data say so themselves; cases of one `group` stay together.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | str | None = None
    group: str | None = None
    split: str | None = None


@dataclass
class Pairs:
    """The cases of some data; `how` says in words how they were found, `class_names` what the data call the classes."""

    cases: list[Case]
    how: str
    findings: list[Finding] = field(default_factory=list)
    class_names: dict[int, str] = field(default_factory=dict)


def images_below(folder: Path, slices: bool = False) -> tuple[list[Path], Counter[str]]:
    """Every image file below a folder, a DICOM series as its folder, and the kinds of files passed over.

    Args:
        folder: where to look.
        slices: a DICOM file is an image of its own, and no part of a series.
    """
    found: list[Path] = []
    other: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place) / name for name in sorted(files) if not name.startswith(".")]
        images = [path for path in paths if is_nifti(path) or is_picture(path)]
        rest = [path for path in paths if path not in set(images) and path.suffix.lower() not in _PASSED_OVER]
        dicom = [path for path in rest if is_dicom(path)]
        if slices:
            found += sorted([*images, *dicom])
        elif dicom and not any(map(is_nifti, images)):  # a series often has a screenshot beside it
            found.append(Path(place))
        else:
            found += images
        other.update(path.suffix.lower() or "no suffix" for path in rest if path not in set(dicom))
    return found, other


def folder_of_images(folder: str | Path, option: str) -> Path:
    """The folder, or an error that names the option."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"--{option} {folder} is no folder; give the folder that holds the files.")
    return path.resolve()


def pair_files(images: Path, labels: Path | None, label_suffix: str | None, must: bool, slices: bool = False) -> Pairs:
    """Cases from a folder of images and one of labels, or from one folder that holds both.

    Args:
        images: the folder of images.
        labels: the folder of labels; None to look for them in `images`.
        label_suffix: what the labels' names have behind the images', where several kinds of labels lie there.
        must: whether it is label maps that are looked for, and images without any are an error; else clean images.
        slices: as in `images_below`.

    Raises:
        FileNotFoundError: no image.
        ValueError: no label belongs to any image, or none to just one.
    """
    if labels is None:
        pair = _folder_pair(images, FOLDER_PAIRS if must else NOISY_AND_CLEAN)
        if pair is not None and label_suffix is None:
            return pair_files(*pair, None, must, slices)
    found, other = images_below(images, slices)
    findings = _others(other)
    if labels is not None:
        found = [path for path in found if not path.is_relative_to(labels) or labels == images]
        masks, unknown = images_below(labels, slices)
        findings += _others(unknown)
    if not found:
        raise FileNotFoundError(
            f"no image in {images}; known are NIfTI (.nii, .nii.gz), pictures (.png, .jpg, .bmp, .tif) and DICOM series"
            f"{'' if not other else f', and it holds {some(sorted(other))}'}."
        )
    if labels is None:
        found, masks, how = _same_folder(found, images, label_suffix, findings)
        if not masks and must:
            raise ValueError(
                f"no label in {images} ({len(found)} images): give --labels DIR, or name the labels like their images "
                f"with _seg, _label or _mask behind; a suffix of your own goes into --label_suffix."
            )
    elif not masks:
        raise FileNotFoundError(
            f"no image file in --labels {labels}; labels are NIfTI files, pictures or DICOM series."
        )
    else:
        how = ""
    grouped = _channels(found, masks)
    names = names_of([str(group[0]) for group in grouped])
    if any(len(group) > 1 for group in grouped):
        names = {str(group[0]): re.sub(r"_\d{4}$", "", names[str(group[0])]) for group in grouped}
    cases, unused, method = _match(grouped, masks, images, labels or images, names, findings)
    if masks and not any(case.label for case in cases):
        twice = next((finding.message for finding in findings if finding.kind == "duplicate name"), None)
        if twice is not None:
            raise ValueError(f"no image has just one label that is its own: {twice}.")
        raise ValueError(
            f"no label belongs to any image: {some([path.name for path in found], 3)} and "
            f"{some([path.name for path in masks], 3)}; name both alike, or list the pairs in a --datalist."
        )
    findings += [
        Finding(stem(path.name), "unpaired", f"the label {path.name} has no image and is not used", warning=True)
        for path in unused
    ]
    return Pairs(cases, how or method, findings)


def _others(kinds: Counter[str]) -> list[Finding]:
    return [
        Finding(f"*{kind}", "passed over", f"{number} files ({kind}) are of a kind that is not read", warning=True)
        for kind, number in sorted(kinds.items())
    ]


def _folder_pair(folder: Path, usual: Sequence[tuple[str, str]]) -> tuple[Path, Path] | None:
    """A folder of images and one of labels inside, or beside a folder of images."""
    for place in (folder, folder.parent):
        below = {entry.name.lower(): entry for entry in sorted(place.iterdir()) if entry.is_dir()}
        for first, second in usual:
            if first in below and second in below and (place == folder or below[first] == folder):
                return below[first], below[second]
    return None


def _same_folder(
    files: list[Path], root: Path, suffix: str | None, findings: list[Finding]
) -> tuple[list[Path], list[Path], str]:
    """Images and labels of one folder: a label is called like its image with something behind."""
    keys = {_key(path, root): path for path in files}
    behind: dict[str, list[Path]] = {}
    for key, path in keys.items():
        for cut in [match.start() for match in re.finditer(r"[-_. ]", key)]:
            if cut and key[:cut] in keys:
                behind.setdefault(key[cut:], []).append(path)
                break
        else:
            word = _word_at_end(key, LABEL_WORDS)
            if word and word != key and (suffix is None or suffix == word):
                behind.setdefault(word, []).append(path)
    if suffix is not None:
        suffix = suffix if suffix[:1] in "-_. " else f"_{suffix}"
        if suffix not in behind:
            known = some(sorted(behind)) if behind else "none that repeats"
            raise ValueError(f"no label ends in --label_suffix {suffix!r}; endings found: {known}.")
    most = max(map(len, behind.values()), default=0)
    usual = [end for end in behind if _word_at_end(end, LABEL_WORDS) or 2 * len(behind[end]) >= max(most, 2)]
    if not usual and suffix is None:
        return files, [], "images without labels"
    usual.sort(key=lambda end: (not _word_at_end(end, LABEL_WORDS), -len(behind[end]), end))
    chosen = suffix or usual[0]
    labels = {path for end in (*usual, chosen) for path in behind[end]}
    left = [end for end in usual if end != chosen]
    if left:
        message = f"several labels an image: *{chosen} is used, {some(left)} is not; --label_suffix chooses another"
        findings.append(Finding("labels", "several labels", message, warning=True))
    images = [path for path in files if path not in labels]
    return images, behind[chosen], f"labels lie beside their images, with {chosen!r} behind the image's name"


def _channels(files: list[Path], masks: list[Path]) -> list[tuple[Path, ...]]:
    """Files of one image put together where their names end in _0000, _0001 and so on."""
    single = [(path,) for path in files]
    if any(path.is_dir() for path in files):
        return single
    groups = channel_groups([str(path) for path in files])
    ends = {tuple(_number(Path(file)) for file in group) for group in groups.values()}
    numbers = max(ends, key=len, default=())
    regular = numbers == tuple(f"{number:04d}" for number in range(len(numbers))) and len(numbers) < 10
    bases = {Path(group).name for group in groups}
    known = any(stem(path.name) in bases for path in masks)
    # a case that lacks a channel stays a case, which the survey names; without labels it may be no channel at all
    alike = len(ends) == 1 or (known and all(set(end) <= set(numbers) for end in ends))
    if not regular or not alike or not (known or (len(groups) > 1 and len(numbers) > 1)):
        return single
    return [tuple(map(Path, group)) for group in groups.values()]


def _number(path: Path) -> str:
    """The channel's number at the end of a name; empty if there is none."""
    match = re.search(r"_(\d{4})$", stem(path.name))
    return match.group(1) if match else ""


def _match(
    grouped: list[tuple[Path, ...]],
    masks: list[Path],
    root: Path,
    labels: Path,
    names: dict[str, str],
    findings: list[Finding],
) -> tuple[list[Case], list[Path], str]:
    """Every image with its label, by the way of naming that pairs the most."""
    firsts = [group[0] for group in grouped]
    channelled = any(len(group) > 1 for group in grouped) or (
        grouped and not any(_key(p, root) in {_key(m, labels) for m in masks} for p in firsts)
    )

    def plain(path: Path) -> str:
        key = _key(path, root)
        return re.sub(r"_\d{4}$", "", key) if channelled else key

    common = _common([plain(path) for path in firsts]), _common([_key(path, labels) for path in masks])
    ways: list[tuple[str, Callable[[Path], str], Callable[[Path], str]]] = [
        ("image and label have the same name", plain, lambda path: _key(path, labels)),
        ("image and label have the same name", lambda p: plain(p).rpartition("/")[2], lambda p: stem(p.name)),
        (
            "image and label have the same name but for a word such as _seg",
            lambda path: _without_word(plain(path), IMAGE_WORDS),
            lambda path: _without_word(_key(path, labels), LABEL_WORDS),
        ),
        (
            "image and label have the same name but for the words that all images, or all labels, share",
            lambda path: _without(plain(path), common[0]),
            lambda path: _without(_key(path, labels), common[1]),
        ),
    ]
    if len(firsts) == len(masks) == 1:
        ways.append(("there is one image and one label", lambda path: "", lambda path: ""))
    best: tuple[int, str, dict[Path, Path], list[Finding]] = (-1, "", {}, [])
    for how, of_image, of_label in ways:
        table: dict[str, list[Path]] = {}
        for path in masks:
            table.setdefault(of_label(path), []).append(path)
        times = Counter(of_image(path) for path in firsts)
        pairs = {path: table[of_image(path)] for path in firsts if of_image(path) in table}
        twice = [
            Finding(names[str(path)], "duplicate name", _twice(path, found, times[of_image(path)], firsts, of_image))
            for path, found in pairs.items()
            if len(found) > 1 or times[of_image(path)] > 1
        ]
        sure = {path: found[0] for path, found in pairs.items() if len(found) == 1 and times[of_image(path)] == 1}
        if len(sure) > best[0]:
            best = (len(sure), how, sure, twice)
    findings += best[3]
    cases = [Case(names[str(group[0])], group, best[2].get(group[0])) for group in grouped]
    used = set(best[2].values())
    return cases, [path for path in masks if path not in used], best[1] if masks else "images without labels"


def _twice(path: Path, found: Sequence[Path], times: int, images: Iterable[Path], key: Callable[[Path], str]) -> str:
    if len(found) > 1:
        return f"{path.name} has {len(found)} labels, {some([label.name for label in found])}; keep one"
    same = [image.name for image in images if key(image) == key(path)]
    return f"{times} images have one name, {some(same)}; keep one or rename them with their labels"


def _key(path: Path, root: Path) -> str:
    """The path below the root without the suffix; accents as one character each, which systems store differently."""
    below = path.relative_to(root)
    name = below.name if path.is_dir() else stem(below.name)
    return unicodedata.normalize("NFC", below.with_name(name).as_posix() if below.name else name)


def _word_at_end(key: str, words: Sequence[str]) -> str:
    """The separator and the word that a name ends in; empty if none."""
    match = re.search(rf"(?:^|[-_. /])(?:{'|'.join(words)})$", key, flags=re.IGNORECASE)
    return match.group(0) if match else ""


def _without_word(key: str, words: Sequence[str]) -> str:
    folder, _, name = key.rpartition("/")
    end = _word_at_end(name, words)
    name = name[: len(name) - len(end)] if end else re.sub(rf"^(?:{'|'.join(words)})[-_. ]", "", name, flags=re.I)
    return f"{folder}/{name}".strip("/")


def _common(keys: Sequence[str]) -> set[str]:
    """The words that every name has; none where there is but one name."""
    words = [set(re.split(r"[-_. /]", key)) for key in keys]
    return set.intersection(*words) if len(words) > 1 else set()


def _without(key: str, words: set[str]) -> str:
    return "/".join(word for word in re.split(r"[-_. /]", key) if word not in words)
