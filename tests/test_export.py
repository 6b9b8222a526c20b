"""Exported files say what the method says, whatever the batch, and describe themselves."""

from __future__ import annotations

import json

import pytest
import torch

from lightning_pose_zoo import __version__, export
from lightning_pose_zoo.cli import main
from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.export import DESCRIPTION, export_onnx, export_program, method_from_checkpoint
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import (
    AlphaPose,
    ConvolutionalPoseMachine,
    EfficientObjectLocalization,
    HRNet,
    SimpleBaseline,
    StackedHourglass,
)
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.skeletons import get_skeleton

SIZE = (64, 96)
SMALL = {"backbone": "resnet10t", "deconv_channels": (8, 8, 8)}

# Every method and every codec once.
METHODS = [
    (SimpleBaseline, SMALL, HeatmapCodec("udp")),
    (HRNet, {"variant": "w18_small", "channels_last": True, "paper_init": False}, HeatmapCodec("dark")),
    (StackedHourglass, {"stacks": 1, "channels": 8}, HeatmapCodec("msra")),
    (ConvolutionalPoseMachine, {"variant": "original_bn", "stages": 2, "channels": 8}, HeatmapCodec("center", 8, 1.0)),
    (
        EfficientObjectLocalization,
        {"backbone": "tompson7_bn", "channels": 4, "window": 3},
        HeatmapCodec("center", 8, 1.5),
    ),
    (
        AlphaPose,
        {"backbone": "test_resnet", "channels": (8, 8), "transformer": "test_resnet", "parallel": False},
        HeatmapCodec("msra"),
    ),
]
table = pytest.mark.parametrize(("method", "arguments", "codec"), METHODS, ids=[row[0].__name__ for row in METHODS])


def trained(method, steps=40, **arguments):
    """Return a method whose maps have peaks, and the crops that they are on."""
    torch.manual_seed(0)
    module = method(skeleton="lsp14", loss=HeatmapCrossEntropy(), **arguments).train()
    images = torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)
    batch = {
        "image": images.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3),
        "keypoints": 8 + torch.rand(3, 14, 2) * torch.tensor([80.0, 48.0]),
        "visibility": torch.full((3, 14), 2),
    }
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(module.losses(batch).values()).backward()
        optimizer.step()
    return module, batch["image"]


def run_onnx(path):
    ort = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(part) for part in session.run(None, {"images": images.numpy()})]


@pytest.fixture
def needs_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra 'export' is not installed")


def assert_same(run, method, images):
    for batch in (images[:1], images):
        with torch.no_grad():
            keypoints, scores = method(batch)
        found, found_scores = run(batch)
        torch.testing.assert_close(found, keypoints, rtol=0, atol=1e-4)
        torch.testing.assert_close(found_scores, scores, rtol=1e-5, atol=1e-5)


@table
def test_onnx_says_the_same(method, arguments, codec, tmp_path, needs_onnx):
    module, images = trained(method, codec=codec, **arguments)
    assert export_onnx(module, tmp_path / "model.onnx", SIZE) <= 1e-3
    assert module.training
    assert_same(run_onnx(tmp_path / "model.onnx"), module.eval(), images)


def test_programs_say_the_same(tmp_path):
    method, arguments, codec = METHODS[-1]
    module, images = trained(method, codec=codec, **arguments)
    assert export_program(module, tmp_path / "model.pt2", SIZE) <= 1e-3
    assert_same(torch.export.load(tmp_path / "model.pt2").module(), module.eval(), images)


