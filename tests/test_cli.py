"""The command line, in process; one subprocess test for the console script and what it imports."""

from __future__ import annotations

import csv
import json
import os
import platform
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from lightning_pose_zoo import __version__
from lightning_pose_zoo.cli import build_cli, main
from lightning_pose_zoo.methods import SimpleBaseline
from lightning_pose_zoo.precision import computes_bfloat16_slowly

SMALL = [
    "--model=SimpleBaseline", "--model.backbone=resnet18", "--model.deconv_channels=[16,16,16]",
    "--data=SyntheticPeople", "--data.skeleton=lsp14", "--data.image_size=[64,64]", "--data.train_size=8",
    "--data.val_size=4", "--data.batch_size=4",
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]  # fmt: skip
CHECKPOINTS = "{class_path: ModelCheckpoint, init_args: {save_last: true}}"


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from lightning_pose_zoo.cli import main; main(['--help']); main(['--version']);"
        "heavy = {'torch', 'lightning', 'numpy', 'cv2', 'jsonargparse'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "pose-zoo fit --config" in done.stdout
    assert f"pose-zoo {__version__}" in done.stdout


def test_fit_validate_test_and_predict(tmp_path, capsys):
    root = f"--trainer.default_root_dir={tmp_path}"
    callbacks = f"--trainer.callbacks=[{CHECKPOINTS}, DrawPredictions, WritePredictions]"
    main(["fit", *SMALL, root, callbacks, "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"])
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert last.exists()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert {"train/loss", "val/PCK@0.2", "val/PCK@0.2/left_wrist"} <= rows[0].keys()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    sheet = cv2.imread(str(tmp_path / "pictures" / "val_epoch_001.png"))
    assert sheet is not None
    assert sheet.std() > 10
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["class_path"].endswith("SimpleBaseline")
    assert "skeleton" not in config["model"]["init_args"]

    checkpoint = torch.load(last, weights_only=True)
    assert len(checkpoint["hyper_parameters"]["skeleton"]["names"]) == 14

    again = [*SMALL, root, f"--ckpt_path={last}"]
    main(["validate", *again])
    main(["test", *again])
    assert "test/PCK@0.2" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config

    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(photos / name), np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    main(["predict", *again, f"--data.predict_images={photos}", "--trainer.callbacks=[WritePredictions]"])
    results = json.loads((tmp_path / "predictions" / "keypoints.json").read_text())
    assert len(results) == 2
    assert all(len(entry["keypoints"]) == 14 * 3 for entry in results)
    drawn = sorted(path.name for path in (tmp_path / "predictions" / "pictures").iterdir())
    assert drawn == ["a.jpg", "b.jpg"]

    # A checkpoint is enough to leave results.
    elsewhere = tmp_path / "elsewhere"
    alone = [*SMALL[2:], f"--ckpt_path={last}", f"--trainer.default_root_dir={elsewhere}"]
    main(["predict", *alone, f"--data.predict_images={photos}"])
    assert json.loads((elsewhere / "predictions" / "keypoints.json").read_text()) == results


