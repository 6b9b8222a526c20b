"""Labelled video frames in the CSV layout of DeepLabCut and Lightning Pose.

Three header rows (scorer, bodyparts, coords), then one row per frame: its path, then x and y of every body part, empty
where it was not labelled. DeepLabCut: Mathis et al., Nature Neuroscience 2018; Lightning Pose: Biderman et al., Nature
Methods 2024.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Split
from lightning_pose_zoo.data.checks import Findings, OnBad, pixel_problem, safe_name
from lightning_pose_zoo.data.crops import CropDataset, TableCrops
from lightning_pose_zoo.data.images import image_size as size_of_image
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError, ImageError
from lightning_pose_zoo.geometry import CropConvention, box_area
from lightning_pose_zoo.metrics import EPE, PCK, RMSE, PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["LabeledFrames", "read_labeled_frames", "read_names"]

_COORDINATES = {"x", "y"}
_NOT_NEEDED = {"likelihood", "visible", "visibility"}


class LabeledFrames(PoseDataModule):
    """A labelled project of DeepLabCut or Lightning Pose: one animal per frame, keypoints named in the CSV's header.

    Every frame is taken whole. The skeleton follows from the header: flip pairs from left and right in the names. The
    frames are split at random by ``split_seed``; frames of one video may fall on both sides, as in DeepLabCut. ``test``
    takes the validation frames. Scored by mean error and RMSE in pixels and PCK relative to the frame's larger side.

    Args:
        root: The project's folder.
        annotations: The CSV file, relative to root; without it CollectedData*.csv in root and in labeled-data/*/ are
            taken, all of them.
        skeleton: What the keypoints are, where the names alone do not tell: a YAML file or a definition.
        val_fraction: Share of the frames that is kept for validation.
        split_seed: Of the division into training and validation.
        on_bad: What to do about frames that cannot be used: refuse to start and list them, or skip them.
        image_size: Height and width of a frame for the network, in pixels; the frame is fitted into it.
        batch_size: Frames per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on the frame before it is fitted.
        crop_convention: How frame and network input relate: center, msra or udp.
        augmentation: How training frames are varied; "default" is scale 0.25 and rotation 25 degrees without
            mirroring, null is none.
        predict_images: A picture or a folder to predict on; without it predict takes the validation frames.
        predict_boxes: A COCO file with boxes in predict_images; without it each picture is taken whole.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
    """

    def __init__(
        self,
        root: str,
        annotations: str | None = None,
        skeleton: str | dict[str, Any] | Skeleton | None = None,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        on_bad: OnBad = "refuse",
        image_size: tuple[int, int] = (256, 256),
        batch_size: int = 16,
        num_workers: int = 4,
        padding: float = 1.0,
        crop_convention: CropConvention = "center",
        augmentation: CropAugmentation | Literal["default"] | None = "default",
        predict_images: str | None = None,
        predict_boxes: str | None = None,
        seed: int = 0,
        predict_detector: DetectorLike | None = None,
    ) -> None:
        if augmentation == "default":
            augmentation = CropAugmentation(scale=0.25, rotation=25.0, flip_probability=0.0)
        super().__init__(
            image_size,
            batch_size,
            num_workers,
            padding,
            crop_convention,
            augmentation,
            predict_images,
            predict_boxes,
            seed,
            predict_detector=predict_detector,
        )
        if not 0 < val_fraction < 1:
            raise DatasetError(f"val_fraction is {val_fraction}; give the share of frames for validation, as in 0.2.")
        self.root = Path(root)
        self.annotations = annotations
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.on_bad = on_bad
        self._skeleton = None if skeleton is None else get_skeleton(skeleton)
        self._table: AnnotationTable | None = None

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are; read from the CSV's header where none was named."""
        if self._skeleton is None:
            first = find_annotations(self.root, self.annotations)[0]
            self._skeleton = Skeleton.from_names(self.root.resolve().name, read_names(first))
        return self._skeleton

    def table(self) -> AnnotationTable:
        """Return all labelled frames.

        Raises:
            DatasetError: Where a CSV or frames are missing or wrong.
        """
        if self._table is None:
            files = find_annotations(self.root, self.annotations)
            self._table = read_labeled_frames(files, self.root, self.skeleton, self.on_bad)
        return self._table

    def dataset(self, split: Split) -> CropDataset:
        """Build one split.

        Raises:
            DatasetError: Where a CSV or frames are missing or wrong, or there are too few to split.
        """
        table = self.table()
        usable = np.flatnonzero(table.trainable())
        if len(usable) < 2:
            raise DatasetError(f"'{table.source}' has {len(usable)} labelled frames; at least 2 are needed.")
        shuffled = np.random.default_rng(self.split_seed).permutation(usable)
        held_out = min(max(round(len(usable) * self.val_fraction), 1), len(usable) - 1)
        if split == "train":
            return TableCrops(table.select(np.sort(shuffled[held_out:])), self.settings, self.augmentation, self.seed)
        return TableCrops(table.select(np.sort(shuffled[:held_out])), self.settings)

    def metrics(self) -> Sequence[PoseMetric]:
        """Return the mean error and RMSE in pixels, and PCK relative to the frame's larger side."""
        return [EPE(self.skeleton), RMSE(self.skeleton), PCK(self.skeleton, thresholds=(0.05, 0.1), normalize_by="box")]


def find_annotations(root: Path, annotations: str | None) -> list[Path]:
    """Find the CSV files of a project.

    Raises:
        DatasetError: Where there is none.
    """
    if annotations is not None:
        return [root / annotations]
    files = sorted(root.glob("CollectedData*.csv")) or sorted(root.glob("labeled-data/*/CollectedData*.csv"))
    if not files:
        raise DatasetError(
            f"there is no CollectedData*.csv in '{root}' or in its labeled-data/*/; "
            "name the file by annotations: <file>."
        )
    return files


