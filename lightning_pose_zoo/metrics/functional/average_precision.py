"""COCO's average precision over object keypoint similarity, vectorised.

Gives the same numbers as pycocotools' ``COCOeval`` with ``iouType="keypoints"`` for any number of keypoints, without
its traps: NaN predictions are refused, an annotation id of 0 counts, and no prediction at all scores 0.
Source of the protocol: cocodataset.org/#keypoints-eval and pycocotools/cocoeval.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.ground_truth import AREA_OF_BOX, Booleans, Floats, GroundTruth, Integers
from lightning_pose_zoo.metrics.functional.image_pairs import pairs_in_images

__all__ = [
    "AREA_OF_BOX", "CROWD_LEVELS", "MOST_PER_IMAGE", "RECALLS", "THRESHOLDS", "GroundTruth", "SimilarPairs",
    "average_precision", "average_precision_by_crowding", "best_of_each_image", "keypoint_extents",
    "precision_and_recall", "similar_pairs", "summarize",
]  # fmt: skip


CROWD_LEVELS = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}
"""Ranges of the crowd index, the upper end excluded, as in CrowdPose's evaluation; elsewhere 0.1 is given for 0.2."""

MOST_PER_IMAGE = 20
"""Predictions of an image that count."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""OKS from which a prediction is right."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where the curve of precision is read."""

# All, medium and large persons, in square pixels; both ends belong to a range.
_AREA_RANGES = np.array([[0.0, 1e10], [32.0**2, 96.0**2], [96.0**2, 1e10]])
_ROWS = len(_AREA_RANGES) * len(THRESHOLDS)


def keypoint_extents(keypoints: npt.NDArray[Any]) -> Floats:
    """Return the area (n,) of the boxes around all K keypoints (n, K, 2): a prediction's area in COCO's evaluation."""
    # Keypoints first: numpy is many times faster along the first axis than along a short one in the middle.
    sides: Floats = np.ptp(np.ascontiguousarray(keypoints.transpose(1, 2, 0), dtype=np.float64), axis=0)
    return np.asarray(sides[0] * sides[1])


def average_precision(
    truth: GroundTruth,
    image_ids: npt.NDArray[Any],
    keypoints: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    sigmas: Sequence[float],
    areas: npt.NDArray[Any] | None = None,
) -> dict[str, float]:
    """Score predicted persons by COCO's protocol.

    Args:
        truth: The annotated persons; all its images count.
        image_ids: (P,) the image of each predicted person. Of equal scores in one image the earlier row counts first.
        keypoints: (P, K, 2), pixels of the image.
        scores: (P,) confidence; the best 20 of an image count.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        areas: (P,) square pixels, which decide whether an unmatched prediction counts as medium or large; None: of the
            boxes around the keypoints.

    Returns:
        AP, AP50, AP75, AP_M, AP_L, AR, AR50, AR75, AR_M and AR_L in 0..1; -1, as in pycocotools, where no person of
        that size is annotated. With a crowd index also AP_easy, AP_medium and AP_hard.

    Raises:
        MetricError: Where a prediction is NaN or infinite, K differs, or an image is unknown.
    """
    scored = (image_ids, keypoints, scores, sigmas, areas)
    return summarize(*precision_and_recall(truth, *scored)) | average_precision_by_crowding(truth, *scored)


def average_precision_by_crowding(
    truth: GroundTruth,
    image_ids: npt.NDArray[Any],
    keypoints: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    sigmas: Sequence[float],
    areas: npt.NDArray[Any] | None = None,
) -> dict[str, float]:
    """Return AP_easy, AP_medium and AP_hard: AP over the images of each of ``CROWD_LEVELS`` alone.

    Arguments and errors as ``average_precision``; -1 where a level has nobody, and nothing without a crowd index.
    Source: Li et al., "CrowdPose: Efficient Crowded Scenes Pose Estimation and a New Benchmark", CVPR 2019, arXiv
    1812.00324, and its evaluation code.
    """
    result: dict[str, float] = {}
    if truth.crowd_index is None:
        return result
    for level, (low, high) in CROWD_LEVELS.items():
        part = truth.of_images(truth.image_ids[(low <= truth.crowd_index) & (truth.crowd_index < high)])
        kept = np.isin(image_ids, part.image_ids)
        sizes = None if areas is None else areas[kept]
        curves = precision_and_recall(part, image_ids[kept], keypoints[kept], scores[kept], sigmas, sizes)
        result[f"AP_{level}"] = summarize(*curves)["AP"]
    return result


