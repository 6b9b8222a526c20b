"""FastPose against what the AlphaPose repository says of it; its outputs are compared in tests/weights."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.networks import AlphaPoseNetwork, FastPoseNetwork


def test_parameters_and_shape_of_the_published_network():
    with torch.device("meta"):
        network = FastPoseNetwork(17)
        wide = FastPoseNetwork(17, upsampling=(256, 256))
    assert sum(parameter.numel() for parameter in network.parameters()) == 40_577_745
    assert wide.conv_out.in_channels == 256
    assert network.eval()(torch.zeros(1, 3, 256, 192, device="meta")).shape == (1, 17, 64, 48)


def test_only_the_first_block_of_each_stage_has_a_gate():
    with torch.device("meta"):
        backbone = FastPoseNetwork(17).backbone
    gates = {name.split(".se.")[0] for name, _ in backbone.named_parameters() if ".se." in name}
    assert gates == {f"layer{stage}.0" for stage in (1, 2, 3, 4)}


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "seresnet50", "convnext_atto"])
def test_backbones_without_a_place_for_gates_are_refused(backbone):
    with torch.device("meta"), pytest.raises(ValueError, match="no plain ResNet"):
        FastPoseNetwork(17, backbone)


def test_wrong_arguments_are_refused():
    with torch.device("meta"):
        with pytest.raises(ValueError, match="two convolutions"):
            FastPoseNetwork(17, "test_resnet", upsampling=(8, 8, 8))
        with pytest.raises(ValueError, match="there are fastpose, simple_baseline"):
            AlphaPoseNetwork(17, "fast")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="one number of channels and no backbone"):
            AlphaPoseNetwork(17, "stacked_hourglass", backbone="resnet50")


@pytest.mark.parametrize(
    ("estimator", "arguments", "shape"),
    [
        ("fastpose", {"backbone": "test_resnet", "channels": (16, 8)}, (2, 5, 16, 16)),
        ("simple_baseline", {"backbone": "test_resnet", "channels": (8, 8)}, (2, 5, 16, 16)),
        ("hrnet", {"backbone": "w18_small"}, (2, 5, 16, 16)),
        ("stacked_hourglass", {"stacks": 2, "channels": (8,)}, (2, 2, 5, 16, 16)),
    ],
)
def test_every_single_person_network_fits_in_and_begins_unmoved(estimator, arguments, shape):
    torch.manual_seed(0)
    network = AlphaPoseNetwork(5, estimator, transformer="test_resnet", **arguments).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = network(images)
        alone = network.estimator(images)
    assert maps.shape == shape
    assert network.stride == 4
    torch.testing.assert_close(maps, alone, rtol=1e-3, atol=1e-4 * float(alone.std() + 1e-3))
