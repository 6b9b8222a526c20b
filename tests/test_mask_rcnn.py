"""Mask R-CNN from pictures to poses and masks: the mill of all methods, odd batches, and two processes."""

from __future__ import annotations

import logging

import lightning as L
import pytest
import torch
from processes import run_on_ranks
from torch.utils.data import DataLoader

from lightning_pose_zoo.codecs import RegionHeatmapCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import CheckpointError, DatasetError
from lightning_pose_zoo.methods import MaskRCNN
from lightning_pose_zoo.networks import HeadSizes, RegionSettings
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SIZES = HeadSizes((16, 32, 64, 128, 256), 24, 32, (24, 24), 8, (16,))
SMALL = {
    "backbone": "resnet10t",
    "batch_norm": "trained",
    "heads": SIZES,
    "regions": RegionSettings((60, 30), (60, 20), sampled=16, most=5),
}
PARTS = {"objectness", "proposals", "classes", "boxes", "keypoints"}


def crowds(**options):
    options = {"train_size": 8, "val_size": 3, "people": (1, 3), "batch_size": 4} | options
    return SyntheticPeople("lsp14", image_size=(64, 96), samples="pictures", **options)


def training_batch(count=2, **options):
    data = crowds(**options)
    data.setup("fit")
    return data.datasets["train"].__getitems__(range(count))


def without_people(batch):
    gone = ("keypoints", "visibility", "box", "image_index", "mask", "area", "head_size", "person_id")
    return batch | {name: batch[name][:0] for name in gone if name in batch}


def trainer(folder, **options):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, **({"max_epochs": 1, "devices": 1} | options),
    )  # fmt: skip


