"""Non-maximum suppression of poses by object keypoint similarity: several detections of one person become one.

As in the HRNet repository (Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR
2019, arXiv 1902.09212; lib/nms/nms.py), but for all images at once. The soft variant follows Bodla et al.,
"Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017, arXiv 1704.04503, with OKS instead of IoU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.errors import PoseZooError
from lightning_pose_zoo.geometry import box_area
from lightning_pose_zoo.structures import Poses

__all__ = ["oks_nms", "ordered_rows", "rescored", "soft_oks_nms", "suppressed"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 4096  # keeps the temporaries of one chunk in the processor's cache


def oks_nms(
    keypoints: Array,
    scores: Array,
    areas: Array,
    image_ids: Array,
    sigmas: Sequence[float] | Array,
    threshold: float = 0.9,
) -> Integers:
    """Keep the best poses of each image, and drop those that are more similar to a better one than a threshold.

    Greedy: the pose of the highest score stays, all whose OKS with it exceeds ``threshold`` go, and so on with the
    rest. OKS is taken over all K keypoints and over the mean of both areas. Of equal scores the later row goes first,
    as in the reference wherever its order is defined.

    Args:
        keypoints: (P, K, 2), pixels of each pose's image.
        scores: (P,), confidence of each pose.
        areas: (P,) square pixels; the HRNet repository takes the box that a crop was cut by, padding included.
        image_ids: (P,), the image that a pose is in.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        threshold: Largest OKS at which both poses are kept.

    Returns:
        (n,) int64, the rows that are kept: images by rising id, and in each the best pose first.

    Raises:
        PoseZooError: Where shapes do not fit together, something is NaN or infinite, or an area is negative.
    """
    points, confidence, sizes, spread = _checked(keypoints, scores, areas, image_ids, sigmas)
    kept = []
    for rows in ordered_rows(np.asarray(image_ids), confidence):
        alive = rows >= 0
        # Copied, so that the poses of one image lie side by side however the rows are ordered.
        near, extents = points[rows], sizes[rows]
        for rank in range(rows.shape[1] - 1):
            image, column = np.nonzero(alive[:, rank + 1 :] & alive[:, rank, None])
            column += rank + 1
            area = (extents[image, column] + extents[image, rank]) / 2
            gone = oks(near[image, column], near[image, rank], area, spread) > threshold
            alive[image[gone], column[gone]] = False
        kept.append(rows[alive])
    return _by_image(kept, np.asarray(image_ids))


def soft_oks_nms(
    keypoints: Array,
    scores: Array,
    areas: Array,
    image_ids: Array,
    sigmas: Sequence[float] | Array,
    threshold: float = 0.9,
    max_detections: int = 20,
) -> Integers:
    """Choose the best poses of each image one by one; each lowers the scores of those that are similar to it.

    A score is multiplied by ``exp(-OKS^2 / threshold)`` for every better pose. Nothing is dropped but what comes after
    ``max_detections``. The lowered scores serve the order only, as in the HRNet repository.

    Args:
        keypoints: (P, K, 2), pixels of each pose's image.
        scores: (P,), confidence of each pose.
        areas: (P,) square pixels.
        image_ids: (P,), the image that a pose is in.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        threshold: Width of the Gaussian; larger ones lower the scores less.
        max_detections: How many poses an image keeps at most.

    Returns:
        (n,) int64, the rows that are kept: images by rising id, and in each in the order of choice.

    Raises:
        PoseZooError: As ``oks_nms``; where the threshold is not positive.
    """
    if not threshold > 0:
        raise PoseZooError(f"soft_oks_nms divides by its threshold, which therefore cannot be {threshold}.")
    points, confidence, sizes, spread = _checked(keypoints, scores, areas, image_ids, sigmas)
    kept = []
    for rows in ordered_rows(np.asarray(image_ids), confidence):
        images, count = rows.shape
        left, lowered = rows >= 0, confidence[rows]
        place = np.broadcast_to(np.arange(count), rows.shape)
        chosen = np.full((images, min(count, max_detections)), -1)
        for turn in range(chosen.shape[1]):
            best = np.argmin(place, axis=1)[:, None]
            row = np.take_along_axis(rows, best, axis=1)
            chosen[:, turn] = np.where(np.take_along_axis(left, best, axis=1), row, -1)[:, 0]
            np.put_along_axis(left, best, False, axis=1)
            similarity = oks(points[rows], points[row], (sizes[rows] + sizes[row]) / 2, spread)
            lowered = lowered * np.exp(-(similarity**2) / threshold)
            # The reference sorts anew in every turn, and so turns round the order of equal scores in every turn.
            order = np.lexsort((-place, -lowered, ~left), axis=1)
            place = np.argsort(order, axis=1)
        kept.append(chosen[chosen >= 0])
    return _by_image(kept, np.asarray(image_ids))


def suppressed(poses: Poses, sigmas: Sequence[float], threshold: float = 0.9, areas: Tensor | None = None) -> Poses:
    """Drop poses that are more similar to a better one of the same image than a threshold; see ``oks_nms``.

    Args:
        poses: Of any number of images.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        threshold: Largest OKS at which both poses are kept.
        areas: (P,) square pixels; None takes the areas of ``poses.boxes``.

    Returns:
        The poses that are kept: images by rising id, and in each the best pose first.

    Raises:
        PoseZooError: As ``oks_nms``.
    """
    sizes = box_area(poses.boxes.double()) if areas is None else areas
    keypoints, scores, areas_of_poses = (
        value.detach().to("cpu", torch.float64).numpy() for value in (poses.keypoints, poses.scores, sizes)
    )
    kept = oks_nms(keypoints, scores, areas_of_poses, poses.image_ids.cpu().numpy(), sigmas, threshold)
    return poses[torch.from_numpy(kept).to(poses.keypoints.device)]


def rescored(keypoint_scores: Tensor, box_scores: Tensor | None = None, confident: float = 0.2) -> Tensor:
    """Return the confidence of each pose, (P,): the HRNet repository's rule.

    The mean of the keypoints' scores above ``confident`` (0 where there is none), times the detector's score.

    Args:
        keypoint_scores: (P, K).
        box_scores: (P,) the detector's score of each box; None, and NaN, stand for boxes that were annotated.
        confident: Keypoints of lower or equal scores do not count.
    """
    sure = keypoint_scores > confident
    scores = torch.where(sure, keypoint_scores, 0).sum(dim=1) / sure.sum(dim=1).clamp(min=1)
    return scores if box_scores is None else scores * torch.nan_to_num(box_scores, nan=1.0)


def _checked(
    keypoints: Array, scores: Array, areas: Array, image_ids: Array, sigmas: Sequence[float] | Array
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return keypoints, scores, areas and sigmas as float64; refuse what cannot be compared."""
    points, confidence, sizes, spread = (np.asarray(v, dtype=np.float64) for v in (keypoints, scores, areas, sigmas))
    persons = len(points)
    shapes = {
        "keypoints": (points.shape, (persons, len(spread), 2)), "scores": (confidence.shape, (persons,)),
        "areas": (sizes.shape, (persons,)), "image_ids": (np.shape(image_ids), (persons,)),
    }  # fmt: skip
    wrong = [f"{name} {found} instead of {needed}" for name, (found, needed) in shapes.items() if found != needed]
    wrong += [] if (spread > 0).all() else ["sigmas that are not all positive"]
    if wrong:
        raise PoseZooError(f"suppression of {persons} poses with {len(spread)} sigmas was given {', '.join(wrong)}.")
    bad = ~(np.isfinite(points).all(axis=(1, 2)) & np.isfinite(confidence) & np.isfinite(sizes)) | (sizes < 0)
    if bad.any():
        rows = np.flatnonzero(bad)
        raise PoseZooError(
            f"suppression: {len(rows)} of {persons} poses have keypoints, scores or areas that are NaN or infinite, or "
            f"negative areas (rows {rows[:20].tolist()}). Has training diverged?"
        )
    return points, confidence, sizes, spread


