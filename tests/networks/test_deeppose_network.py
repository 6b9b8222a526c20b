"""DeepPose's networks: the layers that the paper describes, and the heads that look at one joint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_pose_zoo.networks import DeepPoseNetwork
from lightning_pose_zoo.networks.deeppose import AlexNetFeatures, CoordinateRegressor, DeepPoseRefinement

SMALL = "test_resnet"


@pytest.mark.parametrize("side", [220, 227])
def test_alexnet_has_the_maps_of_the_paper(side):
    with torch.device("meta"):
        network = AlexNetFeatures()
        maps, sizes = torch.zeros(1, 3, side, side), []
        for layer in network.convs:
            maps = layer(maps)
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                sizes.append((maps.shape[1], maps.shape[2]))
    convs = [55, 27, 13] if side == 227 else [53, 26, 13]
    assert sizes == [(96, convs[0]), (96, convs[1]), (256, convs[1]), (256, 13), (384, 13), (384, 13), (256, 13),
                     (256, 6)]  # fmt: skip
    assert [layer.p for layer in network.full if isinstance(layer, nn.Dropout)] == [0.6, 0.6]


def test_alexnet_has_as_many_parameters_as_counted_by_hand():
    with torch.device("meta"):
        network = CoordinateRegressor(14)
    convs = 96 * (3 * 121 + 1) + 256 * (96 * 25 + 1) + 384 * (256 * 9 + 1) + 384 * (384 * 9 + 1) + 256 * (384 * 9 + 1)
    full = 4096 * (9216 + 1) + 4096 * (4096 + 1) + 28 * (4096 + 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == convs + full == 58_396_060


def test_responses_are_normalised_as_krizhevsky_writes_it():
    torch.manual_seed(0)
    [norm] = {
        type(layer): layer for layer in AlexNetFeatures().convs if isinstance(layer, nn.LocalResponseNorm)
    }.values()
    maps = torch.randn(1, 96, 2, 2) * 30
    expected = torch.empty_like(maps)
    for i in range(96):
        near = maps[:, max(0, i - 2) : i + 3].square().sum(dim=1)
        expected[:, i] = maps[:, i] / (2 + 1e-4 * near) ** 0.75
    torch.testing.assert_close(norm(maps), expected)


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (227, 227)])
def test_alexnet_takes_other_sizes(size):
    with torch.device("meta"):
        assert AlexNetFeatures()(torch.zeros(2, 3, *size)).shape == (2, 4096)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv3_small_050", SMALL])
def test_timm_backbones(backbone):
    with torch.device("meta"):
        network = DeepPoseNetwork(14, 2, backbone)
        assert network(torch.zeros(3, 3, 64, 64)).shape == (3, 14, 2)
        joints = torch.zeros(3, 5, dtype=torch.int64)
        assert network.stages[1](torch.zeros(3, 5, 3, 64, 64), joints).shape == (3, 5, 2)


def test_stages_share_nothing():
    network = DeepPoseNetwork(14, 3, SMALL)
    stages = [{value.data_ptr() for value in stage.state_dict().values()} for stage in network.stages]
    assert not stages[0] & stages[1]
    assert not stages[1] & stages[2]
    # Nor do they begin alike.
    first, second = (stage.regressors[0].head.weight for stage in network.stages[1:])
    assert not torch.equal(first, second)


def spread(stage):
    """Let heads say something from the beginning."""
    for module in stage.modules():
        if isinstance(module, CoordinateRegressor):
            nn.init.normal_(module.head.weight)
            nn.init.normal_(module.head.bias)
    return stage.eval()


def test_shared_select_takes_each_crops_own_joint_and_teaches_no_other():
    torch.manual_seed(0)
    stage = spread(DeepPoseRefinement(5, "shared_select", SMALL, False))
    crops, joints = torch.randn(3, 2, 3, 32, 32), torch.tensor([[0, 3], [3, 0], [0, 0]])
    found = stage(crops, joints)
    for b in range(3):
        for j in range(2):
            every = stage.regressors[0](crops[b, j][None])[0]
            torch.testing.assert_close(found[b, j], every[joints[b, j]])
    found.square().sum().backward()
    rows = stage.regressors[0].head.weight.grad.view(5, 2, -1).abs().sum(dim=(1, 2))
    assert (rows > 0).tolist() == [True, False, False, True, False]


def test_per_joint_has_a_network_for_each():
    torch.manual_seed(0)
    stage = spread(DeepPoseRefinement(3, "per_joint", SMALL, False))
    crops = torch.randn(2, 3, 3, 32, 32)
    found = stage(crops, torch.arange(3).expand(2, 3))
    assert len(stage.regressors) == 3
    for joint in range(3):
        torch.testing.assert_close(found[:, joint], stage.regressors[joint](crops[:, joint])[:, 0])
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-3


def test_shared_2out_is_not_told_the_joint():
    torch.manual_seed(0)
    stage = spread(DeepPoseRefinement(5, "shared_2out", SMALL, False))
    crops = torch.randn(2, 2, 3, 32, 32)
    one, other = (stage(crops, torch.full((2, 2), joint)) for joint in (0, 4))
    assert torch.equal(one, other)
    assert stage.regressors[0].head.out_features == 2


def test_coordinates_are_whole_under_mixed_precision():
    torch.manual_seed(0)
    network = spread(DeepPoseNetwork(14, 1, SMALL))
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
        features = network.stages[0].backbone(images)
    assert (found.dtype, features.dtype) == (torch.float32, torch.bfloat16)
    head = network.stages[0].head
    torch.testing.assert_close(found, nn.functional.linear(features.float(), head.weight, head.bias).view(2, 14, 2))
    assert network.bfloat16()(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet19"}, "no backbone 'resnet19'.*alexnet, resnet"),
        ({"pretrained": True}, "no ImageNet weights"),
        ({"stages": 0}, "at least 1"),
        ({"head": "both"}, "shared_select, per_joint or shared_2out"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepPoseNetwork(14, **arguments)
