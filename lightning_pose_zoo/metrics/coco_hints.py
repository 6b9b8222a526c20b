"""Why a results file scores nothing: facts about the two files, and mistakes that are found by undoing them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.metrics.coco_reading import CocoFiles, CocoPredictions
from lightning_pose_zoo.metrics.functional.average_precision import average_precision
from lightning_pose_zoo.metrics.functional.ground_truth import AREA_OF_BOX, Floats, GroundTruth
from lightning_pose_zoo.metrics.functional.image_pairs import ImagePairs, image_pairs

__all__ = ["explain_low_scores"]

_LOW = 0.2  # AP50 below which something may be wrong with the files rather than with the poses
_PAIRS_FOR_ORDER = 300
_FRACTIONS = 1.5  # a bit outside of the picture is usual
_OF_FRACTIONS = "the coordinates are fractions of the image's width and height; multiply them"


def explain_low_scores(files: CocoFiles, scores: dict[str, float]) -> list[str]:
    """Say why AP is 0 or -1, or so low that the files may not fit together.

    Exchanged axes, coordinates in 0..1, another order of the keypoints and areas of 0 are tried out: whichever gives
    the best AP50 is named, where that is much better than what the files give.

    Args:
        files: What stands in the files.
        scores: What they score.

    Returns:
        Lines; none where AP50 is at least 0.2.
    """
    if scores["AP50"] >= _LOW:
        return []
    counting = {category: int((~truth.ignored).sum()) for category, truth in files.truths.items()}
    if not sum(counting.values()):
        return [_nobody(files)]
    found = files.predictions
    if not len(found.scores):
        return ["the results file holds no detection."]
    category = max(counting, key=lambda number: counting[number])
    truth, of_category = files.truths[category], found.of_category(category)
    if not len(of_category.scores):
        others = np.unique(found.category_ids).tolist()
        return [f"category ids differ: all results are of category {others}, most annotated persons of {category}."]
    pairs = image_pairs(truth, of_category.image_ids, ~truth.ignored)
    if not len(pairs.person):
        return ["no result is in an image where somebody is annotated: are the image ids those of the annotations?"]
    lines = [*_distances(truth, of_category, pairs), *_areas(truth)]
    best, sentence = max(_tried(files, truth, of_category, pairs), default=(0.0, ""))
    if best > max(2 * scores["AP50"], scores["AP50"] + 0.1):
        lines.append(f"{sentence}. With that undone AP50 is {best:.3f}.")
    elif np.isnan(files.image_sizes).all() and np.abs(of_category.keypoints).max() <= _FRACTIONS:
        lines.append(f"{_OF_FRACTIONS} (tried not, because the annotations have no width and height).")
    return lines


def _nobody(files: CocoFiles) -> str:
    persons = sum(len(truth.person_ids) for truth in files.truths.values())
    if not persons:
        return "no person is annotated, so that there is nothing to score."
    crowds = sum(int(truth.is_crowd.sum()) for truth in files.truths.values())
    return (
        f"none of the {persons} annotated persons counts: {crowds} are crowds, and the others have no labelled "
        "keypoint (visibility above 0, num_keypoints above 0)."
    )


def _nearest(pairs: ImagePairs, distance: Floats) -> ImagePairs:
    """Return the pair of the least distance for each person."""
    order = np.lexsort((distance, pairs.person))
    _, first = np.unique(pairs.person[order], return_index=True)
    return ImagePairs(pairs.prediction[order][first], pairs.person[order][first])


def _lengths(truth: GroundTruth) -> Floats:
    """Return the longer side of each person's box (G,), NaN where it has none."""
    longer = (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1)
    return np.where(longer > 0, longer, np.nan)


def _distances(truth: GroundTruth, found: CocoPredictions, pairs: ImagePairs) -> list[str]:
    labelled = truth.labelled[pairs.person]
    single = np.linalg.norm(found.keypoints[pairs.prediction] - truth.keypoints[pairs.person], axis=2)
    mean = np.where(labelled, single, 0.0).sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)
    relative = mean / _lengths(truth)[pairs.person]
    least = np.full(len(truth.person_ids), np.inf)
    np.minimum.at(least, pairs.person, np.nan_to_num(relative, nan=np.inf))
    if not np.isfinite(least).any():
        return []
    typical = np.median(least[np.isfinite(least)])
    return [
        f"the keypoints of the nearest detection are off by {typical:.2g} times the longer side of the person's box "
        "(median over the persons); up to about 0.1 is usual."
    ]


def _areas(truth: GroundTruth) -> list[str]:
    without = int((truth.areas[~truth.ignored] <= 0).sum())
    if not without:
        return []
    return [
        f"{without} persons have an area of 0, where only an exact hit counts; leave 'area' out to have {AREA_OF_BOX} "
        "of the box taken."
    ]


def _tried(
    files: CocoFiles, truth: GroundTruth, found: CocoPredictions, pairs: ImagePairs
) -> Iterator[tuple[float, str]]:
    """Undo one possible mistake after the other, and yield the AP50 and what it is."""
    skeleton, points = files.skeleton, found.keypoints

    def score(keypoints: Floats, persons: GroundTruth = truth) -> float:
        return average_precision(persons, found.image_ids, keypoints, found.scores, skeleton.sigmas)["AP50"]

    yield score(points[..., ::-1]), "x and y are exchanged"
    sizes = files.image_sizes[np.searchsorted(truth.image_ids, found.image_ids)]
    if np.isfinite(sizes).all():
        yield score(points * sizes[:, None]), _OF_FRACTIONS
    if skeleton.flip_pairs:
        yield score(points[:, skeleton.flip_permutation]), "left and right keypoints are exchanged"
    order = _other_order(truth, found, pairs, np.array(skeleton.sigmas))
    if order != list(range(len(order))) and order != skeleton.flip_permutation:
        names = ", ".join(skeleton.names[order.index(n)] for n in range(len(order)))
        yield score(points[:, order]), f"the keypoints stand in another order; the results seem to have {names}"
    if (truth.areas <= 0).any():
        sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
        persons = replace(truth, areas=np.where(truth.areas > 0, truth.areas, AREA_OF_BOX * sides[:, 0] * sides[:, 1]))
        yield score(points, persons), "areas of 0 leave no tolerance"


def _other_order(truth: GroundTruth, found: CocoPredictions, pairs: ImagePairs, sigmas: Floats) -> list[int]:
    """Return which keypoint of the results fits best in the place of each keypoint, (K,)."""
    from scipy.optimize import linear_sum_assignment

    centers = found.keypoints.mean(axis=1)[pairs.prediction]
    boxes = truth.boxes[pairs.person]
    distance = np.linalg.norm(centers - (boxes[:, :2] + boxes[:, 2:]) / 2, axis=1)
    prediction, person = _nearest(pairs, distance)
    complete = np.argsort(-truth.labelled[person].sum(axis=1), kind="stable")[:_PAIRS_FOR_ORDER]
    total = np.zeros((len(sigmas), len(sigmas)))
    for who, whom in zip(prediction[complete], person[complete], strict=True):
        points, places = found.keypoints[who][:, None, None], truth.keypoints[whom][None, :, None]
        area = max(float(truth.areas[whom]), 1.0)
        similar = oks(points, places.astype(np.float64), np.full((1, 1), area), sigmas[:, None])
        total += np.where(truth.labelled[whom], similar, 0.0)
    rows, places_of_rows = linear_sum_assignment(-total)
    return [int(rows[place]) for place in np.argsort(places_of_rows)]
