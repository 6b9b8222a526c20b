"""Composes pictures of synthetic people and says truly what can be seen in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.rendering.backdrop import cast_shadow, paint_backdrop, paint_occluder
from lightning_pose_zoo.data.rendering.body import LANDMARKS, POINTS, Body, sample_build, sample_pose
from lightning_pose_zoo.data.rendering.drawing import Camera, Light, Solids, draw_solids
from lightning_pose_zoo.data.rendering.faces import painter
from lightning_pose_zoo.data.rendering.textures import textures, through_the_lens
from lightning_pose_zoo.data.rendering.wardrobe import PARTS, Outfit, dress, sample_outfit
from lightning_pose_zoo.errors import SkeletonError
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["PeopleRenderer", "Scene"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_HEAD_PART = PARTS.index("head")

# How deep under its own surface a point may lie and still count as seen, in units of the person's height.
_DEPTHS = {
    "nose": 0.02, "eye": 0.02, "ear": 0.022, "head": 0.075, "head_top": 0.035, "upper_neck": 0.055, "neck": 0.055,
    "neck_base": 0.06, "thorax": 0.075, "spine": 0.085, "belly": 0.09, "pelvis": 0.09, "shoulder": 0.055, "elbow": 0.05,
    "wrist": 0.04, "hip": 0.105, "knee": 0.06, "ankle": 0.045,
}  # fmt: skip
_FLESH = np.array([_DEPTHS.get(name.removeprefix("left_").removeprefix("right_"), 0.05) for name in POINTS])


@dataclass(frozen=True)
class Scene:
    """One picture of n people with K keypoints each.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        keypoints: (n, K, 2) float32, x, y in pixels; the centre of the top left pixel is (0, 0). True positions, of
            hidden keypoints and of those outside the picture too.
        visibility: (n, K) uint8; 2 visible, 1 hidden behind the person itself, another one or an occluder, 0 outside
            the picture.
        boxes: (n, 4) float32, x0, y0, x1, y1, pixels; tight around what of the person is inside the picture, as if
            nothing stood before it.
        areas: (n,) float32, pixels that the person covers inside the picture, as if nothing stood before it.
        head_sizes: (n,) float32, 0.6 of the diagonal of the head's box in pixels, as in MPII.
        owners: (H, W) uint8; 1 + the person that is seen at each pixel, 0 for things and the backdrop.
    """

    image: npt.NDArray[np.uint8]
    keypoints: npt.NDArray[np.float32]
    visibility: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    areas: npt.NDArray[np.float32]
    head_sizes: npt.NDArray[np.float32]
    owners: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Person:
    body: Body
    outfit: Outfit
    camera: Camera
    solids: Solids


class PeopleRenderer:
    """Draws people in 3D, in varied build, pose, clothes and surroundings, with keypoints and true visibility."""

    def __init__(
        self,
        skeleton: Skeleton,
        picture_size: tuple[int, int] = (160, 128),
        people: tuple[int, int] = (1, 1),
        max_turn: float = 60.0,
        occlusion: float = 0.25,
    ) -> None:
        """Prepare to draw.

        Args:
            skeleton: Which keypoints are returned; any whose names the body has.
            picture_size: Height and width of the pictures, pixels.
            people: Fewest and most people in a picture.
            max_turn: Degrees, up to 180; how far a body may turn about the vertical, away from facing the camera.
            occlusion: Probability that something stands partly before a person.

        Raises:
            SkeletonError: Where the skeleton has keypoints that the body has not.
            ValueError: Where a number is out of its range.
        """
        unknown = [name for name in skeleton.names if name not in LANDMARKS]
        if unknown:
            raise SkeletonError(
                f"skeleton '{skeleton.name}': the synthetic body has no keypoint {', '.join(unknown)}; it has "
                f"{', '.join(sorted(LANDMARKS))}. Rename the keypoints, or choose a skeleton of these."
            )
        if min(picture_size) < 16:
            raise ValueError(f"picture_size is {picture_size}, but at least 16 by 16 pixels are needed.")
        if not 0 <= people[0] <= people[1] <= 255:
            raise ValueError(f"people is {people}, but 0 <= fewest <= most <= 255 is needed.")
        if not 0 <= max_turn <= 180:
            raise ValueError(f"max_turn is {max_turn}, but 0 to 180 degrees are possible.")
        if not 0 <= occlusion <= 1:
            raise ValueError(f"occlusion is {occlusion}, but a probability is needed.")
        self.skeleton = skeleton
        self.picture_size = picture_size
        self.people = people
        self.max_turn = max_turn
        self.occlusion = occlusion
        self._points = np.array([LANDMARKS[name] for name in skeleton.names])

    def render(self, rng: np.random.Generator) -> Scene:
        """Draw one picture; all of it follows from the state of ``rng``."""
        height, width = self.picture_size
        count = int(rng.integers(self.people[0], self.people[1] + 1))
        image = paint_backdrop(rng, height, width)
        light = _sample_light(rng)
        people = [self._sample_person(rng, slot, count) for slot in self._slots(rng, count)]
        # The farthest first: whoever is smaller in the picture stands behind.
        people.sort(key=lambda person: person.camera.scale)
        owners = np.zeros((height, width), dtype=np.uint8)
        layers = []
        for number, person in enumerate(people, start=1):
            _shadow(rng, image, person)
            fabric = textures().crop(rng, height, width, number % 3)
            paint = painter(person.body, person.outfit, person.camera, fabric, rng)
            layer = draw_solids(image, person.solids, light, paint)
            owners[layer.solid >= 0] = number
            layers.append(layer)
        for person in people:
            if rng.random() < self.occlusion:
                owners[_stand_before(rng, image, person)] = 0
        image = through_the_lens(rng, image)
        return self._annotate(image, people, [layer.depth for layer in layers], owners)

    def _slots(self, rng: np.random.Generator, count: int) -> list[float]:
        """Return where people stand from left, 0, to right, 1, side by side with overlaps."""
        if count == 1:
            return [0.5]
        slots = (np.arange(count) + 0.5 + rng.uniform(-0.35, 0.35, count)) / count
        return [float(slot) for slot in slots]

    def _sample_person(self, rng: np.random.Generator, slot: float, count: int) -> _Person:
        """Draw a person and place it in the picture."""
        height, width = self.picture_size
        body = Body.pose(sample_build(rng), sample_pose(rng))
        outfit = sample_outfit(rng)
        draws = rng.random(8)
        turn = (2 * draws[0] - 1) * self.max_turn
        tilt = rng.normal(0, 4) if draws[1] > 0.1 else (2 * draws[2] - 1) * 30
        rotation = view_rotation(turn, -6 + 20 * draws[3], tilt)
        camera = Camera(rotation, 1.0, 1.6 + 4 * draws[4], np.zeros(2))
        figure = dress(body, outfit, camera)
        low, high = _extent(figure)
        # The pose decides how tall a figure is, but who sits does not become a giant.
        share = (0.58 + 0.35 * draws[5]) if count == 1 else (0.36 + 0.42 * draws[5])
        scale = share * height / max(high[1] - low[1], 0.62)
        scale = min(scale, (0.98 if count == 1 else 0.8) * width / (high[0] - low[0]))
        truncated = draws[6] < 0.07
        if truncated:
            scale *= 1.15 + 0.5 * draws[7]
        size = (high - low) * scale
        room = np.array([width, height]) - size
        place = rng.random(2)
        if count > 1:
            place = np.array([slot, 0.25 + 0.5 * place[1] + 0.4 * (share - 0.55)])
            corner = np.array([slot * width - size[0] / 2, place[1] * room[1]])
        elif truncated:
            corner = place * room + rng.choice([-1, 1], 2) * rng.uniform(0.0, 0.25, 2) * size
        else:
            corner = np.where(room > 0, place * room, 0.5 * room)
        placed = Camera(rotation, scale, camera.distance, corner - low * scale)
        return _Person(body, outfit, placed, figure.placed(scale, placed.offset))

    def _annotate(
        self,
        image: npt.NDArray[np.uint8],
        people: list[_Person],
        depths: list[npt.NDArray[np.float32]],
        owners: npt.NDArray[np.uint8],
    ) -> Scene:
        """Read keypoints, visibility, boxes and areas off the depth of each person and who is in front."""
        height, width = self.picture_size
        count = len(people)
        keypoints = np.zeros((count, len(self._points), 2), dtype=np.float32)
        visibility = np.zeros((count, len(self._points)), dtype=np.uint8)
        boxes = np.zeros((count, 4), dtype=np.float32)
        areas, head_sizes = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
        for number, (person, nearest) in enumerate(zip(people, depths, strict=True)):
            pixels, inside, uncovered = locate(person.body, person.camera, self._points, nearest)
            column, row = np.round(pixels).astype(np.int64).T.clip(0, [[width - 1], [height - 1]])
            seen = inside & uncovered & (owners[row, column] == number + 1)
            keypoints[number] = pixels
            visibility[number] = inside.astype(np.uint8) + seen
            silhouette = np.isfinite(nearest)
            areas[number] = silhouette.sum()
            if areas[number]:
                columns, rows = np.flatnonzero(silhouette.any(axis=0)), np.flatnonzero(silhouette.any(axis=1))
                boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            head_low, head_high = _extent(person.solids, slice(_HEAD_PART, _HEAD_PART + 1))
            head_sizes[number] = 0.6 * np.hypot(*(head_high - head_low))
        return Scene(image, keypoints, visibility, boxes, areas, head_sizes, owners)


def locate(
    body: Body, camera: Camera, points: Integers, nearest: npt.NDArray[np.float32]
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Find points of a body in the picture, and whether the body itself hides them.

    Args:
        body: Whose points.
        camera: Who sees it.
        points: (K,) indices into ``POINTS``.
        nearest: (H, W) depth of the body's surface at each pixel.

    Returns:
        (K, 2) x, y in pixels; (K,) whether that is inside the picture; (K,) whether the surface there is the point's
        own flesh or cloth, and not that of a part of the body farther in front.
    """
    height, width = nearest.shape
    pixels, depth, scale = camera.project(body.points[points])
    column, row = np.round(pixels).astype(np.int64).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    surface = nearest[row.clip(0, height - 1), column.clip(0, width - 1)]
    below = depth - surface
    uncovered = np.isfinite(surface) & (below <= _FLESH[points] * body.build.girth * scale)
    return pixels, inside, uncovered