@dataclass
class _Header:
    """What the first three rows say.

    Attributes:
        names: The body parts.
        columns: (K, 2) columns of x and y of each.
        index_width: How many columns hold the path.
    """

    names: list[str]
    columns: npt.NDArray[np.int64]
    index_width: int


def read_names(path: Path) -> list[str]:
    """Return the names of the body parts in a CSV file's header.

    Raises:
        DatasetError: Where the file is missing or its header is another.
    """
    return _read_header(path, _read_rows(path)).names


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if any(row)]
    except FileNotFoundError:
        raise DatasetError(f"the annotation file '{path}' does not exist; check root and annotations.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"'{path}' cannot be read as CSV: {error}.") from error


def _read_header(path: Path, rows: list[list[str]]) -> _Header:
    kinds = [row[0].strip().lower() for row in rows[:4]]
    if "individuals" in kinds:
        raise DatasetError(
            f"'{path}' labels several animals (its header has 'individuals'), but LabeledFrames takes one per frame; "
            "convert the project to COCO's format and use COCOKeypoints."
        )
    if kinds[:3] != ["scorer", "bodyparts", "coords"]:
        raise DatasetError(
            f"'{path}' does not start with the rows scorer, bodyparts, coords, "
            f"but with: {', '.join(kinds[:3]) or 'nothing'}."
        )
    parts, coordinates = rows[1], [cell.strip().lower() for cell in rows[2]]
    index_width = next((column for column, cell in enumerate(coordinates) if cell in _COORDINATES), len(coordinates))
    found: dict[str, dict[str, int]] = {}
    findings = Findings(path)
    for column in range(index_width, len(coordinates)):
        part, coordinate = parts[column].strip() if column < len(parts) else "", coordinates[column]
        if coordinate in _NOT_NEEDED:
            continue
        if coordinate not in _COORDINATES or not part:
            findings.add(f"column {column + 1}: neither x, y nor likelihood of a body part: {part!r}, {coordinate!r}")
        elif coordinate in found.setdefault(part, {}):
            findings.add(f"column {column + 1}: {coordinate} of '{part}' is given twice")
        found.setdefault(part, {})[coordinate] = column
    findings.general += [
        f"body part '{part}': x or y is missing" for part, columns in found.items() if len(columns) < 2
    ]
    if not found:
        findings.add("it has no body parts")
    findings.settle()
    columns = np.array([[places["x"], places["y"]] for places in found.values()], dtype=np.int64)
    return _Header(list(found), columns, index_width)


def read_labeled_frames(
    files: Sequence[Path], root: Path, skeleton: Skeleton, on_bad: OnBad = "refuse"
) -> AnnotationTable:
    """Read the labelled frames of one project.

    Args:
        files: CSV files that label the same body parts.
        root: The project's folder, which the frames' paths are relative to.
        skeleton: What the keypoints are.
        on_bad: Whether unusable frames are refused or skipped.

    Returns:
        One person per frame, numbered from 0, whose box is the frame.

    Raises:
        DatasetError: Where a file is wrong or frames are missing; all problems at once.
    """
    findings = Findings(files[0] if len(files) == 1 else root)
    frames: dict[str, npt.NDArray[np.float64]] = {}
    sizes: list[tuple[int, int]] = []
    for path in files:
        rows = _read_rows(path)
        header = _read_header(path, rows)
        _check_names(path, header.names, skeleton)
        for number, row in enumerate(rows[3:]):
            label = f"frame '{'/'.join(row[: header.index_width])}'"
            name = _locate(root, path, row[: header.index_width])
            keypoints, reason = _read_keypoints(row, header)
            if name is None:
                reason = "its path points out of the project"
            elif name in frames:
                reason = "the frame is labelled twice"
            if name is not None and reason is None:
                try:
                    sizes.append(size_of_image(root / name))
                    frames[name] = keypoints
                except ImageError as error:
                    reason = f"unreadable frame: {error}"
            if reason is not None:
                findings.reject(f"{path}:{number}", label, reason)
    findings.settle(on_bad)
    if not frames:
        raise DatasetError(f"'{findings.source}' has no labelled frame.")
    return _table(findings.source, root, skeleton, frames, sizes)


def _check_names(path: Path, names: list[str], skeleton: Skeleton) -> None:
    """Refuse a file whose body parts are not the skeleton's; parts of other names must only be equally many."""
    reordered = sorted(names) == sorted(skeleton.names) and tuple(names) != skeleton.names
    if len(names) != skeleton.num_keypoints or reordered:
        raise DatasetError(
            f"'{path}' labels {', '.join(names)}, but the skeleton '{skeleton.name}' has {', '.join(skeleton.names)}. "
            "All files of a project, and its skeleton, need the same body parts in the same order."
        )


def _locate(root: Path, path: Path, cells: list[str]) -> str | None:
    """Return a frame's name relative to the project, None where it points out of it.

    Projects move between machines and are renamed: what counts is the path from ``labeled-data`` on, or else the frame
    of that name beside the CSV.
    """
    parts = "/".join(cells).replace("\\", "/").split("/")
    name = safe_name("/".join(parts[parts.index("labeled-data") :] if "labeled-data" in parts else parts))
    if name is not None and not (root / name).exists() and path.parent.is_relative_to(root):
        beside = path.parent / parts[-1]
        name = beside.relative_to(root).as_posix() if beside.exists() else name
    return name


def _read_keypoints(row: list[str], header: _Header) -> tuple[npt.NDArray[np.float64], str | None]:
    """Return one frame's keypoints (K, 2), NaN where not labelled, and what is wrong with them."""
    padded = [*row, *[""] * (int(header.columns.max()) + 1 - len(row))]
    try:
        values = [float(cell) if (cell := padded[column].strip()) else math.nan for column in header.columns.ravel()]
    except ValueError as error:
        return np.zeros((0, 2)), str(error)
    keypoints = np.array(values).reshape(-1, 2)
    missing = np.isnan(keypoints)
    if (missing[:, 0] != missing[:, 1]).any():
        half = [header.names[index] for index in np.flatnonzero(missing[:, 0] != missing[:, 1])]
        return keypoints, f"only one of x and y is given: {', '.join(half)}"
    return keypoints, pixel_problem(keypoints[~missing[:, 0]])


def _table(
    source: Path,
    root: Path,
    skeleton: Skeleton,
    frames: dict[str, npt.NDArray[np.float64]],
    sizes: list[tuple[int, int]],
) -> AnnotationTable:
    rows, keypoints, extent = np.arange(len(frames)), np.stack(list(frames.values())), np.array(sizes)
    labelled = np.isfinite(keypoints[..., 0])
    boxes = np.concatenate([np.zeros_like(extent), extent], axis=1).astype(np.float32)
    return AnnotationTable(
        source=source,
        folder=root,
        skeleton=skeleton,
        file_names=np.array(list(frames), dtype=np.str_),
        image_ids=rows,
        image_sizes=extent.astype(np.int32),
        image_rows=rows,
        person_ids=rows,
        keypoints=np.where(labelled[..., None], keypoints, 0).astype(np.float32),
        visibility=np.where(labelled, 2, 0).astype(np.uint8),
        boxes=boxes,
        areas=box_area(boxes),
        head_sizes=np.full(len(rows), np.nan, dtype=np.float32),
        is_crowd=np.zeros(len(rows), dtype=np.bool_),
    )
