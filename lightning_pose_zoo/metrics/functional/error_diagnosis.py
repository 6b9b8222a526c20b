"""Which kinds of mistakes cost how much average precision.

Source: Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017,
arXiv:1707.05388, and the authors' repository matteorr/coco-analyze.

Differs from the paper: a corrected keypoint is put at its true place, so that a gain is the most that could be won (the
paper leaves jitter at a similarity of 0.85 and a miss at 0.5); the optimal scores come from a one-to-one assignment
instead of soft non-maximum suppression; and background and missed persons are told once for all thresholds, beginning
with an OKS of 0.1, so that a loose pose is not counted as a false alarm and a missed person as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.average_precision import (
    RECALLS,
    THRESHOLDS,
    best_of_each_image,
    precision_and_recall,
    similar_pairs,
)
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, GroundTruth, Integers
from lightning_pose_zoo.metrics.functional.image_pairs import ImagePairs, assigned, image_pairs, pair_similarities
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = ["KEYPOINT_KINDS", "KINDS", "Diagnosis", "classify_keypoints", "diagnose", "optimal_scores"]

KEYPOINT_KINDS = ("miss", "swap", "inversion", "jitter")
"""What can be wrong with a keypoint of a person who was found, in the order in which it is corrected."""

KINDS = (*KEYPOINT_KINDS, "score", "background", "missed_person")
"""All kinds of mistakes, in the order in which they are corrected."""

_GOOD, _NEAR = 0.85, 0.5  # similarities of a keypoint: what people reach among themselves, and its vicinity
_FOUND = 0.1  # the least OKS at which a prediction is held to mean a person


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, how often, and what it costs.

    Attributes:
        skeleton: What the keypoints are.
        keypoints: For ``good``, ``jitter``, ``inversion``, ``swap`` and ``miss`` how often each keypoint is so, (K,);
            the labelled keypoints of the persons who were found.
        counts: ``persons`` who count, those ``found``, ``missed_person`` for the others, ``predictions`` that count
            (the best 20 of an image), ``background`` for those that are nobody's, and ``score``, persons for whom a
            worse of several predictions has the higher score.
        precision: (10, 101) by OKS threshold and recall, as predicted.
        alone: For each of ``KINDS`` the precision, (10, 101), when this kind alone is corrected.
        together: For each of ``KINDS`` the precision, (10, 101), when this kind and all before it are corrected.
    """

    skeleton: Skeleton
    keypoints: dict[str, Integers]
    counts: dict[str, int]
    precision: Floats
    alone: dict[str, Floats]
    together: dict[str, Floats]

    def average_precision(self, threshold: float | None = None) -> float:
        """Return AP as predicted, in 0..1, at one OKS threshold or (None) as the mean of all ten; NaN for nobody."""
        return _mean(self.precision, threshold)

    def gain(self, kind: str, threshold: float | None = None) -> float:
        """Return by how much AP rises when one of ``KINDS`` is corrected and all others stay."""
        return _mean(self.alone[kind], threshold) - self.average_precision(threshold)

    def after(self, kind: str, threshold: float | None = None) -> float:
        """Return AP when one of ``KINDS`` and all before it are corrected."""
        return _mean(self.together[kind], threshold)

    def fraction(self, kind: str) -> float:
        """Return the part of the labelled keypoints of found persons that are ``good``, ``jitter``, ...; in 0..1."""
        total = sum(int(counts.sum()) for counts in self.keypoints.values())
        return int(self.keypoints[kind].sum()) / total if total else math.nan

    def numbers(self) -> dict[str, float]:
        """Return all as flat numbers: ``AP``, ``AP_gain/jitter``, ``AP_after/jitter``, ``keypoints/jitter``, ..."""
        return {
            "AP": self.average_precision(),
            **{f"AP_gain/{kind}": self.gain(kind) for kind in KINDS},
            **{f"AP_after/{kind}": self.after(kind) for kind in KINDS},
            **{f"keypoints/{kind}": self.fraction(kind) for kind in self.keypoints},
            **{f"count/{name}": float(count) for name, count in self.counts.items()},
        }


