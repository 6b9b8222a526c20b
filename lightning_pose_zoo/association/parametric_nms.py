"""Parametric pose-NMS: several detections of one person become one, and what each knows of the joints is merged.

Paper: H. Fang, S. Xie, Y. Tai, C. Lu, "RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137.

Two poses are the more similar, the more of their keypoints lie near each other and are certain, and the less the
keypoints are apart at all. With distances d of the keypoints and their scores c and c', in both sums over the
keypoints,

    sum of tanh(c / score_scale) tanh(c' / score_scale) where d <= 1
    + distance_weight * sum of exp(-d / distance_scale)

is compared with a threshold. The paper squares d in the second sum and eliminates below the threshold; its program does
neither, and so does this. The numbers can be fitted to one's own predictions: ``metrics.fit_parametric_nms``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lightning_pose_zoo.association.nms import ordered_rows
from lightning_pose_zoo.errors import PoseZooError
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.structures import Poses

__all__ = ["ParametricNMS", "PoseDistances", "parametric_nms", "parametric_suppressed"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 512  # all are compared with all of their image


@dataclass(frozen=True)
class ParametricNMS:
    """How similar two poses of one person are; the defaults are RMPE's, for MPII's 16 keypoints.

    Attributes:
        score_scale: Scores well above it are certain (sigma 1 in the paper, delta 1 in the programs).
        distance_scale: How fast similarity falls with the distance, in ``unit`` (sigma 2, delta 2).
        distance_weight: Of the distances beside the scores (lambda, mu).
        threshold: Poses that are more similar are one person's (eta, gamma).
        keypoints: For how many keypoints the threshold and ``matches`` are; for others they change in proportion.
        unit: What distances are measured in: ``box``, the longer side of the picked pose's box times ``box_fraction``;
            or ``pixel``.
        box_fraction: Of the box's longer side; how near keypoints must be to be merged.
        matches: Poses with so many keypoints that are near are one person's too; 0 for no such rule.
        match_limit: Largest distance of such keypoints in pixels, besides that of ``box_fraction``.
        merge_limit: Largest distance in pixels of keypoints that are merged, besides that of ``box_fraction``; 0 for no
            such limit.
        merged_score: Score of a merged keypoint: the ``mean`` of those that are merged, weighted by themselves, or the
            ``max``.
        min_score: Persons none of whose merged keypoints scores as much are dropped.

    Raises:
        PoseZooError: Where a number is out of range.
    """

    score_scale: float = 0.01
    distance_scale: float = 2.08
    distance_weight: float = 2.08
    threshold: float = 22.48
    keypoints: int = 16
    unit: Literal["box", "pixel"] = "box"
    box_fraction: float = 0.1
    matches: int = 0
    match_limit: float = 7.0
    merge_limit: float = 0.0
    merged_score: Literal["mean", "max"] = "max"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, and unknown words."""
        positive = ("score_scale", "distance_scale", "keypoints", "box_fraction", "match_limit")
        wrong = [f"{name} {getattr(self, name)}" for name in positive if not getattr(self, name) > 0]
        wrong += [] if self.unit in ("box", "pixel") else [f"unit '{self.unit}'"]
        wrong += [] if self.merged_score in ("mean", "max") else [f"merged_score '{self.merged_score}'"]
        wrong += [f"{name} {getattr(self, name)}" for name in ("matches", "merge_limit") if getattr(self, name) < 0]
        if wrong:
            raise PoseZooError(
                f"parametric pose-NMS with {', '.join(wrong)}: scales and limits are positive, unit is box or pixel, "
                "merged_score mean or max."
            )

    @staticmethod
    def alphapose() -> ParametricNMS:
        """Return the AlphaPose repository's numbers for COCO's 17 keypoints; distances are in pixels."""
        return ParametricNMS(
            1.0, 2.65, 1.7, 22.48, keypoints=17, unit="pixel", matches=5, merge_limit=15.0, merged_score="mean"
        )

    def save(self, path: Path) -> None:
        """Write the numbers as YAML."""
        import yaml

        write_atomically(path, yaml.safe_dump(asdict(self), sort_keys=False).encode())

    @staticmethod
    def named(name: str) -> ParametricNMS:
        """Return the numbers of ``rmpe`` or ``alphapose``, or those in a YAML file.

        Raises:
            PoseZooError: Where there is no such file, or its numbers are wrong.
        """
        import yaml

        if name in ("rmpe", "alphapose"):
            return ParametricNMS() if name == "rmpe" else ParametricNMS.alphapose()
        try:
            content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PoseZooError(
                f"parametric pose-NMS '{name}' is neither rmpe nor alphapose nor a file; pose-zoo pose-nms writes one."
            ) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PoseZooError(f"'{name}' cannot be read: {error}") from error
        known = {field.name: field.default for field in fields(ParametricNMS)}
        given = content if isinstance(content, dict) else {}
        wrong = [
            f"{key}: {value!r}" for key, value in given.items()
            if key not in known or isinstance(value, str) != isinstance(known[key], str)
        ]  # fmt: skip
        if wrong or not given:
            raise PoseZooError(
                f"'{name}' does not hold the numbers of parametric pose-NMS ({', '.join(known)}): {', '.join(wrong)}."
            )
        return ParametricNMS(**given)


