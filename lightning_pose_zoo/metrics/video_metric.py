"""What metrics of people in videos share: rows of whole frames, brought into order at the end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, Integers
from lightning_pose_zoo.metrics.functional.pose_track import (
    TrackedFrames,
    head_size,
    inside_regions,
    mean_over_keypoints,
    repeated_tracks,
    scored_keypoints,
)
from lightning_pose_zoo.metrics.rows import RowMetric, first_rows, require_finite
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton
from lightning_pose_zoo.structures import Poses

__all__ = ["VideoMetric"]

_NO_TRACK = -1


class VideoMetric(RowMetric):
    """A metric of people in the frames of videos: takes in whole frames, in any order and on any process.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        threshold: A keypoint is right within this fraction of the head's size.
        keypoint_threshold: Only keypoints with a confidence above it count as predicted.
        keypoints: Names of the keypoints that are scored; None: PoseTrack's fifteen (no ears) where the skeleton has
            them all, else every keypoint.

    Raises:
        MetricError: Where the skeleton has no keypoint of a name, or ``threshold`` is not above 0.
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    needs_tracks = False

    def __init__(
        self,
        skeleton: SkeletonLike = "posetrack17",
        threshold: float = 0.5,
        keypoint_threshold: float = 0.0,
        keypoints: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not threshold > 0:
            raise MetricError(f"threshold is {threshold}; give the fraction of the head's size that is right, above 0.")
        self.skeleton = get_skeleton(skeleton)
        self.threshold = float(threshold)
        self.keypoint_threshold = float(keypoint_threshold)
        self.scored = scored_keypoints(self.skeleton, keypoints)
        self.names = tuple(self.skeleton.names[index] for index in self.scored)
        count = len(self.scored)
        for name in ("image_ids", "video_ids", "numbers", "pose_counts", "person_counts"):
            self.add_rows(f"frame_{name}", dtype=torch.int64)
        self.add_rows("frame_has_regions", dtype=torch.bool)
        for what in ("pose", "person"):
            for name in ("image_ids", "order", "tracks"):
                self.add_rows(f"{what}_{name}", dtype=torch.int64)
            self.add_rows(f"{what}_keypoints", (count, 2))
            self.add_rows(f"{what}_ignored", (count,), torch.bool)
        self.add_rows("pose_scores", (count,))
        self.add_rows("person_labelled", (count,), torch.bool)
        self.add_rows("person_head_sizes")

    def update(self, preds: Poses, targets: Sequence[Mapping[str, Any]]) -> None:
        """Take in whole frames: all poses and all annotated people of each.

        A frame that comes again in another update (a distributed sampler repeats some) counts once.

        Args:
            preds: Poses in pixels of the frames, whose ``image_ids`` are those of the targets; nobody is fine.
            targets: For each frame a dict of ``image_id``, ``video_id``, ``frame_id`` (whole numbers; frames of a video
                are ordered by the last, by ``image_id`` where it is absent), ``keypoints`` (G, K, 3) with the
                visibility last (above 0 counts), ``head_size`` (G,) pixels or ``head_boxes`` (G, 4) x0, y0, x1, y1,
                ``track_ids`` (G,), and ``ignore_regions``, polygons (n, 2) in which nothing counts, if there are any.

        Raises:
            MetricError: Where something is missing, a shape does not fit, something is NaN or infinite, poses are of
                other frames, or two poses of one frame have the same track.
        """
        self._check_poses(preds)
        people = [_read_target(target, self) for target in targets]
        image_ids = [person.image_id for person in people]
        if len(set(image_ids)) < len(image_ids):
            raise MetricError(f"{type(self).__name__}: one update holds a frame twice (image_ids {image_ids[:20]}).")
        pose_images = preds.image_ids.cpu().numpy().astype(np.int64)
        unknown = sorted(set(pose_images.tolist()) - set(image_ids))
        if unknown:
            raise MetricError(
                f"{type(self).__name__}: poses are of frames without a target, image_ids {unknown[:5]}; give the "
                "target of every frame, with keypoints (0, K, 3) where nobody is in it."
            )
        points = preds.keypoints[:, self.scored].detach().double().cpu().numpy()
        tracks = np.full(len(preds), _NO_TRACK) if preds.track_ids is None else preds.track_ids.cpu().numpy()
        if self.needs_tracks and (twice := repeated_tracks(pose_images, tracks)):
            raise MetricError(
                f"{type(self).__name__}: in image {twice[0][0]} several poses have the track id {twice[0][1]}; "
                "a tracker gives each person of a frame an id of its own."
            )
        scores = preds.keypoint_scores[:, self.scored]
        for person in people:
            self._append_frame(person, pose_images == person.image_id, points, scores, tracks)

    def _check_poses(self, preds: Poses) -> None:
        count, metric = self.skeleton.num_keypoints, type(self).__name__
        if preds.keypoints.shape[1] != count:
            raise MetricError(
                f"{metric} for '{self.skeleton.name}' needs {count} keypoints, not {preds.keypoints.shape[1]}."
            )
        if self.needs_tracks and preds.track_ids is None and len(preds):
            raise MetricError(f"{metric} needs track_ids with the poses; run a tracker first, or use PoseTrackAP.")
        require_finite("predicted keypoints", preds.keypoints)
        require_finite("keypoint scores", preds.keypoint_scores)

    def _append_frame(self, person: _People, rows: Booleans, points: Floats, scores: Tensor, tracks: Integers) -> None:
        """Append one frame, its people, and its poses, which stand at some rows of all."""
        pose_count, person_count = int(rows.sum()), len(person.keypoints)
        self.append_rows(
            frame_image_ids=torch.tensor([person.image_id]),
            frame_video_ids=torch.tensor([person.video_id]),
            frame_numbers=torch.tensor([person.frame_id]),
            frame_pose_counts=torch.tensor([pose_count]),
            frame_person_counts=torch.tensor([person_count]),
            frame_has_regions=torch.tensor([bool(person.regions)]),
        )
        self.append_rows(
            pose_image_ids=torch.full((pose_count,), person.image_id),
            pose_order=torch.arange(pose_count),
            pose_tracks=torch.from_numpy(tracks[rows]),
            pose_keypoints=torch.from_numpy(points[rows]),
            pose_ignored=torch.from_numpy(inside_regions(points[rows], person.regions)),
            pose_scores=scores[torch.from_numpy(rows).to(scores.device)],
        )
        self.append_rows(
            person_image_ids=torch.full((person_count,), person.image_id),
            person_order=torch.arange(person_count),
            person_tracks=torch.from_numpy(person.tracks),
            person_keypoints=torch.from_numpy(person.keypoints),
            person_ignored=torch.from_numpy(inside_regions(person.keypoints, person.regions)),
            person_labelled=torch.from_numpy(person.labelled),
            person_head_sizes=torch.from_numpy(person.head_sizes),
        )

    def frames(self) -> TrackedFrames:
        """Return all different frames of all processes, by video and frame.

        Raises:
            MetricError: Where a frame came in parts, or with different contents.
        """
        state = {name: self.rows(name).numpy() for name in self._row_types}
        images = state["frame_image_ids"]
        keep = first_rows(state["frame_video_ids"], state["frame_numbers"], images)
        self._check_repeated(state, keep)
        of_image = np.argsort(images[keep])
        rows = {}
        for what in ("pose", "person"):
            own = first_rows(state[f"{what}_image_ids"], state[f"{what}_order"])
            frame = of_image[np.searchsorted(images[keep], state[f"{what}_image_ids"][own], sorter=of_image)]
            order = np.argsort(frame, kind="stable")
            rows[what] = own[order]
            state[f"{what}_frames"] = frame[order]
        pose, person = rows["pose"], rows["person"]
        return TrackedFrames(
            videos=state["frame_video_ids"][keep],
            scored=state["frame_person_counts"][keep] > 0,
            person_frames=state["person_frames"],
            truth=state["person_keypoints"][person],
            labelled=(state["person_labelled"] & ~state["person_ignored"])[person],
            head_sizes=state["person_head_sizes"][person],
            person_tracks=state["person_tracks"][person],
            pose_frames=state["pose_frames"],
            keypoints=state["pose_keypoints"][pose],
            predicted=((state["pose_scores"] > self.keypoint_threshold) & ~state["pose_ignored"])[pose],
            scores=state["pose_scores"][pose],
            pose_tracks=state["pose_tracks"][pose],
        ).without_ignored_people(state["frame_has_regions"][keep])

    def _check_repeated(self, state: Mapping[str, Any], keep: Integers) -> None:
        images = state["frame_image_ids"]
        columns = [state[f"frame_{name}"] for name in ("video_ids", "numbers", "pose_counts", "person_counts")]
        contents = np.stack(columns, axis=1)
        different, first = np.unique(images[keep], return_index=True)
        changed = images[(contents != contents[keep][first][np.searchsorted(different, images)]).any(axis=1)]
        if len(changed):
            raise MetricError(
                f"{type(self).__name__}: image {int(changed[0])} came several times with different people, poses, "
                "video_id or frame_id. Give each frame as a whole, with an image_id of its own, and reset the metric "
                "between epochs."
            )

    @abstractmethod
    def keypoint_values(self) -> dict[str, Floats]:
        """Return each number for every scored keypoint, (K,) float64 each, the main one first."""

    def compute(self) -> dict[str, Tensor]:
        """Return each number as ``<name>``, the mean over the keypoints, and ``<name>/<keypoint>``.

        NaN where nothing counts; the means leave such keypoints out.
        """
        values: dict[str, float] = {}
        for name, of_keypoints in self.keypoint_values().items():
            values[name] = mean_over_keypoints(of_keypoints)
            values |= {f"{name}/{part}": float(value) for part, value in zip(self.names, of_keypoints, strict=True)}
        return self.results(values)

    def plot(self, val: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, ax: Any = None) -> Any:
        """Draw the metric's main number for each keypoint, and the mean, as bars.

        Args:
            val: What ``compute`` returned, or several of these, which stand side by side; None: the current one.
            ax: matplotlib axes to draw into; None: a new figure.

        Returns:
            The figure and its axes.
        """
        values = self.compute() if val is None else val
        return _bars([values] if isinstance(values, Mapping) else list(values), self.names, ax)


@dataclass(frozen=True)
class _People:
    """Everybody annotated in one frame: G persons, the scored keypoints only."""

    image_id: int
    video_id: int
    frame_id: int
    keypoints: Floats  # (G, K, 2)
    labelled: Booleans  # (G, K)
    head_sizes: Floats  # (G,)
    tracks: Integers  # (G,)
    regions: list[Floats]  # (n, 2) each


def _read_target(target: Mapping[str, Any], metric: VideoMetric) -> _People:
    where = f"{type(metric).__name__}: the target of image {target.get('image_id')}"
    needed = ["image_id", "video_id", "keypoints", *(["track_ids"] if metric.needs_tracks else [])]
    missing = [key for key in needed if key not in target]
    if "head_size" not in target and "head_boxes" not in target:
        missing.append("head_size")
    if missing:
        raise MetricError(f"{where} has no {' and no '.join(missing)}; each frame needs {', '.join(needed)}.")
    keypoints = torch.as_tensor(target["keypoints"])
    if keypoints.ndim != 3 or tuple(keypoints.shape[1:]) != (metric.skeleton.num_keypoints, 3):
        expected = (len(keypoints), metric.skeleton.num_keypoints, 3)
        raise MetricError(f"{where} has keypoints of the shape {tuple(keypoints.shape)}, not {expected}.")
    count = len(keypoints)
    columns = {"head_size": (count,), "head_boxes": (count, 4), "track_ids": (count,)}
    values = {key: torch.as_tensor(target[key]).detach().cpu() for key in columns if key in target}
    for key, value in values.items():
        if tuple(value.shape) != columns[key] and (count or value.numel()):
            raise MetricError(f"{where} has {key} of the shape {tuple(value.shape)}, not {columns[key]}.")
    columns_of_scored = keypoints[:, metric.scored].detach().double().cpu()
    labelled = columns_of_scored[..., 2] > 0
    require_finite(f"{where}: true keypoints", columns_of_scored[..., :2], labelled[..., None])
    sizes = values["head_size"].double() if "head_size" in values else None
    if sizes is None:
        sizes = torch.from_numpy(head_size(values["head_boxes"].double().reshape(-1, 4).numpy()))
    sizes = sizes.reshape(count)
    if (~(sizes > 0) & labelled.any(dim=1)).any() or not sizes[labelled.any(dim=1)].isfinite().all():
        raise MetricError(f"{where} has the head sizes {sizes.tolist()[:20]}; they are pixels above 0.")
    tracks = values.get("track_ids", torch.full((count,), _NO_TRACK))
    return _People(
        image_id=int(target["image_id"]),
        video_id=int(target["video_id"]),
        frame_id=int(target.get("frame_id", target["image_id"])),
        keypoints=columns_of_scored[..., :2].numpy(),
        labelled=labelled.numpy(),
        head_sizes=sizes.numpy(),
        tracks=tracks.reshape(count).long().numpy(),
        regions=_read_regions(target.get("ignore_regions") or (), where),
    )


def _read_regions(polygons: Sequence[Any], where: str) -> list[Floats]:
    regions = []
    for polygon in polygons:
        corners = torch.as_tensor(polygon).double().cpu().numpy()
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
            raise MetricError(f"{where} has an ignored region of the shape {corners.shape}; needed are (n, 2), n >= 3.")
        regions.append(corners)
    return regions


def _bars(values: Sequence[Mapping[str, Any]], names: Sequence[str], ax: Any) -> Any:
    """Draw the first number of each value for every keypoint and the mean of all."""
    import matplotlib.pyplot as plt

    main = next(iter(values[0]))
    axes = ax
    if axes is None:
        axes = plt.subplots(figsize=(7, 0.3 * (len(names) + 1) + 1.2), layout="constrained")[1]
    height, rows = 0.8 / len(values), np.arange(len(names) + 1)
    for n, value in enumerate(values):
        lengths = [float(value[f"{main}/{name}"]) for name in names] + [float(value[main])]
        label = f"value {n}" if len(values) > 1 else None
        bars = axes.barh(rows + (n - (len(values) - 1) / 2) * height, lengths, height, color=f"C{n}", label=label)
        bars[-1].set_hatch("//")
        bars[-1].set_edgecolor("white")
        if len(values) == 1:
            axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(rows, [*(name.replace("_", " ") for name in names), "mean"])
    axes.invert_yaxis()
    axes.set_xlabel(main)
    lowest = min((bar.get_width() for bar in axes.patches if bar.get_width() < 0), default=0.0)
    axes.set_xlim(lowest - 0.15 * (lowest < 0) * (1 - lowest), 1.1)  # room for the numbers beside the bars
    axes.axvline(0, color="black", linewidth=0.8)
    if len(values) > 1:
        axes.legend()
    return axes.get_figure(), axes
