"""COCO's average precision over object keypoint similarity as a torchmetrics class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from lightning_pose_zoo.association.nms import oks_nms as kept_by_oks_nms
from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.geometry import box_area, boxes_from_keypoints
from lightning_pose_zoo.metrics.functional.average_precision import AREA_OF_BOX, GroundTruth, average_precision
from lightning_pose_zoo.metrics.functional.keypoint_error import precise
from lightning_pose_zoo.metrics.rows import PoseMetric, Truth, first_rows, read_truth, require_finite, running_ids
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["OKSMeanAveragePrecision", "areas_in_batch"]

_POSE_COLUMNS = ("image_ids", "ids", "keypoints", "scores")
_TRUTH_COLUMNS = ("image_ids", "ids", "keypoints", "visibility", "boxes", "areas", "is_crowd")


class OKSMeanAveragePrecision(PoseMetric):
    """Average precision and recall over object keypoint similarity, as on cocodataset.org/#keypoints-eval.

    ``AP`` and ``AR`` are means over the OKS thresholds 0.50, 0.55, ..., 0.95; then AP50, AP75, AP_M and AP_L (persons
    of 32^2 to 96^2 square pixels, and larger), and the same for AR. All in 0..1, and NaN where no such person is
    annotated. At most 20 predictions count per image. Crowds and persons without a labelled keypoint count neither as
    missed nor, for who finds them, as wrong. The numbers equal those of pycocotools. Where ``annotations`` have a crowd
    index, AP_easy, AP_medium and AP_hard follow, as for CrowdPose.

    Where a detector has found a person twice, so does the method; ``oks_nms`` then keeps the better pose, before
    anything is counted. OKS between two poses takes the mean of the areas of their crops, padding included, or where
    whole pictures were looked at, of their boxes. As in the HRNet repository (Sun et al., CVPR 2019, arXiv 1902.09212).

    An image is scored once: predictions and persons that come again with the same image and person (a distributed
    sampler repeats some) are dropped.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        sigmas: Fall-off of each keypoint; by default the skeleton's.
        annotations: The persons of the whole data set. With them persons who were not cut out as crops, crowds and
            images without predictions count as COCO counts them; without them the truth is what the batches hold.
        oks_nms: Largest OKS at which two poses of an image are both kept (0.9 in the published protocol for detected
            boxes); None keeps all.

    Raises:
        MetricError: Where sigmas or annotations have another number of keypoints than the skeleton, or ``oks_nms`` is
            outside of 0..1.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        sigmas: Sequence[float] | None = None,
        annotations: GroundTruth | None = None,
        oks_nms: float | None = None,
    ) -> None:
        super().__init__()
        self.skeleton = get_skeleton(skeleton)
        self.sigmas = self.skeleton.sigmas if sigmas is None else tuple(float(sigma) for sigma in sigmas)
        self.annotations = annotations
        self.oks_nms = oks_nms
        self._scored_images = ""
        count = self.skeleton.num_keypoints
        if len(self.sigmas) != count or not all(sigma > 0 for sigma in self.sigmas):
            raise MetricError(f"skeleton '{self.skeleton.name}' needs {count} positive sigmas, not {self.sigmas}.")
        if annotations is not None and annotations.keypoints.shape[1] != count:
            raise MetricError(
                f"the annotations have {annotations.keypoints.shape[1]} keypoints per person, not {count}."
            )
        if oks_nms is not None and not 0 <= oks_nms <= 1:
            raise MetricError(f"oks_nms is {oks_nms}, but OKS is in 0..1; the published protocol takes 0.9.")
        self.add_rows("pose_image_ids", dtype=torch.int64)
        self.add_rows("pose_ids", dtype=torch.int64)
        self.add_rows("pose_keypoints", (count, 2))
        self.add_rows("pose_scores")
        if oks_nms is not None:
            self.add_rows("pose_areas")
        self.add_rows("visited_image_ids", dtype=torch.int64)
        if annotations is None:
            self.add_rows("truth_image_ids", dtype=torch.int64)
            self.add_rows("truth_ids", dtype=torch.int64)
            self.add_rows("truth_keypoints", (count, 2))
            self.add_rows("truth_visibility", (count,), torch.uint8)
            self.add_rows("truth_boxes", (4,))
            self.add_rows("truth_areas")
            self.add_rows("truth_is_crowd", dtype=torch.bool)

    def update(
        self, preds: Poses | Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Take in whole images.

        Args:
            preds: Poses, whose ``image_ids`` are those of the targets, or rows of them where these have no
                ``image_id``. Or for each target one dict of ``keypoints`` (P, K, 2 or 3), pixels of the image, and
                ``scores`` (P,); with ``oks_nms`` also ``area`` (P,), square pixels.
            targets: For each image a dict of ``keypoints`` (G, K, 3) with the visibility last, ``area`` (G,) square
                pixels, ``iscrowd`` (G,), ``boxes`` (G, 4) x0, y0, x1, y1, and ``image_id``. ``iscrowd`` and ``boxes``
                may be absent, ``area`` where ``boxes`` are there, and ``image_id`` where no image comes twice (images
                of equal scores then count in the order of arrival). None where annotations were given at
                construction; then the predictions have the ``image_id``.

        Raises:
            MetricError: Where predictions and targets do not belong together, a shape does not fit, or something is NaN
                or infinite.
        """
        areas = None if self.oks_nms is None else _given_areas(preds)
        images = self._image_ids(preds, targets)
        if isinstance(preds, Poses):
            keypoints, scores = preds.keypoints, preds.scores
            rows_of_targets = targets is not None and _given_image_ids(targets) is None
            pose_images = _look_up(images, preds.image_ids) if rows_of_targets else preds.image_ids
            _require_known(pose_images, images)
        else:
            parts = [_read_prediction(one, self.skeleton.num_keypoints) for one in preds]
            keypoints = torch.cat([points for points, _ in parts])
            scores = torch.cat([confidence for _, confidence in parts])
            pose_images = torch.repeat_interleave(images, torch.tensor([len(confidence) for _, confidence in parts]))
        self._append_poses(keypoints, scores, pose_images, _order_in_image(pose_images), images, areas)
        if self.annotations is None and targets is not None:
            for image, target in zip(images, targets, strict=True):
                truth, is_crowd = _read_target(target, self.skeleton.num_keypoints)
                count = len(is_crowd)
                self._append_truth(truth, image.expand(count), torch.arange(count), is_crowd)

    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch.

        Without ``image_id`` in the batch, ``poses.image_ids`` are rows of the batch's pictures, and no picture may come
        twice.

        Raises:
            MetricError: Where K differs, something is NaN or infinite, or the batch does not hold the truth and no
                annotations were given.
        """
        if self.annotations is None and "box_score" in batch:
            raise MetricError(
                "these crops were cut by detected boxes, so that the batches do not hold everybody; give "
                "OKSMeanAveragePrecision the annotations of the data set."
            )
        if "image_id" in batch:
            images, pose_images = batch["image_id"], poses.image_ids
        else:
            images = running_ids(len(batch["image"] if "image" in batch else batch["keypoints"]))
            pose_images = _look_up(images, poses.image_ids)
        # By the order in an image, repeated images can be told; crops of one image come in several batches, but there
        # each has the id of the person that it was cut by.
        top_down = "image_index" not in batch
        ids = poses.person_ids
        if ids is None and top_down:
            ids = batch["person_id"] if "person_id" in batch else running_ids(len(poses))
        ids = _order_in_image(pose_images) if ids is None else ids
        areas = None if self.oks_nms is None else areas_in_batch(poses, batch)
        self._append_poses(poses.keypoints, poses.scores, pose_images, ids, images, areas)
        if self.annotations is None:
            truth = read_truth(batch)
            truth_images = images[truth.images.to(images.device)]
            ids = truth.person_ids
            if ids is None:
                ids = running_ids(len(truth_images)) if top_down else _order_in_image(truth_images)
            self._append_truth(truth, truth_images, ids, torch.zeros(len(truth_images), dtype=torch.bool))

    def compute(self) -> dict[str, Tensor]:
        """Return COCO's ten numbers, and three by crowding with a crowd index; NaN where nobody such is annotated."""
        values = average_precision(*self.gathered(), self.sigmas)
        return self.results({name: math.nan if value < 0 else value for name, value in values.items()})

    def gathered(self) -> tuple[GroundTruth, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return what is scored: the truth, and image ids (P,), keypoints (P, K, 2) and scores (P,), nobody twice.

        With ``oks_nms`` the poses that are kept, the best of an image first; else in the order of their ids.
        """
        image_ids, ids, keypoints, scores = (self.rows(f"pose_{name}").numpy() for name in _POSE_COLUMNS)
        keep = first_rows(image_ids, ids)
        if self.oks_nms is not None:
            areas = self.rows("pose_areas").numpy()[keep]
            found = keypoints[keep], scores[keep], areas, image_ids[keep], self.sigmas
            keep = keep[kept_by_oks_nms(*found, self.oks_nms)]
        truth = self._truth(np.unique(self.rows("visited_image_ids").numpy()))
        return truth, image_ids[keep], keypoints[keep], scores[keep]

    def protocol(self) -> str:
        """Say what the last result was computed by and over; see ``methods.top_down.evaluation_protocol``."""
        suppression = "no OKS-NMS" if self.oks_nms is None else f"OKS-NMS {self.oks_nms:g}"
        return f"{suppression}, {self._scored_images}" if self._scored_images else suppression

    def _truth(self, visited: npt.NDArray[np.int64]) -> GroundTruth:
        """Return the persons of the visited images, or of all where a whole run visited no others."""
        if self.annotations is None:
            columns = {name: self.rows(f"truth_{name}").numpy() for name in _TRUTH_COLUMNS}
            image_ids, ids = columns.pop("image_ids"), columns.pop("ids")
            keep = first_rows(image_ids, ids)
            rows = np.searchsorted(visited, image_ids[keep])
            self._scored_images = f"{len(visited)} images"
            return GroundTruth(visited, rows, ids[keep], **{name: column[keep] for name, column in columns.items()})
        whole = self.annotations
        sampled = whole.scored_images() if whole.sampled_image_ids is None else np.unique(whole.sampled_image_ids)
        seen = int(np.isin(sampled, visited).sum())
        scored = len(whole.image_ids) if seen == len(sampled) else len(visited)
        self._scored_images = f"{scored} of {len(whole.image_ids)} images"
        if seen == len(sampled):
            return whole
        if len(visited):
            rank_zero_warn(
                f"OKSMeanAveragePrecision: only {seen} of {len(sampled)} images with samples were visited (limited "
                "batches?), so it is computed over those."
            )
        return whole.of_images(visited)

    def _image_ids(
        self, preds: Poses | Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]] | None
    ) -> Tensor:
        """Return the ids of the images that ``update`` was given."""
        if targets is None:
            if self.annotations is None:
                raise MetricError("OKSMeanAveragePrecision needs targets, or annotations when it is built.")
            images = (
                torch.from_numpy(np.unique(preds.image_ids.cpu().numpy()))
                if isinstance(preds, Poses)
                else _given_image_ids(preds)
            )
            if images is None:
                raise MetricError("predictions without targets need an image_id.")
            return images
        images = _given_image_ids(targets)
        if not isinstance(preds, Poses):
            if len(preds) != len(targets):
                raise MetricError(
                    f"{len(preds)} dicts of predictions, but {len(targets)} of targets; give one for each image."
                )
            of_predictions = _given_image_ids(preds)
            if images is not None and of_predictions is not None and not torch.equal(images, of_predictions):
                raise MetricError(
                    "predictions and targets of different images stand at the same place; bring them to one order."
                )
            images = of_predictions if images is None else images
        return running_ids(len(targets)) if images is None else images

    def _append_poses(
        self, keypoints: Tensor, scores: Tensor, image_ids: Tensor, ids: Tensor, visited: Tensor, areas: Tensor | None
    ) -> None:
        count = self.skeleton.num_keypoints
        if tuple(keypoints.shape[1:]) != (count, 2):
            raise MetricError(
                f"OKSMeanAveragePrecision for '{self.skeleton.name}' needs keypoints of the shape (P, {count}, 2), "
                f"not {tuple(keypoints.shape)}."
            )
        require_finite("predicted keypoints", keypoints)
        require_finite("scores", scores)
        columns = {"image_ids": image_ids, "ids": ids, "keypoints": keypoints, "scores": scores}
        if areas is not None:
            require_finite("areas", areas)
            columns["areas"] = areas
        self.append_rows(**{f"pose_{name}": column for name, column in columns.items()})
        self.append_rows(visited_image_ids=visited)

    def _append_truth(self, truth: Truth, image_ids: Tensor, ids: Tensor, is_crowd: Tensor) -> None:
        boxes, areas = truth.boxes, truth.areas
        if areas is None:
            if boxes is None:
                raise MetricError("OKS needs the 'area' of each person, or at least the box.")
            areas = AREA_OF_BOX * box_area(boxes)
        if boxes is None:
            boxes = torch.from_numpy(
                boxes_from_keypoints(truth.keypoints.double().cpu().numpy(), truth.visibility.cpu().numpy())
            )
        self.append_rows(
            truth_image_ids=image_ids,
            truth_ids=ids,
            truth_keypoints=truth.keypoints,
            truth_visibility=truth.visibility,
            truth_boxes=boxes,
            truth_areas=areas,
            truth_is_crowd=is_crowd,
        )


def _given_image_ids(dicts: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """Return the ids that dicts carry, (n,) int64; None where they carry none."""
    have = sum("image_id" in one for one in dicts)
    if have not in (0, len(dicts)):
        raise MetricError(f"{have} of {len(dicts)} images have an image_id; give it for all or for none.")
    return torch.tensor([int(one["image_id"]) for one in dicts], dtype=torch.int64) if have or not dicts else None


def _given_areas(preds: Poses | Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the areas of predictions (P,), square pixels, which suppression compares them by."""
    if isinstance(preds, Poses):
        return box_area(precise(preds.boxes))
    lacking = sum("area" not in one for one in preds)
    if lacking:
        raise MetricError(
            f"{lacking} of {len(preds)} predictions have no 'area' (P,), the square pixels of each person's crop or "
            "box, which oks_nms needs; give it, or set oks_nms to None."
        )
    areas = [torch.as_tensor(one["area"]).reshape(-1).cpu() for one in preds]
    return precise(torch.cat([torch.zeros(0), *areas]))


def areas_in_batch(poses: Poses, batch: PoseBatch) -> Tensor:
    """Return the area in the original picture of the crop that each pose was found in, (P,); else of its box."""
    if "image_index" in batch or "image" not in batch:
        return box_area(precise(poses.boxes))
    images = batch["image"]
    areas = torch.full((len(images),), float(images.shape[-2] * images.shape[-1]))
    if "to_original" in batch:
        (a, b), (c, d) = precise(batch["to_original"])[..., :2].permute(1, 2, 0)
        areas = areas.to(a) * (a * d - b * c).abs()
    if poses.person_ids is not None and "person_id" in batch:
        same = poses.person_ids[:, None] == batch["person_id"][None].to(poses.person_ids.device)
        return areas[same.int().argmax(dim=1).to(areas.device)] if len(poses) else areas[:0]
    if len(poses) != len(areas):
        raise MetricError(
            f"{len(poses)} poses of {len(areas)} crops without person ids: oks_nms needs to know which crop each is of."
        )
    return areas


def _look_up(images: Tensor, rows: Tensor) -> Tensor:
    """Return the ids at some rows of images."""
    rows = rows.to(images.device)
    bad = (rows < 0) | (rows >= len(images))
    if bad.any():
        raise MetricError(
            f"poses are of images {rows[bad][:5].tolist()}; without image_id these are rows of the targets or of the "
            f"batch, 0 to {len(images) - 1}."
        )
    return images[rows]


def _require_known(pose_images: Tensor, images: Tensor) -> None:
    unknown = pose_images[~torch.isin(pose_images, images.to(pose_images.device))]
    if len(unknown):
        raise MetricError(f"poses are of images without a target, such as {sorted(set(unknown.tolist()))[:5]}.")


def _order_in_image(images: Tensor) -> Tensor:
    """Number the rows of each image from 0, (n,) int64."""
    order = torch.argsort(images, stable=True)
    ordered = images[order]
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return number


def _read_prediction(prediction: Mapping[str, Any], count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints (P, K, 2) and scores (P,) of one image."""
    scores = torch.as_tensor(prediction["scores"])
    keypoints = torch.as_tensor(prediction["keypoints"])
    if not len(scores) and not keypoints.numel():
        return torch.zeros(0, count, 2), torch.zeros(0)
    if keypoints.ndim != 3 or keypoints.shape[:2] != (len(scores), count) or keypoints.shape[2] not in (2, 3):
        raise MetricError(
            f"keypoints {tuple(keypoints.shape)} and scores {tuple(scores.shape)} of an image do not fit: needed are "
            f"(P, {count}, 2 or 3) and (P,)."
        )
    return keypoints[..., :2].cpu(), scores.cpu()


def _read_target(target: Mapping[str, Any], count: int) -> tuple[Truth, Tensor]:
    """Return the persons of one image, and which of them are crowds (G,)."""
    keypoints = torch.as_tensor(target["keypoints"]).cpu()
    if not keypoints.numel():
        keypoints = torch.zeros(0, count, 3)
    if keypoints.ndim != 3 or tuple(keypoints.shape[1:]) != (count, 3):
        raise MetricError(f"keypoints of a target have the shape {tuple(keypoints.shape)}; needed is (G, {count}, 3).")
    persons = len(keypoints)
    boxes = torch.as_tensor(target["boxes"]).reshape(-1, 4).cpu() if "boxes" in target else None
    areas = torch.as_tensor(target["area"]).reshape(-1).cpu() if "area" in target else None
    is_crowd = torch.as_tensor(target["iscrowd"]).reshape(-1).cpu() if "iscrowd" in target else torch.zeros(persons)
    truth = Truth(
        keypoints=keypoints[..., :2], visibility=keypoints[..., 2], boxes=boxes, areas=areas, head_sizes=None,
        images=torch.zeros(persons, dtype=torch.int64), image_ids=None, person_ids=None, top_down=False,
    )  # fmt: skip
    return truth, is_crowd.bool()
