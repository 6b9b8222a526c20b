"""What stands behind and before synthetic people: rooms, streets, nature, clutter, occluders; cv2 and numpy only."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.rendering.textures import textures

__all__ = ["cast_shadow", "paint_backdrop", "paint_occluder"]

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Color = tuple[float, float, float]
Corners = list[tuple[float, float]]

_SHIFT = 4  # cv2's fixed point: sixteenths of a pixel


# Walls, wood, stone, earth, cloth: what most places are made of.
_COMMON: tuple[Color, ...] = (
    (214, 206, 194), (176, 152, 124), (128, 92, 64), (118, 118, 120), (196, 202, 208),
    (88, 106, 128), (112, 122, 88), (70, 64, 62),
)  # fmt: skip


def _color(rng: np.random.Generator, vivid: float = 0.75) -> Color:
    """Draw an RGB colour, 0 to 255; the lower ``vivid``, the nearer to grey. Most are those of common materials."""
    red, green, blue, strength, value, common = rng.random(6).tolist()
    if common < 0.6:
        r, g, b = _COMMON[int(common / 0.6 * len(_COMMON))]
        tint = 0.28 * vivid
        return _scaled(
            (r * (0.86 + tint * red), g * (0.86 + tint * green), b * (0.86 + tint * blue)), 0.55 + 0.6 * value
        )
    low, high, bright = min(red, green, blue), max(red, green, blue), 35 + 210 * value
    r, g, b = (bright * (1 - strength * vivid * (1 - (c - low) / max(high - low, 1e-3))) for c in (red, green, blue))
    return r, g, b


def _polygon(canvas: Image, corners: Corners, color: Color | int) -> None:
    """Fill a convex polygon with smooth edges; corners in pixels."""
    points = np.round(np.array(corners) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillConvexPoly(canvas, points, color, cv2.LINE_AA, _SHIFT)


def _box(x: float, y: float, wide: float, high: float) -> Corners:
    return [(x, y), (x + wide, y), (x + wide, y + high), (x, y + high)]


def _disc(canvas: Image, x: float, y: float, wide: float, high: float, color: Color | int, angle: float = 0.0) -> None:
    """Fill an ellipse with smooth edges; centre and half axes in pixels."""
    center, axes = (round(x * 16), round(y * 16)), (max(round(wide * 16), 1), max(round(high * 16), 1))
    cv2.ellipse(canvas, center, axes, angle, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)


def _stroke(
    canvas: Image, start: tuple[float, float], end: tuple[float, float], color: Color | int, thick: float
) -> None:
    ends = [(round(x * 16), round(y * 16)) for x, y in (start, end)]
    cv2.line(canvas, ends[0], ends[1], color, max(1, round(thick)), cv2.LINE_AA, _SHIFT)


def _scaled(color: Color, factor: float) -> Color:
    r, g, b = (min(max(c * factor, 0.0), 255.0) for c in color)
    return r, g, b


def _gradient(rng: np.random.Generator, height: int, width: int, color: Color, spread: float) -> Image:
    """Return a smooth surface (height, width, 3) around a colour."""
    corners = np.array(color, dtype=np.float32) + rng.standard_normal((3, 3, 1)).astype(np.float32) * spread
    corners += rng.standard_normal((3, 3, 3)).astype(np.float32) * (0.3 * spread)
    small = np.clip(corners, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _texture(image: Image, pattern: npt.NDArray[np.uint8], strength: float) -> None:
    """Add a pattern around 128 to a picture, in place."""
    cv2.addWeighted(image, 1.0, cv2.cvtColor(pattern, cv2.COLOR_GRAY2RGB), strength, -128 * strength, dst=image)


def _surface(
    rng: np.random.Generator, height: int, width: int, color: Color, kind: int | None, strength: float
) -> Image:
    """Return a textured surface (height, width, 3)."""
    surface = _gradient(rng, height, width, color, 18)
    _texture(surface, textures().crop(rng, height, width, kind), strength)
    return surface


def _shaded_bar(image: Image, start: tuple[float, float], end: tuple[float, float], color: Color, thick: float) -> None:
    """Draw what looks like a limb, a pipe or a trunk: lighter along its middle."""
    for share, tone in ((1.0, 0.62), (0.75, 0.82), (0.42, 1.0)):
        _stroke(image, start, end, _scaled(color, tone), thick * share)


def _room(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint a wall and a floor with what stands and hangs there."""
    draws = rng.random(6)
    line = int(height * (0.55 + 0.3 * draws[0]))
    wall = _color(rng, 0.5)
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:line] = _surface(rng, line, width, wall, (0, 4, 5, 2)[int(draws[1] * 4)], 0.1 + 0.4 * draws[1] ** 2)
    image[line:] = _surface(
        rng, height - line, width, _color(rng, 0.6), (1, 6, 5, 0)[int(draws[2] * 4)], 0.2 + 0.4 * draws[3]
    )
    if draws[4] < 0.6:
        image[line - 1 : line + max(1, height // 80)] = _scaled(wall, 0.6 + 0.6 * draws[5])
    for x, y, wide, high, kind in rng.random((int(rng.integers(1, 5)), 5)):
        color = _color(rng)
        w, h = (0.12 + 0.4 * wide) * width, (0.1 + 0.35 * high) * height
        left = x * (width + w) - w
        if kind < 0.5:  # a picture, a window
            top = y * line * 0.6 - 0.2 * h
            _polygon(image, _box(left - 2, top - 2, w + 4, h + 4), _color(rng, 0.4))
            _polygon(image, _box(left, top, w, h), color)
            if kind < 0.2:
                _stroke(image, (left + w / 2, top), (left + w / 2, top + h), _scaled(color, 0.4), 2)
        else:  # a shelf, a cupboard, a sofa
            bottom = line + y * (height - line) * 0.5
            _polygon(image, _box(left, bottom - h, w, h), color)
            _polygon(image, _box(left + w, bottom - h, 0.15 * w, 0.97 * h), _scaled(color, 0.65))
            for board in range(1, int(kind * 7)):
                level = bottom - h + board * h / int(kind * 7)
                _stroke(image, (left, level), (left + w, level), _scaled(color, 0.6), 1)
    return image


def _street(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint a sky, houses with windows, and a road."""
    line = int(height * rng.uniform(0.45, 0.8))
    sky = _color(rng, 0.3) if rng.random() < 0.4 else (150.0, 185.0, 225.0)
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:line] = _surface(rng, line, width, sky, 0, 0.3 * rng.random())
    image[line:] = _surface(rng, height - line, width, _color(rng, 0.15), int(rng.integers(0, 7)), 0.3)
    x = -rng.random() * 0.3 * width
    while x < width:
        wide, high = rng.uniform(0.2, 0.6) * width, rng.uniform(0.3, 1.1) * line
        left, right, top = max(int(x), 0), min(int(x + wide), width), max(int(line - high), 0)
        if right - left > 2 and line - top > 2:
            image[top:line, left:right] = _surface(rng, line - top, right - left, _color(rng, 0.5), 4, 0.35)
            glass, rows, columns = _color(rng, 0.4), int(rng.integers(2, 6)), int(rng.integers(2, 5))
            for row in range(rows):
                for column in range(columns):
                    _polygon(
                        image,
                        _box(
                            x + (column + 0.25) * wide / columns,
                            line - high + (row + 0.2) * high / rows,
                            0.5 * wide / columns,
                            0.55 * high / rows,
                        ),
                        glass,
                    )
        x += wide * rng.uniform(0.8, 1.3)
    return image


def _nature(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint a sky, hills, grass or sand, and trees."""
    line = int(height * rng.uniform(0.35, 0.75))
    grounds = (
        (70.0, 110.0, 50.0),
        (120.0, 130.0, 60.0),
        (196.0, 176.0, 130.0),
        (110.0, 90.0, 66.0),
        (225.0, 230.0, 236.0),
    )
    ground = _scaled(grounds[int(rng.integers(0, len(grounds)))], rng.uniform(0.6, 1.15))
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:line] = _surface(
        rng, line, width, _scaled((160.0, 195.0, 235.0), rng.uniform(0.5, 1.1)), 0, 0.35 * rng.random()
    )
    image[line:] = _surface(rng, height - line, width, ground, (3, 0, 2, 1)[int(rng.integers(0, 4))], 0.45)
    for x, peak, spread in rng.random((int(rng.integers(0, 4)), 3)):
        top = line * (0.35 + 0.6 * peak)
        _polygon(
            image,
            [(x * width, top), ((x + 0.3 + spread) * width, line), ((x - 0.3 - spread) * width, line)],
            _scaled(ground, 0.5 + 0.4 * spread),
        )
    for x, tall, green, wide in rng.random((int(rng.integers(0, 5)), 4)):
        trunk, crown = (84.0, 62.0, 44.0), _scaled((70.0 + 50 * green, 120.0, 50.0), 0.4 + 0.6 * tall)
        foot, top = line + 0.15 * height * tall, line - (0.15 + 0.4 * tall) * height
        _shaded_bar(image, (x * width, foot), (x * width, top), trunk, (0.02 + 0.05 * wide) * height)
        for dx, dy, size, tone in rng.random((7, 4)):
            radius = (0.06 + 0.08 * size) * height * (0.6 + tall)
            _disc(
                image,
                x * width + (dx - 0.5) * 0.3 * height,
                top + (dy - 0.5) * 0.25 * height,
                radius,
                radius,
                _scaled(crown, 0.6 + 0.6 * tone),
            )
    return image


def _field(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint a sports ground with lines, and spectators behind it."""
    line = int(height * rng.uniform(0.15, 0.5))
    ground = ((60.0, 125.0, 55.0), (176.0, 88.0, 60.0), (60.0, 96.0, 150.0), (190.0, 150.0, 100.0))[
        int(rng.integers(0, 4))
    ]
    image = np.empty((height, width, 3), dtype=np.uint8)
    spots = rng.integers(0, 255, (max(line // 4, 1), width // 3, 3), dtype=np.uint8)
    crowd = cv2.resize(spots, (width, line), interpolation=cv2.INTER_CUBIC)
    grey = cv2.cvtColor(cv2.cvtColor(crowd, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image[:line] = cv2.addWeighted(crowd, 0.3, grey, 0.45, 10)
    image[line:] = _surface(rng, height - line, width, ground, (0, 2, 3)[int(rng.integers(0, 3))], 0.25)
    for start, end, x, y in rng.random((int(rng.integers(1, 4)), 4)):
        level = line + start * (height - line)
        _stroke(
            image,
            (-0.1 * width, level),
            (1.1 * width, line + end * (height - line) if x < 0.5 else level + 4),
            (235.0, 235.0, 230.0),
            1 + 2 * y,
        )
    return image


def _abstract(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint colours without form, at several scales."""
    image = _gradient(rng, height, width, _color(rng), 50)
    for cells in rng.integers(3, 24, 2):
        noise = rng.integers(0, 256, (int(cells), int(cells), 3), dtype=np.uint8)
        smooth = (cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST)[int(rng.integers(0, 3))]
        strength = rng.uniform(0.05, 0.3)
        cv2.addWeighted(
            image, 1, cv2.resize(noise, (width, height), interpolation=smooth), strength, -128 * strength, dst=image
        )
    _texture(image, textures().crop(rng, height, width), rng.uniform(0.1, 0.6))
    return image


_PLACES: tuple[Callable[[np.random.Generator, int, int], Image], ...] = (
    _room,
    _street,
    _nature,
    _field,
    _abstract,
    _room,
)


def _clutter(rng: np.random.Generator, image: Image) -> None:
    """Strew things about, among them bars that look like limbs and balls that look like heads."""
    height, width = image.shape[:2]
    for x, y, size, angle, aspect, kind in rng.random((int(8 * rng.random() ** 1.6), 6)):
        color = _scaled((214.0, 166.0, 134.0), 0.4 + 0.75 * aspect) if kind < 0.15 or 0.5 < kind < 0.6 else _color(rng)
        center_x, center_y, long = x * width, y * height, (0.05 + 0.25 * size**2) * height
        dx, dy = np.cos(6.28 * angle) * long, np.sin(6.28 * angle) * long
        if kind < 0.5:
            start, bend = (center_x - dx, center_y - dy), (center_x + dx, center_y + dy)
            thick = long * (0.12 + 0.3 * aspect)
            _shaded_bar(image, start, bend, color, thick)
            if kind < 0.25:
                _shaded_bar(image, bend, (bend[0] + dy, bend[1] - dx), color, thick * 0.8)
        elif kind < 0.75:
            for share, tone in ((0.6, 0.7), (0.45, 0.85), (0.28, 1.0)):
                _disc(
                    image,
                    center_x - 0.1 * long,
                    center_y - 0.1 * long,
                    share * long,
                    share * long * (0.7 + 0.6 * aspect),
                    _scaled(color, tone),
                    360 * angle,
                )
        else:
            side = 0.25 + aspect
            _polygon(
                image,
                [
                    (center_x - dx, center_y - dy),
                    (center_x - side * dy, center_y + side * dx),
                    (center_x + dx, center_y + dy),
                    (center_x + side * dy, center_y - side * dx),
                ],
                color,
            )


def paint_backdrop(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint a place without people, (height, width, 3) RGB."""
    image = _PLACES[int(rng.integers(0, len(_PLACES)))](rng, height, width)
    _clutter(rng, image)
    if rng.random() < 0.4:  # out of focus
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), height / 160 * rng.uniform(0.6, 2.0)), dtype=np.uint8)
    return image


def cast_shadow(image: Image, x: float, y: float, wide: float, strength: float) -> None:
    """Darken the ground under a person, in place: a soft ellipse around (x, y) of half width ``wide``, pixels."""
    height, width = image.shape[:2]
    high = 0.22 * wide
    left, right = max(int(x - 1.5 * wide), 0), min(int(x + 1.5 * wide) + 2, width)
    top, bottom = max(int(y - 1.5 * high), 0), min(int(y + 1.5 * high) + 2, height)
    if right <= left or bottom <= top:
        return
    across, down = (np.arange(left, right) - x) / wide, (np.arange(top, bottom) - y) / high
    dark = np.maximum(0, 1 - 0.7 * (across[None] ** 2 + down[:, None] ** 2)) * strength
    part = image[top:bottom, left:right]
    part[:] = part * (1 - dark[..., None])


def _occluder_mask(rng: np.random.Generator, mask: Image, x: float, y: float, size: float) -> None:
    """Draw the outline of something around (x, y), ``size`` pixels large, as 255 on 0."""
    height = mask.shape[0]
    a, b, c, kind = rng.random(4)
    if kind < 0.25:  # a box, a wall, a board
        wide, high = size * (0.4 + 0.7 * a), size * (0.4 + 0.7 * b)
        lean = (c - 0.5) * 0.3 * size
        _polygon(
            mask,
            [
                (x - wide / 2, y - high / 2),
                (x + wide / 2, y - high / 2 + lean),
                (x + wide / 2, y + high / 2 + lean),
                (x - wide / 2, y + high / 2),
            ],
            255,
        )
    elif kind < 0.4:  # a table: its top, and legs to the ground
        wide, thick = size * (0.8 + 0.6 * a), size * (0.06 + 0.12 * b)
        _polygon(mask, _box(x - wide / 2, y, wide, thick), 255)
        for side in (-0.44, 0.4):
            _polygon(mask, _box(x + side * wide, y, 0.05 * wide + 1, height), 255)
    elif kind < 0.6:  # a pole, a trunk
        lean = (c - 0.5) * 0.4 * size
        _stroke(mask, (x - lean, y - 2 * size), (x + lean, y + 2 * size), 255, size * (0.08 + 0.2 * a))
    elif kind < 0.72:  # a fence
        gap = size * (0.2 + 0.15 * a)
        for bar in range(-3, 4):
            _stroke(mask, (x + bar * gap, y - 0.3 * size * (0.5 + b)), (x + bar * gap, y + height), 255, size * 0.05)
        _stroke(mask, (x - 3 * gap, y), (x + 3 * gap, y), 255, size * 0.05)
    elif kind < 0.88:  # a bush
        for dx, dy, radius in rng.random((9, 3)):
            blob = size * (0.1 + 0.16 * radius)
            _disc(
                mask,
                x + (dx - 0.5) * size * (0.5 + a),
                y + (dy - 0.5) * size * (0.4 + b),
                blob,
                blob * (0.6 + 0.5 * c),
                255,
                180 * dx,
            )
    else:  # a ball, a bag
        _disc(mask, x, y, size * (0.15 + 0.25 * a), size * (0.15 + 0.25 * b), 255, 180 * c)


def paint_occluder(rng: np.random.Generator, image: Image, x: float, y: float, size: float) -> npt.NDArray[np.bool_]:
    """Put something before whoever stands there.

    Args:
        rng: Where the choices come from.
        image: (H, W, 3) RGB; changed in place.
        x: Column of its middle.
        y: Row of its middle.
        size: About its width and height in pixels.

    Returns:
        (H, W), True where it hides what is behind it.
    """
    height, width = image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    _occluder_mask(rng, mask, x, y, size)
    left, top, wide, high = cv2.boundingRect(mask)
    if wide == 0 or high == 0:
        return mask > 0
    part, cover = image[top : top + high, left : left + wide], mask[top : top + high, left : left + wide]
    surface = _surface(rng, high, wide, _color(rng, 0.8), None, rng.uniform(0.1, 0.6)).astype(np.float32)
    surface *= np.linspace(1.1, 0.75, wide, dtype=np.float32)[None, :, None]
    share = (cover.astype(np.float32) / 255)[..., None]
    part[:] = np.clip(part * (1 - share) + surface * share, 0, 255)
    return mask >= 96
