"""Pictures as numbers: PNG, JPEG, BMP and TIFF, with the values that the file stores.

Shapes: W, H width and height, C channels, P pages. Arrays begin with the width, as those of MONAI's readers.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["PICTURE_SUFFIXES", "Picture", "PictureError", "is_picture", "picture_info", "read_picture"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

_ORIENTATION = 0x0112  # of TIFF and EXIF
_REDUCED = 0x00FE  # of TIFF: bit 0 marks a page that is a smaller copy of another one
_WIDTH, _HEIGHT = 0x0100, 0x0101
_BITS = 0x0102  # of TIFF: bits of each channel
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_COLOUR_MODES = ("RGB", "RGBA", "LA", "RGBX", "CMYK")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")


class PictureError(ValueError):
    """A sound file that cannot be taken as it is; the message is a whole sentence that names it."""


@dataclass(frozen=True)
class Picture:
    """What a picture's header says.

    `width` and `height` are those of the stored rows; `orientation` is EXIF's number, 1 to 8, that says how to turn
    them. `shape` is what `read_picture` gives, turned upright: [W, H] or [W, H, P], without channels.
    """

    format: str
    mode: str
    width: int
    height: int
    pages: int
    orientation: int
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        size = (self.height, self.width) if self.orientation > 4 else (self.width, self.height)
        return size if self.pages == 1 else (*size, self.pages)


def is_picture(path: str | os.PathLike) -> bool:
    """Whether the name is that of a picture; the file is not opened."""
    return f"{path}".lower().endswith(PICTURE_SUFFIXES)


def picture_info(path: str | os.PathLike) -> Picture:
    """The header alone.

    Raises:
        ValueError: no picture.
        OSError: the file cannot be opened.
    """
    with _plain_errors():
        image = _opened(Path(path), Path(path))
        if image is None:
            return _info_of_itk(_itk_header(Path(path)))
        with image:
            return _info(image, Path(path))


def read_picture(path: str | os.PathLike, labels: bool = False) -> tuple[np.ndarray, Picture]:
    """A picture's pixels, upright as EXIF's orientation says, and its header.

    - Grey stays grey, colour keeps its channels, so does alpha: [W, H] or [W, H, C]. 8 bits are uint8, 16 bits
      uint16, a TIFF's signed and 32 bits int32 or float32.
    - White in a picture of 1 bit is 255, as in the same picture saved with 8 bits.
    - A palette of greys gives those greys. One whose entry i is i of a single hue, as microscopes write, gives i.
      Any other gives colours, or, for `labels`, the index.
    - The pages of a TIFF are stacked, [W, H, P]; smaller copies of a page are passed over. Of the frames of an
      animated PNG and of a camera's JPEG the first counts.

    Raises:
        PictureError: pages of different sizes or kinds.
        ValueError, OSError: the file is truncated, damaged, or no picture.
    """
    path = Path(path)
    raw = path.read_bytes()  # from the file itself Pillow 13 reads a turned TIFF without compression wrongly
    if not raw:
        raise ValueError("the file is empty")
    with _plain_errors():
        image = _opened(path, io.BytesIO(raw))
        if image is None:
            return _read_by_itk(path, _info_of_itk(_itk_header(path)))
        if image.format == "PNG":
            image.verify()  # the checksums of all blocks; the file must then be opened anew
            image = _opened(path, io.BytesIO(raw))
        with image:
            info = _info(image, path)
            if info.dtype != np.uint8 and info.mode in _COLOUR_MODES:
                return _read_by_itk(path, info)
            pages = [_pixels(page, labels) for page in _pages(image)]
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        sizes = ", ".join(sorted({" x ".join(map(str, page.shape[:2])) for page in pages}))
        raise PictureError(
            f"{path} has {len(pages)} pages of different sizes or kinds ({sizes}), which make no volume; "
            "save the wanted page as a file of its own."
        )
    return (pages[0] if len(pages) == 1 else np.stack(pages, axis=2)), info


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Damaged files make Pillow raise all kinds of errors."""
    try:
        yield
    except (PictureError, OSError, MemoryError):
        raise
    except Exception as error:
        lines = f"{error}".strip().splitlines() or [type(error).__name__]
        raise ValueError(lines[-1].removeprefix("sitk::ERROR: ")) from error  # ITK's last line says what is wrong


