"""Metrics that keep one row per sample: exact on any number of processes.

Sums of floats depend on their order, a sampler that pads repeats samples, and a process may see none at all. Rows with
ids are immune to all three: they are gathered once, repeated ids are dropped, and the value is computed from rows in
the order of their ids.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.metrics.functional.keypoint_error import keypoint_errors, precise
from lightning_pose_zoo.metrics.plots import plot_bars, plot_steps
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = [
    "KeypointMetric",
    "PoseMetric",
    "RowMetric",
    "Truth",
    "first_rows",
    "read_truth",
    "require_finite",
    "running_ids",
]

_FIRST_RUNNING_ID = -(2**62)
_LAST_RUNNING_ID = -(2**61)
_issued = itertools.count()


def running_ids(count: int) -> Tensor:
    """Return fresh ids, (count,) int64, for samples that have none: far below any data set's, unique over processes."""
    distributed = dist.is_available() and dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    return torch.tensor(
        [_FIRST_RUNNING_ID + rank + world_size * next(_issued) for _ in range(count)], dtype=torch.int64
    )


def first_rows(*ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Order rows by their ids and keep the first row of each; running ids never count as repeated.

    Args:
        ids: (n,) each, the most significant first.

    Returns:
        Indices of the rows to keep, in the order of the ids.
    """
    order = np.lexsort(ids[::-1])
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = np.all([column[order][1:] == column[order][:-1] for column in ids], axis=0)
    return order[~repeated | (ids[-1][order] < _LAST_RUNNING_ID)]


def require_finite(what: str, values: Tensor, where: Tensor | None = None) -> None:
    """Refuse values that have no score: NaN keypoints would otherwise pass as perfect in some evaluations.

    Args:
        what: What the values are, for the message.
        values: (n, ...).
        where: Broadcasts to ``values``, bool; others may be anything. None for all.

    Raises:
        MetricError: Where one is NaN or infinite.
    """
    bad = ~torch.isfinite(values) if where is None else ~torch.isfinite(values) & where
    if bad.any():
        rows = bad.reshape(len(bad), -1).any(dim=1).nonzero().flatten().tolist()
        raise MetricError(
            f"{what}: {len(rows)} of {len(values)} rows are NaN or infinite (rows {rows[:20]}). Has training diverged?"
        )


class RowMetric(Metric, ABC):
    """A torchmetrics metric whose states are rows, one per sample.

    Declare states with ``add_rows``, fill them with ``append_rows`` and read them, from all processes, with ``rows``
    in ``compute``. Processes may append unequal numbers of rows, or none. States keep their type when the module around
    the metric is cast to half precision.
    """

    full_state_update = False
    is_differentiable = False
    plot_lower_bound = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._row_types: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}

    def add_rows(self, name: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> None:
        """Declare a state.

        Args:
            name: Attribute that holds it. Metrics with equal names may share rows in a ``MetricCollection``, so a name
                says what the rows are, as in ``torso_errors``.
            shape: Of one row.
            dtype: Of the rows.
        """
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._row_types[name] = (shape, dtype)

    def append_rows(self, **rows: Tensor) -> None:
        """Append n rows to each of some states, (n, *shape).

        Raises:
            MetricError: Where a shape does not fit.
        """
        count = len(next(iter(rows.values())))
        for name, value in rows.items():
            shape, _ = self._row_types[name]
            if tuple(value.shape) != (count, *shape):
                raise MetricError(
                    f"{type(self).__name__}: {name} has the shape {tuple(value.shape)}, not {(count, *shape)}."
                )
        for name, value in rows.items():
            dtype = _on_device(self._row_types[name][1], self.device)
            # A copy, because the caller may change or reuse what was given.
            getattr(self, name).append(value.detach().to(self.device, dtype, copy=True))
        # Also right where this is reached by another way than `update`, which torchmetrics wraps.
        self._computed = None
        self._update_count = max(self._update_count, 1)

    def rows(self, name: str) -> Tensor:
        """Return all rows of a state so far, (n, *shape), in main memory."""
        return self._joined(name).to("cpu", self._row_types[name][1])

    def _joined(self, name: str) -> Tensor:
        value = getattr(self, name)
        if isinstance(value, Tensor):
            return value
        shape, dtype = self._row_types[name]
        nothing = torch.zeros(0, *shape, dtype=_on_device(dtype, self.device), device=self.device)
        return torch.cat([nothing, *value])

    def different_rows(self, person_ids: Tensor) -> Tensor:
        """Return the indices of rows of different persons, (m,), in the order of their ids; warn where many repeat."""
        keep = first_rows(person_ids.numpy())
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if len(keep) * processes < len(person_ids):  # more than a sampler that pads can repeat
            rank_zero_warn(
                f"{type(self).__name__}: only {len(keep)} of {len(person_ids)} persons have different ids; the rest "
                "was dropped. Are the data set's person ids unique, and was the metric reset after the last epoch?"
            )
        return torch.from_numpy(keep)

    def results(self, values: Mapping[str, float]) -> dict[str, Tensor]:
        """Turn numbers into what ``compute`` returns: float64 scalars on the metric's device."""
        dtype = _on_device(torch.float64, self.device)
        return {name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in values.items()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw a result of ``compute`` as bars, by default the current one; a list of results over their steps."""
        result = self.compute() if val is None else val
        if isinstance(result, Mapping):
            return plot_bars(result, self.plot_upper_bound, ax)
        return plot_steps(result, ax)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # A process without a row takes part with zero rows of the right shape and type; the placeholder that
        # torchmetrics would send has neither, and that aborts the others.
        for name in self._row_types:
            setattr(self, name, [self._joined(name)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> torch.nn.Module:
        super()._apply(fn, exclude_state=[*exclude_state, *self._row_types])
        for name, (_, own) in self._row_types.items():  # follow the device, never the type
            value, dtype = getattr(self, name), _on_device(own, self.device)
            several = not isinstance(value, Tensor)
            setattr(self, name, [v.to(self.device, dtype) for v in value] if several else value.to(self.device, dtype))
        self._computed = None  # a kept result would have been cast
        return self


def _on_device(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    # Apple's devices have no float64.
    return torch.float32 if dtype == torch.float64 and device.type == "mps" else dtype


@dataclass(frozen=True)
class Truth:
    """The annotated persons of one batch: N persons, K keypoints, all in pixels of the original image.

    Attributes:
        keypoints: (N, K, 2).
        visibility: (N, K).
        boxes: (N, 4) x0, y0, x1, y1, or None.
        areas: (N,) square pixels, or None.
        head_sizes: (N,) or None.
        images: (N,) rows of the batch's pictures.
        image_ids: (B,) ids of the batch's pictures, or None.
        person_ids: (N,) or None.
        top_down: Whether person n is in picture n.
    """

    keypoints: Tensor
    visibility: Tensor
    boxes: Tensor | None
    areas: Tensor | None
    head_sizes: Tensor | None
    images: Tensor
    image_ids: Tensor | None
    person_ids: Tensor | None
    top_down: bool


def read_truth(batch: PoseBatch) -> Truth:
    """Read the annotated persons of a batch, in pixels of the original image.

    ``original_keypoints`` and ``original_box`` are used as they are; where they are absent, ``keypoints`` and ``box``
    are mapped by ``to_original``, and where that is absent as well, the picture is taken for the original image.

    Raises:
        MetricError: Where the batch has no keypoints.
    """
    missing = [key for key in ("keypoints", "visibility") if key not in batch]
    if missing:
        raise MetricError(f"the batch has no {' and no '.join(missing)}: there is nothing to compare predictions with.")
    keypoints = precise(batch["keypoints"])
    top_down = "image_index" not in batch
    images = torch.arange(len(keypoints), device=keypoints.device) if top_down else batch["image_index"]
    boxes = precise(batch["box"]) if "box" in batch else None
    if "to_original" in batch:
        matrices = precise(batch["to_original"])[images]
        keypoints = apply_affine(keypoints, matrices)
        if boxes is not None:
            corners = apply_affine(boxes.reshape(-1, 2, 2), matrices)
            boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    return Truth(
        keypoints=precise(batch.get("original_keypoints", keypoints)),
        visibility=batch["visibility"],
        boxes=batch.get("original_box", boxes),
        areas=batch.get("area"),
        head_sizes=batch.get("head_size"),
        images=images,
        image_ids=batch.get("image_id"),
        person_ids=batch.get("person_id"),
        top_down=top_down,
    )


class PoseMetric(RowMetric):
    """A metric that reads what our methods predict, so that any method can be scored by it."""

    @abstractmethod
    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch.

        Args:
            poses: What the method predicts, in pixels of the original image.
            batch: Where the truth is; see ``read_truth``.

        Raises:
            MetricError: Where the two do not belong together, or something has no score.
        """


class KeypointMetric(PoseMetric):
    """A metric of the distances between predicted and true keypoints, each divided by the size of its person.

    Persons are matched by id: ``Poses.person_ids`` with ``person_id`` of the batch; somebody who was not predicted has
    infinite errors. Where either has no ids, person n of the one is person n of the other.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        size_name: What distances are divided by, for the name of the state: ``torso``, ``head``, ``pixel``, ...
        row_shape: Shape of what ``measure`` returns for one person; by default (K,).
    """

    def __init__(self, skeleton: SkeletonLike, size_name: str, row_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.skeleton = get_skeleton(skeleton)
        self._state_names = (f"{size_name}_errors", f"{size_name}_without_size", f"{size_name}_person_ids")
        self.add_rows(self._state_names[0], (self.skeleton.num_keypoints,) if row_shape is None else row_shape)
        self.add_rows(self._state_names[1], dtype=torch.bool)
        self.add_rows(self._state_names[2], dtype=torch.int64)

    def measure(self, keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor) -> Tensor:
        """Return the errors of each person, (N, K) unless the metric declares another shape; NaN where none counts."""
        return keypoint_errors(keypoints, target, visibility, sizes)

    @abstractmethod
    def sizes(self, truth: Truth) -> Tensor:
        """Return what the distances of each person are divided by, (N,) pixels; NaN or 0 where unknown."""

    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch: one pose for every annotated person.

        Raises:
            MetricError: Where poses and persons cannot be matched, K differs, or something is NaN or infinite.
        """
        truth = read_truth(batch)
        self._check(poses.keypoints, truth.keypoints, truth.visibility)
        matched = _match(poses, truth, type(self).__name__)
        self._append(matched, truth.keypoints, truth.visibility, self.sizes(truth), truth.person_ids)

    def add(
        self, keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor, ids: Tensor | None = None
    ) -> None:
        """Take in persons that are matched already: the body of ``update``.

        Args:
            keypoints: (N, K, 2) predicted.
            target: (N, K, 2) true.
            visibility: (N, K), above 0 where labelled.
            sizes: (N,) what the distances of each person are divided by.
            ids: (N,) int64, by which repeated persons are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        if len(keypoints) != len(target):
            raise MetricError(f"{len(keypoints)} predicted persons, but {len(target)} true ones.")
        self._check(keypoints, target, visibility)
        if tuple(sizes.shape) != (len(target),):
            raise MetricError(
                f"sizes (head_size, normalizer) have the shape {tuple(sizes.shape)}, not ({len(target)},)."
            )
        self._append(keypoints, target, visibility, sizes, ids)

    def _check(self, keypoints: Tensor, target: Tensor, visibility: Tensor) -> None:
        count = self.skeleton.num_keypoints
        needed_by = f"{type(self).__name__} for '{self.skeleton.name}'"
        for what, value, ending in (
            ("predictions", keypoints, (count, 2)),
            ("truth", target, (count, 2)),
            ("visibility", visibility, (count,)),
        ):
            if tuple(value.shape[1:]) != ending or value.ndim != len(ending) + 1:
                raise MetricError(
                    f"{needed_by} needs {what} (N, {', '.join(map(str, ending))}), not {tuple(value.shape)}."
                )
        if len(visibility) != len(target):
            raise MetricError(f"visibility has {len(visibility)} rows, but the truth has {len(target)}.")
        require_finite("predicted keypoints", keypoints)
        require_finite("true keypoints", target, visibility[..., None] > 0)

    def _append(self, keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor, ids: Tensor | None) -> None:
        errors = self.measure(keypoints, target, visibility, sizes)
        sized = (sizes > 0) & sizes.isfinite()
        without_size = ~sized.to(visibility.device) & (visibility > 0).any(dim=1)
        rows = (errors, without_size, running_ids(len(errors)) if ids is None else ids)
        self.append_rows(**dict(zip(self._state_names, rows, strict=True)))

    def errors(self) -> Tensor:
        """Return the errors of all different persons, (n, K) float64; NaN where nothing counts.

        Persons that have no size are left out, and counted in a warning.
        """
        errors, without_size, ids = (self.rows(name) for name in self._state_names)
        keep = self.different_rows(ids)
        left_out = int(without_size[keep].sum())
        if left_out:
            rank_zero_warn(
                f"{type(self).__name__}: {left_out} of {len(keep)} persons are left out, because the size that their "
                "distances are divided by is unknown."
            )
        return errors[keep]


def _match(poses: Poses, truth: Truth, metric: str) -> Tensor:
    """Return the predicted keypoints of each annotated person, (N, K, 2); infinite for somebody not predicted."""
    if poses.person_ids is not None and truth.person_ids is not None:
        same = truth.person_ids[:, None] == poses.person_ids[None]
        if not len(poses):
            return torch.full_like(truth.keypoints, torch.inf)
        matched = poses.keypoints[same.int().argmax(dim=1)]
        return torch.where(same.any(dim=1)[:, None, None], matched, torch.inf)
    matching = len(poses) == len(truth.keypoints)
    if matching and truth.image_ids is not None:
        matching = torch.equal(poses.image_ids, truth.image_ids[truth.images].to(poses.image_ids))
    one_each = truth.top_down or len(set(truth.images.tolist())) == len(truth.images)
    if not matching or not one_each:
        raise MetricError(
            f"{metric} needs one pose for every annotated person, but the method predicted {len(poses)} poses for "
            f"{len(truth.keypoints)} persons, without person ids and not in their order. Score a method that finds "
            "people by itself with OKSMeanAveragePrecision."
        )
    return poses.keypoints
