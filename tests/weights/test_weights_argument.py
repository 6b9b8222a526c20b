"""The argument ``weights``: a training starts from another's checkpoint, and its own checkpoint stands alone.

That every method takes it is one of the tests in ``test_methods.py``.
"""

from __future__ import annotations

import logging

import lightning as L
import pytest
import timm
import torch

from lightning_pose_zoo.cli import build_cli, main
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import HRNet, SimpleBaseline
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

SMALL = {"backbone": "resnet18", "deconv_channels": (8, 8, 8)}
# Neither is any method's own, and 0.1 and 1/3 are no short numbers in single precision.
PIXELS = {"mean": (0.1, 1 / 3, 0.5), "std": (0.2, 1e-5, 128 / 255), "channel_order": "bgr"}
WORDS = [
    "--model=SimpleBaseline", "--model.backbone=resnet18", "--model.deconv_channels=[8,8,8]",
    "--data=SyntheticPeople", "--data.image_size=[64,64]", "--data.train_size=8", "--data.val_size=4",
    "--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.max_epochs=1",
]  # fmt: skip
PARTS = [
    "--model.codec=HeatmapCodec", "--model.codec.convention=center", "--model.loss=HeatmapCrossEntropy",
    "--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=0.001",
]  # fmt: skip


def save(method, path):
    """Write a checkpoint as the trainer does."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def small(skeleton="coco17", **arguments):
    return SimpleBaseline(skeleton, **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("method", "arguments"),
    [(SimpleBaseline, SMALL), (HRNet, {"variant": "w18_small"})],
    ids=["SimpleBaseline", "HRNet"],
)
def test_nothing_is_downloaded_where_weights_are_given(tmp_path, monkeypatch, method, arguments):
    path = save(method("coco17", **arguments), tmp_path / "first.ckpt")
    asked, create = [], timm.create_model
    monkeypatch.setattr(
        timm, "create_model",
        lambda *args, pretrained=False, **kwargs: asked.append(pretrained) or create(*args, **kwargs),
    )  # fmt: skip
    method("coco17", pretrained=True, weights=str(path), **arguments)
    assert not any(asked)
    method("coco17", pretrained=True, **arguments)
    assert any(asked)


def test_what_weights_expect_of_pixels_goes_on_into_the_next_checkpoint(tmp_path, caplog):
    first = save(small(normalization=Normalization(**PIXELS)), tmp_path / "first.ckpt")
    mine = small("lsp14", weights=str(first))
    # Numbers that six digits cannot write, as they could come from any other file.
    mine.normalization = Normalization(**PIXELS)
    path = save(mine, tmp_path / "mine.ckpt")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        loaded = SimpleBaseline.load_from_checkpoint(path)
    assert "normalization: set to" in caplog.text
    assert torch.equal(loaded.normalization.mean, mine.normalization.mean)
    assert torch.equal(loaded.normalization.std, mine.normalization.std)
    assert loaded.normalization.channel_order == "bgr"
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for ours, theirs in zip(loaded.eval()(images), mine.eval()(images), strict=True):
        assert torch.equal(ours, theirs)

    # Checkpoints of before have no such entry: their weights are not read with other pixels.
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["normalization"]
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match="normalization: trained with"):
        SimpleBaseline.load_from_checkpoint(path)


def test_the_command_line_starts_from_a_checkpoint_of_another_skeleton(tmp_path, caplog, capsys):
    first = save(small(normalization=Normalization(channel_order="bgr")), tmp_path / "first.ckpt")
    root, lsp = f"--trainer.default_root_dir={tmp_path}", "--data.skeleton=lsp14"
    callbacks = "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_last: true}}]"
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        main(["fit", *WORDS, *PARTS, lsp, root, callbacks, f"--model.weights={first}"])
    assert "from skeleton coco17 to lsp14" in caplog.text
    assert "left_wrist" in caplog.text
    first.unlink()

    last = tmp_path / "checkpoints" / "last.ckpt"
    trained = torch.load(last, weights_only=True)
    assert trained["hyper_parameters"]["weights"] is None
    loaded = SimpleBaseline.load_from_checkpoint(last)
    assert loaded.normalization.channel_order == "bgr"
    assert loaded.codec.convention == "center"
    assert str(first) not in capsys.readouterr().err

    caplog.clear()
    cli = build_cli(["validate", *WORDS, lsp, root, f"--ckpt_path={last}"])
    assert cli.model.normalization.channel_order == "bgr"
    torch.testing.assert_close(cli.model.state_dict(), trained["state_dict"], rtol=0, atol=0)
    assert "val/PCK@0.2" in cli.trainer.callback_metrics


ONE_LESS = Skeleton.from_names("one_less", get_skeleton("lsp14").names[:-1])
TURNED = Skeleton.from_names("turned", get_skeleton("lsp14").names[::-1])


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("coco17", r"17 keypoints of 'coco17' \(nose, left_eye.*14 keypoints of 'lsp14' \(neck, head_top among them\)"),
        (ONE_LESS, "13 keypoints of 'one_less', but .*14 keypoints of 'lsp14'"),
        (TURNED, r"keypoints of 'turned' \(in this order: .*, but .* \(in this order: "),
    ],
    ids=["another", "fewer", "another order"],
)
def test_a_checkpoint_of_other_keypoints_is_refused_as_a_whole(tmp_path, theirs, expected):
    path = save(small(theirs), tmp_path / "first.ckpt")
    with pytest.raises(CheckpointError, match=f"{expected}.*--model.weights"):
        SimpleBaseline.load_from_checkpoint(path, skeleton="lsp14")
    people = SyntheticPeople(skeleton="lsp14", image_size=(64, 64), train_size=4, val_size=2, batch_size=2)
    method = small("lsp14")
    before = {key: value.clone() for key, value in method.state_dict().items()}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                        enable_checkpointing=False, max_epochs=1)  # fmt: skip
    for run in (trainer.fit, trainer.validate):
        with pytest.raises(CheckpointError, match=expected):
            run(method, people, ckpt_path=path, weights_only=True)
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)


def test_the_command_line_says_what_to_do_with_a_file_that_does_not_fit(tmp_path, capsys):
    first, lsp = save(small(), tmp_path / "first.ckpt"), "--data.skeleton=lsp14"
    cases = [
        ([f"--ckpt_path={first}"], "CheckpointError: the checkpoint of a SimpleBaseline", "--model.weights"),
        ([f"--model.weights={tmp_path}/gone.pth"], "CheckpointError:", "gone.pth does not exist"),
        ([f"--model.weights={first}", "--model.backbone=resnet34"], "CheckpointError:", "backbone='resnet18'"),
    ]
    for words, what, remedy in cases:
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *WORDS, lsp, f"--trainer.default_root_dir={tmp_path}", *words])
        error = capsys.readouterr().err
        assert stopped.value.code == 1
        assert what in error
        assert remedy in error
        assert "Traceback" not in error
