"""Reading pictures: one strict decoder for all data sets.

A picture is refused rather than guessed at: OpenCV returns a half grey array for a truncated JPEG without a word. The
rules, for every format that is read (JPEG, PNG, WebP, BMP, TIFF and the first frame of a GIF):

- the number of pixels is taken from the header and checked before anything is decoded;
- a truncated or damaged file is an ``ImageError`` with its path; up to 16 stray bytes just before a JPEG's end, which
  some cameras write, are no damage;
- the orientation that a camera noted (EXIF) is applied, so annotations are in the frame that viewers show;
- the result is RGB, 8 bits: grey, palette and CMYK are converted, 16 bits keep their upper 8, transparency and colour
  profiles are ignored; values of 32 bits have no defined white and are refused.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from lightning_pose_zoo.errors import ImageError

__all__ = ["IMAGE_SUFFIXES", "image_size", "read_image"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of the files that ``read_image`` is meant for; the content decides, not the name."""

MAX_PIXELS = 50_000_000

# Pictures in MPO, as many phones write them, are found by the JPEG reader.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MOST_STRAY_BYTES = 16
_SEQUENTIAL_FRAMES, _START_OF_SCAN, _RESTART_INTERVAL = (0xC0, 0xC1), 0xDA, 0xDD
# What a decoder may raise over a damaged file; Pillow's plugins are not of one mind.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
           struct.error, zlib.error)  # fmt: skip


def read_image(path: Path, max_pixels: int = MAX_PIXELS, rows: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode a picture, or as much of it as is needed.

    Args:
        path: The file.
        max_pixels: Larger pictures are refused before they are decoded.
        rows: How many rows from the top are needed; None for all. Where the format allows, the rest is not decoded, and
            damage in it goes unnoticed; the rows that are needed are the same in either case.

    Returns:
        (H, W, 3) uint8, RGB, upright; possibly of fewer rows than the picture has, but never of fewer than are needed.

    Raises:
        ImageError: Where the file is missing, unreadable, damaged, too large or no picture.
    """
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_size(path, picture.size, max_pixels)
            orientation = _orientation(picture)
            if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
                pixels = _decode_jpeg(data, picture.size, rows if orientation == 1 else None)
            else:
                _check_content(data, picture)
                pixels = _to_rgb(picture)
    except Image.DecompressionBombError as error:
        raise ImageError(f"'{path}' is too large to be read: {error}.") from error
    except _DAMAGE as error:
        raise ImageError(f"'{path}' is no picture, or a damaged one: {_reason(error)}.") from error
    return pixels if orientation == 1 else _turn_upright(pixels, orientation)


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the width and height of a picture as ``read_image`` would give it, from its header alone.

    Raises:
        ImageError: Where the file is missing, unreadable, too large or no picture.
    """
    _check_regular(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            _check_size(path, picture.size, max_pixels)
            width, height = picture.size
            return (height, width) if _orientation(picture) >= 5 else (width, height)
    except Image.DecompressionBombError as error:
        raise ImageError(f"'{path}' is too large to be read: {error}.") from error
    except _DAMAGE as error:
        raise ImageError(f"'{path}' is no picture, or a damaged one: {_reason(error)}.") from error


def _check_regular(path: Path) -> None:
    """Refuse what cannot be a picture before opening it: to open a pipe would wait for ever."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ImageError(f"'{path}' does not exist.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"'{path}' cannot be read: {_reason(error)}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "special file"
        raise ImageError(f"'{path}' is a {kind}, not a picture.")
    if not status.st_size:
        raise ImageError(f"'{path}' is empty.")


def _read_bytes(path: Path) -> bytes:
    _check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Pillow's message for an unknown content names the memory address of the buffer.
    text = str(error).split("<_io.")[0].strip().rstrip(".'") or type(error).__name__
    return "its content is of no known format" if text.startswith("cannot identify image file") else text


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"'{path}' has {width} x {height} pixels, more than the {max_pixels:,} that are read; scale it down before."
        )


def _orientation(picture: Image.Image) -> int:
    """Return EXIF's number of the orientation, 1 (upright) to 8, as far as it is left to us."""
    if picture.format == "TIFF":  # Pillow turns these itself
        return 1
    value = picture.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode_jpeg(data: bytes, size: tuple[int, int], rows: int | None) -> npt.NDArray[np.uint8]:
    # Two more rows, because colours are interpolated between rows; then up to the next boundary of blocks.
    height = size[1] if rows is None else -(-(max(rows, 1) + 2) // 16) * 16
    if height < size[1]:
        pixels = _decode_top(data, size[0], height)
        if pixels is not None:
            return pixels
    try:
        whole: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        stray = _STRAY.search(str(error))
        if stray is None or int(stray[1]) > _MOST_STRAY_BYTES:
            raise
        whole = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    return whole


def _decode_top(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8] | None:
    """Decode the first ``height`` rows of a JPEG, (height, width, 3); None where that cannot be told to be sound.

    A decoder stops at the height that the header states. A copy of the file that states less costs less: all that
    follows is skipped as stray bytes, which the decoder reports after the pixels are written. Anything else that it
    reports is left to the full decoding to judge.
    """
    start = _position_of_height(data)
    # The end of the file must be there: a truncated picture is refused by whatever part of it is read.
    if start is None or data.rfind(b"\xff\xd9", -64) < 0:
        return None
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    try:
        simplejpeg.decode_jpeg(data[:start] + struct.pack(">H", height) + data[start + 2 :], "RGB", buffer=pixels)
    except ValueError as error:
        return pixels if _STRAY.search(str(error)) else None
    return None


def _position_of_height(data: bytes) -> int | None:
    """Find where a JPEG's header states the height; None in progressive ones and those with restart marks."""
    position, found = 2, None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            return found
        if marker in _SEQUENTIAL_FRAMES:
            found = position + 5
        elif marker == _RESTART_INTERVAL:
            return None
        position += 2 + length
    return None


def _check_content(data: bytes, picture: Image.Image) -> None:
    """Look for damage that Pillow passes over."""
    if picture.format == "PNG":
        _check_png(data)
    elif picture.format in ("JPEG", "MPO"):
        simplejpeg.decode_jpeg(data, "CMYK")


def _check_png(data: bytes) -> None:
    """Compare all checksums, which Pillow leaves out for the pixels themselves."""
    view, position, kind = memoryview(data), 8, b""
    while position < len(data) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        kind = bytes(view[position + 4 : position + 8])
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(view[position + 4 : position + 8 + length]) != checksum:
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')} is wrong")
        position += 12 + length
    if kind != b"IEND":
        raise ValueError("it ends too early")


def _to_rgb(picture: Image.Image) -> npt.NDArray[np.uint8]:
    if picture.mode in _SIXTEEN_BITS:
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("F", "I"):
        raise ValueError(f"its values have 32 bits (mode {picture.mode}); convert it to 8 or 16 bits")
    return np.asarray(picture.convert("RGB"))


def _turn_upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo EXIF's orientation: 2 to 4 are mirrored or turned by 180 degrees, 5 to 8 stored with x and y exchanged."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