def _mean(precision: Floats, threshold: float | None) -> float:
    if threshold is None:
        return float(precision.mean())
    rows = np.flatnonzero(np.isclose(THRESHOLDS, threshold))
    if not len(rows):
        raise MetricError(f"the OKS threshold is {threshold}; there are 0.5, 0.55, ... and 0.95.")
    return float(precision[rows[0]].mean())


def diagnose(
    truth: GroundTruth,
    image_ids: npt.NDArray[Any],
    keypoints: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    skeleton: SkeletonLike,
    sigmas: Sequence[float] | None = None,
) -> Diagnosis:
    """Tell mistakes apart, and measure what AP gains by correcting each.

    A prediction means the person that COCO's matching gives it at an OKS of 0.1. For each labelled keypoint of that
    person the similarity ``exp(-d^2 / (2 * area * (2 * sigma)^2))`` is taken with its own true place, with that of its
    left/right partner, and with the places of the same two in the other persons of the image. It counts as what it is
    most similar to:

    * good: its own place, from 0.85; jitter: its own place, from 0.5 to 0.85;
    * inversion: its partner's place, from 0.5; swap: another person's place, from 0.5; miss: none of these.

    Corrected, such a keypoint is at its true place. Then there are

    * score: corrected, each person's most similar prediction goes first, in the order of OKS, and all others last;
    * background: a prediction that is nobody's at any threshold, duplicates among them; corrected, it is gone;
    * missed_person: nobody who was found at any threshold; corrected, the person does not count.

    Args:
        truth: The annotated persons.
        image_ids: (P,) the image of each prediction.
        keypoints: (P, K, 2), pixels of the image.
        scores: (P,) confidence; the best 20 of an image count.
        skeleton: What the keypoints are; without flip pairs there are no inversions.
        sigmas: (K,) fall-off of each keypoint; None: the skeleton's.

    Returns:
        Counts and average precision; NaN where nobody counts.

    Raises:
        MetricError: Where a prediction is NaN or infinite, K differs, or an image is unknown.
    """
    known = get_skeleton(skeleton)
    spread = known.sigmas if sigmas is None else tuple(sigmas)
    if len(spread) != known.num_keypoints:
        raise MetricError(f"skeleton '{known.name}' needs {known.num_keypoints} sigmas, not {len(spread)}.")
    case = _Case(truth, image_ids, keypoints.astype(np.float64), scores.astype(np.float64), known, spread)
    precision = case.precision(())  # checks the input as well
    case.look()
    together = {kind: case.precision(KINDS[: n + 1]) for n, kind in enumerate(KINDS)}
    alone = {kind: together[kind] if kind == KINDS[0] else case.precision((kind,)) for kind in KINDS}
    return Diagnosis(known, case.keypoint_counts(), case.counts(), precision, alone, together)


