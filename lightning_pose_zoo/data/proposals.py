"""Boxes as a detector would draw them: pose-guided proposals, for training on a detector's mistakes.

A detector cuts people off in ways that depend on what they do. ``BoxOffsets`` has learned, from detections of annotated
pictures, how far its boxes are from the true ones: poses are grouped into atoms, and each atom has a Gaussian mixture
of offsets. ``PoseGuidedProposals`` draws from it in training.

Paper: H. Fang, S. Xie, Y. Tai, C. Lu, "RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.mixtures import Mixture, clustered, nearest
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.geometry import box_area
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["BoxOffsets", "PoseGuidedProposals", "matched_boxes", "normalized_poses", "read_offsets", "write_offsets"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

# AlphaPose's boxes of COCO's people, by a detector of 2018: mean and deviation of x0, y0, x1, y1 in widths and heights.
_PUBLISHED_MEAN = (-0.0142, 0.0043, 0.0154, -0.0013)
_PUBLISHED_DEVIATION = (0.1158, 0.068, 0.1337, 0.0711)
_SMALLEST = 0.1  # of the true box's sides; no drawn box is smaller


@dataclass(frozen=True)
class BoxOffsets:
    """How a detector's boxes lie beside the true ones, by what the person does.

    Offsets are of x0, y0, x1, y1, in widths (x) and heights (y) of the true box.

    Attributes:
        names: Of the K keypoints that atoms are made of; empty where the offsets do not depend on the pose.
        torso: Pairs of keypoints whose distance is the torso's diameter; the first one that is labelled counts.
        atoms: (A, K, 2), poses in torso diameters around the middle of the torso.
        mixtures: Of each atom's offsets; the last one, of index A, of everybody's, for persons whose torso is not
            labelled.
    """

    names: tuple[str, ...]
    torso: tuple[tuple[int, int], ...]
    atoms: Floats
    mixtures: tuple[Mixture, ...]

    @staticmethod
    def published() -> BoxOffsets:
        """Return AlphaPose's numbers for COCO: one Gaussian for all poses, its sides independent."""
        one = Mixture(
            np.ones(1), np.array([_PUBLISHED_MEAN]), np.diag(np.square(_PUBLISHED_DEVIATION)).reshape(1, 4, 4)
        )
        return BoxOffsets((), (), np.zeros((0, 0, 2)), (one,))

    @staticmethod
    def fitted(
        keypoints: Array,
        visibility: Array,
        offsets: Array,
        skeleton: Skeleton,
        atoms: int = 8,
        components: int = 2,
        seed: int = 0,
    ) -> BoxOffsets:
        """Learn from detections whose person is known.

        Args:
            keypoints: (n, K, 2), pixels, of the person of each detection.
            visibility: (n, K).
            offsets: (n, 4), see ``matched_boxes``.
            skeleton: What the keypoints are.
            atoms: How many groups of poses; fewer where there are not enough persons.
            components: Gaussians of each group's mixture; fewer where a group is small.
            seed: Of the first guesses.

        Raises:
            DatasetError: Where there are fewer than ten detections, or an argument is below 1.
        """
        if len(offsets) < 10 or min(atoms, components) < 1:
            raise DatasetError(
                f"offsets of boxes are learned from at least 10 detections with their persons, into at least one atom "
                f"and component, not from {len(offsets)} into {atoms} and {components}."
            )
        rng = np.random.default_rng(seed)
        poses, known = normalized_poses(keypoints, visibility, skeleton.torso)
        whose = known.any(axis=1)
        centers, group = clustered(poses[whose], known[whose], atoms, rng)
        of_atoms = [offsets[whose][group == atom] for atom in range(len(centers))]
        mixtures = tuple(Mixture.fitted(rows, components, rng) for rows in [*of_atoms, np.asarray(offsets)])
        return BoxOffsets(skeleton.names, skeleton.torso, centers, mixtures)

    def atom(self, keypoints: Array, visibility: Array) -> int:
        """Return the atom of a pose (K, 2) with its labels (K,); the number of atoms where the torso is unknown."""
        if not len(self.atoms):
            return 0
        pose, known = normalized_poses(keypoints[None], visibility[None], self.torso)
        return int(nearest(pose, known, self.atoms)[0]) if known.any() else len(self.atoms)

    def draw(self, keypoints: Array, visibility: Array, rng: np.random.Generator) -> Floats:
        """Draw the offsets (4,) of a detected box for a pose (K, 2) with its labels (K,)."""
        return self.mixtures[self.atom(keypoints, visibility)].draw(rng)


