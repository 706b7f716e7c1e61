"""Finding a bundle by name or path; without PyTorch, so that commands start at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["LEFT_BEHIND", "find_bundle"]

LEFT_BEHIND = ("demo_output", "eval", "mlruns", "runs", "__pycache__")  # what trainings and evaluations write

CHECKOUT = Path(__file__).resolve().parents[2] / "bundles"  # of an editable installation


def find_bundle(name: str | Path, more: Sequence[Path] = ()) -> Path:
    """The folder of a bundle: a path, or a name in ``bundles/`` of the current folder or of this checkout.

    Args:
        name: the path or name.
        more: further folders in which names are looked for.

    Raises:
        FileNotFoundError: there is none; names the bundles that there are.
    """
    places = (Path("bundles"), CHECKOUT, *more)
    for folder in (Path(name).expanduser(), *(place / str(name) for place in places)):
        if (folder / "configs").is_dir():
            return folder.resolve()
    known = sorted({path.parent.parent.name for place in places for path in place.glob("*/configs/metadata.json")})
    there = f"there are {', '.join(known)}" if known else "no folder bundles/ is here"
    raise FileNotFoundError(f"No bundle {name}: {there}; or give the path of a folder that contains configs/.")
