"""AlphaPose in miniature, on a detector's boxes that are too large, beside the person and several for each.

    python tests/benchmarks/claim_alphapose.py --seed S [--minutes M]

The detector is simulated: a random process draws one to three boxes of each rendered person, beside the true one by
what the person does. How far is learned on pictures that nothing else is trained on (``BoxOffsets``). One single-person
network, a narrow hourglass, is trained three times with the same number of crops: on true boxes; on boxes that are
drawn as learned (PGPG); on such boxes too, and for the second half through a spatial transformer (SSTN). All are scored
by OKS average precision on the detector's boxes of unseen crowds of two or three, after parametric pose-NMS. Exits with
1 where one of these does not hold:

- PGPG is better than true boxes;
- SSTN is better than the same network without it by 5 points, both trained on PGPG's boxes;
- parametric pose-NMS, its numbers fitted on the held-out pictures, is better than no suppression and than suppression
  of boxes at the best of several thresholds there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from claims import TIMED, prepare, print_table
from torchvision.ops import batched_nms

from lightning_pose_zoo.association import ParametricNMS, oks_nms
from lightning_pose_zoo.association.parametric_nms import PoseDistances
from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import (
    BoxOffsets,
    CropAugmentation,
    CropDataset,
    CropSettings,
    Person,
    PoseDataModule,
    PoseGuidedProposals,
    SyntheticPeople,
)
from lightning_pose_zoo.data.base import Split
from lightning_pose_zoo.data.proposals import matched_boxes
from lightning_pose_zoo.data.rendering import Scene
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.geometry import box_area
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import AlphaPose
from lightning_pose_zoo.metrics import GroundTruth, PoseMetric, fit_parametric_nms
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.schedules import WarmupCosine
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SIZE, BATCH, PADDING = (64, 64), 32, 1.25
SKELETON = get_skeleton("coco17")
PICTURES = {"train": (2000, (1, 1)), "held out": (200, (2, 3)), "test": (250, (2, 3))}
BOX_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SSTN_MARGIN = 0.05
STEPS = 2000
SPREAD = 0.15  # of the detector's boxes, in sides of the true one
NARROW = {"estimator": "stacked_hourglass", "stacks": 1, "channels": (48,)}


class Box(NamedTuple):
    """One box of one person of one picture, with the detector's score; NaN where it is the true one."""

    picture: int
    person: int
    box: npt.NDArray[np.float64]
    score: float


class Crops(CropDataset):
    """Crops of boxes of rendered people that are kept in memory."""

    def __init__(self, scenes: Sequence[Scene], boxes: Sequence[Box], augmentation: CropAugmentation | None) -> None:
        super().__init__(SKELETON, CropSettings(SIZE, PADDING, "center"), augmentation)
        self.scenes, self.boxes = scenes, boxes

    def __len__(self) -> int:
        return len(self.boxes)

    def load(self, key: SampleKey) -> Person:
        picture, person, box, score = self.boxes[key.index]
        scene = self.scenes[picture]
        return Person(
            scene.image, scene.keypoints[person], scene.visibility[person], box.astype(np.float32),
            float(scene.areas[person]), float(scene.head_sizes[person]), picture, key.index, score,
        )  # fmt: skip


class Training(PoseDataModule):
    """The true boxes of the training pictures, drawn anew by proposals where there are some."""

    def __init__(self, scenes: Sequence[Scene], proposals: PoseGuidedProposals | None, seed: int) -> None:
        vary = {"rotation": 0.0, "scale": 0.1, "shift": 0.03}
        augmentation = CropAugmentation(**vary, flip_probability=0.5, proposals=proposals)
        super().__init__(SIZE, BATCH, 0, PADDING, "center", augmentation, None, None, seed)
        self.scenes = scenes

    @property
    def skeleton(self):
        return SKELETON

    def dataset(self, split: Split) -> Crops:
        return Crops(self.scenes, true_boxes(self.scenes), self.augmentation)

    def metrics(self) -> Sequence[PoseMetric]:
        return []


def true_boxes(scenes: Sequence[Scene]) -> list[Box]:
    """Return the boxes of who has four labels at least."""
    return [
        Box(number, person, scene.boxes[person].astype(np.float64), float("nan"))
        for number, scene in enumerate(scenes)
        for person in np.flatnonzero((scene.visibility > 0).sum(axis=1) > 3).tolist()
    ]


