"""Average precision after parametric pose-NMS, and the search for its numbers that makes it highest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_pose_zoo.association.parametric_nms import ParametricNMS, PoseDistances
from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.average_precision import OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.functional.average_precision import GroundTruth, average_precision
from lightning_pose_zoo.metrics.rows import first_rows
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["ParametricNMSAveragePrecision", "fit_parametric_nms"]

# The paper searches over two numbers at a time while the other two stay; what each is multiplied with.
_PAIRS = (("score_scale", "distance_scale"), ("distance_weight", "threshold"))
_FACTORS = {
    "score_scale": (0.1, 0.3, 1.0, 3.0, 10.0), "distance_scale": (0.5, 0.7, 1.0, 1.4, 2.0),
    "distance_weight": (0.5, 0.7, 1.0, 1.4, 2.0), "threshold": (0.5, 0.7, 0.85, 1.0, 1.15, 1.4),
}  # fmt: skip


class ParametricNMSAveragePrecision(OKSMeanAveragePrecision):
    """Average precision over object keypoint similarity of poses after parametric pose-NMS.

    Of several detections of one person the best stays, and its keypoints are merged with those of the others, before
    anything is counted. All else is as for ``OKSMeanAveragePrecision``. Poses bring the boxes that they were found in.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        sigmas: Fall-off of each keypoint; by default the skeleton's.
        annotations: The persons of the whole data set; see ``OKSMeanAveragePrecision``.
        settings: When poses are one person's; RMPE's numbers by default.

    Raises:
        MetricError: Where sigmas or annotations have another number of keypoints than the skeleton.
    """

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        sigmas: Sequence[float] | None = None,
        annotations: GroundTruth | None = None,
        settings: ParametricNMS | None = None,
    ) -> None:
        super().__init__(skeleton, sigmas, annotations)
        self.settings = settings or ParametricNMS()
        self.add_rows("pose_keypoint_scores", (self.skeleton.num_keypoints,))
        self.add_rows("pose_boxes", (4,))

    def update(
        self, preds: Poses | Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Take in whole images; see ``OKSMeanAveragePrecision.update``.

        Raises:
            MetricError: As there; where predictions are no ``Poses``, which alone have boxes and keypoints' scores.
        """
        if not isinstance(preds, Poses):
            raise MetricError("parametric pose-NMS needs boxes and keypoints' scores; give predictions as Poses.")
        super().update(preds, targets)
        self.append_rows(pose_keypoint_scores=preds.keypoint_scores, pose_boxes=preds.boxes)

    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch; see ``OKSMeanAveragePrecision.update_batch``."""
        super().update_batch(poses, batch)
        self.append_rows(pose_keypoint_scores=poses.keypoint_scores, pose_boxes=poses.boxes)

    def unsuppressed(self) -> tuple[GroundTruth, PoseDistances]:
        """Return the truth and all poses, nobody twice; on one process, or inside of ``sync_context``."""
        image_ids, ids = (self.rows(f"pose_{name}").numpy() for name in ("image_ids", "ids"))
        keep = first_rows(image_ids, ids)
        names = ("keypoints", "keypoint_scores", "scores", "boxes")
        keypoints, keypoint_scores, scores, boxes = (self.rows(f"pose_{name}").numpy()[keep] for name in names)
        truth = self._truth(np.unique(self.rows("visited_image_ids").numpy()))
        return truth, PoseDistances(keypoints, keypoint_scores, scores, boxes, image_ids[keep])

    def gathered(self) -> tuple[GroundTruth, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return what is scored: the truth, and image ids (P,), keypoints (P, K, 2) and scores (P,) of who is kept."""
        truth, poses = self.unsuppressed()
        rows, keypoints, _ = poses.merged(self.settings)
        return truth, poses.image_ids[rows], keypoints, poses.scores[rows]

    def compute(self) -> dict[str, Tensor]:
        """Return COCO's ten numbers, and three by crowding with a crowd index; NaN where nobody such is annotated."""
        return super().compute()

    def protocol(self) -> str:
        """Say what the last result was computed by and over; see ``methods.top_down.evaluation_protocol``."""
        return super().protocol().replace("no OKS-NMS", f"parametric pose-NMS {self.settings.threshold:g}", 1)


def fit_parametric_nms(
    poses: PoseDistances,
    truth: GroundTruth,
    sigmas: Sequence[float],
    start: ParametricNMS | None = None,
    rounds: int = 5,
) -> tuple[ParametricNMS, float]:
    """Search for the numbers of parametric pose-NMS that give the highest average precision.

    As in RMPE, exhaustively over two of them while the other two stay, in turn, until neither turn finds better ones.
    What is tried are multiples of the current numbers.

    Args:
        poses: All predictions of the validation set.
        truth: Its annotated persons.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        start: Where the search begins; RMPE's numbers by default. What is not searched for stays as it is here.
        rounds: How often both pairs are gone through at most.

    Returns:
        The best numbers, and their average precision.
    """
    tried: dict[ParametricNMS, float] = {}

    def score(settings: ParametricNMS) -> float:
        if settings not in tried:
            rows, keypoints, _ = poses.merged(settings)
            found = average_precision(truth, poses.image_ids[rows], keypoints, poses.scores[rows], sigmas)
            tried[settings] = found["AP"]
        return tried[settings]

    best = start or ParametricNMS()
    for _ in range(rounds):
        before = best
        for pair in _PAIRS:
            here = [getattr(best, name) for name in pair]
            factors = itertools.product(*(_FACTORS[name] for name in pair))
            candidates = [
                replace(best, **{name: value * by for name, value, by in zip(pair, here, each, strict=True)})
                for each in factors
            ]
            # The first of equals, so that numbers without an effect stay.
            best = max([best, *candidates], key=score)
        if best == before:
            break
    return best, score(best)