def view_rotation(turn: float, pitch: float, tilt: float) -> Floats:
    """Compose the rotation of a body before the camera; degrees.

    Args:
        turn: About the vertical, away from facing the camera.
        pitch: The camera looks down by as much.
        tilt: In the picture.
    """
    (c, s), (cp, sp), (ct, st) = (
        (np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))) for angle in (turn, pitch, tilt)
    )
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[ct, -st, 0], [st, ct, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def _extent(solids: Solids, parts: slice = slice(None)) -> tuple[Floats, Floats]:
    """Return the lowest and highest x, y (2,) that solids reach, pixels."""
    radius = solids.radius[parts]
    present = radius.max(axis=1) > 0
    ends = np.concatenate([solids.start[parts][present], solids.end[parts][present]])
    reach = np.concatenate([radius[present, 0], radius[present, -1]])[:, None]
    return (ends - reach).min(axis=0), (ends + reach).max(axis=0)


def _sample_light(rng: np.random.Generator) -> Light:
    """Draw a lamp above the camera, to either side."""
    draws = rng.random(4)
    direction = np.array([2 * draws[0] - 1, -0.25 - 0.75 * draws[1], -0.35 - 0.5 * draws[2]])
    ambient = 0.38 + 0.2 * draws[3]
    return Light(direction / np.linalg.norm(direction), ambient, 1.12 - ambient)


def _shadow(rng: np.random.Generator, image: npt.NDArray[np.uint8], person: _Person) -> None:
    """Darken the ground below a person's feet."""
    feet = [POINTS.index(name) for name in ("left_heel", "right_heel", "left_toe", "right_toe")]
    pixels, _, scale = person.camera.project(person.body.points[feet])
    wide = 0.5 * float(np.ptp(pixels[:, 0])) + 0.1 * float(scale[0])
    cast_shadow(image, float(pixels[:, 0].mean()), float(pixels[:, 1].max()), wide, float(rng.uniform(0.1, 0.6)))


def _stand_before(rng: np.random.Generator, image: npt.NDArray[np.uint8], person: _Person) -> npt.NDArray[np.bool_]:
    """Put something before part of a person and return where it is, (H, W)."""
    low, high = _extent(person.solids)
    x, y = low + (high - low) * rng.uniform(0.05, 0.95, 2)
    size = float(high[1] - low[1]) * rng.uniform(0.2, 0.5)
    return paint_occluder(rng, image, float(x), float(y), size)