def _opened(path: Path, source: Path | io.BytesIO) -> Image.Image | None:
    """The picture, its pixels not yet read; None for a TIFF that Pillow does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large pictures are usual here
        try:
            Image.init()  # else formats that were not used before are unknown
            return Image.open(source, formats=_FORMATS)
        except UnidentifiedImageError as error:
            with path.open("rb") as file:
                if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                    return None
            raise ValueError("no picture in PNG, JPEG, BMP or TIFF format") from error
        except Image.DecompressionBombError as error:
            raise PictureError(f"{path} has too many pixels to be read in one piece ({error}); cut it up.") from error


def _info(image: Image.Image, path: Path) -> Picture:
    deep = _is_deep_colour(image)  # before EXIF is asked for, which makes Pillow load a PNG and forget this
    pages = sum(1 for _ in _pages(image))
    if pages == 0:
        raise PictureError(f"{path} holds nothing but reduced copies of a picture; save the picture itself.")
    next(_pages(image))
    orientation = image.getexif().get(_ORIENTATION, 1)
    width, height = image.size
    if image.format == "TIFF":  # Pillow gives the size of a turned TIFF as it will be upright
        width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    if image.mode == "F":
        dtype = np.float32
    elif image.mode == "I" and image.format != "PNG":
        dtype = np.int32
    elif image.mode in _DEEP_MODES or deep:
        dtype = np.uint16
    else:
        dtype = np.uint8
    number = orientation if orientation in range(1, 9) else 1
    return Picture(image.format or "", image.mode, width, height, pages, number, np.dtype(dtype))


def _pages(image: Image.Image) -> Iterator[Image.Image]:
    if image.format != "TIFF":
        yield image
        return
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        if not image.tag_v2.get(_REDUCED, 0) & 1:
            yield image


def _pixels(image: Image.Image, labels: bool) -> np.ndarray:
    image.load()
    upright = ImageOps.exif_transpose(image)
    array = _values(upright, labels)
    if array.dtype.itemsize == 2 or (upright.mode == "I" and image.format == "PNG"):
        array = array.astype(np.uint16)  # this machine's order of bytes; older versions of Pillow give int32
    return np.ascontiguousarray(np.moveaxis(array, 0, 1))


def _values(image: Image.Image, labels: bool) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "PA"):
        return _palette_values(image, labels)
    if image.mode in ("L", "LA", "RGB", "RGBA", "F", *_DEEP_MODES):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))  # CMYK, YCbCr and their like


def _palette_values(image: Image.Image, labels: bool) -> np.ndarray:
    index = np.asarray(image if image.mode == "P" else image.getchannel(0))
    entries = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    if int(index.max(initial=0)) >= len(entries):
        raise ValueError(f"a pixel has the palette's entry {index.max()}, which it does not have")
    if (entries == entries[:, :1]).all():
        return entries[index, 0]
    ramp = np.arange(len(entries), dtype=np.uint8)[:, None]
    if labels or ((entries == 0).all(axis=0) | (entries == ramp).all(axis=0)).all():
        return index
    return entries[index]


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a colour: Pillow would give the upper 8 only."""
    if image.mode not in _COLOUR_MODES:
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (8,))) > 8
    if image.format == "PNG":
        return any(";16" in str(tile[3]) for tile in image.tile)
    return False


def _read_by_itk(path: Path, info: Picture) -> tuple[np.ndarray, Picture]:
    if info.pages > 1 or info.orientation != 1:
        raise PictureError(
            f"{path} has more than 8 bits a colour and also several pages or a turned camera, which is not read; "
            "save it in grey, or as one upright page."
        )
    array = sitk.GetArrayFromImage(sitk.ReadImage(f"{path}"))  # [H, W(, C)]
    return np.ascontiguousarray(np.moveaxis(array, 0, 1)), info


def _itk_header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(f"{path}")
    reader.ReadImageInformation()
    return reader


def _info_of_itk(header: sitk.ImageFileReader) -> Picture:
    width, height, *pages = header.GetSize()
    kind = sitk.GetPixelIDValueAsString(header.GetPixelID())
    dtype = np.float32 if "float" in kind else np.uint8 if "8-bit" in kind else np.uint16
    mode = {1: "F", 3: "RGB", 4: "RGBA"}.get(header.GetNumberOfComponents(), "")
    return Picture("TIFF", mode, width, height, pages[0] if pages else 1, 1, np.dtype(dtype))
