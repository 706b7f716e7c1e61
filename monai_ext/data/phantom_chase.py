"""Made-up photographs of a fundus: a tree of vessels on uneven ground, learnable, not thresholdable.

Sizes, colours, the share of vessels and how much two observers agree follow what the real CHASE_DB1 pictures show.
Lengths are in pixels of a picture 999 wide, whatever the width that is drawn. Arrays begin with the height.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

WIDTH, HEIGHT = 999, 960
FINEST = 0.35  # half the width, in drawn pixels, of the finest vessel that can be seen
_STEP = 2.0  # between two points of a vessel


@dataclass(frozen=True)
class Vessel:
    """Points (x, y), the radius at each, how much light the blood takes, and whether it is an artery."""

    points: np.ndarray
    radii: np.ndarray
    dark: float
    artery: bool


def draw_fundus(rng: np.random.Generator, case: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture [H, W, 3], uint8, and two observers' masks of its vessels [H, W], bool; `size` is the width.

    The optic disc lies a little to the nasal side, which is on the right of a right eye.
    """
    scale = size / WIDTH
    shape = (max(1, round(HEIGHT * scale)), size)
    y, x = ((np.indices(shape) + 0.5) / scale).astype(np.float32)
    nasal = 1 if case.endswith("R") else -1
    centre = np.array([493 + rng.uniform(-5, 5), 480 + rng.uniform(-3, 3)])
    reach = rng.uniform(445, 460)
    disc = centre + [nasal * rng.uniform(-10, 60), rng.uniform(-45, 35)]
    radius = rng.uniform(80, 108)

    vessels = _tree(rng, disc, radius, centre, reach)
    shade, reflex, mask = _stamped(vessels, shape, scale)
    second = _second_observer(rng, vessels, shape, scale)

    scene = _ground(rng, x, y, centre, reach, scale)
    rim = np.hypot((x - disc[0]) / rng.uniform(0.9, 1.0), y - disc[1]) - radius
    inside = 1 / (1 + np.exp(np.clip(rim / rng.uniform(3, 7), -30, 30)))
    cup = np.hypot(x - disc[0] + nasal * 25, y - disc[1] - 5) / rng.uniform(30, 50)
    paper = np.array([240.0, 122.0, 28.0]) * rng.uniform(0.92, 1.08, 3)
    glow = paper + np.exp(-(cup**2))[..., None] * [25, 95, 35]
    scene += 0.85 * inside[..., None] * (glow - scene)

    # blood takes most of the green light, some of the red and of the blue; the wall of a thick vessel shines
    scene *= 1 - shade[..., None] * [0.13, 0.62, 0.45]
    scene += reflex[..., None] * [14, 13, 5]

    field = np.clip((reach - np.hypot(x - centre[0], y - centre[1])) * scale + 0.5, 0, 1)
    scene = gaussian_filter(scene, (*(rng.uniform(0.9, 1.5) * scale,) * 2, 0))
    grain = gaussian_filter(rng.standard_normal((*shape, 3)), (0.6, 0.6, 0)) * [5.0, 5.0, 4.0] * rng.uniform(0.7, 1.4)
    picture = np.clip((scene + grain) * field[..., None], 0, 255).round().astype(np.uint8)
    return picture, mask & (field > 0.5), second & (field > 0.5)


def save_fundus(folder: Path, case: str, drawn: tuple[np.ndarray, ...], rng: np.random.Generator) -> dict[str, str]:
    """Writes a case as the official data set does, and gives its files' names."""
    names = {"image": f"{case}.jpg", "label": f"{case}_1stHO.png", "second_label": f"{case}_2ndHO.png"}
    for name, array in zip(names.values(), drawn):
        Image.fromarray(array).save(folder / name, **({"quality": 75} if name.endswith(".jpg") else {}))
    return names