class PoseGuidedProposals:
    """Draws boxes around annotated persons as a detector would, for the training of crops.

    Args:
        file: Offsets that were learned from the detector in use (``pose-zoo proposals``); null takes AlphaPose's
            numbers for COCO, which do not depend on the pose.
        probability: How often a box is drawn so; else it is a part of the true box (0.85 in AlphaPose, 0.7 in RMPE).
        part: Smallest and largest side of such a part, as a fraction of the true box's ([0.85, 1] in AlphaPose, [0.7,
            1] in RMPE).
        first_epoch: Epochs before this one take the true boxes (140 in AlphaPose).

    Raises:
        DatasetError: Where the file is missing or malformed, or the fractions are not in their order.
    """

    def __init__(
        self,
        file: str | None = None,
        probability: float = 0.85,
        part: tuple[float, float] = (0.85, 1.0),
        first_epoch: int = 0,
    ) -> None:
        if not 0 < part[0] <= part[1] <= 1 or not 0 <= probability <= 1:
            raise DatasetError(
                f"part is {tuple(part)} and probability {probability}; give the smaller and the larger fraction, as in "
                "[0.85, 1.0], and a probability from 0 to 1."
            )
        self.offsets = BoxOffsets.published() if file is None else read_offsets(Path(file))
        self.probability = probability
        self.part = (float(part[0]), float(part[1]))
        self.first_epoch = first_epoch

    def propose(
        self,
        box: Array,
        keypoints: Array,
        visibility: npt.NDArray[np.uint8],
        skeleton: Skeleton,
        epoch: int,
        rng: np.random.Generator,
    ) -> Array:
        """Draw one box.

        Args:
            box: (4,) x0, y0, x1, y1, the true one, pixels of the picture.
            keypoints: (K, 2), pixels of the picture.
            visibility: (K,).
            skeleton: What the keypoints are.
            epoch: Of the training.
            rng: The sample's random numbers.

        Returns:
            (4,) pixels of the picture; it may leave the picture.

        Raises:
            DatasetError: Where the offsets were learned for other keypoints.
        """
        if epoch < self.first_epoch:
            return box
        if self.offsets.names and self.offsets.names != skeleton.names:
            raise DatasetError(
                f"the offsets of boxes were learned for {len(self.offsets.names)} keypoints "
                f"({', '.join(self.offsets.names[:4])}, ...), but the data have {skeleton.num_keypoints} of "
                f"'{skeleton.name}'; learn them from the same data (pose-zoo proposals)."
            )
        size = (box[2:] - box[:2]).astype(np.float64)
        if rng.random() < self.probability:
            moved = box + self.offsets.draw(keypoints, visibility, rng) * np.tile(size, 2)
            low, high = moved[:2], np.maximum(moved[2:], moved[:2] + _SMALLEST * size)
        else:
            low = box[:2] + rng.random(2) * (1 - (side := rng.uniform(*self.part))) * size
            high = low + side * size
        return np.concatenate([low, high])