def learn(module, batch, steps, rate=2e-3):
    """Train on one batch; return the losses of each step."""
    optimizer = torch.optim.Adam(module.train().parameters(), lr=rate)
    history = []
    for _ in range(steps):
        torch.manual_seed(1)  # regions are drawn
        losses = module.losses(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    return history


@pytest.mark.parametrize("masks", [False, True], ids=["keypoints", "masks"])
def test_fit_test_predict_save_and_load(masks, tmp_path):
    data = crowds(masks=masks)
    method, run = MaskRCNN("lsp14", masks=masks, **SMALL), trainer(tmp_path)
    run.fit(method, data)
    logged = {name.removeprefix("train/loss_") for name in run.callback_metrics if name.startswith("train/loss_")}
    assert logged == PARTS | ({"masks"} if masks else set())
    [scores] = run.test(method, data, verbose=False)
    assert 0 <= scores["test/AP"] <= 1
    predicted = Poses.cat(run.predict(method, data))
    assert 0 < len(predicted) <= 15
    assert predicted.keypoints.shape[1:] == (14, 2)
    assert torch.isfinite(predicted.keypoints).all()
    assert ((predicted.keypoint_scores > 0) & (predicted.keypoint_scores <= 1)).all()

    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["skeleton"] == get_skeleton("lsp14").to_dict()
    parts = {name: SMALL[name] for name in ("heads", "regions")}
    loaded = MaskRCNN.load_from_checkpoint(tmp_path / "model.ckpt", **parts)
    again = Poses.cat(run.predict(loaded, data))
    torch.testing.assert_close(again.keypoints, predicted.keypoints)
    # How many regions are looked at may change, how large the network is may not.
    MaskRCNN.load_from_checkpoint(tmp_path / "model.ckpt", heads=SIZES, regions=RegionSettings(most=7))
    with pytest.raises(CheckpointError, match=r"heads: trained with HeadSizes\(anchors=\[16, 32, 64, 128, 256\]"):
        MaskRCNN("lsp14", masks=masks, backbone="resnet10t").on_load_checkpoint(checkpoint)


def test_training_starts_from_weights_of_other_keypoints(tmp_path, caplog):
    theirs, run = MaskRCNN("coco17", **SMALL), trainer(tmp_path)
    run.strategy.connect(theirs)
    run.save_checkpoint(tmp_path / "first.ckpt")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        mine = MaskRCNN("crowdpose14", weights=str(tmp_path / "first.ckpt"), **SMALL)
    assert "from skeleton coco17 to crowdpose14" in caplog.text
    old, new = theirs.network.state_dict(), mine.network.state_dict()
    head = "roi_heads.keypoint_predictor.kps_score_lowres"
    assert [key for key in old if old[key].shape != new[key].shape] == [f"{head}.weight", f"{head}.bias"]
    assert all(torch.equal(new[key], old[key]) for key in old if not key.startswith(head))
    for name in ("left_wrist", "right_ankle"):
        there, here = (get_skeleton(kind).names.index(name) for kind in ("coco17", "crowdpose14"))
        assert torch.equal(new[f"{head}.weight"][:, here], old[f"{head}.weight"][:, there])


def test_the_loss_falls_and_people_are_found():
    torch.manual_seed(0)
    batch = training_batch(2, people=(2, 2), masks=True)
    module = MaskRCNN("lsp14", masks=True, **SMALL)
    history = learn(module, batch, 60)
    first, last = history[0], history[-1]
    assert all(last[name] < 0.8 * first[name] for name in first if first[name] > 0.05), (first, last)
    assert last["keypoints"] < 0.5 * first["keypoints"]
    # Batch norm in evaluation as in training, because its statistics lag behind such a short one.
    module.eval()
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    with torch.no_grad():
        found, masks = module.estimate_with_masks(batch)
    for person, row in enumerate(batch["image_index"].tolist()):
        there = found[found.image_ids == batch["image_id"][row]]
        distance = (there.boxes - batch["box"][person]).abs().amax(dim=1)
        assert distance.min() < 10, person
    assert masks.shape == (len(found), 64, 96)
    best = found.scores.argmax()
    own = batch["mask"][batch["image_index"] == (batch["image_id"] == found.image_ids[best]).nonzero()[0]]
    overlap = ((masks[best] & own).sum(dim=(1, 2)) / (masks[best] | own).sum(dim=(1, 2))).max()
    assert overlap > 0.5


@pytest.mark.parametrize("people", [True, False], ids=["people", "nobody"])
def test_every_parameter_is_trained_whoever_is_there(people):
    """Parameters without a gradient break distributed training."""
    batch = training_batch(masks=True)
    batch = batch if people else without_people(batch)
    module = MaskRCNN("lsp14", masks=True, **SMALL)
    losses = module.losses(batch)
    sum(losses.values()).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    silent = {name for name, loss in losses.items() if loss == 0}
    assert silent == (set() if people else {"proposals", "boxes", "keypoints", "masks"})


def test_what_is_not_known_costs_nothing():
    batch = training_batch(masks=True)
    module = MaskRCNN("lsp14", masks=True, **SMALL)
    # Boxes are known of people without labels, and masks are not where they are empty.
    unlabelled = batch | {"visibility": torch.zeros_like(batch["visibility"]), "mask": batch["mask"] & False}
    losses = module.losses(unlabelled)
    assert losses["keypoints"] == losses["masks"] == 0
    assert losses["boxes"] > 0
    assert "masks" in module.losses({name: value for name, value in batch.items() if name != "mask"})
    ignored = without_people(batch) | {"ignore": torch.ones(2, 64, 96, dtype=torch.bool)}
    losses = module.losses(ignored)
    sum(losses.values()).backward()
    assert sum(losses.values()) == 0
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_boxes_are_needed_and_empty_ones_left_out():
    batch = training_batch()
    module = MaskRCNN("lsp14", **SMALL)
    with pytest.raises(DatasetError, match="the batch has no 'box'"):
        module.losses({name: value for name, value in batch.items() if name != "box"})
    odd = batch | {"box": batch["box"].clone()}
    odd["box"][0] = torch.tensor([200.0, 10, 250, 30])  # outside
    odd["box"][-1, 2] = odd["box"][-1, 0]
    assert all(torch.isfinite(loss) for loss in module.losses(odd).values())


def test_mixed_precision_and_channels_last(tmp_path):
    data = crowds()
    run = trainer(tmp_path, precision="bf16-mixed", max_steps=2, enable_checkpointing=False)
    module = MaskRCNN("lsp14", masks=True, channels_last=True, **SMALL)
    run.fit(module, data)
    assert next(p for p in module.network.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    batch = training_batch(masks=True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            losses = module.train().losses(batch)
            assert {loss.dtype for loss in losses.values()} == {torch.float32}
            assert all(torch.isfinite(loss) for loss in losses.values())
            sum(losses.values()).backward()
        with torch.autocast("cpu", dtype), torch.no_grad():
            poses = module.eval().estimate(batch)
        assert poses.keypoints.dtype == poses.boxes.dtype == poses.keypoint_scores.dtype == torch.float32
    half = MaskRCNN("lsp14", **SMALL).bfloat16().eval()
    with torch.no_grad():
        assert half.estimate({"image": batch["image"]}).keypoints.dtype == torch.float32


def test_filling_changes_nothing_and_poses_are_in_the_original_picture():
    torch.manual_seed(0)
    module = MaskRCNN("lsp14", **SMALL).eval()
    picture = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    canvas = torch.full((2, 3, 96, 128), 77, dtype=torch.uint8)
    canvas[0, :, :50, :70], canvas[1, :, :50, :70] = picture[0], picture[0].flip(-1)
    scale = torch.tensor([[2.0, 0, 3], [0, 2, 5]])
    batch = {
        "image": canvas, "content": torch.tensor([[50, 70], [50, 70]]), "image_id": torch.tensor([7, 9]),
        "to_original": torch.stack([torch.eye(2, 3), scale]),
    }  # fmt: skip
    with torch.no_grad():
        alone = module.estimate({"image": picture})
        found = module.estimate(batch)
        mirrored = module.estimate({"image": picture.flip(-1)})
    assert len(alone) > 0
    first, second = found[found.image_ids == 7], found[found.image_ids == 9]
    assert torch.equal(first.keypoints, alone.keypoints)
    assert torch.equal(first.boxes, alone.boxes)
    torch.testing.assert_close(second.keypoints, 2 * mirrored.keypoints + torch.tensor([3.0, 5]))
    torch.testing.assert_close(second.boxes, 2 * mirrored.boxes + torch.tensor([3.0, 5, 3, 5]))


def test_scores_may_be_logits():
    torch.manual_seed(0)
    batch = {"image": torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)}
    likely = MaskRCNN("lsp14", **SMALL).eval()
    heights = MaskRCNN("lsp14", codec=RegionHeatmapCodec("logit"), **SMALL).eval()
    heights.load_state_dict(likely.state_dict())
    with torch.no_grad():
        one, other = likely.estimate(batch), heights.estimate(batch)
    assert torch.equal(one.scores, other.scores)
    torch.testing.assert_close(one.keypoints, other.keypoints)
    assert not torch.allclose(one.keypoint_scores, other.keypoint_scores)
    with pytest.raises(ValueError, match="masks=True"):
        likely.estimate_with_masks(batch)


class Deserted(torch.utils.data.Dataset):
    """Pictures with people and without, whole batches of them."""

    def __init__(self) -> None:
        data = crowds(train_size=4)
        data.setup("fit")
        self.people = data.datasets["train"]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index):
        batch = self.people.__getitems__([index])
        # Of two processes the one has people where the other has none.
        return batch if index in (0, 3) else without_people(batch)


def train_on_ranks(rank, world_size, folder):
    torch.manual_seed(0)
    module = MaskRCNN("lsp14", **SMALL, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.001))
    run = trainer(
        folder, devices=world_size, strategy="ddp" if world_size > 1 else "auto", max_epochs=2,
        enable_checkpointing=False,
    )  # fmt: skip
    run.fit(module, DataLoader(Deserted(), batch_size=None))
    assert run.global_step == 4
    torch.save({name: p.detach() for name, p in module.named_parameters()}, folder / f"{rank}.pt")


def test_two_processes_train_where_one_sees_nobody(tmp_path):
    run_on_ranks(train_on_ranks, 2, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.manual_seed(0)
    fresh = dict(MaskRCNN("lsp14", **SMALL).named_parameters())
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, fresh[name]), name
