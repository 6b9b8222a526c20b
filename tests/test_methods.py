"""Every method goes through the same mill: fit, test, predict, save, load, export, and a loss that falls."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.losses import HeatmapCrossEntropy, HeatmapMSE
from lightning_pose_zoo.methods import (
    AdversarialPoseNet,
    AlphaPose,
    ConvolutionalPoseMachine,
    Critics,
    DeepPose,
    EfficientObjectLocalization,
    HRNet,
    IterativeErrorFeedback,
    SimpleBaseline,
    StackedHourglass,
)
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.phased import PhasedMethod
from lightning_pose_zoo.metrics import EPE
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

# What learns better from random weights than the papers' losses.
LEARNING = {"codec": HeatmapCodec("center"), "loss": HeatmapCrossEntropy()}


@dataclass(frozen=True)
class Row:
    """A method and arguments that make it small; ``learning`` are those that make it learn from random weights."""

    method: type[PoseModule]
    arguments: dict[str, Any]
    learning: dict[str, Any] = field(default_factory=dict)

    def build(self, skeleton, **more):
        """Build a method that learns; ``published`` one whose other arguments are the defaults."""
        return self.published(skeleton, **{**self.learning, **more})

    def published(self, skeleton, **more):
        return self.method(skeleton=skeleton, **{**self.arguments, **more})


METHODS = {
    "simple_baseline": Row(SimpleBaseline, {"backbone": "resnet18", "deconv_channels": (32, 32, 32)}, LEARNING),
    "hrnet": Row(HRNet, {"variant": "w18"}, LEARNING),
    "stacked_hourglass": Row(StackedHourglass, {"stacks": 2, "channels": 32}, LEARNING),
    "convolutional_pose_machine": Row(
        ConvolutionalPoseMachine,
        {"variant": "original_bn", "stages": 2, "channels": 16, "codec": HeatmapCodec("center", stride=8, sigma=0.875)},
        {"loss": HeatmapCrossEntropy()},
    ),
    "deeppose": Row(DeepPose, {"backbone": "resnet10t", "input_size": (32, 32), "stages": 2}),
    "iterative_error_feedback": Row(IterativeErrorFeedback, {"backbone": "test_resnet"}),
    "efficient_object_localization": Row(
        EfficientObjectLocalization,
        {"backbone": "tompson7_bn", "channels": 24, "window": 3},
        {"codec": HeatmapCodec("center", stride=8, sigma=0.5), "loss": HeatmapCrossEntropy(0.5)},
    ),
    "alphapose": Row(
        AlphaPose, {"backbone": "test_resnet", "channels": (32, 16), "transformer": "test_resnet"}, LEARNING
    ),
    "adversarial_posenet": Row(
        AdversarialPoseNet,
        {"stacks": 2, "channels": 16, "critics": Critics(channels=8)},
        {"loss": HeatmapCrossEntropy(1.0), "occlusion_loss": HeatmapMSE("cells")},
    ),
}
HEATMAP_METHODS = {name: row for name, row in METHODS.items() if issubclass(row.method, HeatmapMethod)}
table = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
heatmap_table = pytest.mark.parametrize("row", HEATMAP_METHODS.values(), ids=HEATMAP_METHODS)


def fitted(module, people):
    """Give a method the statistics of the training set that its phases need."""
    people.setup("fit")
    if isinstance(module, PhasedMethod):
        module.eval()
        for number, phase in enumerate(module.phases):
            module.phase = number
            if phase.needs:
                with torch.no_grad():
                    module.fit_statistics(people.statistics_dataloader())
        module.train()
    return module


def each_phase(module):
    """Yield once for every phase of a method, which then is in it; once where it has none."""
    for number in range(len(module.phases) if isinstance(module, PhasedMethod) else 1):
        module.phase = number
        yield number


@pytest.fixture
def people():
    return SyntheticPeople(skeleton="lsp14", image_size=(96, 64), train_size=8, val_size=5, batch_size=4)


@pytest.fixture
def trainer(tmp_path):
    return L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@table
def test_fit_test_predict_save_and_load(row, people, trainer, tmp_path):
    module = row.published(people.skeleton)
    trainer.fit(module, people)
    [scores] = trainer.test(module, people, verbose=False)
    assert 0 <= scores["test/PCK@0.2"] <= 1
    predicted = Poses.cat(trainer.predict(module, people))
    assert predicted.keypoints.shape == (5, 14, 2)
    assert predicted.image_ids.tolist() == list(range(5))
    assert torch.isfinite(predicted.keypoints).all()

    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["skeleton"] == get_skeleton("lsp14").to_dict()
    loaded = row.method.load_from_checkpoint(path, weights_only=True)
    assert loaded.skeleton == get_skeleton("lsp14")
    again = Poses.cat(trainer.predict(loaded, people))
    torch.testing.assert_close(again.keypoints, predicted.keypoints)


@table
def test_training_starts_from_weights_of_other_keypoints(row, trainer, tmp_path, caplog):
    theirs = row.published("coco17")
    trainer.strategy.connect(theirs)
    first = tmp_path / "first.ckpt"
    trainer.save_checkpoint(first)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        mine = row.published("crowdpose14", weights=str(first))
    assert "from skeleton coco17 to crowdpose14" in caplog.text
    own = mine.network.state_dict()
    for key, value in theirs.network.state_dict().items():
        if own[key].shape == value.shape:
            assert torch.equal(own[key], value), key
    # The checkpoint of what began from another's weights needs that one's file no more.
    assert mine.hparams["weights"] is None
    trainer.strategy.connect(mine)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    first.unlink()
    loaded = row.method.load_from_checkpoint(tmp_path / "mine.ckpt", **row.arguments)
    assert loaded.skeleton == get_skeleton("crowdpose14")
    torch.testing.assert_close(loaded.state_dict(), mine.state_dict(), rtol=0, atol=0)


@table
def test_the_loss_falls_on_one_batch(row, people):
    torch.manual_seed(0)
    module = fitted(row.build(people.skeleton), people).train()
    batch = people.datasets["train"].__getitems__(range(4))
    for phase in each_phase(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        losses = []
        for _ in range(25):
            torch.manual_seed(1)  # some draw what they train on
            loss = sum(module.losses(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        # No less is possible than the entropy of Gaussian targets, about 4.2.
        assert losses[-1] < max(losses[0] - 0.4, 0.8 * losses[0]), phase


@table
def test_unlabelled_persons_cost_nothing(row, people):
    module = fitted(row.build(people.skeleton), people)
    batch = people.datasets["train"].__getitems__(range(2))
    batch["visibility"] = torch.zeros_like(batch["visibility"])
    for _ in each_phase(module):
        loss = sum(module.losses(batch).values())
        loss.backward()
        assert loss.item() == 0
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@table
def test_every_parameter_is_trained(row, people):
    """Parameters without a gradient break distributed training."""
    module = fitted(row.published(people.skeleton), people)
    batch = people.datasets["train"].__getitems__(range(2))
    for _ in each_phase(module):
        trained = module.current_phase.trains if isinstance(module, PhasedMethod) else ()
        module.zero_grad(set_to_none=True)
        sum(module.losses(batch).values()).backward()
        learns = [key for key, _ in module.named_parameters() if not trained or key.startswith(trained)]
        assert learns
        assert [key for key in learns if module.get_parameter(key).grad is None] == []


@table
def test_the_exported_program_says_the_same(row, people):
    module = fitted(row.build(people.skeleton), people).eval()
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = module(images)
        program = torch.export.export(module, (images,))
        exported = program.module()(images)
    for ours, theirs in zip(expected, exported, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@table
def test_mixed_precision_and_channels_last(row, people, tmp_path):
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", precision="bf16-mixed", max_steps=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module = row.published(people.skeleton, channels_last=True)
    trainer.fit(module, people)
    assert next(p for p in module.network.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    poses = module.estimate(next(iter(people.val_dataloader())))
    assert poses.keypoints.dtype == torch.float32


@heatmap_table
def test_flip_test_is_symmetric(row, people):
    """A mirrored picture gives the mirrored pose; without the flip test it does not."""
    torch.manual_seed(1)
    module = row.build(people.skeleton).eval()
    batch = {"image": torch.randint(0, 256, (3, 3, 96, 64), dtype=torch.uint8)}
    with torch.no_grad():
        # The first values give flat maps; these give one clear peak each.
        spread = module._maps(batch["image"]).std(dim=(0, 2, 3))
        head = [layer for layer in module.network.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        head.weight[: len(spread)].mul_((2 / spread)[:, None, None, None])
    mirrored = {"image": batch["image"].flip(-1)}
    with torch.no_grad():
        pose, mirror = module.estimate(batch).keypoints, module.estimate(mirrored).keypoints
    back = mirror[:, people.skeleton.flip_permutation].clone()
    back[..., 0] = 63 - back[..., 0]
    torch.testing.assert_close(back, pose, rtol=0, atol=0.01)
    module.flip_test = False
    with torch.no_grad():
        assert not torch.allclose(module.estimate(batch).keypoints, pose, atol=1.0)


def test_sizes_that_the_network_cannot_halve_are_named(people):
    from lightning_pose_zoo.errors import DatasetError

    module = SimpleBaseline(skeleton=people.skeleton, backbone="resnet18")
    with pytest.raises(DatasetError, match="multiples of 32"):
        module(torch.zeros(1, 3, 100, 64, dtype=torch.uint8))


def test_codec_and_network_must_have_the_same_stride():
    with pytest.raises(ValueError, match="set the codec's stride to 8"):
        SimpleBaseline(backbone="resnet18", deconv_channels=(16, 16))


def test_weights_in_blue_green_red_order_see_the_same_picture():
    from lightning_pose_zoo.methods.normalization import Normalization

    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    rgb, bgr = Normalization()(images), Normalization(channel_order="bgr")(images)
    expected = (images[:, [2, 1, 0]].float() / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    torch.testing.assert_close(bgr, expected)
    assert not torch.allclose(rgb, bgr)
    floating = torch.rand(1, 3, 8, 8)
    assert Normalization()(floating) is floating


def test_a_checkpoint_is_not_misread(tmp_path):
    """Weights that were trained with one codec must not be read with another."""
    from lightning_pose_zoo.errors import CheckpointError

    small = {"backbone": "resnet18", "deconv_channels": (8, 8, 8)}
    module = SimpleBaseline(skeleton="lsp14", codec=HeatmapCodec("center"), **small)
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, barebones=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"codec: trained with HeatmapCodec\(convention=center"):
        SimpleBaseline.load_from_checkpoint(tmp_path / "model.ckpt")
    loaded = SimpleBaseline.load_from_checkpoint(tmp_path / "model.ckpt", codec=HeatmapCodec("center"))
    assert loaded.codec.convention == "center"
    assert loaded.skeleton == get_skeleton("lsp14")


def test_each_data_set_is_scored_by_its_own_metrics(people, trainer):
    """A method that was trained on one data set and is tested on another must not keep the first one's protocol."""

    class Others(SyntheticPeople):
        def metrics(self):
            return [EPE(self.skeleton)]

    module = SimpleBaseline(skeleton=people.skeleton, backbone="resnet18", deconv_channels=(8, 8, 8))
    trainer.fit(module, people)
    assert "val/PCK@0.2" in trainer.callback_metrics
    others = Others(skeleton="lsp14", image_size=(96, 64), val_size=3, batch_size=2)
    [scores] = trainer.test(module, others, verbose=False)
    assert "test/EPE" in scores
    assert "test/PCK@0.2" not in scores


def test_whole_pictures_are_refused_by_a_method_for_crops(trainer):
    from lightning_pose_zoo.errors import SettingsError

    pictures = SyntheticPeople(
        skeleton="lsp14", image_size=(64, 64), train_size=4, val_size=2, batch_size=2, samples="pictures"
    )
    module = SimpleBaseline(skeleton="lsp14", backbone="resnet18", deconv_channels=(8, 8, 8))
    with pytest.raises(SettingsError, match=r"takes persons, but the data's samples are pictures; set --data\.samples"):
        trainer.validate(module, pictures)
