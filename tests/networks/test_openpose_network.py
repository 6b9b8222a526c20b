"""OpenPose's networks against the published counts, names and order of stages."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_pose_zoo.networks.openpose import OpenPoseNetwork
from lightning_pose_zoo.weights.openpose import rename_v1, rename_v2

# Variant, parts, limbs; parameters, multiply-adds at 368x368 in 1e9: derived from the released networks.
TABLE = [("v1", 18, 19, 52_311_446, 135.93), ("v2", 25, 26, 26_166_084, 80.57), ("v2", 18, 19, 26_050_878, 80.33)]


@pytest.mark.parametrize(("variant", "parts", "limbs", "parameters", "gmacs"), TABLE)
def test_parameters_and_macs(variant, parts, limbs, parameters, gmacs):
    with torch.device("meta"):
        network = OpenPoseNetwork(parts, limbs, variant).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        fields, maps = network(torch.empty(1, 3, 368, 368, device="meta"))
    stages = (6, 6) if variant == "v1" else (4, 2)
    assert fields.shape == (1, stages[0], 2 * limbs, 46, 46)
    assert maps.shape == (1, stages[1], parts + 1, 46, 46)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


def test_names_of_the_second_version_reach_every_entry():
    """The names of the released BODY_25 layers, written down from their pattern, fill the whole network."""
    names = [f"conv{block}_{n}" for block, count in ((1, 2), (2, 2), (3, 4), (4, 2)) for n in range(1, count + 1)]
    keys = [f"{name}.{what}" for name in [*names, "conv4_3_CPM", "conv4_4_CPM"] for what in ("weight", "bias")]
    keys += [f"prelu4_{name}.weight" for name in ("2", "3_CPM", "4_CPM")]
    for branch, stages in (("L2", 4), ("L1", 2)):
        for stage in range(stages):
            layers = [f"{n}_stage{stage}_{branch}_{k}" for n in range(1, 6) for k in range(3)] + [
                f"6_stage{stage}_{branch}"
            ]
            keys += [f"M{kind}{layer}.weight" for layer in layers for kind in ("conv", "prelu")]
            keys += [f"Mconv{layer}.bias" for layer in [*layers, f"7_stage{stage}_{branch}"]]
            keys.append(f"Mconv7_stage{stage}_{branch}.weight")
    with torch.device("meta"):
        own = OpenPoseNetwork(25, 26, "v2").state_dict()
    renamed = [rename_v2(key) for key in keys]
    assert len(set(renamed)) == len(keys)
    assert set(renamed) == set(own)
    assert own[rename_v2("Mconv7_stage3_L2.weight")].shape[0] == 52
    assert own[rename_v2("Mconv7_stage1_L1.weight")].shape[0] == 26


@pytest.mark.parametrize("rename", [rename_v1, rename_v2])
def test_names_of_other_networks_are_not_taken(rename):
    for key in ("conv1.weight", "layer1.0.conv1.weight", "head.final_layer.weight", "Mconv8_stage2_L1.weight"):
        assert rename(key) is None


@pytest.mark.parametrize("backbone", ["vgg19", "resnet18"])
@pytest.mark.parametrize("variant", ["v1_bn", "v2_bn"])
def test_every_stage_is_trained(variant, backbone):
    torch.manual_seed(0)
    network = OpenPoseNetwork(4, 3, variant, (2, 2), 16, backbone)
    fields, maps = network(torch.randn(2, 3, 40, 56))
    assert fields.shape == (2, 2, 6, 5, 7)
    assert maps.shape == (2, 2, 5, 5, 7)
    (fields.square().sum() + maps.square().sum()).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_later_stages_see_the_earlier_ones():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 48, 48)
    for variant, first, changed in (
        ("v1", "fields", "heatmaps"),
        ("v1", "maps", "fields"),
        ("v2", "fields", "heatmaps"),
    ):
        network = OpenPoseNetwork(4, 3, variant, (2, 2), 8, "resnet10t").eval()
        with torch.no_grad():
            before = getattr(network(images), changed)
            [head for head in getattr(network, first)[0].modules() if isinstance(head, torch.nn.Conv2d)][-1].bias += 1
            after = getattr(network(images), changed)
        assert not torch.equal(before[:, 1], after[:, 1]), (variant, first)
        if variant == "v1":
            assert torch.equal(before[:, 0], after[:, 0])


@pytest.mark.parametrize("arguments", [{"variant": "v3"}, {"stages": (2, 1)}, {"channels": 2}, {"variant": "v2_norm"}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=r"choose v1|give at least"):
        OpenPoseNetwork(4, 3, **arguments)