def detected_boxes(scenes: Sequence[Scene], seed: int) -> Iterator[Box]:
    """Draw boxes as a detector that misses raised arms and spread legs, and takes too much of the rest."""
    rng = np.random.default_rng((seed, 99))
    for true in true_boxes(scenes):
        points, size = scenes[true.picture].keypoints[true.person], true.box[2:] - true.box[:2]
        mean = np.array([-0.25, -0.1, 0.25, 0.15])
        if (points[[9, 10], 1] < points[[5, 6], 1].min()).any():
            mean += [0, 0.2, 0, 0]
        if size[0] > 0.6 * size[1]:
            mean += [0.25, 0, -0.25, 0]
        for _ in range(int(rng.integers(1, 4))):
            offset = mean + rng.normal(0, SPREAD, 4)
            score = float(np.exp(-np.abs(offset).mean()) * rng.uniform(0.8, 1.0))
            yield Box(true.picture, true.person, true.box + offset * np.tile(size, 2), score)


def learned_offsets(scenes: Sequence[Scene], found: Sequence[Box], seed: int) -> BoxOffsets:
    """Learn from detections and true boxes, as from files: whose a detection is, is told by the boxes."""
    true = true_boxes(scenes)
    boxes, pictures = (np.array([getattr(one, name) for one in true]) for name in ("box", "picture"))
    detections, of = (np.array([getattr(one, name) for one in found]) for name in ("box", "picture"))
    _, persons, offsets = matched_boxes(detections, of, boxes, pictures, least_iou=0.3)
    keypoints, visibility = (
        np.stack([getattr(scenes[true[row].picture], name)[true[row].person] for row in persons])
        for name in ("keypoints", "visibility")
    )
    return BoxOffsets.fitted(keypoints, visibility, offsets, SKELETON, seed=seed)


def truth_of(scenes: Sequence[Scene]) -> GroundTruth:
    """Return everybody in the pictures."""
    image = np.repeat(np.arange(len(scenes)), [len(scene.boxes) for scene in scenes])
    names = ("keypoints", "visibility", "boxes", "areas")
    columns = {name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in names}
    return GroundTruth(
        np.arange(len(scenes)), image, np.arange(len(image)), is_crowd=np.zeros(len(image), bool), **columns
    )


def trained(scenes: Sequence[Scene], offsets: BoxOffsets | None, sstn: bool, steps: int, seed: int) -> AlphaPose:
    """Train the network, through a transformer in the second half where asked."""
    proposals = None
    if offsets is not None:
        proposals = PoseGuidedProposals(probability=1.0)
        proposals.offsets = offsets
    L.seed_everything(seed, verbose=False)
    method = AlphaPose(
        SKELETON, **NARROW, transformer="test_resnet" if sstn else None, codec=HeatmapCodec("center", sigma=1.0),
        loss=HeatmapCrossEntropy(1.0),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 0.008, weight_decay=0.05),
        lr_scheduler=lambda optimizer: WarmupCosine(optimizer, phase_factors=[1.0, 0.5] if sstn else None),
    )  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=[TrainingPhases()],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(method, Training(scenes, proposals, seed))
    losses = ", ".join(f"{name} {value:.3f}" for name, value in trainer.callback_metrics.items())
    print(f"  {steps} steps, {time.process_time() - start:.0f} s of the processor; {losses}", flush=True)
    return method.eval()


def steps_within(minutes: float, scenes: Sequence[Scene], offsets: BoxOffsets) -> int:
    """Return how many steps each training has within some minutes of the processor for all three, at most ``STEPS``."""
    pace = 0.0
    for sstn, times in ((False, 2), (True, 1)):
        start = time.process_time()
        trained(scenes, offsets, sstn, TIMED, 0)
        pace += times * (time.process_time() - start) / TIMED
    return max(2, min(STEPS, int(60 * minutes / pace)))


@torch.no_grad()
def found_by(method: AlphaPose, scenes: Sequence[Scene], boxes: Sequence[Box]) -> Poses:
    """Return a pose for each box."""
    crops = Crops(scenes, boxes, None)
    return Poses.cat([method.estimate(crops.__getitems__(range(at, min(at + 128, len(crops)))))
                      for at in range(0, len(crops), 128)])  # fmt: skip


