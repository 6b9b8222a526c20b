"""Every method goes through the same mill: fit, test, predict, save, load, export, and a loss that falls."""

from __future__ import annotations

import logging

import lightning as L
import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import ConvolutionalPoseMachine, HRNet, SimpleBaseline, StackedHourglass
from lightning_pose_zoo.metrics import EPE
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

# A name, the class, and arguments that make it small.
METHODS = [
    ("simple_baseline", SimpleBaseline, {"backbone": "resnet18", "deconv_channels": (32, 32, 32)}),
    ("hrnet", HRNet, {"variant": "w18"}),
    ("stacked_hourglass", StackedHourglass, {"stacks": 2, "channels": 32}),
    (
        "convolutional_pose_machine",
        ConvolutionalPoseMachine,
        {"variant": "original_bn", "stages": 2, "channels": 16, "codec": HeatmapCodec("center", stride=8, sigma=0.875)},
    ),
]
table = pytest.mark.parametrize(("name", "method", "arguments"), METHODS, ids=[row[0] for row in METHODS])


def learning(arguments):
    return {"codec": HeatmapCodec("center"), "loss": HeatmapCrossEntropy(), **arguments}


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
def test_fit_test_predict_save_and_load(name, method, arguments, people, trainer, tmp_path):
    module = method(skeleton=people.skeleton, **arguments)
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
    loaded = method.load_from_checkpoint(path, weights_only=True)
    assert loaded.skeleton == get_skeleton("lsp14")
    again = Poses.cat(trainer.predict(loaded, people))
    torch.testing.assert_close(again.keypoints, predicted.keypoints)


@table
def test_training_starts_from_weights_of_other_keypoints(name, method, arguments, trainer, tmp_path, caplog):
    theirs = method(skeleton="coco17", **arguments)
    trainer.strategy.connect(theirs)
    first = tmp_path / "first.ckpt"
    trainer.save_checkpoint(first)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        mine = method(skeleton="crowdpose14", weights=str(first), **arguments)
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
    loaded = method.load_from_checkpoint(tmp_path / "mine.ckpt", **arguments)
    assert loaded.skeleton == get_skeleton("crowdpose14")
    torch.testing.assert_close(loaded.state_dict(), mine.state_dict(), rtol=0, atol=0)


@table
def test_the_loss_falls_on_one_batch(name, method, arguments, people):
    torch.manual_seed(0)
    people.setup("fit")
    batch = people.datasets["train"].__getitems__(range(4))
    module = method(skeleton=people.skeleton, **learning(arguments)).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        loss = sum(module.losses(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # No less is possible than the entropy of the Gaussian targets, about 4.2.
    assert losses[-1] < losses[0] - 0.4


@table
def test_unlabelled_persons_cost_nothing(name, method, arguments, people):
    people.setup("fit")
    batch = people.datasets["train"].__getitems__(range(2))
    batch["visibility"] = torch.zeros_like(batch["visibility"])
    module = method(skeleton=people.skeleton, **learning(arguments))
    loss = sum(module.losses(batch).values())
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@table
def test_every_parameter_is_trained(name, method, arguments, people):
    """Parameters without a gradient break distributed training."""
    people.setup("fit")
    module = method(skeleton=people.skeleton, **arguments)
    sum(module.losses(people.datasets["train"].__getitems__(range(2))).values()).backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []


@table
def test_the_exported_program_says_the_same(name, method, arguments, people):
    module = method(skeleton=people.skeleton, **learning(arguments)).eval()
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = module(images)
        program = torch.export.export(module, (images,))
        exported = program.module()(images)
    for ours, theirs in zip(expected, exported, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@table
def test_mixed_precision_and_channels_last(name, method, arguments, people, tmp_path):
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", precision="bf16-mixed", max_steps=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module = method(skeleton=people.skeleton, channels_last=True, **arguments)
    trainer.fit(module, people)
    assert next(p for p in module.network.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    poses = module.estimate(next(iter(people.val_dataloader())))
    assert poses.keypoints.dtype == torch.float32


@table
def test_flip_test_is_symmetric(name, method, arguments, people):
    """A mirrored picture gives the mirrored pose; without the flip test it does not."""
    torch.manual_seed(1)
    module = method(skeleton=people.skeleton, **learning(arguments)).eval()
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