class _Chunk(NamedTuple):
    rows: Integers  # (images, most), the best of each first; -1 fills up
    distances: npt.NDArray[np.float32]  # (images, most, most, K), pixels


class PoseDistances:
    """The distances between all poses of each image, taken once, for suppression with any numbers.

    Args:
        keypoints: (P, K, 2), pixels of each pose's image.
        keypoint_scores: (P, K).
        scores: (P,), confidence of each pose; the highest is picked first.
        boxes: (P, 4) x0, y0, x1, y1 of each person, pixels of the image.
        image_ids: (P,), the image that a pose is in.

    Raises:
        PoseZooError: Where shapes do not fit together, or something is NaN or infinite.
    """

    def __init__(self, keypoints: Array, keypoint_scores: Array, scores: Array, boxes: Array, image_ids: Array) -> None:
        self.keypoints, self.keypoint_scores, self.scores, self.boxes = (
            np.asarray(value, dtype=np.float64) for value in (keypoints, keypoint_scores, scores, boxes)
        )
        self.image_ids = np.asarray(image_ids)
        self._check()
        self.sides = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=1e-6)
        self._chunks = list(self._compared())

    def _check(self) -> None:
        persons, count = self.keypoints.shape[:2]
        shapes = {
            "keypoints": (self.keypoints, (persons, count, 2)), "keypoint_scores": (self.keypoint_scores,
            (persons, count)), "scores": (self.scores, (persons,)), "boxes": (self.boxes, (persons, 4)),
            "image_ids": (self.image_ids, (persons,)),
        }  # fmt: skip
        wrong = [f"{name} {value.shape} instead of {needed}" for name, (value, needed) in shapes.items()
                 if value.shape != needed]  # fmt: skip
        wrong += [f"{name} that are NaN or infinite" for name, (value, _) in shapes.items()
                  if not np.isfinite(value).all()]  # fmt: skip
        if wrong:
            raise PoseZooError(f"parametric pose-NMS of {persons} poses was given {', '.join(wrong)}.")

    def _compared(self) -> Iterator[_Chunk]:
        for rows in ordered_rows(self.image_ids, self.scores, _ROWS_AT_ONCE):
            points = self.keypoints[rows].astype(np.float32)
            yield _Chunk(rows, np.linalg.norm(points[:, :, None] - points[:, None], axis=-1))

    def pickers(self, settings: ParametricNMS) -> Integers:
        """Return for each pose the row of the pose that stands for its person, itself where it is kept, (P,)."""
        stands = np.arange(len(self.scores))
        for rows, distances in self._chunks:
            similar = self._similar(rows, distances, settings)
            alive = rows >= 0
            for rank in range(rows.shape[1] - 1):
                gone = similar[:, rank] & alive & alive[:, rank, None]
                gone[:, : rank + 1] = False
                image, column = np.nonzero(gone)
                stands[rows[image, column]] = rows[image, rank]
                alive &= ~gone
        return stands

    def _similar(
        self, rows: Integers, distances: npt.NDArray[np.float32], settings: ParametricNMS
    ) -> npt.NDArray[np.bool_]:
        """Tell which pose takes which with it where it is picked, (images, most, most)."""
        count = distances.shape[-1]
        reach = (self.sides[rows] * settings.box_fraction).astype(np.float32)[:, :, None, None]
        apart = distances / reach if settings.unit == "box" else distances
        certain = np.tanh(self.keypoint_scores[rows] / settings.score_scale).astype(np.float32)
        together = np.where(apart <= 1, certain[:, :, None] * certain[:, None], 0).sum(axis=-1)
        near = np.exp(-apart / settings.distance_scale).sum(axis=-1)
        scale = count / settings.keypoints
        similar = together + settings.distance_weight * near > settings.threshold * scale
        if settings.matches:
            matched = (distances <= np.minimum(reach, settings.match_limit)).sum(axis=-1)
            similar |= matched >= max(1.0, settings.matches * scale)
        return np.asarray(similar)

    def kept(self, settings: ParametricNMS) -> Integers:
        """Return the rows that are kept (n,): images by rising id, and in each the best pose first."""
        return self._ordered(np.unique(self.pickers(settings)))

    def merged(self, settings: ParametricNMS) -> tuple[Integers, Floats, Floats]:
        """Suppress, and merge the keypoints of what is one person's.

        Returns:
            The rows that are kept (n,), as ``kept`` has them but for those below ``min_score``; their merged keypoints
            (n, K, 2) and keypoint scores (n, K).
        """
        stands = self.pickers(settings)
        limit = self.sides[stands] * settings.box_fraction
        if settings.merge_limit:
            limit = np.minimum(limit, settings.merge_limit)
        apart = np.linalg.norm(self.keypoints - self.keypoints[stands], axis=-1)
        # A pose of no certain keypoints still has its own.
        weights = np.where(apart <= limit[:, None], np.maximum(self.keypoint_scores, 1e-5), 0.0)
        rows, of = np.unique(stands, return_inverse=True)
        total, points, squares = np.zeros((3, len(rows), weights.shape[1], 1))
        points = np.zeros((len(rows), weights.shape[1], 2))
        np.add.at(total, of, weights[..., None])
        np.add.at(points, of, weights[..., None] * self.keypoints)
        if settings.merged_score == "mean":
            np.add.at(squares, of, (weights * self.keypoint_scores)[..., None])
            scores = (squares / total)[..., 0]
        else:
            scores = np.full((len(rows), weights.shape[1]), -np.inf)
            np.maximum.at(scores, of, np.where(weights > 0, self.keypoint_scores, -np.inf))
        order = self._ordered(rows)
        order = order[scores[np.searchsorted(rows, order)].max(axis=1, initial=0) >= settings.min_score]
        place = np.searchsorted(rows, order)
        return order, (points / total)[place], scores[place]

    def _ordered(self, rows: Integers) -> Integers:
        return rows[np.lexsort((-rows, -self.scores[rows], self.image_ids[rows]))]


