"""Random crops for top-down training: half body, scale, rotation and flip as one matrix, then colour and blur.

The geometric part follows the HRNet repository (``lib/dataset/JointsDataset.py``): half body, then a factor on the
box, then a rotation, then the mirror; all are folded into the one matrix that the picture is warped by.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import fit_aspect
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["CropAugmentation"]

Array = npt.NDArray[np.floating]


class CropAugmentation:
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
        transforms: list[Callable[..., dict[str, Any]]] | None = None,
    ) -> None:
        self.scale = scale
        self.rotation = rotation
        self.rotation_probability = rotation_probability
        self.flip_probability = flip_probability
        self.half_body_probability = half_body_probability
        self.half_body_min_keypoints = half_body_min_keypoints
        self.shift = shift
        self._photometric = _compose(transforms) if transforms else None

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
                "rotation, shift and flip_probability of CropAugmentation instead."
            )
    return albumentations.Compose(transforms)
