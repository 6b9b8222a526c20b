"""Draws many rounded solids at once: exact hidden surfaces, smooth shading, smooth edges; numpy only.

A solid is a chain of spheres along an axis, as thick as its profile says. All candidate pixels of all solids are
computed in one go as flat arrays, sorted by depth, and composed from the nearest to the third nearest.

Frame of a picture: x to the right, y down, in pixels, the centre of the top left pixel is (0, 0); depths are away from
the camera, in pixels too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "Camera", "Layer", "Light", "Solids", "draw_solids"]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]

BINS = 32
"""Steps of a solid's profile and of its colours along its axis."""
_LAYERS = 3


@dataclass(frozen=True)
class Camera:
    """Where a person stands before the camera.

    Attributes:
        rotation: (3, 3) from the body's frame to the camera's.
        scale: Pixels per unit of the body at the depth of the body's origin.
        distance: From the camera to the body's origin, in units of the body; what is nearer looks larger.
        offset: (2,) x, y of the body's origin in pixels.
    """

    rotation: Floats
    scale: float
    distance: float
    offset: Floats

    def project(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Project points of the body.

        Args:
            points: (n, 3), the body's frame and units.

        Returns:
            (n, 2) x, y in pixels; (n,) depth in pixels against the body's origin; (n,) pixels per unit at the point.
        """
        seen = points @ self.rotation.T
        scale = self.scale * self.distance / np.maximum(self.distance + seen[:, 2], 0.3)
        return seen[:, :2] * scale[:, None] + self.offset, seen[:, 2] * self.scale, scale


@dataclass(frozen=True)
class Light:
    """One lamp, far away, and the light from everywhere.

    Attributes:
        direction: (3,) unit vector towards the lamp, the camera's frame.
        ambient: Brightness from everywhere, 0 to 1.
        diffuse: Brightness by the lamp, 0 to 1.
    """

    direction: Floats
    ambient: float
    diffuse: float


@dataclass(frozen=True)
class Solids:
    """P solids as the camera sees them.

    Attributes:
        start: (P, 2) x, y of one end of the axis, pixels.
        end: (P, 2) the other end.
        depth: (P, 2) depth of both ends, pixels.
        radius: (P, BINS) half the width along the axis, pixels; 0 everywhere: absent.
        bulge: (P,) how far the round ends reach beyond the axis, in radii.
        thickness: (P,) half the extent in depth, in radii.
        colors: (P, BINS, 3) along the axis, RGB 0 to 255.
    """

    start: Floats
    end: Floats
    depth: Floats
    radius: Floats
    bulge: Floats
    thickness: Floats
    colors: Singles

    def placed(self, scale: float, offset: Floats) -> Solids:
        """Return the same solids drawn ``scale`` times as large and moved by ``offset`` (2,) pixels."""
        return replace(
            self,
            start=self.start * scale + offset,
            end=self.end * scale + offset,
            depth=self.depth * scale,
            radius=self.radius * scale,
        )


@dataclass(frozen=True)
class Fragments:
    """The n candidate pixels of all solids, flat.

    Attributes:
        solid: (n,) which solid.
        pixel: (n,) row * width + column.
        bin: (n,) solid * BINS + step along the axis.
        across: (n,) normal's part across the axis, -1 to 1.
        beyond: (n,) normal's part along the axis, other than 0 on the round ends.
        front: (n,) normal's part towards the camera, 0 to 1.
        alpha: (n,) how much of the pixel the solid covers, 0 to 1.
        depth: (n,) of the surface, pixels.
    """

    solid: Integers
    pixel: Integers
    bin: Integers
    across: Singles
    beyond: Singles
    front: Singles
    alpha: Singles
    depth: Singles


@dataclass(frozen=True)
class Layer:
    """What ``draw_solids`` drew.

    Attributes:
        solid: (H, W) int16, the solid in front at each pixel that is covered by half or more; -1 where there is none.
        depth: (H, W) float32, depth of its surface in pixels; infinite where there is none.
    """

    solid: npt.NDArray[np.int16]
    depth: Singles


Paint = Callable[[Fragments, Integers, Singles], None]
"""Changes the colours (n, 3) of chosen fragments (n,) in place: faces and prints, which no profile can hold."""


def _axes(solids: Solids) -> tuple[Floats, Floats]:
    """Return the unit axes (P, 2) in the picture and their lengths (P,) in pixels."""
    along = solids.end - solids.start
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-3)
    axis = along / length[:, None]
    axis[length <= 1e-3] = (0.0, 1.0)
    return axis, length


def _spans(solids: Solids, axis: Floats, height: int, width: int) -> tuple[Integers, Integers, Integers, Integers]:
    """List the rows of pixels that solids may cover: solid, row, first column, number of columns, (R,) each."""
    thickest = solids.radius.max(axis=1)
    reach = np.where(thickest > 0, thickest * np.maximum(solids.bulge, 1.0) + 1.0, -1e6)[:, None]
    low = np.minimum(solids.start, solids.end) - reach
    high = np.maximum(solids.start, solids.end) + reach
    size = np.array([width, height])
    first = np.clip(np.ceil(low), 0, size).astype(np.int64)
    last = np.clip(np.floor(high) + 1, first, size).astype(np.int64)
    rows = (last - first)[:, 1]
    solid = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(solid)) - np.repeat(np.cumsum(rows) - rows - first[:, 1], rows)
    # Within a row only the columns count that are near the axis: |across| <= reach.
    slope = axis[solid, 1]
    slope = np.where(np.abs(slope) < 1e-4, 1e-4, slope)
    middle = solids.start[solid, 0] + (row - solids.start[solid, 1]) * axis[solid, 0] / slope
    margin = (thickest[solid] + 1.0) / np.abs(slope)
    left = np.ceil(np.clip(middle - margin, first[solid, 0], last[solid, 0])).astype(np.int64)
    right = np.floor(np.clip(middle + margin, left - 1, last[solid, 0] - 1)).astype(np.int64) + 1
    return solid, row, left, right - left


def _fragments(solids: Solids, axis: Floats, length: Floats, height: int, width: int) -> Fragments:
    """Compute the surfaces of all solids at all pixels that they cover."""
    part, row, left, count = _spans(solids, axis, height, width)
    offset_x, offset_y = left - solids.start[part, 0], row - solids.start[part, 1]
    ux, uy = axis[part, 0], axis[part, 1]
    starts = np.cumsum(count) - count
    position = np.arange(int(count.sum()))
    column = position - np.repeat(starts, count)
    steps = column.astype(np.float32)

    def line(value: Floats, slope: Floats) -> Singles:
        return np.asarray(
            np.repeat(value.astype(np.float32), count) + np.repeat(slope.astype(np.float32), count) * steps
        )

    along = line((offset_x * ux + offset_y * uy) / length[part], ux / length[part])
    across = line(offset_y * ux - offset_x * uy, -uy)
    solid = np.repeat(part, count)
    clipped = np.minimum(np.maximum(along, np.float32(0)), np.float32(1))
    bins = solid * BINS + (clipped * np.float32(BINS - 0.01)).astype(np.int64)
    radius = solids.radius.astype(np.float32).ravel().take(bins)
    stretch = (length / np.maximum(solids.bulge, 1e-3)).astype(np.float32)
    beyond = (along - clipped) * stretch.take(solid)
    inverse = 1 / np.maximum(radius, np.float32(1e-3))
    across *= inverse
    beyond *= inverse
    inside = 1 - across * across - beyond * beyond
    # (1 - rho^2) r / 2 is the distance to the outline in pixels, close to the outline.
    alpha = inside * radius * np.float32(0.5) + np.float32(0.5)
    kept = np.flatnonzero(alpha > np.float32(0.02))
    solid, bins, clipped, radius = solid.take(kept), bins.take(kept), clipped.take(kept), radius.take(kept)
    front = np.sqrt(np.maximum(inside.take(kept), np.float32(0)))
    near = solids.depth[:, 0].astype(np.float32).take(solid)
    rise = (solids.depth[:, 1] - solids.depth[:, 0]).astype(np.float32).take(solid)
    depth = near + rise * clipped - front * radius * solids.thickness.astype(np.float32).take(solid)
    pixel = np.repeat(row * width + left, count).take(kept) + column.take(kept)
    covered = np.minimum(alpha.take(kept), np.float32(1))
    return Fragments(solid, pixel, bins, across.take(kept), beyond.take(kept), front, covered, depth)


def _far_to_near(depth: Singles) -> Integers:
    """Sort by depth; on 16 bits, where numpy's stable sort is a radix sort, many times as fast."""
    low, high = depth.min(), depth.max()
    return np.argsort(((high - depth) * (65535 / max(float(high - low), 1e-6))).astype(np.uint16), kind="stable")


def _brightness(
    solids: Solids, axis: Floats, length: Floats, light: Light, found: Fragments, chosen: Integers
) -> Singles:
    """Shade fragments (n,): Lambert's law, wrapped around so that the dark side keeps its form."""
    rise = solids.depth[:, 1] - solids.depth[:, 0]
    whole = np.hypot(length, rise)
    cosine, sine = length / whole, rise / whole
    x, y, z = light.direction
    across = axis[:, 0] * y - axis[:, 1] * x
    in_picture = axis[:, 0] * x + axis[:, 1] * y
    along = cosine * in_picture + sine * z
    front = sine * in_picture - cosine * z
    table = np.stack([across, along, front], axis=1).astype(np.float32)
    solid = found.solid[chosen]
    toward = found.across[chosen] * table[:, 0].take(solid)
    toward += found.beyond[chosen] * table[:, 1].take(solid)
    facing = found.front[chosen]
    toward += facing * table[:, 2].take(solid)
    wrapped = np.maximum(toward * np.float32(0.6) + np.float32(0.4), np.float32(0))
    shade = np.float32(light.ambient) + np.float32(light.diffuse) * wrapped
    return np.asarray(shade * (np.float32(0.72) + np.float32(0.28) * facing))


def draw_solids(image: Image, solids: Solids, light: Light, paint: Paint | None = None) -> Layer:
    """Draw solids onto a picture, nearer ones over farther ones, pixel by pixel.

    Args:
        image: (H, W, 3) uint8, RGB; changed in place.
        solids: What to draw.
        light: How it is lit.
        paint: Changes colours before they are shaded.

    Returns:
        Which solid is in front at each pixel, and how near.
    """
    height, width = image.shape[:2]
    parts = np.full(height * width, -1, dtype=np.int16)
    nearest = np.full(height * width, np.inf, dtype=np.float32)
    axis, length = _axes(solids)
    found = _fragments(solids, axis, length, height, width)
    layer = Layer(parts.reshape(height, width), nearest.reshape(height, width))
    if not len(found.pixel):
        return layer
    order = _far_to_near(found.depth)
    # Where a pixel comes up more than once, the last assignment stays: the nearest.
    solid_order = order[found.alpha[order] >= np.float32(0.5)]
    parts[found.pixel[solid_order]] = found.solid[solid_order]
    nearest[found.pixel[solid_order]] = found.depth[solid_order]

    chosen, weights = _compose(found, order, height * width)
    colors = solids.colors.reshape(-1, 3).take(found.bin[chosen], axis=0)
    if paint is not None:
        paint(found, chosen, colors)
    colors *= (_brightness(solids, axis, length, light, found, chosen) * weights)[:, None]
    _blend(image.reshape(-1, 3), found.pixel[chosen], colors, weights)
    return layer


def _blend(flat: Image, pixels: Integers, colors: Singles, weights: Singles) -> None:
    """Add weighted colours (n, 3) to the pixels (n,) of a flat picture, in place; a pixel may come up repeatedly."""
    # np.unique, many times as fast: the pixels are few numbers, known before.
    place = np.full(len(flat), -1)
    place[pixels] = 0
    touched = np.flatnonzero(place == 0)
    place[touched] = np.arange(len(touched))
    slots = place[pixels]
    share = 1 - np.bincount(slots, weights)
    for channel in range(3):
        blended = flat[touched, channel] * share + np.bincount(slots, colors[:, channel])
        flat[touched, channel] = np.minimum(blended, 255)


def _compose(found: Fragments, order: Integers, pixels: int) -> tuple[Integers, Singles]:
    """Choose the fragments that are seen, and how much of the pixel each one has.

    Args:
        found: All fragments.
        order: Their indices, from far to near.
        pixels: Pixels of the picture.

    Returns:
        Indices (n,) of the nearest fragments of each pixel, and behind their smooth edges the next ones; weights (n,).
    """
    left_over = np.ones(pixels, dtype=np.float32)
    winner = np.empty(pixels, dtype=np.int64)
    chosen, weights = [], []
    for _ in range(_LAYERS):
        at = found.pixel[order]
        winner[at] = order
        wins = winner[at] == order
        best = order[wins]
        seen = found.pixel[best]
        weight = left_over[seen] * found.alpha[best]
        left_over[seen] -= weight
        chosen.append(best)
        weights.append(weight)
        order = order[~wins & (left_over[at] > np.float32(0.01))]
        if not len(order):
            break
    return np.concatenate(chosen), np.concatenate(weights)