def parametric_nms(
    keypoints: Array,
    keypoint_scores: Array,
    scores: Array,
    boxes: Array,
    image_ids: Array,
    settings: ParametricNMS | None = None,
) -> Integers:
    """Keep the best poses of each image, and drop those that are similar to a better one.

    Args:
        keypoints: (P, K, 2), pixels of each pose's image.
        keypoint_scores: (P, K).
        scores: (P,), confidence of each pose.
        boxes: (P, 4) x0, y0, x1, y1 of each person, pixels of the image.
        image_ids: (P,), the image that a pose is in.
        settings: What similar is; RMPE's by default.

    Returns:
        (n,) int64, the rows that are kept: images by rising id, and in each the best pose first.

    Raises:
        PoseZooError: Where shapes do not fit together, or something is NaN or infinite.
    """
    return PoseDistances(keypoints, keypoint_scores, scores, boxes, image_ids).kept(settings or ParametricNMS())


def parametric_suppressed(poses: Poses, settings: ParametricNMS | None = None) -> Poses:
    """Drop poses that are similar to a better one of the same image, whose keypoints are merged with theirs.

    Args:
        poses: Of any number of images; ``boxes`` are the persons'.
        settings: What similar is; RMPE's by default.

    Returns:
        The poses that are kept, with merged keypoints and keypoint scores: images by rising id, and in each the best
        pose first.

    Raises:
        PoseZooError: As ``parametric_nms``.
    """
    columns = (poses.keypoints, poses.keypoint_scores, poses.scores, poses.boxes)
    keypoints, keypoint_scores, scores, boxes = (value.detach().to("cpu", torch.float64).numpy() for value in columns)
    distances = PoseDistances(keypoints, keypoint_scores, scores, boxes, poses.image_ids.cpu().numpy())
    rows, keypoints, keypoint_scores = distances.merged(settings or ParametricNMS())
    return replace(
        poses[torch.from_numpy(rows).to(poses.keypoints.device)],
        keypoints=torch.from_numpy(keypoints).to(poses.keypoints),
        keypoint_scores=torch.from_numpy(keypoint_scores).to(poses.keypoint_scores),
    )
