"""Faces and fabrics: a map of the head's surface that comes onto the head as it is seen, and a texture for the rest."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.rendering.body import FRAMES, POINTS, Body
from lightning_pose_zoo.data.rendering.drawing import Camera, Fragments, Integers, Paint, Singles
from lightning_pose_zoo.data.rendering.wardrobe import PARTS, ROUGHNESS, Outfit

__all__ = ["painter"]

Map = npt.NDArray[np.uint8]
Color = npt.NDArray[np.float64]
Degrees = tuple[float, float]

_WIDTH, _HEIGHT = 128, 64
_SHIFT = 4  # cv2's fixed point: sixteenths of a pixel
_FRAME = np.array([30.0, 28.0, 30.0])  # of glasses
_HEAD = PARTS.index("head")
_CENTER = POINTS.index("head")


def _at(longitude: float, latitude: float) -> tuple[int, int]:
    """Return where a direction is on the map, in sixteenths of a pixel.

    Args:
        longitude: Degrees from the front to the person's left.
        latitude: Degrees from the middle of the head upwards.
    """
    return (
        round((longitude / 360 + 0.5) * _WIDTH * (1 << _SHIFT)),
        round((0.5 - latitude / 180) * _HEIGHT * (1 << _SHIFT)),
    )


def _ellipse(surface: Map, at: Degrees, size: Degrees, color: Color, end: float = 360) -> None:
    """Fill an ellipse, or its lower half with ``end`` 180; centre and half axes in degrees."""
    axes = (round(size[0] / 360 * _WIDTH * (1 << _SHIFT)), round(size[1] / 180 * _HEIGHT * (1 << _SHIFT)))
    cv2.ellipse(surface, _at(*at), axes, 0, 0, end, color.tolist(), -1, cv2.LINE_AA, _SHIFT)


def _stroke(surface: Map, start: Degrees, end: Degrees, color: Color, thick: int = 1) -> None:
    cv2.line(surface, _at(*start), _at(*end), color.tolist(), thick, cv2.LINE_AA, _SHIFT)


def _paint_mouth(surface: Map, skin: Color, mood: Color) -> None:
    """Paint lips, or an open mouth with teeth."""
    if mood[0] < 0.25:
        _ellipse(surface, (0, -47), (14, 7 + 5 * mood[1]), skin * 0.35)
        _stroke(surface, (-9, -45), (9, -45), np.array([235.0, 230.0, 225.0]))
        return
    lips = skin * (0.86, 0.6, 0.6)
    _ellipse(surface, (0, -44 - 3 * mood[1]), (15, 6), lips, 180 if mood[1] < 0.6 else 360)
    for side in (-1, 1):
        _stroke(surface, (side * 14, -45 + 4 * mood[2]), (0, -47), lips * 0.7)


def _paint_eyes(surface: Map, skin: Color, brow: Color, mood: Color, glasses: bool) -> None:
    """Paint eyes and brows, and glasses before them."""
    iris = np.array([44 + 40 * mood[2], 34 + 30 * mood[1], 30 + 60 * mood[3]])
    for side in (-1, 1):
        _ellipse(surface, (side * 21, 2), (12, 9), skin * 0.82)
        _ellipse(surface, (side * 21, 1), (9.5, 6.5), np.array([240.0, 238.0, 234.0]))
        _ellipse(surface, (side * 21 + 4 * (mood[3] - 0.5), 1), (5.2, 6.2), iris)
        _stroke(surface, (side * 11, 13 + 3 * mood[2]), (side * 33, 12), brow, 2)
        if glasses:
            cv2.ellipse(surface, _at(side * 21, 0), (100, 92), 0, 0, 360, _FRAME.tolist(), 1, cv2.LINE_AA, _SHIFT)
            _stroke(surface, (side * 36, 4), (side * 88, 6), _FRAME)
    if glasses:
        _stroke(surface, (-7, 4), (7, 4), _FRAME)


def _face_map(outfit: Outfit, rng: np.random.Generator) -> Map:
    """Paint the surface of a head, (height, width, 3): eyes, brows, mouth, beard and the roots of the hair."""
    mood = rng.random(4)
    skin, hair = outfit.skin, outfit.hair
    surface = np.empty((_HEIGHT, _WIDTH, 3), dtype=np.uint8)
    surface[:] = skin.astype(np.uint8)
    for side in (-1, 1):
        _ellipse(surface, (side * 26, -22), (15, 12), np.minimum(skin * (1.02, 0.9, 0.88), 255))
    if outfit.beard:
        _ellipse(surface, (0, -64), (62, 44), hair * 0.9)
    _paint_mouth(surface, skin, mood)
    brow = np.minimum(hair * 0.8, skin * 0.75) if outfit.style != "cap" else skin * 0.45
    _paint_eyes(surface, skin, brow, mood, outfit.glasses)
    if outfit.style != "bald":
        _paint_hair(surface, hair, 34 + 14 * mood[0], 66 + 12 * mood[1])
    return np.asarray(cv2.GaussianBlur(surface, (3, 3), 0), dtype=np.uint8)


def _paint_hair(surface: Map, color: Color, line: float, temple: float) -> None:
    """Paint what hair covers: all above the hairline, and behind the temples down to the neck; degrees."""
    outline = [(-180, -40), (-110, -40), (-95, -5), (-temple, 0), (-temple + 8, line - 8), (-30, line), (0, line + 3)]
    outline += [(-lon, lat) for lon, lat in outline[-2::-1]]
    corners = np.array([_at(lon, lat) for lon, lat in [*outline, (180, 90), (-180, 90)]], dtype=np.int32)
    cv2.fillPoly(surface, [corners], color.tolist(), cv2.LINE_AA, _SHIFT)


def painter(
    body: Body, outfit: Outfit, camera: Camera, fabric: npt.NDArray[np.uint8], rng: np.random.Generator
) -> Paint:
    """Return what paints a person: its face onto the head, from wherever it is seen, and a texture onto all of it.

    Args:
        body: Whose.
        outfit: How it looks.
        camera: Who sees it.
        fabric: (H, W) of the picture, a grey texture around 128.
        rng: Draws the expression.
    """
    roughness, threads = ROUGHNESS / np.float32(128), fabric.ravel()
    picture_width = fabric.shape[1]
    surface = _face_map(outfit, rng)
    center, center_depth, scale = camera.project(body.points[_CENTER : _CENTER + 1])
    frame = camera.rotation @ body.frames[FRAMES.index("head")]
    # The head is an ellipsoid: dividing by its half axes makes directions of places.
    to_local = (frame / (np.array([0.046, 0.066, 0.056]) * body.build.head * scale[0])).astype(np.float32)
    origin = np.array([center[0, 0], center[0, 1], center_depth[0]])

    def paint(found: Fragments, chosen: Integers, colors: Singles) -> None:
        at = np.flatnonzero(found.solid[chosen] == _HEAD)
        fragments = chosen[at]
        pixel = found.pixel[fragments]
        place = np.stack([pixel % picture_width, pixel // picture_width, found.depth[fragments]], axis=1) - origin
        left, down, back = (place.astype(np.float32) @ to_local).T
        longitude = np.arctan2(left, -back)
        latitude = np.arctan2(down, np.hypot(left, back))
        column = ((longitude / (2 * np.pi) + 0.5) * _WIDTH).astype(np.int64) % _WIDTH
        row = np.clip((latitude / np.pi + 0.5) * _HEIGHT, 0, _HEIGHT - 1).astype(np.int64)
        colors[at] = surface[row, column]
        relief = threads[found.pixel[chosen]].astype(np.float32) - np.float32(128)
        colors *= (np.float32(1) + relief * roughness[found.solid[chosen]])[:, None]

    return paint