class _Case:
    """Predictions and truth, what is wrong with them, and how they would score without some of it."""

    def __init__(
        self,
        truth: GroundTruth,
        image_ids: npt.NDArray[Any],
        keypoints: Floats,
        scores: Floats,
        skeleton: Skeleton,
        sigmas: Sequence[float],
    ) -> None:
        self.truth, self.image_ids, self.keypoints, self.scores = truth, image_ids, keypoints, scores
        self.skeleton, self.sigmas = skeleton, np.asarray(sigmas, dtype=np.float64)

    def look(self) -> None:
        """Find out what is wrong."""
        truth, points = self.truth, self.keypoints
        self.images = np.searchsorted(np.sort(truth.image_ids), self.image_ids)
        self.counting = image_pairs(truth, self.image_ids, ~truth.ignored)
        self.rank, persons = self._meant(points, self.scores)
        self.person = persons[0]
        everybody = image_pairs(truth, self.image_ids, np.asarray(truth.labelled.any(axis=1)))
        self.faults = classify_keypoints(truth, points, self.person, everybody, self.skeleton, self.sigmas)
        self.background = (self.rank >= 0) & (persons < 0).all(axis=0) & ~self._excused()
        self.missed = ~truth.ignored
        self.missed[persons[persons >= 0]] = False
        similarity = pair_similarities(self.counting, truth, points, self.sigmas)
        near = (similarity >= _NEAR) & (self.rank[self.counting.prediction] >= 0)
        self.ill_scored = _ill_scored(self.counting.where(near), similarity[near], self.scores)

    def keypoint_counts(self) -> dict[str, Integers]:
        """Return how often each keypoint is good, and each kind of wrong, (K,)."""
        found = np.flatnonzero(self.person >= 0)
        labelled, faults = self.truth.labelled[self.person[found]], self.faults[found]
        numbers = {kind: number for number, kind in enumerate(("good", *KEYPOINT_KINDS))}
        return {
            kind: np.asarray(((faults == numbers[kind]) & labelled).sum(axis=0))
            for kind in ("good", *reversed(KEYPOINT_KINDS))
        }

    def counts(self) -> dict[str, int]:
        """Return the counts of ``Diagnosis.counts``."""
        return {
            "persons": int((~self.truth.ignored).sum()),
            "found": int((~self.truth.ignored & ~self.missed).sum()),
            "missed_person": int(self.missed.sum()),
            "predictions": int((self.rank >= 0).sum()),
            "background": int(self.background.sum()),
            "score": self.ill_scored,
        }

    def _meant(self, points: Floats, scores: Floats) -> tuple[Integers, Integers]:
        """Match as COCO does, at an OKS of 0.1 and at COCO's ten thresholds.

        Returns:
            The rank of each prediction in its image, (P,), -1 beyond the best 20; and its person, (11, P), -1 for
            nobody.
        """
        rank = np.full(len(points), -1)
        best, rank_of_best, _ = best_of_each_image(self.images, scores)
        rank[best] = rank_of_best
        similarity = pair_similarities(self.counting, self.truth, points, self.sigmas)
        pairs = self.counting
        # The best of an image first; of equally similar persons the later, as COCO has it.
        order = np.lexsort((-pairs.person, -similarity, pairs.prediction, rank[pairs.prediction]))
        order = order[rank[pairs.prediction[order]] >= 0]
        limits = (_FOUND, *THRESHOLDS)
        return rank, np.stack([assigned(pairs, order[similarity[order] >= limit], len(points)) for limit in limits])

    def _excused(self) -> Booleans:
        """Return the predictions (P,) that lie on somebody who is ignored; COCO does not count them as wrong."""
        ignored = self.truth.of_persons(self.truth.ignored)
        order = np.sort(ignored.image_ids)
        person_images = np.searchsorted(order, ignored.image_ids[ignored.image_rows])
        pairs = similar_pairs(ignored, person_images, self.keypoints, self.images, len(order), self.sigmas)
        excused = np.zeros(len(self.images), dtype=bool)
        excused[pairs.prediction] = True
        return excused

    def precision(self, kinds: Collection[str]) -> Floats:
        """Return precision, (10, 101), with some kinds corrected; NaN where nobody counts."""
        truth, ids, points, scores = self.truth, self.image_ids, self.keypoints, self.scores
        if set(kinds) & set(KEYPOINT_KINDS):
            points = self._moved(kinds)
        if "score" in kinds:
            scores = optimal_scores(truth, ids, points, self.sigmas)
        if "background" in kinds:
            _, persons = self._meant(points, scores)  # anew: better scores may prefer another prediction
            kept = (persons >= 0).any(axis=0)
            ids, points, scores = ids[kept], points[kept], scores[kept]
        if "missed_person" in kinds and self.missed.any():
            if np.array_equal(self.missed, ~truth.ignored):
                return np.ones((len(THRESHOLDS), len(RECALLS)))  # nobody is left who could be missed
            truth = truth.of_persons(~self.missed)
        precision = precision_and_recall(truth, ids, points, scores, self.sigmas.tolist())[0][0]
        return np.where(precision < 0, np.nan, precision)

    def _moved(self, kinds: Collection[str]) -> Floats:
        points = self.keypoints.copy()
        found = np.flatnonzero(self.person >= 0)
        wrong = np.isin(self.faults[found], [n + 1 for n, kind in enumerate(KEYPOINT_KINDS) if kind in kinds])
        wrong &= self.truth.labelled[self.person[found]]
        points[found] = np.where(wrong[..., None], self.truth.keypoints[self.person[found]], points[found])
        return points


