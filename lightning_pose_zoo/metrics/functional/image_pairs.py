"""Predictions and persons of the same image, as columns of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, GroundTruth, Integers

__all__ = ["ImagePairs", "assigned", "best_partners", "image_pairs", "pair_similarities", "pairs_in_images"]

_PAIRS_AT_ONCE = 16384  # keeps the temporaries of one chunk in the processor's cache


class ImagePairs(NamedTuple):
    """Pairs of a prediction and a person of its image.

    Attributes:
        prediction: (n,) rows of the predictions, rising.
        person: (n,) rows of the annotated persons.
    """

    prediction: Integers
    person: Integers

    def where(self, kept: Booleans) -> ImagePairs:
        """Return some of the pairs, (n,) bool."""
        return ImagePairs(self.prediction[kept], self.person[kept])

    def chunks(self) -> Iterator[slice]:
        """Return slices of all pairs, so that (n, K) temporaries stay small."""
        return (slice(n, n + _PAIRS_AT_ONCE) for n in range(0, len(self.prediction), _PAIRS_AT_ONCE))


def pairs_in_images(images: Integers, person_images: Integers, image_count: int) -> ImagePairs:
    """Pair every prediction with every person of its image.

    Args:
        images: (P,) row of each prediction's image.
        person_images: (G,) row of each person's image.
        image_count: How many images there are.

    Returns:
        The pairs, ordered by prediction and, within one, by person.
    """
    persons = np.argsort(person_images, kind="stable")
    per_image = np.bincount(person_images, minlength=image_count)
    first, count = (np.cumsum(per_image) - per_image)[images], per_image[images]
    prediction = np.repeat(np.arange(len(images)), count)
    within = np.arange(len(prediction)) - np.repeat(np.cumsum(count) - count, count)
    return ImagePairs(prediction, persons[first[prediction] + within])


def image_pairs(truth: GroundTruth, image_ids: npt.NDArray[Any], who: Booleans) -> ImagePairs:
    """Pair every prediction with everybody in its image.

    Args:
        truth: The annotated persons.
        image_ids: (P,) the image of each prediction; all are known to ``truth``.
        who: (G,) bool, the persons to pair with.

    Returns:
        The pairs, ordered by prediction and person.
    """
    order = np.argsort(truth.image_ids, kind="stable")
    row = order[np.searchsorted(truth.image_ids[order], image_ids)]
    persons = np.flatnonzero(who)
    pairs = pairs_in_images(row, truth.image_rows[persons], len(truth.image_ids))
    return ImagePairs(pairs.prediction, persons[pairs.person])


def pair_similarities(pairs: ImagePairs, truth: GroundTruth, keypoints: Floats, sigmas: npt.NDArray[Any]) -> Floats:
    """Return the OKS of each pair, (n,).

    Args:
        pairs: Predictions with labelled persons.
        truth: The annotated persons.
        keypoints: (P, K, 2) predicted, pixels of the image.
        sigmas: (K,) fall-off of each keypoint.
    """
    reference, labelled, areas = truth.keypoints.astype(np.float64), truth.labelled, truth.areas.astype(np.float64)
    similarity = np.zeros(len(pairs.prediction))
    for part in pairs.chunks():
        who, whom = pairs.prediction[part], pairs.person[part]
        similarity[part] = oks(keypoints[who], reference[whom], areas[whom], sigmas, labelled[whom])
    return similarity


def best_partners(
    truth: GroundTruth, image_ids: npt.NDArray[Any], keypoints: Floats, sigmas: npt.NDArray[Any]
) -> Integers:
    """Join the predictions and the persons who count in each image one to one, the pair of the highest OKS first.

    Args:
        truth: The annotated persons.
        image_ids: (P,) the image of each prediction; all are known to ``truth``.
        keypoints: (P, K, 2), pixels of the image.
        sigmas: (K,) fall-off of each keypoint.

    Returns:
        (P,) the person of each prediction, -1 for nobody.
    """
    pairs = image_pairs(truth, image_ids, ~truth.ignored)
    similarity = pair_similarities(pairs, truth, keypoints, sigmas)
    return assigned(pairs, np.argsort(-similarity, kind="stable"), len(keypoints))


def assigned(pairs: ImagePairs, order: npt.NDArray[Any], count: int) -> Integers:
    """Go through pairs, and join each whose prediction and person are both free.

    Args:
        pairs: Who may be joined.
        order: (n,) rows of the pairs, the first one to be joined first.
        count: How many predictions there are.

    Returns:
        (count,) the person of each prediction, -1 for nobody.
    """
    person_of, taken = [-1] * count, set()
    for who, whom in zip(pairs.prediction[order].tolist(), pairs.person[order].tolist(), strict=True):
        if person_of[who] < 0 and whom not in taken:
            person_of[who] = whom
            taken.add(whom)
    return np.array(person_of, dtype=np.int64)