def normalized_poses(
    keypoints: Array, visibility: Array, torso: tuple[tuple[int, int], ...]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Bring poses to one size and place: in torso diameters around the middle of the torso.

    Args:
        keypoints: (n, K, 2), pixels.
        visibility: (n, K).
        torso: Pairs whose distance is the diameter; the first one that is labelled counts.

    Returns:
        Poses (n, K, 2), 0 where unknown, and which keypoints are known (n, K) bool; none of persons whose torso is not
        labelled, or whose diameter is 0.
    """
    points, labelled = np.asarray(keypoints, dtype=np.float64), np.asarray(visibility) > 0
    diameter, middle = np.zeros(len(points)), np.zeros((len(points), 2))
    for a, b in torso:
        length = np.linalg.norm(points[:, a] - points[:, b], axis=-1)
        take = (diameter == 0) & labelled[:, a] & labelled[:, b]
        diameter = np.where(take, length, diameter)
        middle = np.where(take[:, None], (points[:, a] + points[:, b]) / 2, middle)
    known = labelled & (diameter > 0)[:, None]
    poses = (points - middle[:, None]) / np.where(diameter > 0, diameter, 1)[:, None, None]
    return np.where(known[..., None], poses, 0.0), known


def matched_boxes(
    detections: Array, detection_images: Array, boxes: Array, images: Array, least_iou: float = 0.5
) -> tuple[Integers, Integers, Floats]:
    """Find the person of each detection, and how far its box is from the true one.

    Args:
        detections: (D, 4) x0, y0, x1, y1, pixels.
        detection_images: (D,), the picture of each.
        boxes: (n, 4) of the annotated persons, pixels.
        images: (n,).
        least_iou: A detection belongs to the person whose box it overlaps most, if by this much.

    Returns:
        Rows of the detections that have a person (m,), of their persons (m,), and offsets of x0, y0, x1, y1 (m, 4) in
        widths and heights of the persons' boxes.
    """
    order = np.argsort(images, kind="stable")
    first, last = (np.searchsorted(images[order], detection_images, side) for side in ("left", "right"))
    rows, persons = [], []
    for row in range(len(detections)):
        there = order[first[row] : last[row]]
        if not len(there):
            continue
        low, high = np.maximum(boxes[there, :2], detections[row, :2]), np.minimum(boxes[there, 2:], detections[row, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        iou = shared / np.maximum(box_area(boxes[there]) + box_area(detections[row]) - shared, 1e-9)
        if iou.max() >= least_iou:
            rows.append(row)
            persons.append(int(there[iou.argmax()]))
    found, whose = np.array(rows, dtype=np.int64), np.array(persons, dtype=np.int64)
    sides = np.tile(boxes[whose, 2:] - boxes[whose, :2], 2).astype(np.float64)
    return found, whose, (detections[found] - boxes[whose]) / sides


def write_offsets(path: Path, offsets: BoxOffsets) -> None:
    """Write offsets as YAML, the whole file or nothing."""
    import yaml

    content = {
        "names": list(offsets.names),
        "torso": [list(pair) for pair in offsets.torso],
        "atoms": offsets.atoms.round(5).tolist(),
        "mixtures": [mixture.to_dict() for mixture in offsets.mixtures],
    }
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120).encode())


def read_offsets(path: Path) -> BoxOffsets:
    """Read offsets as ``write_offsets`` writes them.

    Raises:
        DatasetError: Where the file is missing or malformed.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = tuple(str(name) for name in content["names"])
        atoms = np.array(content["atoms"], dtype=np.float64).reshape(-1, len(names), 2)
        torso = tuple((int(a), int(b)) for a, b in content["torso"])
        mixtures = tuple(Mixture.from_dict(one) for one in content["mixtures"])
        if len(mixtures) != len(atoms) + 1 or not np.isfinite(atoms).all():
            raise ValueError(f"{len(atoms)} atoms need {len(atoms) + 1} mixtures, not {len(mixtures)}")
        if any(not 0 <= index < len(names) for pair in torso for index in pair):
            raise ValueError(f"the torso {torso} is none of {len(names)} keypoints")
    except FileNotFoundError:
        raise DatasetError(f"the file of offsets '{path}' does not exist; pose-zoo proposals writes one.") from None
    except (OSError, ValueError, TypeError, KeyError, IndexError, yaml.YAMLError, np.linalg.LinAlgError) as error:
        raise DatasetError(f"'{path}' is no file of offsets as pose-zoo proposals writes it: {error!r}") from error
    return BoxOffsets(names, torso, atoms, mixtures)