FIT = [
    "fit", "--model=SimpleBaseline", "--model.backbone=resnet10t", "--model.deconv_channels=[8,8,8]",
    "--model.codec=HeatmapCodec", "--model.codec.convention=center", "--model.loss=HeatmapCrossEntropy",
    "--model.normalization=Normalization", "--model.normalization.channel_order=bgr",
    "--data=SyntheticPeople", "--data.skeleton=lsp14", "--data.image_size=[64,96]", "--data.train_size=4",
    "--data.val_size=2", "--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.devices=1",
    "--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--trainer.logger=false", "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_last: true}}]",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    main([*FIT, f"--trainer.default_root_dir={root}"])
    return root / "checkpoints" / "last.ckpt"


def changed(checkpoint, path, **values):
    torch.save(torch.load(checkpoint, weights_only=True) | values, path)
    return path


def test_a_checkpoint_alone_is_enough(checkpoint, tmp_path, capsys, needs_onnx):
    import onnxruntime

    # What the command line wrote, with weights that give clear peaks.
    parts = {"codec": HeatmapCodec("center"), "normalization": Normalization(channel_order="bgr")}
    method, images = trained(SimpleBaseline, **SMALL, **parts)
    files = tmp_path / "new" / "model.onnx", tmp_path / "new" / "model.pt2"
    path = changed(checkpoint, tmp_path / "run.ckpt", state_dict=method.state_dict(), image_size=list(SIZE))
    main(["export", "--ckpt_path", str(path), "--out", str(files[0])])
    main(["export", f"--ckpt_path={path}", "--format=program", f"--out={files[1]}", "--image_size", "64", "96"])
    printed = capsys.readouterr().out
    assert all(f"{file}: SimpleBaseline, 14 keypoints (lsp14), crops of 64x96" in printed for file in files)
    assert sorted((tmp_path / "new").iterdir()) == sorted(files)
    assert_same(run_onnx(files[0]), method.eval(), images)
    assert_same(torch.export.load(files[1]).module(), method, images)

    described = json.loads(onnxruntime.InferenceSession(files[0]).get_modelmeta().custom_metadata_map[DESCRIPTION])
    extra = {DESCRIPTION: ""}
    torch.export.load(files[1], extra_files=extra)
    assert json.loads(extra[DESCRIPTION]) == described
    assert described["skeleton"] == json.loads(json.dumps(get_skeleton("lsp14").to_dict()))
    assert described["normalization"]["channel_order"] == "bgr"
    assert described["normalization"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert (described["image_size"], described["version"]) == ([64, 96], __version__)
    assert described["parts"]["codec"] == "HeatmapCodec(convention=center, stride=4, sigma=2.0)"


def refused(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, words)])
    assert end.value.code == 1
    return capsys.readouterr().err


def test_what_cannot_be_exported_is_named(checkpoint, tmp_path, capsys):
    out = ["--format=program", "--out", tmp_path / "out" / "model.pt2"]
    assert "does not exist" in refused(capsys, "--ckpt_path", tmp_path / "none.ckpt", *out)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(checkpoint.read_bytes()[:-500])
    assert "is damaged" in refused(capsys, "--ckpt_path", broken, *out)
    unsized = changed(checkpoint, tmp_path / "unsized.ckpt", image_size=None)
    assert "give --image_size" in refused(capsys, "--ckpt_path", unsized, *out)
    text = refused(capsys, "--ckpt_path", checkpoint, *out, "--image_size", "100", "64")
    assert "sides are multiples of 32" in text
    for method in ("PoseModule", "Trainer", None):
        other = changed(checkpoint, tmp_path / "other.ckpt", method=method)
        assert "other.ckpt" in refused(capsys, "--ckpt_path", other, *out)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_cannot_name_other_code(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    for path in ("subprocess.Popen", "torch.nn.Linear", "lightning_pose_zoo.export.nn.Linear", "os",
                 "lightning_pose_zoo.codecs.heatmap.nn", "lightning_pose_zoo.files.write_atomically"):  # fmt: skip
        arguments = content["hyper_parameters"] | {"codec": {"class_path": path, "init_args": {}}}
        bad = changed(checkpoint, tmp_path / "bad.ckpt", hyper_parameters=arguments)
        text = refused(capsys, "--ckpt_path", bad, "--out", tmp_path / "model.onnx", "--image_size", "64", "64")
        assert f"class {path}," in text or f"No module named '{path.rpartition('.')[0]}'" in text
    arguments = content["hyper_parameters"] | {"_instantiator": "os.abort", "pretrained": True}
    kept, _ = method_from_checkpoint(changed(checkpoint, tmp_path / "kept.ckpt", hyper_parameters=arguments))
    assert kept.hparams["pretrained"] is False


def test_methods_made_in_python_with_other_parts_are_left_to_python(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    arguments = {key: value for key, value in content["hyper_parameters"].items() if key != "codec"}
    path = changed(checkpoint, tmp_path / "python.ckpt", hyper_parameters=arguments)
    text = refused(capsys, "--ckpt_path", path, "--out", tmp_path / "model.onnx", "--image_size", "64", "64")
    assert "codec: trained with HeatmapCodec(convention=center" in text
    assert "export_onnx" in text


def test_a_file_that_says_something_else_is_not_written(tmp_path, monkeypatch):
    module, _ = trained(SimpleBaseline, codec=HeatmapCodec("center"), **SMALL)
    path = tmp_path / "model.pt2"
    path.write_bytes(b"the file before")
    load = torch.export.load

    def off(file):
        program = load(file).module()

        class Off:
            def module(self):
                return lambda images: (program(images)[0] + 0.01, program(images)[1])

        return Off()

    monkeypatch.setattr(torch.export, "load", off)
    with pytest.raises(SettingsError, match=r"model.pt2' was not written: .* differs from the method by 0.014 pixels"):
        export_program(module, path, SIZE)
    assert path.read_bytes() == b"the file before"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"onnx, onnxscript, onnxruntime, not .*lightning-pose-zoo\[export\]"):
        export_onnx(SimpleBaseline("lsp14", **SMALL), tmp_path / "model.onnx", SIZE)