class Scored:
    """The poses of one set of pictures, scored after any suppression."""

    def __init__(self, poses: Poses, scenes: Sequence[Scene]) -> None:
        self.poses, self.truth = poses, truth_of(scenes)
        self.columns = [
            getattr(poses, name).double().numpy() for name in ("keypoints", "keypoint_scores", "scores", "boxes")
        ]
        self.images = poses.image_ids.numpy()
        self.distances = PoseDistances(*self.columns, self.images)

    def of(self, rows: npt.NDArray[np.int64], keypoints: npt.NDArray[np.float64] | None = None) -> float:
        keypoints = self.columns[0][rows] if keypoints is None else keypoints
        return average_precision(self.truth, self.images[rows], keypoints, self.columns[2][rows], SKELETON.sigmas)["AP"]

    def unsuppressed(self) -> float:
        return self.of(np.arange(len(self.images)))

    def by_boxes(self, threshold: float) -> float:
        boxes, scores = (torch.from_numpy(self.columns[column]) for column in (3, 2))
        return self.of(batched_nms(boxes, scores, self.poses.image_ids, threshold).numpy())

    def by_oks(self) -> float:
        keypoints, _, scores, boxes = self.columns
        return self.of(oks_nms(keypoints, scores, box_area(boxes), self.images, SKELETON.sigmas, 0.5))

    def by_pose(self, settings: ParametricNMS) -> float:
        rows, keypoints, _ = self.distances.merged(settings)
        return self.of(rows, keypoints)

    def fitted(self) -> ParametricNMS:
        return fit_parametric_nms(self.distances, self.truth, SKELETON.sigmas)[0]


def suppressions(held_out: Scored, test: Scored) -> dict[str, float]:
    """Return AP on the test set by the way of suppression, what there is to choose chosen on the held-out pictures."""
    threshold = max(BOX_THRESHOLDS, key=held_out.by_boxes)
    return {
        "none": test.unsuppressed(),
        f"boxes, IoU {threshold}": test.by_boxes(threshold),
        "OKS 0.5": test.by_oks(),
        "parametric, RMPE's numbers": test.by_pose(ParametricNMS()),
        "parametric, fitted": test.by_pose(held_out.fitted()),
    }


def main() -> int:
    """Train, print tables and say which claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the people, the detector, the first weights and the order"
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="of the processor, for the three trainings at most")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    given = parser.parse_args()
    prepare(given.threads)
    scenes = {}
    for number, (name, (count, people)) in enumerate(PICTURES.items()):
        crowd = SyntheticPeople(image_size=(96, 96), people=people, train_size=count, seed=1000 * number + given.seed)
        scenes[name] = [crowd.dataset("train").scene(index) for index in range(count)]
    boxes = {name: list(detected_boxes(scenes[name], given.seed + number)) for number, name in enumerate(PICTURES)}
    offsets = learned_offsets(scenes["held out"], boxes["held out"], given.seed)
    steps = steps_within(given.minutes, scenes["train"], offsets)
    ways = {"true boxes": (None, False), "PGPG": (offsets, False), "PGPG, SSTN": (offsets, True)}
    rows, scores = [], {}
    for name, (drawn, sstn) in ways.items():
        print(f"trained on {name}:", flush=True)
        method = trained(scenes["train"], drawn, sstn, steps, given.seed)
        held_out, test = (
            Scored(found_by(method, scenes[one], boxes[one]), scenes[one]) for one in ("held out", "test")
        )
        scores[name] = suppressions(held_out, test)
        print(f"  AP after parametric pose-NMS {scores[name]['parametric, fitted']:.3f}", flush=True)
        rows.append([name, *(f"{score:.3f}" for score in scores[name].values())])
    print_table(["trained on", *scores["PGPG, SSTN"]], rows)
    fitted = {name: one["parametric, fitted"] for name, one in scores.items()}
    plain, boxed = (list(scores["PGPG, SSTN"].values())[place] for place in (0, 1))
    gains = {
        "PGPG over true boxes": (fitted["PGPG"] - fitted["true boxes"], 0.0),
        "SSTN over the same without": (fitted["PGPG, SSTN"] - fitted["PGPG"], SSTN_MARGIN),
        "parametric pose-NMS over none": (fitted["PGPG, SSTN"] - plain, 0.0),
        "parametric pose-NMS over suppressed boxes": (fitted["PGPG, SSTN"] - boxed, 0.0),
    }
    for name, (gain, bar) in gains.items():
        print(f"{name}: {gain:+.3f} AP, bar {bar:+}: {'holds' if gain > bar else 'does NOT hold'}")
    return 0 if all(gain > bar for gain, bar in gains.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