def test_the_saved_config_repeats_the_run(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    fit = ["--trainer.max_epochs=1", f"--trainer.callbacks=[{CHECKPOINTS}]"]
    main(["fit", *SMALL, *fit, f"--trainer.default_root_dir={first}"])
    main(["fit", f"--config={first / 'config.yaml'}", f"--trainer.default_root_dir={second}"])
    files = [root / "checkpoints" / "last.ckpt" for root in (first, second)]
    weights = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_flags_win_over_a_checkpoint(tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    main(["fit", *SMALL, root, "--trainer.max_steps=1", f"--trainer.callbacks=[{CHECKPOINTS}]"])
    last = tmp_path / "checkpoints" / "last.ckpt"
    cli = build_cli(["validate", *SMALL, root, f"--ckpt_path={last}", "--model.flip_test=false"])
    assert cli.model.flip_test is False


def test_a_recipe_gives_its_name_to_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "my_recipe.yaml"
    model = {"class_path": "HRNet", "init_args": {"variant": "w18_small"}}
    content = {"model": model, "data": {"class_path": "SyntheticPeople"}, "trainer": {"accelerator": "cpu"}}
    recipe.write_text(yaml.safe_dump(content))
    cli = build_cli(["--config", str(recipe)], run=False)
    assert cli.trainer.default_root_dir.endswith("runs/my_recipe")
    assert cli.model.skeleton.name == "coco17"


@pytest.mark.parametrize(
    ("capability", "flags", "precision"),
    [
        ("AVX2", [], "32-true"),
        ("AVX512", [], "bf16-mixed"),
        ("AVX2", ["--trainer.precision=bf16-mixed"], "bf16-mixed"),
        ("AVX2", ["--trainer.precision", "bf16-mixed"], "bf16-mixed"),
    ],
)
def test_bfloat16_of_a_recipe_is_float32_where_it_is_slow(tmp_path, monkeypatch, capability, flags, precision):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    recipe = tmp_path / "half.yaml"
    model = {"class_path": "HRNet", "init_args": {"variant": "w18_small"}}
    trainer = {"accelerator": "cpu", "precision": "bf16-mixed"}
    recipe.write_text(yaml.safe_dump({"model": model, "data": {"class_path": "SyntheticPeople"}, "trainer": trainer}))
    cli = build_cli(["--config", str(recipe), *flags], run=False)
    assert cli.trainer.precision == precision


def test_only_a_processor_is_slow_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert computes_bfloat16_slowly("cpu")
    assert not computes_bfloat16_slowly("gpu")
    assert not computes_bfloat16_slowly("auto")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert computes_bfloat16_slowly("auto")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not computes_bfloat16_slowly("cpu")


def test_transforms_by_class_path(tmp_path):
    blur = "{class_path: albumentations.GaussianBlur, init_args: {blur_limit: [3, 5], p: 1.0}}"
    arguments = [
        *SMALL,
        f"--trainer.default_root_dir={tmp_path}",
        "--data.augmentation=CropAugmentation",
        f"--data.augmentation.transforms=[{blur}]",
    ]
    cli = build_cli(arguments, run=False)
    cli.datamodule.setup("fit")
    crop = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert cli.datamodule.augmentation.recolor(crop, np.random.default_rng(0)).std() < crop.std() * 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.skeleton=coco71"], "Did you mean 'coco17'"),
        (["--data.people=[3, 1]"], "people is"),
        (["--data.image_size=[60, 64]"], "multiples of 32"),
        (["--model.codec=HeatmapCodec", "--model.codec.stride=8"], "set the codec's stride to 4"),
        (["--ckpt_path=lost.ckpt"], "'lost.ckpt' does not exist, or is no file"),
        (["--ckpt_path", "."], "'.' does not exist, or is no file"),
        (
            [
                "--model.lr_scheduler=OneCycleLR",
                "--model.lr_scheduler.max_lr=1",
                "--model.lr_scheduler.total_steps=3",
                "--trainer.max_steps=9",
            ],
            "the training has 9 steps, but OneCycleLR ends after 3",
        ),
    ],
)
def test_wrong_input_ends_in_one_clear_message(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, f"--trainer.default_root_dir={tmp_path}", *arguments])
    assert stop.value.code == 1
    # Only the last words are ours: log handlers of earlier tests may complain of their closed streams before.
    error = capsys.readouterr().err.rpartition("Error: ")[2]
    assert message in error
    assert "Traceback" not in error


def test_a_training_that_is_told_to_stop_does_not_end_as_one_that_is_done(tmp_path, monkeypatch):
    class Stop(Callback):
        def on_train_batch_end(self, *_):
            os.kill(os.getpid(), signal.SIGTERM)

    configure = SimpleBaseline.configure_callbacks
    monkeypatch.setattr(SimpleBaseline, "configure_callbacks", lambda self: [*configure(self), Stop()])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=2"])
    assert stop.value.code == 143
    signal.signal(signal.SIGTERM, before)


def test_wrong_options_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, f"--trainer.default_root_dir={tmp_path}", "--model.flip_tset=true"])
    assert stop.value.code == 2
    assert "flip_tset" in capsys.readouterr().err
