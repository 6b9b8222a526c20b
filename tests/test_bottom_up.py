"""Methods that find people by themselves, through the Trainer: scores, predictions and pictures of whole batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_pose_zoo.callbacks import DrawPredictions, WritePredictions
from lightning_pose_zoo.data import MPII, COCOKeypoints, PictureAugmentation, SyntheticPeople
from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.structures import PoseBatch, Poses
from lightning_pose_zoo.visualization import TRUTH_COLOR, write_batch_sheet


class Knowing(PoseModule):
    """Finds everybody exactly, and where it is told so, somebody in every empty picture too."""

    samples = "pictures"

    def __init__(self, skeleton="coco17", sees_ghosts: bool = False, forgets: bool = False) -> None:
        super().__init__(skeleton, torch.optim.SGD, None, None, False)
        self.network = nn.Linear(1, 1)
        self.sees_ghosts, self.forgets = sees_ghosts, forgets

    def losses(self, batch: PoseBatch) -> dict:
        count = (batch["visibility"] > 0).sum() + (~batch["ignore"]).sum()
        return {"all": self.network(torch.ones(1)).mean() * count}

    def estimate(self, batch: PoseBatch) -> Poses:
        rows = batch["image_index"]
        # By its way through the cut, not by what was annotated.
        keypoints = apply_affine(batch["keypoints"], batch["to_original"][rows])
        boxes, images = batch["original_box"], batch["image_id"][rows]
        sure = (batch["visibility"] > 0).float()  # where nobody labelled a keypoint, it was not there to find
        if self.forgets:
            keypoints, boxes, images, sure = keypoints[::2], boxes[::2], images[::2], sure[::2]
        if self.sees_ghosts:
            empty = batch["image_id"][~torch.isin(torch.arange(len(batch["image"])), rows)]
            ghosts = len(empty)
            keypoints = torch.cat([torch.rand(ghosts, keypoints.shape[1], 2), keypoints])
            boxes, images = torch.cat([torch.zeros(ghosts, 4), boxes]), torch.cat([empty, images])
            sure = torch.cat([torch.ones(ghosts, keypoints.shape[1]), sure])
        return Poses(keypoints, sure, torch.ones(len(keypoints)), boxes, images)


class Corners(PoseModule):
    """Finds two persons in each picture, all at fixed places of the cut."""

    samples = "pictures"

    def __init__(self) -> None:
        super().__init__("lsp14", torch.optim.SGD, None, None, False)

    def losses(self, batch: PoseBatch) -> dict:
        raise NotImplementedError

    def estimate(self, batch: PoseBatch) -> Poses:
        count = 2 * len(batch["image"])
        rows = torch.arange(count) // 2
        places = torch.arange(14.0)[:, None] + torch.tensor([[0.0, 10.0]])
        keypoints = apply_affine(places.expand(count, 14, 2) + 20 * (torch.arange(count) % 2)[:, None, None],
                                 batch["to_original"][rows])  # fmt: skip
        images = batch["image_id"][rows]
        return Poses(keypoints, torch.ones(count, 14), torch.ones(count), torch.zeros(count, 4), images)


def trainer(folder, *callbacks, **options):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False, **({"devices": 1} | options),
    )  # fmt: skip


def coco_mini(test_data, **options):
    return COCOKeypoints(
        str(test_data / "coco-mini"), samples="pictures", image_size=(96, 128), batch_size=5, num_workers=0, **options
    )


def crowds(**options):
    return SyntheticPeople(
        samples="pictures", people=(1, 4), image_size=(96, 128), train_size=8, val_size=12, batch_size=5, **options
    )


@pytest.mark.parametrize("kind", ["coco", "synthetic"])
def test_who_knows_the_truth_is_always_right(test_data, tmp_path, kind):
    data = coco_mini(test_data) if kind == "coco" else crowds()
    [scores] = trainer(tmp_path).validate(Knowing(), data, verbose=False)
    assert scores["val/AP"] == pytest.approx(1)
    assert scores["val/AR"] == pytest.approx(1)
    assert not any("PCK" in name for name in scores)
    [scores] = trainer(tmp_path).validate(Knowing(forgets=True), data, verbose=False)
    assert 0.2 < scores["val/AR"] < 0.9


def test_people_who_are_found_in_empty_pictures_cost_precision(test_data, tmp_path):
    [scores] = trainer(tmp_path).validate(Knowing(sees_ghosts=True), coco_mini(test_data), verbose=False)
    assert scores["val/AP"] < 0.9
    assert scores["val/AR"] == pytest.approx(1)


def test_training_runs_on_varied_crowds(tmp_path):
    data = crowds(augmentation=PictureAugmentation(center_jitter=10))
    run = trainer(tmp_path, max_epochs=2)
    run.fit(Knowing(), data)
    assert run.global_step == 2
    assert run.callback_metrics["val/AP"] == pytest.approx(1)


def test_mpii_is_scored_on_the_given_persons(test_data, tmp_path):
    source = test_data / "mmpose-samples/mpii"
    (tmp_path / "annot").mkdir()
    for name in ("train", "valid"):
        shutil.copy(source / "test_mpii.json", tmp_path / f"annot/{name}.json")
    (tmp_path / "images").symlink_to(source)
    data = MPII(str(tmp_path), samples="pictures", image_size=(96, 128), num_workers=0)
    [scores] = trainer(tmp_path).validate(Knowing("mpii16"), data, verbose=False)
    assert scores["val/PCKh@0.5"] == 1
    assert scores["val/AP"] == scores["val/AP/left_wrist"] == 1
    assert "val/AP/pelvis" not in scores
    [scores] = trainer(tmp_path).validate(Knowing("mpii16", forgets=True), data, verbose=False)
    assert 0.4 < scores["val/PCKh@0.5"] < 0.8
    assert 0.2 < scores["val/AP"] < 0.9


def test_predictions_are_written_in_pixels_of_the_originals(tmp_path):
    sizes = {"1.png": (300, 200), "2.png": (64, 128), "3.jpg": (50, 40)}
    (tmp_path / "photos").mkdir()
    for name, size in sizes.items():
        Image.new("RGB", size, (90, 90, 90)).save(tmp_path / "photos" / name)
    data = SyntheticPeople(
        "lsp14", image_size=(96, 128), samples="pictures", predict_images=str(tmp_path / "photos"), batch_size=2
    )
    run = trainer(tmp_path, WritePredictions(str(tmp_path / "out")))
    run.predict(Corners(), data, return_predictions=False)
    entries = json.loads((tmp_path / "out/keypoints.json").read_text())
    files = [
        Path(image["file_name"]).name for image in json.loads((tmp_path / "out/images.json").read_text())["images"]
    ]
    assert files == list(sizes)
    assert [entry["image_id"] for entry in entries] == [0, 0, 1, 1, 2, 2]
    for number, entry in enumerate(entries):
        width, height = sizes[files[entry["image_id"]]]
        zoom = min(96 / height, 128 / width)
        places = np.arange(14)[:, None] + [0, 10] + 20 * (number % 2)
        expected = (places + 0.5) / zoom - 0.5
        np.testing.assert_allclose(np.array(entry["keypoints"]).reshape(14, 3)[:, :2], expected, atol=1e-3)
    drawn = np.asarray(Image.open(tmp_path / "out/pictures/1.jpg"))
    assert drawn.shape == (200, 300, 3)
    assert (np.abs(drawn.astype(int) - 90).max(axis=2) > 60).any()


def test_sheets_show_everybody_in_the_right_picture(tmp_path):
    data = crowds()
    # Above all scores, so that no prediction covers the truth.
    trainer(tmp_path, DrawPredictions(pictures=4, min_score=2)).validate(Knowing(), data, verbose=False)
    sheet = np.asarray(Image.open(tmp_path / "pictures/val.png")).astype(int)
    batch = data.datasets["val"].__getitems__(range(4))
    for row in range(4):
        left, top = 4 + row % 2 * (128 * 3 + 4), 4 + row // 2 * (96 * 3 + 4)
        tile = sheet[top : top + 288, left : left + 384]
        people = (batch["image_index"] == row).nonzero().flatten()
        green = np.abs(tile - TRUTH_COLOR).max(axis=2) < 25
        ys, xs = np.nonzero(green)
        for person in people:
            for (x, y), flag in zip(batch["keypoints"][person].tolist(), batch["visibility"][person], strict=True):
                if flag:
                    near = (np.abs(xs - (3 * x + 1)) < 12) & (np.abs(ys - (3 * y + 1)) < 12)
                    assert near.any(), (row, person)
        assert green.any() == bool(len(people))


def test_batch_sheets_shade_what_is_ignored_and_leave_the_batch_alone(tmp_path):
    image = torch.full((1, 256, 256, 3), 100, dtype=torch.uint8).permute(0, 3, 1, 2)
    batch = PoseBatch(
        image=image, ignore=torch.zeros(1, 256, 256, dtype=torch.bool), keypoints=torch.zeros(0, 17, 2),
        visibility=torch.zeros(0, 17), image_index=torch.zeros(0, dtype=torch.int64),
    )  # fmt: skip
    batch["ignore"][0, 50:100, 30:60] = True
    write_batch_sheet(batch, Knowing().skeleton, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[4:260, 4:260].astype(int)
    red = sheet[..., 0] > sheet[..., 1] + 30
    np.testing.assert_array_equal(red, batch["ignore"][0].numpy())
    assert (image == 100).all()
