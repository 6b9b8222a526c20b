"""Drawing poses on pictures: numpy in, numpy out, (H, W, 3) uint8 RGB throughout.

Truth is green, with hidden keypoints as hollow rings; predictions have the skeleton's colours, by default orange for
the left and blue for the right side of the body. Lines grow with the person and carry a thin dark rim, so that they
stay legible on a thumbnail and on a photograph, on snow and at night.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_pose_zoo.errors import ImageError
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.skeletons import Color, Skeleton
from lightning_pose_zoo.structures import PoseBatch, person_images

__all__ = [
    "TRUTH_COLOR",
    "Picture",
    "contact_sheet",
    "draw_comparison",
    "draw_poses",
    "enlarge",
    "heatmap_overlay",
    "legend",
    "save_picture",
    "to_picture",
    "write_batch_sheet",
]

Picture = npt.NDArray[np.uint8]
Points = npt.NDArray[np.floating]

TRUTH_COLOR: Color = (70, 225, 80)
_IGNORED_COLOR: Color = (215, 45, 60)
_RIM: Color = (20, 20, 20)
_TEXT: Color = (235, 235, 235)
_BACKGROUND: Color = (32, 32, 32)
_TILE_HEIGHT = 256
_GAP = 4
_CAPTION_HEIGHT = 20
_SHIFT = 6  # cv2 takes coordinates in units of 2^-6 pixels
_FARTHEST = 1e5  # pixels; beyond it cv2's fixed-point numbers would overflow


def draw_poses(
    image: Picture,
    keypoints: Points,
    skeleton: Skeleton,
    scores: Points | None = None,
    visibility: npt.NDArray[np.integer] | None = None,
    color: Color | None = None,
    min_score: float = 0.0,
    boldness: float = 1.0,
) -> Picture:
    """Draw persons: limbs as lines, keypoints as discs.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        keypoints: (P, K, 2), pixels of the image; those that are not finite are left out.
        skeleton: Its limbs and colours.
        scores: (P, K); keypoints that score ``min_score`` or less are left out.
        visibility: (P, K), as COCO counts: 0 is left out, 1 (hidden) is drawn as a ring, 2 as a disc.
        color: (r, g, b) for all limbs and keypoints instead of the skeleton's colours.
        min_score: See ``scores``.
        boldness: Factor on the width of all lines, which follows each person's size.

    Returns:
        A new (H, W, 3) picture.

    Raises:
        ValueError: Where the keypoints are not those of the skeleton.
    """
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.ndim != 3 or keypoints.shape[1:] != (skeleton.num_keypoints, 2):
        raise ValueError(
            f"keypoints have the shape {keypoints.shape}, but skeleton '{skeleton.name}' "
            f"needs (persons, {skeleton.num_keypoints}, 2)."
        )
    canvas = np.array(image, dtype=np.uint8, order="C")
    shown = np.all(np.abs(keypoints) < _FARTHEST, axis=-1)
    if scores is not None:
        shown &= np.asarray(scores) > min_score
    hidden = np.zeros_like(shown)
    if visibility is not None:
        shown &= np.asarray(visibility) > 0
        hidden = np.asarray(visibility) == 1
    for person, show, hide in zip(keypoints, shown, hidden, strict=True):
        if show.any():
            _draw_person(canvas, person, show, hide, skeleton, color, boldness * _line_width(person[show], canvas))
    return canvas


def _line_width(points: Points, image: Picture) -> float:
    """Return the width of lines that suits a person: a seventieth of its extent, within what the picture allows."""
    side = min(image.shape[:2])
    visible = np.clip(points, 0, [image.shape[1], image.shape[0]])
    extent = float(np.ptp(visible, axis=0).max())
    return float(np.clip(extent / 70, max(1.2, side / 400), max(1.5, side / 90)))


def _draw_person(
    canvas: Picture,
    points: Points,
    shown: npt.NDArray[np.bool_],
    hidden: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    color: Color | None,
    width: float,
) -> None:
    radius, rim = 1.1 * width + 1.1, max(1.0, 0.2 * width)
    limbs = [
        (_shortened(points[a], points[b], radius if hidden[a] else 0.0, radius if hidden[b] else 0.0), color or own)
        for (a, b), own in zip(skeleton.limbs, skeleton.limb_colors, strict=True)
        if shown[a] and shown[b]
    ]
    # All rims lie below all colours, so that neighbouring limbs run into one another.
    for extra in (2 * rim, 0.0):
        for ends, own in limbs:
            if ends is not None:
                _line(canvas, ends, _RIM if extra else own, width + extra)
    for index in np.flatnonzero(shown):
        own = color or skeleton.colors[index]
        if hidden[index]:
            _ring(canvas, points[index], radius, _RIM, 0.8 * width + 2 * rim)
            _ring(canvas, points[index], radius, own, 0.8 * width)
        else:
            _dot(canvas, points[index], radius + rim, _RIM)
            _dot(canvas, points[index], radius, own)


def _shortened(start: Points, end: Points, first: float, last: float) -> tuple[Points, Points] | None:
    """Cut a line at its ends, so that rings stay hollow; nothing is left of a line within the rings."""
    length = float(np.linalg.norm(end - start))
    if length <= first + last:
        return None
    along = (end - start) / length
    return start + first * along, end - last * along


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


# Polygons throughout: cv2.line and cv2.circle know whole widths only, and small circles of theirs are no circles.
# Anti-aliasing adds a soft edge of about 0.7 pixels around a polygon, which is taken off first.
_SOFT_EDGE = 0.7
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _line(canvas: Picture, ends: tuple[Points, Points], color: Color, width: float) -> None:
    start, end = ends
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([-along[1], along[0]]) * max(0.05, width / 2 - _SOFT_EDGE)
    corners = np.stack([start + side, end + side, end - side, start - side])
    cv2.fillConvexPoly(canvas, _fixed(corners), color, cv2.LINE_AA, _SHIFT)


def _dot(canvas: Picture, point: Points, radius: float, color: Color) -> None:
    cv2.fillConvexPoly(canvas, _fixed(point + _CIRCLE * max(0.1, radius - _SOFT_EDGE)), color, cv2.LINE_AA, _SHIFT)


def _ring(canvas: Picture, point: Points, radius: float, color: Color, stroke: float) -> None:
    half = max(0.05, stroke / 2 - _SOFT_EDGE)
    edges = [_fixed(point + _CIRCLE * (radius + half)), _fixed(point + _CIRCLE * max(0.0, radius - half))]
    cv2.fillPoly(canvas, edges, color, cv2.LINE_AA, _SHIFT)


def draw_comparison(
    image: Picture,
    skeleton: Skeleton,
    truth: Points,
    visibility: npt.NDArray[np.integer],
    prediction: Points,
    scores: Points | None = None,
    min_score: float = 0.0,
) -> Picture:
    """Draw predictions in the skeleton's colours above the truth in green.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        skeleton: Its limbs and colours.
        truth: (N, K, 2), pixels of the image.
        visibility: (N, K), as COCO counts.
        prediction: (P, K, 2), pixels of the image.
        scores: (P, K) of the prediction.
        min_score: Predicted keypoints that score this or less are left out.

    Returns:
        A new (H, W, 3) picture.
    """
    # The truth is drawn bolder: where the prediction covers it, a green border remains and says so.
    canvas = draw_poses(image, truth, skeleton, visibility=visibility, color=TRUTH_COLOR, boldness=2.0)
    return draw_poses(canvas, prediction, skeleton, scores=scores, min_score=min_score)


def enlarge(image: Picture, keypoints: Points, height: int = _TILE_HEIGHT) -> tuple[Picture, Points]:
    """Enlarge a small picture and its keypoints by a whole factor, to be at least so many pixels high.

    Args:
        image: (H, W, 3) uint8.
        keypoints: (..., 2), pixels of the image.
        height: Pixels; higher pictures are returned as they are.

    Returns:
        The picture, and the keypoints in its pixels.
    """
    factor = math.ceil(height / image.shape[0])
    if factor <= 1:
        return image, keypoints
    size = (image.shape[1] * factor, image.shape[0] * factor)
    bigger: Picture = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    return bigger, (keypoints + 0.5) * factor - 0.5


def contact_sheet(
    images: Sequence[Picture],
    columns: int,
    captions: Sequence[str] | None = None,
    background: Color = _BACKGROUND,
) -> Picture:
    """Lay pictures out in a grid with thin gaps.

    Args:
        images: (h, w, 3) uint8 RGB of any sizes; those less than 256 pixels high are enlarged by a whole factor.
        columns: How many stand side by side.
        captions: One line under each picture.
        background: (r, g, b) of the gaps.

    Returns:
        (H, W, 3) uint8 RGB; columns are as wide as the widest picture, each row as high as its highest.

    Raises:
        ValueError: Where there are no pictures, no columns or another number of captions.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs at least one picture and one column, not {len(images)} and {columns}.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures.")
    tiles = [enlarge(image, np.zeros((0, 2)))[0] for image in images]
    lines = captions or [""] * len(tiles)
    rows = [range(first, min(first + columns, len(tiles))) for first in range(0, len(tiles), columns)]
    wide, text = max(tile.shape[1] for tile in tiles), _CAPTION_HEIGHT if captions else 0
    strips = []
    for row in rows:
        high = max(tiles[index].shape[0] for index in row)
        strip = np.full((high + text + _GAP, min(columns, len(tiles)) * (wide + _GAP), 3), background, dtype=np.uint8)
        for column, index in enumerate(row):
            tile = tiles[index]
            y, x = high - tile.shape[0], column * (wide + _GAP) + (wide - tile.shape[1]) // 2
            strip[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            # Written into its own tile's width only, so that a long caption is cut and never runs into the next.
            _write(strip[high : high + text, x : x + tile.shape[1]], lines[index], 2, 14)
        strips.append(strip)
    sheet: Picture = np.pad(np.concatenate(strips), ((_GAP, 0), (_GAP, 0), (0, 0)))
    sheet[:_GAP], sheet[:, :_GAP] = background, background
    return sheet


def _write(canvas: Picture, text: str, x: int, y: int) -> int:
    """Write one line with its base at y, and return its width in pixels."""
    if not text or not canvas.size:
        return 0
    written = np.ascontiguousarray(canvas)
    cv2.putText(written, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT, 1, cv2.LINE_AA)
    canvas[:] = written
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0])