def classify_keypoints(
    truth: GroundTruth,
    keypoints: npt.NDArray[Any],
    persons: Integers,
    pairs: ImagePairs,
    skeleton: Skeleton,
    sigmas: npt.NDArray[Any],
) -> npt.NDArray[np.int8]:
    """Tell what is wrong with each keypoint; the rules stand with ``diagnose``.

    Args:
        truth: The annotated persons.
        keypoints: (P, K, 2), pixels of the image.
        persons: (P,) row of the person whom each prediction means, -1 for nobody.
        pairs: The predictions with all labelled persons of their images.
        skeleton: Whose flip pairs count.
        sigmas: (K,).

    Returns:
        (P, K): 0 for good, else 1 plus the place in ``KEYPOINT_KINDS``; of use where the person is labelled.
    """
    mirrored = np.array(skeleton.flip_permutation)
    paired = mirrored != np.arange(len(mirrored))
    reference, areas = truth.keypoints.astype(np.float64), truth.areas.astype(np.float64)
    own, partner, others = np.full((3, *keypoints.shape[:2]), -1.0)
    pairs = pairs.where(persons[pairs.prediction] >= 0)
    for part in pairs.chunks():
        who, whom = pairs.prediction[part], pairs.person[part]
        same = _similarities(keypoints[who], reference[whom], areas[whom], sigmas, truth.labelled[whom])
        mirrored_labels = truth.labelled[whom][:, mirrored] & paired
        other = _similarities(keypoints[who], reference[whom][:, mirrored], areas[whom], sigmas, mirrored_labels)
        meant = persons[who] == whom
        own[who[meant]], partner[who[meant]] = same[meant], other[meant]
        np.maximum.at(others, who[~meant], np.maximum(same, other)[~meant])
    best = np.maximum(np.maximum(own, partner), others)
    # Where similarities are equal the milder mistake is taken.
    number = {kind: 1 + place for place, kind in enumerate(KEYPOINT_KINDS)}
    faults = np.select(
        [best < _NEAR, (own == best) & (own >= _GOOD), own == best, others == best],
        [number["miss"], 0, number["jitter"], number["swap"]],
        number["inversion"],
    )
    return np.asarray(faults, dtype=np.int8)


def _similarities(points: Floats, reference: Floats, areas: Floats, sigmas: Any, labelled: Booleans) -> Floats:
    """Return the similarity of each keypoint, (n, K); -1 where the reference has no label."""
    single = oks(points[:, :, None], reference[:, :, None], areas[:, None], sigmas[:, None])
    return np.where(labelled, single, -1.0)


def optimal_scores(
    truth: GroundTruth, image_ids: npt.NDArray[Any], keypoints: npt.NDArray[Any], sigmas: npt.NDArray[Any]
) -> Floats:
    """Return the scores, (P,), that a perfect judge of poses would give.

    Each person who counts takes, most similar pairs first, one prediction, whose score is its OKS. All others follow
    behind, with their best OKS less 1.
    """
    pairs = image_pairs(truth, image_ids, ~truth.ignored)
    similarity = pair_similarities(pairs, truth, keypoints, np.asarray(sigmas))
    scores = np.zeros(len(keypoints))
    np.maximum.at(scores, pairs.prediction, similarity)
    taken = assigned(pairs, np.argsort(-similarity, kind="stable"), len(keypoints))
    chosen = taken[pairs.prediction] == pairs.person
    scores -= 1.0
    scores[pairs.prediction[chosen]] = similarity[chosen]
    return scores


def _ill_scored(pairs: ImagePairs, similarity: Floats, scores: Floats) -> int:
    """Count the persons for whom a prediction with the highest score is not the most similar one."""
    most = np.zeros(len(scores))
    np.maximum.at(most, pairs.prediction, similarity)
    nearest = similarity == most[pairs.prediction]  # each prediction counts for the person it is most similar to
    person, who, similarity = pairs.person[nearest], pairs.prediction[nearest], similarity[nearest]
    order = np.lexsort((-similarity, -scores[who], person))
    _, first = np.unique(person[order], return_index=True)
    best = np.maximum.reduceat(similarity[order], first) if len(first) else similarity[:0]
    return int((similarity[order][first] < best).sum())
