"""COCO's average precision over object keypoint similarity, vectorised.

Gives the same numbers as pycocotools' ``COCOeval`` with ``iouType="keypoints"`` for any number of keypoints, without
its traps: NaN predictions are refused, an annotation id of 0 counts, and no prediction at all scores 0.
Source of the protocol: cocodataset.org/#keypoints-eval and pycocotools/cocoeval.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.errors import MetricError, complain

__all__ = ["AREA_OF_BOX", "GroundTruth", "average_precision", "keypoint_extents", "precision_and_recall", "summarize"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

AREA_OF_BOX = 0.53
"""A person's area as a part of the box, where no area is annotated: what CrowdPose's evaluation takes."""

_MOST_PER_IMAGE = 20
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
# All, medium and large persons, in square pixels; both ends belong to a range.
_AREA_RANGES = np.array([[0.0, 1e10], [32.0**2, 96.0**2], [96.0**2, 1e10]])
_ROWS = len(_AREA_RANGES) * len(_THRESHOLDS)
_PAIRS_AT_ONCE = 16384  # keeps the temporaries of one chunk in the processor's cache


@dataclass(frozen=True)
class GroundTruth:
    """The annotated persons of a whole data set as columns: I images, G persons, K keypoints.

    Attributes:
        image_ids: (I,) int64, each once; images without a person belong here as well.
        image_rows: (G,) int64, the image (row of ``image_ids``) of each person.
        person_ids: (G,) int64.
        keypoints: (G, K, 2), pixels of the image.
        visibility: (G, K); above 0 where labelled.
        boxes: (G, 4) x0, y0, x1, y1; twice the box is the region that an ignored person covers.
        areas: (G,) square pixels.
        is_crowd: (G,) bool; crowds are ignored, and match any number of predictions.
        is_ignored: (G,) bool, who else is ignored, that is, counts neither as missed nor, for the prediction that
            matches, as wrong. None: whoever has no label, as in COCO. (CrowdPose also ignores who is hidden entirely.)
        sampled_image_ids: Images that a full run visits; for crops of detected boxes, for example, the images with a
            detection. None: those with somebody who counts.

    Raises:
        MetricError: Where columns differ in length, ids repeat, or something is NaN or infinite.
    """

    image_ids: npt.NDArray[Any]
    image_rows: npt.NDArray[Any]
    person_ids: npt.NDArray[Any]
    keypoints: npt.NDArray[Any]
    visibility: npt.NDArray[Any]
    boxes: npt.NDArray[Any]
    areas: npt.NDArray[Any]
    is_crowd: npt.NDArray[Any]
    is_ignored: npt.NDArray[Any] | None = None
    sampled_image_ids: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Check the columns."""
        images, persons = len(self.image_ids), len(self.person_ids)
        keypoints = self.keypoints.shape[1] if self.keypoints.ndim == 3 else -1
        shapes = {
            "image_rows": (persons,), "keypoints": (persons, keypoints, 2), "visibility": (persons, keypoints),
            "boxes": (persons, 4), "areas": (persons,), "is_crowd": (persons,),
        }  # fmt: skip
        problems = [
            f"{name} has the shape {getattr(self, name).shape} instead of {shape}"
            for name, shape in shapes.items()
            if getattr(self, name).shape != shape
        ]
        if self.is_ignored is not None and self.is_ignored.shape != (persons,):
            problems.append(f"is_ignored has the shape {self.is_ignored.shape} instead of {(persons,)}")
        if problems:
            raise MetricError(complain("ground truth", problems, "Give columns of equal length."))
        if len(np.unique(self.image_ids)) < images:
            raise MetricError("ground truth: image_ids repeat; give every image once.")
        if persons and (self.image_rows.min() < 0 or self.image_rows.max() >= images):
            raise MetricError(f"ground truth: image_rows are not all in 0 to {images - 1}.")
        finite = np.isfinite(self.keypoints).all(axis=2) | ~self.labelled
        bad = ~(finite.all(axis=1) & np.isfinite(self.areas) & np.isfinite(self.boxes).all(axis=1))
        if bad.any():
            lines = [f"person {person}: keypoints, box or area are NaN or infinite" for person in self.person_ids[bad]]
            raise MetricError(complain("ground truth", lines, "Mend the annotations."))

    @property
    def labelled(self) -> Booleans:
        """(G, K), which keypoints have a label."""
        return np.asarray(self.visibility > 0)

    @property
    def ignored(self) -> Booleans:
        """(G,), who counts for nothing: crowds, and whoever is ignored."""
        others = ~np.any(self.labelled, axis=1) if self.is_ignored is None else self.is_ignored.astype(bool)
        return np.asarray(self.is_crowd.astype(bool) | others)

    def scored_images(self) -> Integers:
        """Return the ids of the images with somebody who counts."""
        return np.asarray(self.image_ids[np.unique(self.image_rows[~self.ignored])])

    def of_persons(self, persons: npt.NDArray[Any]) -> GroundTruth:
        """Return some of the persons (a mask or rows), and all images."""
        columns = ("image_rows", "person_ids", "keypoints", "visibility", "boxes", "areas", "is_crowd")
        is_ignored = None if self.is_ignored is None else self.is_ignored[persons]
        return replace(self, is_ignored=is_ignored, **{name: getattr(self, name)[persons] for name in columns})

    def of_images(self, image_ids: Integers) -> GroundTruth:
        """Return some of the images and the persons in them."""
        kept = np.isin(self.image_ids, image_ids)
        part = self.of_persons(kept[self.image_rows])
        row = np.cumsum(kept) - 1
        return replace(part, image_ids=self.image_ids[kept], image_rows=row[part.image_rows])


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
        that size is annotated.

    Raises:
        MetricError: Where a prediction is NaN or infinite, K differs, or an image is unknown.
    """
    return summarize(*precision_and_recall(truth, image_ids, keypoints, scores, sigmas, areas))


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
        everybody = values[..., 0, :, :]
        scores |= {
            name: mean(everybody),
            f"{name}50": mean(everybody[..., 0, :]),
            f"{name}75": mean(everybody[..., 5, :]),
        }
        scores |= {f"{name}_M": mean(values[..., 1, :, :]), f"{name}_L": mean(values[..., 2, :, :])}
    return scores


class _Pairs(NamedTuple):
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
    best, rank, image = _best_of_each_image(np.searchsorted(sorted_ids, image_ids), scores)
    person_images = np.searchsorted(sorted_ids, truth.image_ids[truth.image_rows])
    ignored = _ignored(truth)
    pairs = _similar_pairs(truth, person_images, points[best], image, len(sorted_ids), np.asarray(sigmas))
    matched, dismissed = _match(pairs, rank, ignored, truth.is_crowd.astype(bool))
    outside = _outside(extents[best])
    dismissed |= ~matched & np.repeat(outside, len(_THRESHOLDS), axis=0)
    order = np.argsort(-scores[best], kind="stable")
    right, counted = (matched & ~dismissed)[:, order], ~dismissed[:, order]
    precision, recall = _curves(right, counted, np.repeat((~ignored).sum(axis=1), len(_THRESHOLDS)))
    shape = (len(_AREA_RANGES), len(_THRESHOLDS))
    return precision.reshape(*shape, len(_RECALLS)), recall.reshape(shape)


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


def _best_of_each_image(images: Integers, scores: npt.NDArray[Any]) -> tuple[Integers, Integers, Integers]:
    """Return the predictions that count, ordered by image and falling score, their rank in the image and the image."""
    order = np.lexsort((-scores, images))
    images = images[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    kept = rank < _MOST_PER_IMAGE
    return order[kept], rank[kept], images[kept]


def _ignored(truth: GroundTruth) -> Booleans:
    """Return for each range of areas the persons that count neither as found nor as missed, (3, G)."""
    return truth.ignored | _outside(truth.areas.astype(np.float64))


def _outside(areas: Floats) -> Booleans:
    return (areas < _AREA_RANGES[:, :1]) | (areas > _AREA_RANGES[:, 1:])


def _similar_pairs(
    truth: GroundTruth,
    person_images: Integers,
    keypoints: Floats,
    images: Integers,
    image_count: int,
    sigmas: Floats,
) -> _Pairs:
    """Compare every prediction with every person of its image, and keep the pairs that can match at all."""
    persons = np.argsort(person_images, kind="stable")
    per_image = np.bincount(person_images, minlength=image_count)
    first = np.cumsum(per_image) - per_image
    per_prediction = per_image[images]
    prediction = np.repeat(np.arange(len(images)), per_prediction)
    within = np.arange(len(prediction)) - np.repeat(np.cumsum(per_prediction) - per_prediction, per_prediction)
    person = persons[within + first[images][prediction]]
    reference: Floats = truth.keypoints.astype(np.float64)
    areas: Floats = truth.areas.astype(np.float64)
    labelled, unlabelled = truth.labelled, ~np.any(truth.labelled, axis=1)
    size = truth.boxes[:, 2:] - truth.boxes[:, :2]
    low, high = (truth.boxes[:, :2] - size)[:, None], (truth.boxes[:, 2:] + size)[:, None]
    similarity = np.empty(len(prediction))
    for start in range(0, len(prediction), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        points, who = keypoints[prediction[chunk]], person[chunk]
        others, counts = reference[who], np.asarray(labelled[who])
        # Where a person has no labels, COCO measures how far keypoints lie outside of twice the person's box.
        blank = np.flatnonzero(unlabelled[who])
        others[blank] = points[blank].clip(low[who[blank]], high[who[blank]])
        counts[blank] = True
        similarity[chunk] = oks(points, others, areas[who], sigmas, counts)
    kept = similarity >= _THRESHOLDS[0]
    return _Pairs(prediction[kept], person[kept], similarity[kept])


def _match(pairs: _Pairs, rank: Integers, ignored: Booleans, crowd: Booleans) -> tuple[Booleans, Booleans]:
    """Give each prediction, the best of each image first, the most similar person who is still free.

    A person who counts goes before one who is ignored; of equally similar ones the later is taken.

    Returns:
        Which predictions are matched, and which are matched with somebody ignored; (30, P) each, by range of areas
        and threshold.
    """
    order = np.lexsort((pairs.person, pairs.similarity, pairs.prediction, rank[pairs.prediction]))
    prediction, person, similarity = (column[order] for column in pairs)
    ignored = np.repeat(ignored, len(_THRESHOLDS), axis=0)
    thresholds = np.tile(_THRESHOLDS, len(_AREA_RANGES))[:, None]
    taken = np.zeros((_ROWS, len(crowd)), dtype=bool)
    matched, dismissed = np.zeros((2, _ROWS, len(rank)), dtype=bool)
    turns = np.searchsorted(rank[prediction], np.arange(_MOST_PER_IMAGE + 1))
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
    precision, recall = np.full((len(right), len(_RECALLS)), -1.0), np.full(len(right), -1.0)
    predictions_so_far = counted.cumsum(axis=1, dtype=np.int32)
    for row in np.flatnonzero(persons):
        # Precision peaks, and recall grows, only where somebody is found; the rest of the curve need not be looked at.
        places = np.flatnonzero(right[row])
        found = np.arange(1.0, len(places) + 1)
        curve = found / (predictions_so_far[row, places] + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(curve[::-1])[::-1], 0.0)
        precision[row] = envelope[np.searchsorted(found / persons[row], _RECALLS)]
        recall[row] = len(places) / persons[row]
    return precision, recall
