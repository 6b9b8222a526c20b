"""Public checkpoints through ``load_weights``: the same outputs, or one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import AlphaPose, HRNet, SimpleBaseline
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass
from lightning_pose_zoo.weights import load_weights

CPM = {"variant": "mmpose", "center_map": False, "codec": HeatmapCodec("msra", stride=8)}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
# A reference, its method, how its files wrap names, the entries that fit, and the pixels that its weights expect.
SOURCES = [
    ("official_hrnet_w32_coco", lambda: HRNet("coco17"), "", 1754, 0, (*IMAGENET, "rgb")),
    ("mmpose_hrnet_w32_coco", lambda: HRNet("coco17"), "", 1754, 0, (*IMAGENET, "rgb")),
    ("official_simple_baseline_r50_coco", lambda: SimpleBaseline("coco17"), "module.", 338, 0, (*IMAGENET, "bgr")),
    (
        "bearpaw_hourglass_s2",
        lambda: StackedHourglass("mpii16", stacks=2, stem="bearpaw"),
        "module.",
        684,
        0,
        ([0.4404, 0.4440, 0.4327], [1, 1, 1], "rgb"),
    ),
    (
        "princeton_hourglass_s2",
        lambda: StackedHourglass("mpii16", stacks=2, stem="princeton"),
        "model.module.",
        684,
        58,
        ([0, 0, 0], [1, 1, 1], "rgb"),
    ),
    (
        "alphapose_fastpose_r50_coco",
        lambda: AlphaPose("coco17", transformer=None),
        "",
        348,
        0,
        ([0.406, 0.457, 0.480], [1, 1, 1], "rgb"),
    ),
    ("mmpose_cpm_mpii", lambda: ConvolutionalPoseMachine("mpii16", **CPM), "", 216, 0, (*IMAGENET, "rgb")),
]


@pytest.mark.parametrize(
    ("name", "build", "wrapper", "kept", "dropped", "pixels"), SOURCES, ids=[s[0] for s in SOURCES]
)
def test_public_weights_give_public_outputs(reference, name, build, wrapper, kept, dropped, pixels):
    public = reference(name)
    method = build().eval()
    report = load_weights(method, {"epoch": 3, "state_dict": {wrapper + k: v for k, v in public.state.items()}})
    assert (len(report.kept), len(report.new), len(report.dropped)) == (kept, 0, dropped)
    assert report.keypoints is None
    with torch.no_grad():
        output = method.network(public.images).numpy()
    expected = public.outputs[0] if len(public.outputs) == 1 else np.stack(public.outputs, axis=1)
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-4 * expected.std()
    norm = method.normalization
    assert norm.mean.flatten().tolist() == pytest.approx(pixels[0])
    assert norm.std.flatten().tolist() == pytest.approx(pixels[1])
    assert norm.channel_order == pixels[2]
    # What the weights expect is said exactly where it was another.
    assert any("normalization" in line for line in report.advice) == (repr(norm) != repr(build().normalization))


def small_baseline(skeleton="coco17", **arguments):
    return SimpleBaseline(skeleton, "resnet18", deconv_channels=(8, 8, 8), **arguments)


def as_mmpose(network, head="head"):
    heads = ("deconv_layers.", "final_layer.")
    return {f"{head}.{k}" if k.startswith(heads) else k: v.clone() for k, v in network.state_dict().items()}


@pytest.mark.parametrize("head", ["head", "keypoint_head"])
def test_mmpose_resnet_of_both_versions(head):
    method, other = small_baseline(normalization=Normalization(channel_order="bgr")), small_baseline()
    report = load_weights(method, as_mmpose(other.network, head))
    assert report.source == "mmpose ResNet with transposed convolutions"
    assert method.normalization.channel_order == "rgb"
    torch.testing.assert_close(method.state_dict(), other.state_dict())


@pytest.mark.parametrize("wrap", ["", "backbone.", "module.backbone.", "module._orig_mod."])
def test_a_backbone_alone(wrap):
    whole = timm.create_model("resnet18")
    method = small_baseline()
    head = method.network.final_layer.weight.clone()
    report = load_weights(method, {wrap + key: value for key, value in whole.state_dict().items()})
    assert len(report.dropped) == 2
    assert {key.split(".")[0] for key in report.new} == {"deconv_layers", "final_layer"}
    for key, value in method.network.backbone.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key])
    assert torch.equal(method.network.final_layer.weight, head)


def test_backbones_of_other_families_and_a_shorter_one():
    for name, stride in [("convnext_atto", 32), ("mobilenetv3_small_050", 16), ("resnet18", 16)]:
        whole = timm.create_model(name)
        method = SimpleBaseline("coco17", name, deconv_channels=(8,) * 3, backbone_stride=stride,
                                codec=HeatmapCodec("msra", stride=stride // 8))  # fmt: skip
        load_weights(method, whole.state_dict())
        ours, images = method.network.backbone.eval(), torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = whole.eval().forward_intermediates(images, intermediates_only=True)
            [features] = ours(images)
        match = next(maps for maps in reversed(expected) if maps.shape == features.shape)
        torch.testing.assert_close(features, match)


def test_hrnet_classifier_gives_its_trunk():
    whole = timm.create_model("hrnet_w18_small")
    method = HRNet("coco17", "w18_small")
    report = load_weights(method, whole.state_dict())
    assert set(report.new) == {"final_layer.weight", "final_layer.bias"}
    stage = "stage4.0.branches.0.0.conv1.weight"
    assert torch.equal(method.network.backbone.state_dict()[stage], whole.state_dict()[stage])


def test_advice_on_codec_and_loss():
    method = small_baseline(codec=HeatmapCodec("center"))
    [advice] = load_weights(method, as_mmpose(small_baseline().network)).advice
    assert "'msra'" in advice
    assert "'center'" in advice


@pytest.mark.parametrize("change", ["another variant", "another method", "missing", "extra", "nan", "deeper"])
def test_misfits_name_the_source_and_the_entries(tmp_path, change):
    method = small_baseline()
    state = as_mmpose(small_baseline().network)
    if change == "another variant":
        state = as_mmpose(SimpleBaseline("coco17", "resnet34", deconv_channels=(8, 8, 8)).network)
        expected = r"layer1\.2\.conv1\.weight: in the file, but not(.|\n)*SimpleBaseline\(.*backbone='resnet34'"
    elif change == "another method":
        state = {f"network.{k}": v for k, v in HRNet("lsp14", "w18_small").network.state_dict().items()}
        expected = r"lightning_pose_zoo; \d+ of \d+ entries(.|\n)*not in the file(.|\n)*HRNet\(.*variant='w18_small'\)"
    elif change == "missing":
        del state["backbone.layer2.0.bn1.weight"]
        expected = r"1 problem\n  - backbone\.layer2\.0\.bn1\.weight: not in the file"
    elif change == "extra":
        state["backbone.layer2.9.weight"] = torch.ones(2)
        expected = r"1 problem\n  - backbone\.layer2\.9\.weight: in the file"
    elif change == "nan":
        state["backbone.bn1.running_mean"][3] = torch.nan
        expected = r"1 problem\n  - backbone\.bn1\.running_mean: has values that are not finite"
    else:
        state = timm.create_model("resnet34").state_dict()
        expected = r"backbone of timm(.|\n)*layer1\.2\.conv1\.weight: in the file"
    path = tmp_path / "file.pth"
    torch.save(state, path)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"file\.pth (.|\n)*" + expected):
        load_weights(method, path)
    torch.testing.assert_close(method.state_dict(), before)


def test_files_of_networks_that_are_not_here(reference):
    with pytest.raises(CheckpointError, match="OpenPose"):
        load_weights(small_baseline(), reference("pytorch_openpose_body").state)
    with pytest.raises(CheckpointError, match="no known source, and none of its 2 entries"):
        load_weights(small_baseline(), nn.Linear(2, 2).state_dict())


def test_a_plain_network_needs_no_method(tmp_path):
    network, other = small_baseline().network, small_baseline().network
    path = tmp_path / "network.pth"
    torch.save(torch.compile(other).state_dict(), path)
    assert not load_weights(network, path).new
    torch.testing.assert_close(network.state_dict(), other.state_dict())


def test_own_checkpoints_bring_their_normalization_and_say_what_differs(tmp_path):
    codec = HeatmapCodec("udp")
    theirs = small_baseline("lsp14", codec=codec, normalization=Normalization((0.1, 0.2, 0.3), (1.0, 1e-5, 1.0), "bgr"))
    checkpoint = {
        "state_dict": theirs.state_dict(),
        "hyper_parameters": dict(theirs.hparams),
    }
    theirs.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    mine = small_baseline("lsp14")
    report = load_weights(mine, tmp_path / "own.ckpt")
    assert report.source == "lightning_pose_zoo"
    assert repr(mine.normalization) == repr(theirs.normalization)
    assert any(
        line.startswith("codec: these weights were trained with HeatmapCodec(convention=udp") for line in report.advice
    )
    torch.testing.assert_close(mine.network.state_dict(), theirs.network.state_dict())
