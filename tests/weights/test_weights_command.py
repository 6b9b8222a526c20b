"""``pose-zoo weights``: what a file is, in words."""

from __future__ import annotations

import pytest
import timm
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import DeepCut, HRNet, OpenPose, SimpleBaseline
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass
from lightning_pose_zoo.weights.openpose import rename_v1
from lightning_pose_zoo.weights_command import identify, main


def written(path, method, named=None):
    state = {key.removeprefix("backbone."): value for key, value in method.network.state_dict().items()}
    torch.save(state if named is None else named(method), path)
    return str(path)


def own(method):
    checkpoint = {"state_dict": method.state_dict(), "hyper_parameters": dict(method.hparams)}
    method.on_save_checkpoint(checkpoint)
    return checkpoint


def test_an_official_file_names_method_pixels_and_recipes(tmp_path, capsys):
    main([written(tmp_path / "pose_resnet.pth", SimpleBaseline("coco17", "resnet50")), "--onto", "crowdpose14"])
    text = capsys.readouterr().out
    assert "pose_resnet.pth: Simple Baselines repository\n" in text
    assert "SimpleBaseline(skeleton='coco17', backbone='resnet50')" in text
    assert "17, coco17, assumed from their number" in text
    assert "all 338 entries" in text
    assert "bgr" in text
    recipes = [line.split()[-1] for line in text.splitlines() if ".yaml" in line]
    names = [recipe.rsplit("/")[-1] for recipe in recipes]
    assert names == ["simple_baseline_r50_coco_256x192.yaml", "simple_baseline_r50_coco_384x288.yaml"]
    rows = [line.split() for line in text.splitlines()]
    assert ["head_top", "-", "new"] in rows
    assert ["left_wrist", "left_wrist", "kept"] in rows
    assert ["-", "nose", "dropped"] in rows


METHODS = [
    lambda: HRNet("lsp14", "w18"),
    lambda: HRNet("lsp14", "w18_small"),
    lambda: HRNet("lsp14", "w18_small_v2"),
    lambda: SimpleBaseline("lsp14", "resnet34", deconv_channels=(32, 16), codec=HeatmapCodec("center", 8)),
    lambda: SimpleBaseline("lsp14", "mobilenetv3_small_050", deconv_channels=(8, 8), backbone_stride=16),
    lambda: StackedHourglass("lsp14", stacks=3, channels=16, blocks=2),
    lambda: StackedHourglass("lsp14", stacks=1, stem="bearpaw", channels=16),
    lambda: ConvolutionalPoseMachine("lsp14", "vgg_bn", stages=2, channels=8),
    lambda: ConvolutionalPoseMachine("lsp14", "original", stages=3, channels=8, center_map=False),
    lambda: OpenPose("lsp14", "v1_bn", stages=(2, 2), channels=8),
    lambda: OpenPose("lsp14", "v2", stages=(1, 2), channels=8, backbone="resnet18"),
    lambda: DeepCut("lsp14", "resnet18", intermediate_supervision=False),
]


@pytest.mark.parametrize("build", METHODS)
def test_own_checkpoints_name_the_call_that_builds_them(tmp_path, build):
    method = build()
    text = identify(written(tmp_path / "own.ckpt", method, own))
    call = next(line.split(maxsplit=1)[1] for line in text.splitlines() if line.strip().startswith("method"))
    again = eval(call, {type(method).__name__: lambda **arguments: arguments})
    assert again.pop("skeleton") == "lsp14"
    rebuilt = type(method)("lsp14", **again, codec=method.codec)
    shapes = {key: value.shape for key, value in method.network.state_dict().items()}
    assert {key: value.shape for key, value in rebuilt.network.state_dict().items()} == shapes
    assert "as the file says" in text
    assert f"fit        all {len(shapes)} entries" in text
    assert " ".join(repr(method.codec).split()) in text


def test_recipes_of_each_method(tmp_path):
    mmpose = ConvolutionalPoseMachine("mpii16", "mmpose", channels=8, center_map=False)
    original = ConvolutionalPoseMachine("mpii16", channels=8)
    hourglass = StackedHourglass("mpii16", stacks=2, channels=16)
    for method, recipe in ((mmpose, "cpm_mmpose_mpii"), (original, "cpm_mpii"), (hourglass, "hg_s2_mpii")):
        text = identify(written(tmp_path / "own.ckpt", method, own))
        [line] = [line for line in text.splitlines() if ".yaml" in line]
        assert f"/{recipe}_" in line


def test_backbones_foreign_and_unknown_files(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    assert "SimpleBaseline(backbone='resnet18')" in identify(str(path))
    torch.save({"backbone.patch_embed.proj.weight": torch.ones(2)}, path)
    assert "ViTPose; no method" in identify(str(path))
    torch.save({"some.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"file\.pth is of no known source; it has 1 entries \(some\.weight"):
        identify(str(path))


def test_a_damaged_network_is_told(tmp_path):
    method = SimpleBaseline("coco17", "resnet18", deconv_channels=(8, 8, 8))
    state = method.network.state_dict()
    del state["backbone.layer4.1.bn2.bias"]
    torch.save(state, tmp_path / "part.pth")
    assert "1 entries do not fit, such as backbone.layer4.1.bn2.bias: not in the file" in identify(
        str(tmp_path / "part.pth")
    )


def test_help_is_quick_and_wrong_words_end_with_two(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "--onto" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2


def test_arguments_out_of_a_file_fetch_nothing(tmp_path, monkeypatch):
    method = SimpleBaseline("coco17", "resnet18", deconv_channels=(8, 8, 8))
    checkpoint = own(method)
    checkpoint["hyper_parameters"]["backbone"] = "hf-hub:somebody/model"
    torch.save(checkpoint, tmp_path / "own.ckpt")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(CheckpointError, match="no known source"):
        identify(str(tmp_path / "own.ckpt"))


def test_the_released_openpose_and_what_of_it_another_skeleton_keeps(tmp_path):
    """By the names of its Caffe layers, without their values."""
    conv = [f"conv{block}_{n}" for block, count in ((1, 2), (2, 2), (3, 4), (4, 2)) for n in range(1, count + 1)]
    conv += ["conv4_3_CPM", "conv4_4_CPM", *(f"conv5_{n}_CPM_L{branch}" for branch in (1, 2) for n in range(1, 6))]
    conv += [f"Mconv{n}_stage{stage}_L{branch}" for branch in (1, 2) for stage in range(2, 7) for n in range(1, 8)]
    own = OpenPose("coco17", "v1").network.state_dict()
    names = {rename_v1(f"{name}.{part}"): f"{name}.{part}" for name in conv for part in ("weight", "bias")}
    torch.save({names[key]: value.half() for key, value in own.items()}, tmp_path / "body_pose_model.pth")
    text = identify(str(tmp_path / "body_pose_model.pth"), onto="crowdpose14")
    assert "body_pose_model.pth: OpenPose, first version\n" in text
    assert "OpenPose(skeleton='coco17', variant='v1')\n" in text
    assert "17, coco17, assumed from their number" in text
    assert "all 184 entries" in text
    assert "PartAffinityCodec('openpose', ...)" in text
    assert "openpose_v1_coco_368x368.yaml" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["left_shoulder-neck", "neck-left_shoulder", "kept,", "turned"] in rows
    assert ["head_top", "-", "new"] in rows