def _tree(rng: np.random.Generator, disc: np.ndarray, radius: float, centre: np.ndarray, reach: float) -> list[Vessel]:
    """Arteries and veins out of the optic disc in pairs, up and down in arcs, to the sides in twigs, all branching."""
    trunks: list[tuple[float, float, bool]] = []
    for angle in (-115, -65, 65, 115):  # degrees, 0 to the right, 90 down
        for artery in (True, False):
            width = rng.uniform(4.2, 5.8) if artery else rng.uniform(5.4, 7.6)
            trunks.append((np.deg2rad(angle + rng.uniform(-18, 18)), width, artery))
    for angle in (0, 180):
        for _ in range(rng.integers(2, 5)):
            trunks.append((np.deg2rad(angle + rng.uniform(-38, 38)), rng.uniform(1.8, 3.6), rng.random() < 0.5))
    vessels: list[Vessel] = []
    waiting = []
    for angle, width, artery in trunks:
        away = np.array([np.cos(angle), np.sin(angle)])
        start = disc + away * rng.uniform(0, 0.35) * radius + rng.normal(0, 8, 2)
        side = np.sign(np.cos(angle)) * np.sign(np.sin(angle))
        bend = 0.0012 * rng.uniform(0.2, 1.0) * -side * (width > 4)  # the arcs turn to the sides
        waiting.append((start, angle, width, artery, bend, 0))
    while waiting and len(vessels) < 160:
        start, angle, width, artery, bend, order = waiting.pop(0)
        vessel, children = _grown(rng, start, angle, width, artery, bend, (centre, reach))
        vessels.append(vessel)
        if order < 4:
            waiting.extend((*child, order + 1) for child in children)
    return vessels


def _grown(
    rng: np.random.Generator,
    start: np.ndarray,
    angle: float,
    width: float,
    artery: bool,
    bend: float,
    field: tuple[np.ndarray, float],
) -> tuple[Vessel, list[tuple]]:
    """One vessel, walked step by step with a wandering heading, and where others leave it."""
    centre, reach = field
    longest = rng.uniform(0.5, 1.0) * (130 + 140 * width)
    points, radii, children = [], [], []
    place, turn, at = np.asarray(start, float), 0.0, 0.0
    next_branch = rng.uniform(30, 120)
    while at < longest and np.hypot(*(place - centre)) < reach - 4:
        thick = width * (1 - 0.62 * at / longest)
        if thick < 0.75:
            break
        points.append(place)
        radii.append(thick)
        turn = 0.93 * turn + rng.normal(0, 0.011)
        angle += turn * 0.5 + bend * _STEP
        place = place + _STEP * np.array([np.cos(angle), np.sin(angle)])
        at += _STEP
        if at > next_branch and thick > 1.6:
            way = rng.choice((-1, 1)) * np.deg2rad(rng.uniform(25, 62))
            children.append((place, angle + way, thick * rng.uniform(0.38, 0.78), artery, 0.0))
            angle -= 0.15 * way
            next_branch = at + rng.uniform(70, 210)
    dark = rng.uniform(0.42, 0.6) if artery else rng.uniform(0.56, 0.78)
    return Vessel(np.array(points).reshape(-1, 2), np.array(radii), dark, artery), children


