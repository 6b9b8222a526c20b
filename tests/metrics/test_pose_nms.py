"""Average precision after parametric pose-NMS, and the search for its numbers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from processes import run_on_ranks

from lightning_pose_zoo.association import ParametricNMS
from lightning_pose_zoo.association.parametric_nms import PoseDistances
from lightning_pose_zoo.callbacks import FitPoseNMS
from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import COCOKeypoints
from lightning_pose_zoo.errors import MetricError, PoseZooError, SettingsError
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.top_down import evaluation_protocol
from lightning_pose_zoo.metrics import GroundTruth, ParametricNMSAveragePrecision, fit_parametric_nms
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.metrics.pose_nms import _FACTORS, _PAIRS
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SIGMAS = get_skeleton("coco17").sigmas


def crowds(seed=0, images=12, people=3, copies=3):
    """People beside each other, each found several times and with noise that its scores know of."""
    rng = np.random.default_rng(seed)
    persons = images * people
    rows = np.repeat(np.arange(images), people)
    size = 120.0
    keypoints = rng.uniform(0, size, (persons, 17, 2)) + np.tile(np.arange(people), images)[:, None, None] * [45.0, 0]
    corners = keypoints.min(axis=1), keypoints.max(axis=1)
    truth = GroundTruth(
        np.arange(images), rows, np.arange(persons), keypoints, np.full((persons, 17), 2),
        np.concatenate(corners, axis=1), 0.5 * np.prod(corners[1] - corners[0], axis=1), np.zeros(persons, bool),
    )  # fmt: skip
    who = np.repeat(np.arange(persons), copies)
    noise = rng.uniform(1, 12, (len(who), 17, 1))
    found = keypoints[who] + rng.normal(0, 1, (len(who), 17, 2)) * noise
    keypoint_scores = np.exp(-noise[..., 0] / 6)
    scores = keypoint_scores.mean(axis=1) * rng.uniform(0.9, 1, len(who))
    boxes = truth.boxes[who] + rng.normal(0, 6, (len(who), 4))
    poses = Poses(
        *(torch.from_numpy(each).float() for each in (found, keypoint_scores, scores, boxes)),
        torch.from_numpy(rows[who]), torch.arange(len(who)),
    )  # fmt: skip
    return truth, poses


def distances_of(poses):
    columns = [getattr(poses, name).double().numpy() for name in ("keypoints", "keypoint_scores", "scores", "boxes")]
    return PoseDistances(*columns, poses.image_ids.numpy())


def test_scores_what_is_left_and_merged():
    truth, poses = crowds()
    metric = ParametricNMSAveragePrecision(annotations=truth)
    metric.update(poses)
    distances = distances_of(poses)
    rows, keypoints, _ = distances.merged(ParametricNMS())
    assert len(truth.person_ids) <= len(rows) < 0.6 * len(poses)
    values = {name: float(value) for name, value in metric.compute().items()}
    expected = average_precision(truth, distances.image_ids[rows], keypoints, distances.scores[rows], SIGMAS)
    assert values["AP"] == pytest.approx(expected["AP"])
    every = average_precision(truth, distances.image_ids, distances.keypoints, distances.scores, SIGMAS)
    assert values["AP"] > every["AP"] + 0.05
    assert "parametric pose-NMS 22.48, 12 of 12 images" in metric.protocol()
    # In parts, in another order and with repeats it is the same.
    parts = ParametricNMSAveragePrecision(annotations=truth)
    order = torch.randperm(len(poses), generator=torch.Generator().manual_seed(0))
    for some in (order[:40], order[30:]):
        batch = {"image_id": poses.image_ids[some], "image": torch.zeros(len(some), 3, 4, 4), "person_id": some}
        parts.update_batch(poses[some], batch)
    again = {name: float(value) for name, value in parts.compute().items()}
    assert again == pytest.approx(values, nan_ok=True)


def test_predictions_without_boxes_are_refused():
    with pytest.raises(MetricError, match="give predictions as Poses"):
        ParametricNMSAveragePrecision().update([{"keypoints": torch.zeros(1, 17, 2), "scores": torch.ones(1)}])


@pytest.mark.parametrize("start", [ParametricNMS(threshold=60.0), ParametricNMS.alphapose()], ids=["no", "alphapose"])
def test_the_search_ends_where_no_pair_of_numbers_is_better(start):
    truth, poses = crowds(1)
    distances = distances_of(poses)

    def score(settings):
        rows, keypoints, _ = distances.merged(settings)
        return average_precision(truth, distances.image_ids[rows], keypoints, distances.scores[rows], SIGMAS)["AP"]

    best, value = fit_parametric_nms(distances, truth, SIGMAS, start)
    assert value == score(best)
    assert value >= score(start)
    if start.threshold == 60:
        assert value > score(start) + 0.05
    for pair in _PAIRS:
        for factors in itertools.product(*(_FACTORS[name] for name in pair)):
            near = {name: getattr(best, name) * factor for name, factor in zip(pair, factors, strict=True)}
            assert score(replace(best, **near)) <= value
    # What is not searched for stays.
    assert replace(best, **{name: getattr(start, name) for pair in _PAIRS for name in pair}) == start


class Knowing(HeatmapMethod):
    """Finds the annotated person that a box is nearest to, less well the farther the box is off."""

    truth: GroundTruth

    def __init__(self) -> None:
        super().__init__("coco17", HeatmapCodec(), None, False, torch.optim.Adam, None, None, False)
        self.network = torch.nn.Conv2d(3, 17, 1)

    def estimate(self, batch):
        images = self.truth.image_ids[self.truth.image_rows]
        keypoints, scores = [], []
        for image, box, number in zip(
            batch["image_id"], batch["original_box"].numpy(), batch["person_id"], strict=True
        ):
            there = np.flatnonzero((images == int(image)) & self.truth.labelled.any(axis=1))
            there = there if len(there) else np.arange(1)
            off = np.abs(self.truth.boxes[there] - box).mean(axis=1)
            rng = np.random.default_rng(int(number))
            best = off.argmin()
            noise = rng.normal(0, 1 + 0.05 * off[best], (17, 2))
            keypoints.append(self.truth.keypoints[there[best]] + noise)
            scores.append(np.exp(-np.abs(noise).mean(axis=1) / 5))
        keypoints, scores = (torch.from_numpy(np.stack(each)).float() for each in (keypoints, scores))
        return Poses(
            keypoints, scores, scores.mean(dim=1), batch["original_box"], batch["image_id"], batch["person_id"]
        )


def knowing(data):
    method = Knowing()
    method.truth = data.ground_truth()
    return method


def fit_on(rank, pictures, folder, processes):
    """Search on a number of processes, and write what the validation said."""
    data = COCOKeypoints(
        str(pictures), val_boxes=str(folder / "boxes.json"), image_size=(32, 32), batch_size=8, num_workers=0,
        pose_nms="rmpe",
    )  # fmt: skip
    strategy, search = "auto" if processes == 1 else "ddp", FitPoseNMS(str(folder / f"{processes}.yaml"))
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=processes, strategy=strategy, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[search],
    )  # fmt: skip
    [scores] = trainer.validate(knowing(data), data, verbose=False)
    if rank == 0:
        protocol = evaluation_protocol(*data.metrics())
        (folder / f"{processes}.json").write_text(json.dumps({"AP": scores["val/AP"], "protocol": protocol}))


def test_numbers_are_searched_for_after_a_validation_on_any_number_of_processes(test_data, tmp_path):
    pictures = test_data / "coco-mini"
    annotated = json.loads((pictures / "annotations/person_keypoints_val2017.json").read_text())["annotations"]
    rng, boxes = np.random.default_rng(0), []
    for entry in annotated:
        for _ in range(0 if entry.get("iscrowd") else 3):
            x, y, width, height = entry["bbox"]
            moved = np.array([x, y, width, height]) + rng.normal(0, 0.1, 4) * [width, height, width, height]
            boxes.append({"image_id": entry["image_id"], "category_id": 1, "score": 0.9,
                          "bbox": [*moved[:2].tolist(), *np.abs(moved[2:]).tolist()]})  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    fit_on(0, pictures, tmp_path, 1)
    before = json.loads((tmp_path / "1.json").read_text())
    assert before["protocol"].startswith("parametric pose-NMS 22.48")
    found = ParametricNMS.named(str(tmp_path / "1.yaml"))
    assert found != ParametricNMS()
    # With the numbers that were found the score is higher.
    data = COCOKeypoints(
        str(pictures), val_boxes=str(tmp_path / "boxes.json"), image_size=(32, 32), num_workers=0,
        pose_nms=str(tmp_path / "1.yaml"),
    )  # fmt: skip
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [after] = trainer.validate(knowing(data), data, verbose=False)
    assert after["val/AP"] > before["AP"]
    run_on_ranks(fit_on, 2, pictures, tmp_path, 2)
    assert json.loads((tmp_path / "2.json").read_text())["AP"] == before["AP"]
    assert yaml.safe_load((tmp_path / "2.yaml").read_text()) == yaml.safe_load((tmp_path / "1.yaml").read_text())


def test_the_search_needs_data_that_are_evaluated_so(test_data):
    data = COCOKeypoints(str(test_data / "coco-mini"), image_size=(32, 32), num_workers=0)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[FitPoseNMS()]
    )
    with pytest.raises(SettingsError, match=r"--data\.pose_nms rmpe"):
        trainer.validate(knowing(data), data, verbose=False)
    with pytest.raises(PoseZooError, match="neither rmpe nor alphapose"):
        COCOKeypoints(str(Path("nowhere")), pose_nms="oksnms")
