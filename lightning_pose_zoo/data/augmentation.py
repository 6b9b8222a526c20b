"""How training samples are varied: one matrix for all that moves pixels, then colour and blur.

``CropAugmentation`` varies persons' crops. Its geometric part follows the HRNet repository
(``lib/dataset/JointsDataset.py``): half body, then a factor on the box, then a rotation, then the mirror.
``PictureAugmentation`` varies whole pictures as OpenPose does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.proposals import PoseGuidedProposals
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import box_center_size, fit_aspect
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["Augmentation", "CropAugmentation", "PictureAugmentation"]

Array = npt.NDArray[np.floating]


class Augmentation:
    """What the ways to vary training samples share: colour, blur and dropout.

    Args:
        transforms: albumentations transforms of colour, blur or dropout, by class path; applied to the sample in order,
            each with its own probability. Those that move pixels are refused, because the keypoints would stay behind.
    """

    def __init__(self, transforms: list[Callable[..., dict[str, Any]]] | None = None) -> None:
        self._photometric = _compose(transforms) if transforms else None

    def recolor(self, crop: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Apply the photometric transforms to a crop (H, W, 3) uint8, RGB."""
        if self._photometric is None:
            return crop
        self._photometric.set_random_seed(int(rng.integers(2**31)))
        recolored: npt.NDArray[np.uint8] = self._photometric(image=crop)["image"]
        if recolored.shape != crop.shape or recolored.dtype != crop.dtype:
            raise DatasetError(
                f"the transforms turned a crop {crop.shape} {crop.dtype} into {recolored.shape} {recolored.dtype}; "
                "take out the one that resizes or normalises (the method normalises)."
            )
        return recolored


class CropAugmentation(Augmentation):
    """How a person's crop is varied in training.

    Args:
        scale: Standard deviation of the factor on the box, which is 1 on average and cut off at one deviation (0.35
            for HRNet on COCO, 0.3 for Simple Baselines, 0.25 on MPII).
        rotation: Standard deviation of the angle in degrees, cut off at two deviations (45 for HRNet on COCO, 40 for
            Simple Baselines, 30 on MPII).
        rotation_probability: How often a crop is turned at all.
        flip_probability: How often a crop is mirrored.
        half_body_probability: How often only the upper or the lower body is cut out, where enough of it is labelled.
        half_body_min_keypoints: More than this many labelled keypoints are needed for that.
        shift: Largest shift of the crop's centre, as a fraction of the box; the published recipes have none.
        proposals: Draws boxes as a detector would, before all else; none by default.
        transforms: albumentations transforms of colour, blur or dropout, by class path; applied to the crop in order,
            each with its own probability. Those that move pixels are refused, because the keypoints would stay behind.
    """

    def __init__(
        self,
        scale: float = 0.35,
        rotation: float = 45.0,
        rotation_probability: float = 0.6,
        flip_probability: float = 0.5,
        half_body_probability: float = 0.0,
        half_body_min_keypoints: int = 8,
        shift: float = 0.0,
        proposals: PoseGuidedProposals | None = None,
        transforms: list[Callable[..., dict[str, Any]]] | None = None,
    ) -> None:
        super().__init__(transforms)
        self.scale = scale
        self.rotation = rotation
        self.rotation_probability = rotation_probability
        self.flip_probability = flip_probability
        self.half_body_probability = half_body_probability
        self.half_body_min_keypoints = half_body_min_keypoints
        self.shift = shift
        self.proposals = proposals

    def vary(
        self,
        center: Array,
        size: Array,
        keypoints: Array,
        visibility: npt.NDArray[np.uint8],
        skeleton: Skeleton,
        rng: np.random.Generator,
    ) -> tuple[Array, Array, float, bool]:
        """Draw one variation of a crop.

        Args:
            center: (2,) centre of the box, pixels of the original.
            size: (2,) width and height of the padded box, pixels of the original.
            keypoints: (K, 2), pixels of the original.
            visibility: (K,).
            skeleton: Tells the upper body from the lower.
            rng: The sample's random numbers.

        Returns:
            Centre (2,), size (2,), rotation in degrees, and whether to mirror.
        """
        if self.half_body_probability and rng.random() < self.half_body_probability:
            center, size = self._half_body(center, size, keypoints, visibility, skeleton, rng)
        size = size * np.clip(1 + self.scale * rng.standard_normal(), 1 - self.scale, 1 + self.scale)
        angle = 0.0
        if self.rotation and rng.random() < self.rotation_probability:
            angle = float(np.clip(rng.standard_normal() * self.rotation, -2 * self.rotation, 2 * self.rotation))
        if self.shift:
            center = center + rng.uniform(-self.shift, self.shift, 2) * size
        return center, size, angle, bool(rng.random() < self.flip_probability)

    def _half_body(
        self,
        center: Array,
        size: Array,
        keypoints: Array,
        visibility: npt.NDArray[np.uint8],
        skeleton: Skeleton,
        rng: np.random.Generator,
    ) -> tuple[Array, Array]:
        labelled = visibility > 0
        if not skeleton.upper_body or labelled.sum() <= self.half_body_min_keypoints:
            return center, size
        upper = np.zeros(skeleton.num_keypoints, dtype=bool)
        upper[list(skeleton.upper_body)] = True
        # P(a standard normal draw < 0.5): the published code draws a normal number where a uniform one was meant.
        prefer_upper = rng.random() < 0.69
        halves = [labelled & upper, labelled & ~upper]
        chosen = halves[0 if prefer_upper else 1]
        if chosen.sum() <= 2:
            chosen = halves[1 if prefer_upper else 0]
        if chosen.sum() < 2:
            return center, size
        points = keypoints[chosen]
        extent = points.max(axis=0) - points.min(axis=0)
        if not (extent > 0).any():
            return center, size
        return points.mean(axis=0), fit_aspect(extent, float(size[0] / size[1]), 1.5)