def ordered_rows(image_ids: Array, scores: Floats, at_once: int = _ROWS_AT_ONCE) -> Iterator[Integers]:
    """Yield the rows of some images at a time, (images, most), the best of each first; -1 fills up.

    Images of like numbers of poses come together, so that little is filled up.

    Args:
        image_ids: (P,).
        scores: (P,).
        at_once: How many rows come together at most, but for those of one image.
    """
    _, image, per_image = np.unique(image_ids, return_inverse=True, return_counts=True)
    order = np.lexsort((-np.arange(len(scores)), -scores, image))
    first = np.cumsum(per_image) - per_image
    by_count = np.argsort(per_image, kind="stable")
    start = 0
    while start < len(by_count):
        stop = start + 1
        while stop < len(by_count) and (stop + 1 - start) * per_image[by_count[stop]] <= at_once:
            stop += 1
        some = by_count[start:stop]
        column = np.arange(per_image[some[-1]])
        there = column < per_image[some, None]
        yield np.where(there, order[np.where(there, first[some, None] + column, 0)], -1)
        start = stop


def _by_image(kept: list[Integers], image_ids: Array) -> Integers:
    """Join kept rows, images by rising id; the order in an image stays."""
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
    return rows[np.argsort(image_ids[rows], kind="stable")]