def summarize(precision: Floats, recall: Floats) -> dict[str, float]:
    """Compose COCO's ten numbers.

    Args:
        precision: (..., 3, 10, 101) by size of person, OKS threshold and recall; leading dimensions are averaged over,
            such as categories. -1 where nobody of the size is annotated.
        recall: (..., 3, 10), likewise.

    Returns:
        The ten numbers by name; -1 where there is no ground truth.
    """

    def mean(values: Floats) -> float:
        present = values[values > -1]
        return float(present.mean()) if present.size else -1.0

    scores: dict[str, float] = {}
    for name, values in (("AP", precision), ("AR", recall[..., None])):
        everybody, medium, large = (values[..., size, :, :] for size in range(len(_AREA_RANGES)))
        scores |= {name: mean(everybody), f"{name}50": mean(everybody[..., 0, :])}
        scores |= {f"{name}75": mean(everybody[..., 5, :]), f"{name}_M": mean(medium), f"{name}_L": mean(large)}
    return scores


class SimilarPairs(NamedTuple):
    """Predictions and persons of the same image that are alike enough to match, in the order of matching."""

    prediction: Integers
    person: Integers
    similarity: Floats


def precision_and_recall(
    truth: GroundTruth,
    image_ids: npt.NDArray[Any],
    keypoints: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    sigmas: Sequence[float],
    areas: npt.NDArray[Any] | None = None,
) -> tuple[Floats, Floats]:
    """Return interpolated precision and the recall reached; arguments and errors as ``average_precision``.

    Returns:
        (3, 10, 101) by size of person (all, medium, large), OKS threshold and recall, and (3, 10); -1 where nobody of
        the size is annotated.
    """
    _check(truth, image_ids, keypoints, scores, sigmas)
    points = keypoints.astype(np.float64)
    extents = keypoint_extents(points) if areas is None else areas.astype(np.float64)
    # COCO takes images in the order of their ids, which decides between equal scores of different images.
    sorted_ids = np.sort(truth.image_ids)
    best, rank, image = best_of_each_image(np.searchsorted(sorted_ids, image_ids), scores)
    person_images = np.searchsorted(sorted_ids, truth.image_ids[truth.image_rows])
    ignored = _ignored(truth)
    pairs = similar_pairs(truth, person_images, points[best], image, len(sorted_ids), np.asarray(sigmas))
    matched, dismissed = _match(pairs, rank, ignored, truth.is_crowd.astype(bool))
    outside = _outside(extents[best])
    dismissed |= ~matched & np.repeat(outside, len(THRESHOLDS), axis=0)
    order = np.argsort(-scores[best], kind="stable")
    right, counted = (matched & ~dismissed)[:, order], ~dismissed[:, order]
    precision, recall = _curves(right, counted, np.repeat((~ignored).sum(axis=1), len(THRESHOLDS)))
    shape = (len(_AREA_RANGES), len(THRESHOLDS))
    return precision.reshape(*shape, len(RECALLS)), recall.reshape(shape)


def _check(
    truth: GroundTruth,
    image_ids: npt.NDArray[Any],
    keypoints: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    sigmas: Sequence[float],
) -> None:
    expected = (len(image_ids), len(sigmas), 2)
    if keypoints.shape != expected or scores.shape != expected[:1]:
        raise MetricError(
            f"{expected[0]} predictions of {expected[1]} keypoints need keypoints of the shape {expected} and as many "
            f"scores, but got {keypoints.shape} and {scores.shape}."
        )
    if truth.keypoints.shape[1] != expected[1]:
        raise MetricError(f"the ground truth has {truth.keypoints.shape[1]} keypoints per person, not {expected[1]}.")
    unknown = np.setdiff1d(image_ids, truth.image_ids)
    if len(unknown):
        raise MetricError(
            f"{len(unknown)} predicted images are not in the ground truth, such as {unknown[:5].tolist()}."
        )
    bad = ~(np.isfinite(keypoints).all(axis=(1, 2)) & np.isfinite(scores))
    if bad.any():
        where = np.unique(image_ids[bad])[:5].tolist()
        raise MetricError(f"{bad.sum()} predictions are NaN or infinite, in images such as {where}.")