def _stamped(vessels: list[Vessel], shape: tuple[int, int], scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the light taken, the bright line along thick vessels, and the mask: discs along every vessel."""
    shade, reflex = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask = np.zeros(shape, bool)
    for vessel in vessels:
        stride = _stride(scale)
        for (x, y), radius in zip(vessel.points[::stride] * scale, vessel.radii[::stride] * scale):
            if radius < FINEST:
                continue
            window, distance = _window(x, y, radius + 1.5, shape)
            if distance is None:
                continue
            wide = max(radius, 0.6)
            # thin vessels are faint: part of a pixel is ground, and there is less blood on the way of the light
            faint = vessel.dark * min(1.0, 0.55 + 0.14 * radius / scale)
            inside = np.clip(wide - distance + 0.5, 0, 1) * np.sqrt(np.clip(1.15 - (distance / wide) ** 2, 0, 1))
            np.maximum(shade[window], faint * inside, out=shade[window])
            if radius / scale > 2.4:
                line = np.exp(-((distance / (0.3 * radius)) ** 2)) * (1.0 if vessel.artery else 0.45)
                np.maximum(reflex[window], line, out=reflex[window])
            mask[window] |= distance <= max(radius, 0.5)
    return shade, reflex, mask


def _second_observer(
    rng: np.random.Generator, vessels: list[Vessel], shape: tuple[int, int], scale: float
) -> np.ndarray:
    """Another hand: thicker or thinner on the whole, some twigs left out, others cut short."""
    hand = rng.uniform(-0.5, 0.6)
    mask = np.zeros(shape, bool)
    for vessel in vessels:
        if len(vessel.radii) == 0 or (vessel.radii[0] < 2.4 and rng.random() < 0.4):
            continue
        last = round(len(vessel.radii) * rng.uniform(0.75, 1.0))
        shift = rng.normal(0, 0.6, 2)
        stride = _stride(scale)
        for (x, y), radius in zip((vessel.points[:last:stride] + shift) * scale, vessel.radii[:last:stride]):
            if radius * scale < FINEST:
                continue
            drawn = max((radius + hand + 0.12 * rng.standard_normal()) * scale, 0.5)
            window, distance = _window(x, y, drawn + 1, shape)
            if distance is not None:
                mask[window] |= distance <= drawn
    return mask


def _stride(scale: float) -> int:
    """In a small picture some of the points are enough."""
    return max(1, int(0.6 / scale))


def _window(x: float, y: float, reach: float, shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray | None]:
    """The pixels around a place, and how far each is from it; None outside the picture."""
    top, left = max(0, int(y - reach)), max(0, int(x - reach))
    bottom, right = min(shape[0], int(y + reach) + 1), min(shape[1], int(x + reach) + 1)
    window = (slice(top, bottom), slice(left, right))
    if top >= bottom or left >= right:
        return window, None
    rows, columns = np.arange(top, bottom)[:, None] + 0.5, np.arange(left, right) + 0.5
    return window, np.hypot(rows - y, columns - x)


def _ground(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, centre: np.ndarray, reach: float, scale: float
) -> np.ndarray:
    """The ground without vessels: uneven light, dark and bright spots and streaks that are none."""
    shape = x.shape
    colour = np.array([rng.uniform(135, 245), rng.uniform(52, 72), rng.uniform(7, 13)])
    light = 1 + 0.17 * _smooth(rng, shape, 170 * scale) + 0.06 * _smooth(rng, shape, 45 * scale)
    away = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / reach**2
    light *= 1.06 - rng.uniform(0.12, 0.35) * away
    light *= 1 + 0.0003 * rng.uniform(-1, 1) * (x - centre[0]) + 0.0003 * rng.uniform(-1, 1) * (y - centre[1])
    light *= 1 + 0.035 * _smooth(rng, shape, max(0.7, 2.5 * scale))
    spots = np.stack([_smooth(rng, shape, 11 * scale) * 0.5 + _smooth(rng, shape, 26 * scale)] * 3, -1)
    ground = colour * light[..., None] * (1 + np.array([0.04, 0.1, 0.12]) * spots)
    # streaks: as long and narrow as vessels, but soft and without a tree
    angle = rng.uniform(0, np.pi)
    for turn in (0.0, rng.uniform(0.6, 1.2)):
        along = np.cos(angle + turn) * x + np.sin(angle + turn) * y
        wave = np.sin(along / rng.uniform(4, 8) + 4 * _smooth(rng, shape, 30 * scale))
        ground *= 1 - (0.03 * np.clip(wave * _smooth(rng, shape, 40 * scale), 0, 2))[..., None]
    return ground


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Gaussian random field of correlation length `sigma` pixels, mean 0, standard deviation 1.

    Long ones are drawn coarse and enlarged: the wider the blur, the fewer pixels it needs.
    """
    coarse = max(1, int(sigma / 3))
    small = tuple(-(-n // coarse) + 1 for n in shape)
    field = gaussian_filter(rng.standard_normal(small), sigma / coarse, mode="reflect")
    field = (field - field.mean()) / max(field.std(), 1e-9)
    if coarse == 1:
        return field[: shape[0], : shape[1]]
    enlarged = Image.fromarray(field.astype(np.float32)).resize(
        (small[1] * coarse, small[0] * coarse), Image.Resampling.BICUBIC
    )
    return np.asarray(enlarged)[: shape[0], : shape[1]]
