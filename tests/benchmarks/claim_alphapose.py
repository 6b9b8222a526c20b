"""AlphaPose in miniature, on boxes of a detector that misses by a lot.

python tests/benchmarks/claim_alphapose.py --seed S [--minutes M]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import lightning as L
import numpy as np
import torch
from claims import prepare, print_table

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import (
    BoxOffsets,
    CropAugmentation,
    CropDataset,
    CropSettings,
    Person,
    PoseGuidedProposals,
    SyntheticPeople,
)
from lightning_pose_zoo.data.proposals import matched_boxes
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import AlphaPose
from lightning_pose_zoo.metrics import GroundTruth, OKSMeanAveragePrecision
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SIZE = (64, 64)
SK = get_skeleton("coco17")


def render(count, people, seed, split):
    data = SyntheticPeople("coco17", image_size=(96, 96), people=people, train_size=count, val_size=count, seed=seed)
    set_ = data.dataset(split)
    return [set_.scene(index) for index in range(count)]


class Detector:
    """Draws boxes of people by a process of its own."""

    def __init__(self, seed, spread=0.15, most=3):
        self.rng = np.random.default_rng(seed)
        self.spread, self.most = spread, most

    def boxes(self, scene):
        rng = self.rng
        for person in range(len(scene.boxes)):
            if not (scene.visibility[person] > 0).any():
                continue
            points, box = scene.keypoints[person], scene.boxes[person].astype(float)
            size = box[2:] - box[:2]
            raised = (points[[9, 10], 1] < points[0, 1]).any()
            wide = size[0] > 0.6 * size[1]
            mean = np.array([-0.1, -0.1, 0.1, -0.1])
            if raised:
                mean[1] += 0.2
            if wide:
                mean += [0.2, 0, -0.2, 0]
            for _ in range(int(rng.integers(1, self.most + 1))):
                offset = mean + rng.normal(0, self.spread, 4)
                score = float(np.exp(-2 * np.abs(offset).mean()) * rng.uniform(0.8, 1.0))
                yield person, box + offset * np.tile(size, 2), score


class Crops(CropDataset):
    def __init__(self, scenes, rows, padding, augmentation=None, seed=0):
        super().__init__(SK, CropSettings(SIZE, padding, "center"), augmentation, seed)
        self.scenes, self.rows = scenes, rows

    def __len__(self):
        return len(self.rows)

    def load(self, key: SampleKey):
        index, person, box, score = self.rows[key.index]
        scene = self.scenes[index]
        return Person(
            scene.image,
            scene.keypoints[person],
            scene.visibility[person],
            np.asarray(box, np.float32),
            float(scene.areas[person]),
            float(scene.head_sizes[person]),
            index,
            key.index,
            score,
        )


def truth_of(scenes):
    image = np.concatenate([np.full(len(s.boxes), i) for i, s in enumerate(scenes)])
    cat = lambda name: np.concatenate([getattr(s, name) for s in scenes])
    return GroundTruth(
        np.arange(len(scenes)),
        image,
        np.arange(len(image)),
        cat("keypoints"),
        cat("visibility"),
        cat("boxes"),
        cat("areas"),
        np.zeros(len(image), bool),
    )


def exact_rows(scenes):
    return [
        (i, p, s.boxes[p], float("nan"))
        for i, s in enumerate(scenes)
        for p in range(len(s.boxes))
        if (s.visibility[p] > 0).sum() > 3
    ]


def detected_rows(scenes, detector):
    return [(i, p, box, score) for i, s in enumerate(scenes) for p, box, score in detector.boxes(s)]


def train(method, crops, steps, split_at, lr, batch=32, seed=0):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    method.train()
    params = [p for p in method.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=lr, weight_decay=0.05)
    t = time.process_time()
    phases = len(method.phases)
    method.phase = 0

    def rate(step):
        if phases > 1:
            if step < split_at:
                u, n = step, split_at
            else:
                u, n = step - split_at, steps - split_at
        else:
            u, n = step, steps
        return lr * min(1, (u + 1) / (0.15 * n)) * (0.5 + 0.5 * np.cos(np.pi * max(0, (u / n - 0.15) / 0.85)))

    losses = {}
    for step in range(steps):
        if phases > 1 and step == split_at:
            method.phase = 1
            method.fit_statistics([])
            opt = torch.optim.AdamW(params, lr=lr, weight_decay=0.05)
        for g in opt.param_groups:
            g["lr"] = rate(step) * g.get("factor", 1)
        keys = [SampleKey(step, int(r)) for r in rng.integers(0, len(crops), batch)]
        parts = method.losses(crops.__getitems__(keys))
        loss = sum(parts.values())
        opt.zero_grad()
        loss.backward()
        opt.step()
        for k, v in parts.items():
            losses[k] = 0.98 * losses.get(k, v.item()) + 0.02 * v.item()
        if step % 200 == 199:
            print(step + 1, {k: round(v, 3) for k, v in losses.items()}, f"{time.process_time() - t:.0f}s", flush=True)
    method.eval()
    method.phase = -1
    return time.process_time() - t


@torch.no_grad()
def poses_of(method, crops):
    found = []
    for s in range(0, len(crops), 128):
        found.append(method.estimate(crops.__getitems__(range(s, min(s + 128, len(crops))))))
    return Poses.cat(found)


def ap(poses, truth, **kw):
    metric = OKSMeanAveragePrecision("coco17", annotations=truth)
    metric.update(poses)
    return {k: float(v) for k, v in metric.compute().items()}