class PictureAugmentation(Augmentation):
    """How whole pictures with all their people are varied in training: scaled, turned, mirrored and cut.

    As OpenPose was trained (Cao et al., CVPR 2017, arXiv 1611.08050): one person of the picture is drawn, the picture
    is scaled by the height of that person's box, and cut around that person. Who has fewer labels than
    ``min_keypoints`` or is smaller than ``min_area`` is not drawn, but stays in the picture; where nobody is left to be
    drawn, the picture as a whole is taken.

    Args:
        target_dist: Height of the drawn person as a fraction of the cut's height, before ``scale``; null draws nobody:
            then the picture, fitted into the cut, is what ``scale`` counts from, and a part of it is cut at random.
        scale: Limits of the even distribution of the factor on the size ([0.5, 1.1]; the body-25 model of OpenPose's
            authors has [0.333, 1.1], DeeperCut [0.85, 1.15]).
        rotation: Largest angle in degrees, to either side; all angles are equally likely (40; body-25: 45).
        center_jitter: Largest shift of the cut along either axis, in pixels of the cut (40, of a cut of 368 pixels).
        flip_probability: How often a picture is mirrored.
        min_keypoints: Fewest labelled keypoints of the drawn person.
        min_area: Least area of the drawn person, square pixels of the original picture.
        transforms: albumentations transforms of colour, blur or dropout, by class path; applied to the cut in order,
            each with its own probability. Those that move pixels are refused, because the keypoints would stay behind.
        corner: Where nobody is drawn and the picture is smaller than the cut, put it into the upper left corner, as in
            evaluation, not into the middle.

    Raises:
        DatasetError: Where the limits of the scale are not in their order, or a size is not above 0.
    """

    def __init__(
        self,
        target_dist: float | None = 0.6,
        scale: tuple[float, float] = (0.5, 1.1),
        rotation: float = 40.0,
        center_jitter: float = 40.0,
        flip_probability: float = 0.5,
        min_keypoints: int = 5,
        min_area: float = 32.0**2,
        transforms: list[Callable[..., dict[str, Any]]] | None = None,
        corner: bool = False,
    ) -> None:
        super().__init__(transforms)
        if not 0 < scale[0] <= scale[1] or (target_dist is not None and target_dist <= 0):
            raise DatasetError(
                f"scale is {tuple(scale)} and target_dist {target_dist}; give the smaller and the larger factor, as in "
                "[0.5, 1.1], and a fraction of the cut's height above 0, or null."
            )
        self.target_dist = target_dist
        self.scale = (float(scale[0]), float(scale[1]))
        self.rotation = rotation
        self.center_jitter = center_jitter
        self.flip_probability = flip_probability
        self.min_keypoints = min_keypoints
        self.min_area = min_area
        self.corner = corner

    def vary(
        self,
        picture_size: tuple[int, int],
        cut_size: tuple[int, int],
        boxes: Array,
        areas: Array,
        visibility: npt.NDArray[np.uint8],
        rng: np.random.Generator,
    ) -> tuple[Array, Array, float, bool]:
        """Draw one cut of a picture.

        Args:
            picture_size: Height and width of the picture in pixels.
            cut_size: Height and width of the cut in its own pixels.
            boxes: (n, 4) x0, y0, x1, y1 of the labelled persons, pixels of the picture.
            areas: (n,) square pixels of the picture.
            visibility: (n, K).
            rng: The sample's random numbers.

        Returns:
            Centre (2,) and size (2,: width, height) of what is cut out, pixels of the picture; rotation in degrees, and
            whether to mirror.
        """
        factor, turn, mirror = rng.uniform(*self.scale), rng.uniform(-1, 1), rng.random()
        jitter, place = rng.uniform(-1, 1, 2), rng.random(2)
        picture, cut = np.array(picture_size[::-1], dtype=np.float64), np.array(cut_size[::-1], dtype=np.float64)
        centers, sizes = box_center_size(boxes)
        labels = (visibility > 0).sum(axis=1)
        eligible = np.flatnonzero((labels >= self.min_keypoints) & (areas >= self.min_area) & (sizes[:, 1] > 0))
        if self.target_dist is not None and len(eligible):
            drawn = eligible[int(place[0] * len(eligible))]
            center, zoom = centers[drawn], self.target_dist * factor * cut[1] / sizes[drawn, 1]
        else:
            zoom = factor * (cut / picture).min()
            # Somewhere inside of the picture along an axis that is longer than the cut, else in its middle.
            center = picture / 2 + (place - 0.5) * np.maximum(picture - cut / zoom, 0)
            if self.corner:
                room = np.maximum(cut / zoom - picture, 0) / 2
                # Mirrored afterwards, what is at the right comes to the left.
                center = center + room * (1 if mirror >= self.flip_probability else np.array([-1, 1]))
        center = center + jitter * self.center_jitter / zoom
        return center, cut / zoom, float(turn * self.rotation), bool(mirror < self.flip_probability)


def _compose(transforms: list[Callable[..., dict[str, Any]]]) -> Any:
    """Join albumentations transforms, refusing those that would leave the keypoints behind."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    from albumentations.core.transforms_interface import BasicTransform, ImageOnlyTransform

    for transform in transforms:
        stays = isinstance(transform, ImageOnlyTransform) or "dropout" in type(transform).__module__
        if isinstance(transform, BasicTransform) and not stays:
            raise DatasetError(
                f"the transform {type(transform).__name__} moves pixels, and keypoints would stay behind; use scale, "
                "rotation, shift and flip_probability of the augmentation instead."
            )
    return albumentations.Compose(transforms)
