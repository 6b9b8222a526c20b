"""A checkpoint alone is enough to build its method; what recipes and flags say counts more, and is told."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch

from lightning_pose_zoo.checkpoint_settings import checkpoint_differences, checkpoint_settings, trusted_class
from lightning_pose_zoo.checkpoints import write_checkpoint
from lightning_pose_zoo.cli import build_cli, main
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.losses import HeatmapMSE

DATA = [
    "--data=SyntheticPeople", "--data.skeleton=lsp14", "--data.image_size=[64,64]", "--data.train_size=8",
    "--data.val_size=2", "--data.batch_size=4",
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1",
]  # fmt: skip
MODEL = [
    "--model=SimpleBaseline", "--model.backbone=resnet18", "--model.deconv_channels=[16,16,16]",
    "--model.pretrained=false", "--model.flip_test=false", "--model.loss=HeatmapCrossEntropy",
    "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01",
]  # fmt: skip
CALLBACKS = "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_last: true, filename: one}}]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    main(["fit", *MODEL, *DATA, CALLBACKS, f"--trainer.default_root_dir={folder}", "--trainer.max_epochs=1"])
    return folder / "checkpoints" / "last.ckpt"


def told(caplog):
    return [message.removeprefix("model.") for message in caplog.messages if message.startswith("model.")]


def test_a_checkpoint_alone_is_enough(tmp_path, trained, caplog):
    cli = build_cli(["validate", *DATA, f"--ckpt_path={trained}", f"--trainer.default_root_dir={tmp_path}"])
    assert type(cli.model).__name__ == "SimpleBaseline"
    assert cli.model.flip_test is False
    assert type(cli.model.loss).__name__ == "HeatmapCrossEntropy"
    assert "val/PCK@0.2" in cli.trainer.callback_metrics
    assert told(caplog) == []


def test_flags_and_recipes_win_and_the_difference_is_told(tmp_path, trained, caplog):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model:\n  class_path: SimpleBaseline\n  init_args: {channels_last: true}\n")
    place = f"--trainer.default_root_dir={tmp_path}"
    words = ["validate", "--config", str(recipe), *DATA, place, "--model.flip_test=true", "--ckpt_path", str(trained)]
    cli = build_cli(words)
    assert cli.model.flip_test is True
    assert cli.model.channels_last is True
    assert type(cli.model.loss).__name__ == "HeatmapCrossEntropy"
    assert told(caplog) == [
        "channels_last: False in the checkpoint, True is used",
        "flip_test: False in the checkpoint, True is used",
    ]


def test_another_method_is_refused(tmp_path, trained, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["validate", "--model=HRNet", *DATA, f"--ckpt_path={trained}", f"--trainer.default_root_dir={tmp_path}"])
    assert stopped.value.code == 1
    assert "the checkpoint is one of SimpleBaseline, but the recipe or --model says HRNet" in capsys.readouterr().err


def test_resuming_goes_on_with_log_and_optimizer(trained, caplog):
    folder = trained.parent.parent
    before = list(csv.DictReader((folder / "metrics.csv").open()))
    place = f"--trainer.default_root_dir={folder}"
    words = ["fit", *MODEL, *DATA, place, "--trainer.max_epochs=2", f"--ckpt_path={trained}"]
    cli = build_cli([*words, "--model.optimizer.lr=0.5", "--trainer.enable_checkpointing=false"])
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    [line] = [line for line in told(caplog) if "optimizer.lr" in line]
    assert "0.01 in the checkpoint goes on" in line
    assert "0.5 has no effect" in line
    after = list(csv.DictReader((folder / "metrics.csv").open()))
    assert after[: len(before)] == before
    assert [row["step"] for row in after if row["train/loss"]] == ["0", "1", "2", "3"]


def test_a_damaged_checkpoint_is_named(tmp_path, trained, capsys):
    path = tmp_path / "last.ckpt"
    content = trained.read_bytes()
    path.write_bytes(content[:100_000] + b"?" + content[100_001:])
    with pytest.raises(SystemExit) as stopped:
        main(["validate", *MODEL, *DATA, f"--ckpt_path={path}", f"--trainer.default_root_dir={tmp_path}"])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert f"CheckpointError: '{path}' is damaged: its SHA-256" in message


def test_no_class_of_a_file_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "evil.ckpt"
    arguments = {"_class_path": "evil_module.Net", "_instantiator": "evil_module.run"}
    write_checkpoint({"method": "evil_module.Net", "hyper_parameters": arguments, "state_dict": {}}, path)
    assert checkpoint_settings(path) is None
    with pytest.raises(SystemExit):
        main(["validate", *DATA, f"--ckpt_path={path}"])
    assert "evil_module" not in sys.modules
    # Also where the method is one of ours: only its arguments are taken.
    write_checkpoint({"method": "HRNet", "hyper_parameters": {**arguments, "variant": "w18"}, "state_dict": {}}, path)
    assert checkpoint_settings(path) == {"class_path": "HRNet", "init_args": {"variant": "w18"}}
    # And where a setting of ours names a class of somebody else, at any depth.
    harmless = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    ours = {"class_path": "lightning_pose_zoo.losses.HeatmapMSE", "init_args": {}}
    evil = {"class_path": "evil_module.Net", "init_args": {}}
    given = {"codec": evil, "lr_scheduler": {**harmless, "init_args": {"inner": [evil]}}, "optimizer": harmless}
    write_checkpoint({"method": "HRNet", "hyper_parameters": {**given, "loss": ours}, "state_dict": {}}, path)
    assert checkpoint_settings(path) == {"class_path": "HRNet", "init_args": {"optimizer": harmless, "loss": ours}}
    with pytest.raises(KeyError, match="lightning_version"):  # built without it, and then Lightning reads the file
        main(["validate", *DATA, f"--ckpt_path={path}", f"--trainer.default_root_dir={tmp_path}"])
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "path",
    ["os.system", "lightning_pose_zoo.losses.torch.hub", "torch.optim.lr_scheduler.LambdaLR.step", "torch.nn.Module",
     "lightning_pose_zoo.pose_cli.PoseCLI", "lightning_pose_zoo.losses.nn.Module", "HeatmapMSE", ""],
)  # fmt: skip
def test_classes_that_are_not_trusted(path):
    assert trusted_class(path) is None


def test_classes_that_are_trusted():
    assert trusted_class("lightning_pose_zoo.losses.HeatmapMSE") is HeatmapMSE
    assert trusted_class("torch.optim.lr_scheduler.OneCycleLR") is torch.optim.lr_scheduler.OneCycleLR


def test_a_file_that_is_no_checkpoint_of_ours_says_nothing(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    assert checkpoint_settings(tmp_path / "list.pt") is None


def test_differences():
    settings = {
        "class_path": "HRNet",
        "init_args": {"a": [1, 2], "b": {"class_path": "x.B", "init_args": {"c": 1}}, "d": None},
    }
    same = json.loads(json.dumps(settings["init_args"]))
    assert checkpoint_differences(settings, "pose.HRNet", same | {"a": (1, 2), "new": 3}, resuming=False) == []
    other = {"a": [1, 3], "b": {"class_path": "y.C", "init_args": {"c": 2}}, "d": "e"}
    assert checkpoint_differences(settings, "HRNet", other, resuming=True) == [
        "a: [1, 2] in the checkpoint, [1, 3] is used",
        "b: B in the checkpoint, C is used",
        "b.c: 1 in the checkpoint, 2 is used",
        "d: nothing in the checkpoint, e is used",
    ]
    with pytest.raises(CheckpointError, match="one of HRNet"):
        checkpoint_differences(settings, "pose.SimpleBaseline", same, resuming=False)