def best_of_each_image(images: Integers, scores: npt.NDArray[Any]) -> tuple[Integers, Integers, Integers]:
    """Return the predictions that count, ordered by image and falling score, their rank in the image and the image."""
    order = np.lexsort((-scores, images))
    images = images[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    kept = rank < MOST_PER_IMAGE
    return order[kept], rank[kept], images[kept]


def _ignored(truth: GroundTruth) -> Booleans:
    """Return for each range of areas the persons that count neither as found nor as missed, (3, G)."""
    return truth.ignored | _outside(truth.areas.astype(np.float64))


def _outside(areas: Floats) -> Booleans:
    return (areas < _AREA_RANGES[:, :1]) | (areas > _AREA_RANGES[:, 1:])


def similar_pairs(
    truth: GroundTruth,
    person_images: Integers,
    keypoints: Floats,
    images: Integers,
    image_count: int,
    sigmas: Floats,
) -> SimilarPairs:
    """Compare every prediction with every person of its image, and keep the pairs that can match at all."""
    pairs = pairs_in_images(images, person_images, image_count)
    prediction, person = pairs
    reference: Floats = truth.keypoints.astype(np.float64)
    areas: Floats = truth.areas.astype(np.float64)
    labelled, unlabelled = truth.labelled, ~np.any(truth.labelled, axis=1)
    size = truth.boxes[:, 2:] - truth.boxes[:, :2]
    low, high = (truth.boxes[:, :2] - size)[:, None], (truth.boxes[:, 2:] + size)[:, None]
    similarity = np.empty(len(prediction))
    for chunk in pairs.chunks():
        points, who = keypoints[prediction[chunk]], person[chunk]
        others, counts = reference[who], np.asarray(labelled[who])
        # Where a person has no labels, COCO measures how far keypoints lie outside of twice the person's box.
        blank = np.flatnonzero(unlabelled[who])
        others[blank] = points[blank].clip(low[who[blank]], high[who[blank]])
        counts[blank] = True
        similarity[chunk] = oks(points, others, areas[who], sigmas, counts)
    kept = similarity >= THRESHOLDS[0]
    return SimilarPairs(prediction[kept], person[kept], similarity[kept])


def _match(pairs: SimilarPairs, rank: Integers, ignored: Booleans, crowd: Booleans) -> tuple[Booleans, Booleans]:
    """Give each prediction, the best of each image first, the most similar person who is still free.

    A person who counts goes before one who is ignored; of equally similar ones the later is taken.

    Returns:
        Which predictions are matched, and which are matched with somebody ignored; (30, P) each, by range of areas
        and threshold.
    """
    order = np.lexsort((pairs.person, pairs.similarity, pairs.prediction, rank[pairs.prediction]))
    prediction, person, similarity = (column[order] for column in pairs)
    ignored = np.repeat(ignored, len(THRESHOLDS), axis=0)
    thresholds = np.tile(THRESHOLDS, len(_AREA_RANGES))[:, None]
    taken = np.zeros((_ROWS, len(crowd)), dtype=bool)
    matched, dismissed = np.zeros((2, _ROWS, len(rank)), dtype=bool)
    turns = np.searchsorted(rank[prediction], np.arange(MOST_PER_IMAGE + 1))
    # In one turn every image has at most one prediction, so that turns can be taken for all images at once.
    for start, stop in itertools.pairwise(turns):
        if start == stop:
            continue
        who, whom = prediction[start:stop], person[start:stop]
        free = (~taken[:, whom] | crowd[whom]) & (similarity[start:stop] >= thresholds)
        # Pairs stand in rising order of similarity, so the last free one is the best.
        place = np.arange(stop - start)
        value = np.where(free, np.where(ignored[:, whom], place, place + len(place)), -1)
        segments = np.flatnonzero(np.diff(who, prepend=-1))
        best = np.maximum.reduceat(value, segments, axis=1)
        row, segment = np.nonzero(best >= 0)
        winner = whom[best[row, segment] % len(place)]
        taken[row, winner] = True
        matched[row, who[segments[segment]]] = True
        dismissed[row, who[segments[segment]]] = ignored[row, winner]
    return matched, dismissed


def _curves(right: Booleans, counted: Booleans, persons: Integers) -> tuple[Floats, Floats]:
    """Turn decisions in falling order of score into precision at the 101 recalls and the recall reached.

    Args:
        right: (n, P), predictions that found somebody who counts.
        counted: (n, P), predictions that count at all.
        persons: (n,) persons who count.

    Returns:
        (n, 101) and (n,); -1 where there are no persons.
    """
    precision, recall = np.full((len(right), len(RECALLS)), -1.0), np.full(len(right), -1.0)
    predictions_so_far = counted.cumsum(axis=1, dtype=np.int32)
    for row in np.flatnonzero(persons):
        # Precision peaks, and recall grows, only where somebody is found; the rest of the curve need not be looked at.
        places = np.flatnonzero(right[row])
        found = np.arange(1.0, len(places) + 1)
        curve = found / (predictions_so_far[row, places] + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(curve[::-1])[::-1], 0.0)
        precision[row] = envelope[np.searchsorted(found / persons[row], RECALLS)]
        recall[row] = len(places) / persons[row]
    return precision, recall