def legend(skeleton: Skeleton, width: int, truth: bool = True, ignored: bool = False) -> Picture:
    """Draw a strip that says what the colours mean.

    Args:
        skeleton: Left and right are named where each side has one colour.
        width: Pixels.
        truth: Name the truth's green too.
        ignored: Name the red of ignored regions too.

    Returns:
        (24, ``width``, 3) uint8 RGB.
    """
    sides: dict[str, set[Color]] = {"left": set(), "right": set()}
    for index in (index for pair in skeleton.flip_pairs for index in pair):
        name = skeleton.names[index].lower()
        side = next((side for side in sides if side in name), None)
        if side:
            sides[side].add(skeleton.colors[index])
    entries = [("truth (ring: hidden)", TRUTH_COLOR)] if truth else []
    entries += [(side, next(iter(colors))) for side, colors in sides.items() if len(colors) == 1]
    entries += [("ignored", _IGNORED_COLOR)] if ignored else []
    strip: Picture = np.full((24, width, 3), _BACKGROUND, dtype=np.uint8)
    x = 14
    for text, color in entries:
        _dot(strip, np.array([x, 11.5]), 5.0, color)
        x += 12 + _write(strip, text, x + 10, 16) + 20
    return strip


def heatmap_overlay(image: Picture, heatmaps: Points) -> Picture:
    """Lay heatmaps over a picture; the higher a value is, the less of the picture shows through.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmaps: (K, h, w); each cell shows the highest of its K values, scaled by the highest of all.

    Returns:
        A new (H, W, 3) picture.
    """
    highest = np.nan_to_num(np.asarray(heatmaps, dtype=np.float32)).max(axis=0).clip(min=0)
    peak = float(highest.max())
    value = cv2.resize(highest / peak if peak > 0 else highest, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    hot = cv2.applyColorMap((255 * value).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    share = 0.85 * np.sqrt(value)[..., None]
    blended: Picture = (image * (1 - share) + hot * share).round().astype(np.uint8)
    return blended


def to_picture(image: Tensor) -> Picture:
    """Turn one image of a batch into a picture.

    Args:
        image: (3, H, W); uint8, or float, which is stretched from its lowest to its highest value.

    Returns:
        (H, W, 3) uint8 RGB in main memory.
    """
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()
        low, high = pixels.min(), pixels.max()
        pixels = ((pixels - low) / (high - low).clamp(min=1e-12) * 255).round().byte()
    picture: Picture = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return picture


def write_batch_sheet(batch: PoseBatch, skeleton: Skeleton, path: Path, pictures: int = 16) -> None:
    """Write a contact sheet of a batch with its targets, to see what a network is trained on.

    Args:
        batch: Needs ``image``, ``keypoints`` and ``visibility``; regions of its ``ignore`` are shaded red.
        skeleton: Its limbs and colours.
        path: Where the sheet is written, .png or .jpg.
        pictures: At most so many pictures are shown.
    """
    rows = person_images(batch).cpu().numpy()
    keypoints, visibility = batch["keypoints"].cpu().numpy(), batch["visibility"].cpu().numpy()
    tiles = []
    for row in range(min(pictures, len(batch["image"]))):
        picture = to_picture(batch["image"][row]).copy()  # it may be the batch's own memory
        if "ignore" in batch:
            ignored = batch["ignore"][row].cpu().numpy()
            picture[ignored] = (0.55 * picture[ignored] + 0.45 * np.array(_IGNORED_COLOR)).astype(np.uint8)
        image, points = enlarge(picture, keypoints[rows == row])
        tiles.append(draw_poses(image, points, skeleton, visibility=visibility[rows == row]))
    sheet = contact_sheet(tiles, columns=math.ceil(math.sqrt(len(tiles))))
    ignored_too = "ignore" in batch and bool(batch["ignore"].any())
    words = legend(skeleton, sheet.shape[1], truth=False, ignored=ignored_too)
    save_picture(path, np.concatenate([sheet, words]))


def save_picture(path: Path, image: Picture) -> None:
    """Write a picture file, whole or not at all.

    Args:
        path: Ends in .png, .jpg or .jpeg; its folder is made where it is missing.
        image: (H, W, 3) uint8 RGB.

    Raises:
        ImageError: Where the ending is another.
    """
    options = {".png": [], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92]}
    suffix = path.suffix.lower()
    if suffix not in options:
        raise ImageError(f"'{path}': pictures are written as .png or .jpg, not as '{path.suffix}'.")
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options[suffix])
    write_atomically(path, encoded.tobytes())
