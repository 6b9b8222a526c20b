"""Pose machines against the published counts, the public program's outputs, and the paper's receptive fields."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_pose_zoo.networks import ConvolutionalPoseMachineNetwork, center_maps
from lightning_pose_zoo.weights import mmpose_cpm

# Variant, stages, centre map, keypoints; parameters, multiply-adds at 368x368 in 1e9: derived from the released nets.
TABLE = [
    ("original", 6, True, 14, 31_219_866, 175.4),
    ("original", 1, True, 14, 4_386_095, 64.0),
    ("original", 2, True, 14, 4_386_095 + 2_685_696 + 4_829_615, 64.0 + 60.4 + 10.2),
    ("vgg", 6, True, 14, 29_852_058, None),
    ("mmpose", 6, False, 16, 31_225_568, None),
]


@pytest.mark.parametrize(("variant", "stages", "center_map", "keypoints", "parameters", "gmacs"), TABLE)
def test_parameters_and_macs(variant, stages, center_map, keypoints, parameters, gmacs):
    with torch.device("meta"):
        network = ConvolutionalPoseMachineNetwork(keypoints, variant, stages, center_map=center_map).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        maps = network(torch.empty(1, 3, 368, 368, device="meta"))
    assert maps.shape == (1, stages, keypoints + (variant != "mmpose"), 46, 46)
    if gmacs is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


def test_public_weights_give_public_outputs(test_data):
    folder = test_data / "oracles" / "networks"
    spec = importlib.util.spec_from_file_location("deterministic_weights", folder / "deterministic_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    description = json.loads((folder / "mmpose_cpm_mpii.json").read_text())
    state = {
        mmpose_cpm.rename(key): torch.from_numpy(np.asarray(weights.fill(key, tuple(shape))))
        for key, shape in dict(description["state_dict"]).items()
    }
    network = ConvolutionalPoseMachineNetwork(16, "mmpose", center_map=False).eval()
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        outputs = network(torch.from_numpy(weights.image("mmpose_cpm_mpii", tuple(description["input_shape"]))))
    expected = np.load(folder / "mmpose_cpm_mpii.npz")
    for stage in range(6):
        theirs = expected[f"output_{stage}"]
        assert np.abs(outputs[:, stage].numpy() - theirs).max() < 1e-4 * theirs.std()


def test_names_of_other_networks_are_not_taken():
    assert mmpose_cpm.rename("backbone.conv1.weight") is None
    assert mmpose_cpm.rename("head.final_layer.weight") is None
    assert mmpose_cpm.rename("middle_conv.2.0.bn.weight") == "stages.2.features.bn.weight"


def reach(network, stage, size):
    """Return how many pixels wide the part of the picture is that the middle cell of a stage depends on."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
            module.weight.data /= module.weight[0].numel()
    # A maximum passes its gradient to one pixel alone, a mean over the same window to all of them.
    for trunk in (network.trunk, network.second_trunk):
        for index, layer in enumerate(trunk or []):
            if isinstance(layer, nn.MaxPool2d):
                trunk[index] = nn.AvgPool2d(layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode)
    images = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    cell = size // 16
    network.double().eval().requires_grad_(False)(images)[0, stage, 0, cell, cell].backward()
    touched = images.grad[0].abs().sum(dim=(0, 1)).nonzero()
    assert touched.min() > 0
    assert touched.max() < size - 1
    return int(touched.max() - touched.min()) + 1


@pytest.mark.parametrize(
    ("variant", "first", "second"),
    # 160 and 400 in the paper are of 2x2 pools; the released original pools over 3x3.
    [("original", 167, 407), ("vgg", 164, 404)],
)
def test_receptive_fields(variant, first, second):
    network = ConvolutionalPoseMachineNetwork(1, variant, stages=2, channels=4, center_map=False)
    assert reach(network, 0, 256) == first
    assert reach(network, 1, 448) == second


def test_later_stages_share_a_trunk_that_is_not_the_first_stages():
    network = ConvolutionalPoseMachineNetwork(3, stages=4, channels=8)
    assert network.second_trunk is not network.trunk
    calls = []
    network.second_trunk.register_forward_hook(lambda *_: calls.append(1))
    network(torch.randn(1, 3, 64, 64))
    assert len(calls) == 1
    assert len(network.stages) == 3
    assert ConvolutionalPoseMachineNetwork(3, stages=1, channels=8).second_trunk is None
    assert ConvolutionalPoseMachineNetwork(3, "vgg", channels=8).second_trunk is None


def test_the_last_loss_reaches_the_first_stage_through_the_maps():
    torch.manual_seed(0)
    network = ConvolutionalPoseMachineNetwork(3, "original_bn", stages=3, channels=8)
    network(torch.randn(2, 3, 64, 64))[:, -1].square().mean().backward()
    assert network.stage1[-1].weight.grad.abs().sum() > 0
    assert network.trunk[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("variant", ["original", "original_bn", "vgg", "vgg_bn", "mmpose"])
def test_the_centre_map_changes_later_stages_alone(variant):
    torch.manual_seed(0)
    network = ConvolutionalPoseMachineNetwork(3, variant, stages=3, channels=16).eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        there, here = (
            network(torch.cat([images, center_maps(torch.tensor([[x, 48.0]]), (96, 64))], dim=1)) for x in (10.0, 32.0)
        )
        middle = network(images)
    assert torch.equal(there[:, 0], here[:, 0])
    for stage in (1, 2):
        assert not torch.allclose(there[:, stage], here[:, stage], rtol=1e-3)
    torch.testing.assert_close(middle, here)


def test_centre_map_by_hand():
    maps = center_maps(torch.tensor([[5.0, 9.0], [0.0, 30.0]]), (24, 16))
    assert maps.shape == (2, 1, 24, 16)
    for row, (x, y) in enumerate([(5, 9), (0, 30)]):
        for v, u in ((0, 0), (9, 5), (23, 15), (3, 14)):
            expected = math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 21**2))
            assert maps[row, 0, v, u].item() == pytest.approx(expected, rel=1e-5)


def test_first_values():
    """As released; drawn for ReLUs in the VGG network, whose layers would fade out otherwise."""
    torch.manual_seed(0)
    original = ConvolutionalPoseMachineNetwork(14, stages=2, channels=32)
    assert original.trunk[2].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert original.stages[0].convs[1].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (original.trunk[0].conv.bias == 0).all()
    vgg = ConvolutionalPoseMachineNetwork(14, "vgg", stages=2, channels=32).eval()
    with torch.no_grad():
        features = vgg.trunk(torch.randn(1, 3, 64, 64))
    assert 0.1 < features.std() < 10


def test_wrong_arguments():
    with pytest.raises(ValueError, match="choose original, original_bn, vgg, vgg_bn or mmpose"):
        ConvolutionalPoseMachineNetwork(14, "resnet")
    with pytest.raises(ValueError, match="at least one stage"):
        ConvolutionalPoseMachineNetwork(14, stages=0)
