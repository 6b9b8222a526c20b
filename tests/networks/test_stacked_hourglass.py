"""Stacked hourglasses against the published counts, the public programs' outputs and the paper's layout."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.networks import StackedHourglassNetwork
from lightning_pose_zoo.networks.stacked_hourglass import Residual
from lightning_pose_zoo.weights import bearpaw, princeton

# Keypoints, stacks, stem, blocks; parameters, and multiply-adds at 256x256 in 1e9: measured from public programs.
TABLE = [
    (16, 1, "newell", 1, 3_426_448, 5.1503),
    (16, 2, "newell", 1, 6_570_400, 8.3346),
    (16, 4, "newell", 1, 12_858_304, None),
    (16, 8, "newell", 1, 25_434_112, 27.4402),
    (17, 1, "newell", 1, 3_426_705, None),
    (17, 2, "princeton", 1, 6_571_170, None),
    (17, 8, "newell", 1, 25_437_960, None),
    (16, 1, "bearpaw", 1, 3_586_960, 5.8047),
    (16, 2, "bearpaw", 1, 6_730_912, 8.9889),
    (16, 4, "bearpaw", 1, 13_018_816, 15.3574),
    (16, 8, "bearpaw", 1, 25_594_624, 28.0945),
    (16, 2, "bearpaw", 4, 24_751_264, 24.672),
]


@pytest.mark.parametrize(("keypoints", "stacks", "stem", "blocks", "parameters", "gmacs"), TABLE)
def test_parameters_and_macs(keypoints, stacks, stem, blocks, parameters, gmacs):
    with torch.device("meta"):
        network = StackedHourglassNetwork(keypoints, stacks, stem, blocks)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    if gmacs is None:
        return
    network.eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        maps = network(torch.empty(1, 3, 256, 256, device="meta"))
    assert maps.shape == (1, stacks, keypoints, 64, 64)
    # A multiply-add is two operations.
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "stem", "rename", "unused"),
    [
        ("bearpaw_hourglass_s2", "bearpaw", bearpaw.rename, 0),
        # A convolution beside each of 29 residuals (one in the stem, 13 and one more in each stack) is never used.
        ("princeton_hourglass_s2", "princeton", princeton.rename, 29),
    ],
)
def test_public_weights_give_public_outputs(test_data, name, stem, rename, unused):
    folder = test_data / "oracles" / "networks"
    spec = importlib.util.spec_from_file_location("deterministic_weights", folder / "deterministic_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    description = json.loads((folder / f"{name}.json").read_text())
    theirs = dict(description["state_dict"])
    ours = {key: rename(key) for key in theirs}
    assert sum(key is None for key in ours.values()) == 2 * unused
    state = {
        ours[key]: torch.from_numpy(np.asarray(weights.fill(key, tuple(shape))))
        for key, shape in theirs.items()
        if ours[key] is not None
    }
    network = StackedHourglassNetwork(16, 2, stem).eval()
    network.load_state_dict(state, strict=True)
    image = torch.from_numpy(weights.image(name, tuple(description["input_shape"])))
    with torch.no_grad():
        outputs = network(image.permute(0, 3, 1, 2) if stem == "princeton" else image)
    expected = np.load(folder / f"{name}.npz")
    # One program gives the stacks as one array, the other one by one.
    if stem == "princeton":
        expected = expected["output_0"]
    else:
        expected = np.stack([expected["output_0"], expected["output_1"]], axis=1)
    for stack in range(2):
        spread = expected[:, stack].std()
        assert np.abs(outputs[:, stack].numpy() - expected[:, stack]).max() < 1e-4 * spread


def test_names_of_other_networks_are_not_taken():
    assert bearpaw.rename("backbone.conv1.weight") is None
    assert princeton.rename("pre.2.weight") is None
    assert princeton.rename("model.module.pre.0.conv.weight") == "stem.conv.weight"
    assert princeton.rename("hgs.1.0.low2.low2.low2.low2.bn1.bias") == "stacks.1.hourglass.bottom.0.bn1.bias"
    assert bearpaw.rename("hg.1.hg.0.3.0.bn1.bias") == "stacks.1.hourglass.bottom.0.bn1.bias"


@pytest.fixture
def small():
    torch.manual_seed(0)
    return StackedHourglassNetwork(3, stacks=3, channels=16)


def test_an_hourglass_has_thirteen_residuals_and_ends_at_four_by_four(small):
    hourglass = small.stacks[0].hourglass
    assert sum(isinstance(module, Residual) for module in hourglass.modules()) == 13
    sizes = []
    hourglass.bottom.register_forward_hook(lambda *call: sizes.append(tuple(call[2].shape[-2:])))
    small(torch.randn(1, 3, 256, 256))
    assert sizes == [(4, 4)]


def test_the_last_loss_reaches_the_first_maps_and_the_stem(small):
    small(torch.randn(2, 3, 64, 64))[:, -1].square().mean().backward()
    assert small.stacks[0].head.weight.grad.abs().sum() > 0
    assert small.stem.conv.weight.grad.abs().sum() > 0


def test_without_the_merging_convolutions_every_hourglass_sees_the_stem_alone(small):
    seen = []
    for stack in small.stacks:
        stack.register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
        for merge in (stack.merge_features, stack.merge_maps):
            if merge is not None:
                torch.nn.init.zeros_(merge.weight)
                torch.nn.init.zeros_(merge.bias)
    small(torch.randn(2, 3, 64, 64))
    assert len(seen) == 3
    assert torch.equal(seen[1], seen[0])
    assert torch.equal(seen[2], seen[0])
    assert small.stacks[-1].merge_maps is None


def test_later_hourglasses_see_the_maps_before(small):
    """Exact by hand: what the second one sees is what the first saw and two convolutions."""
    small.eval()
    seen, features = [], []
    for stack in small.stacks[:2]:
        stack.register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
        stack.lin.register_forward_hook(lambda *call: features.append(call[2]))
    with torch.no_grad():
        maps = small(torch.randn(1, 3, 64, 96))[:, 0]
        first = small.stacks[0]
        expected = seen[0] + first.merge_features(features[0]) + first.merge_maps(maps)
    torch.testing.assert_close(seen[1], expected)


@pytest.mark.parametrize(("size", "maps"), [((64, 64), (16, 16)), ((128, 96), (32, 24)), ((100, 84), (25, 21))])
def test_sizes(small, size, maps):
    assert small.eval()(torch.randn(1, 3, *size)).shape == (1, 3, 3, *maps)


def test_wrong_arguments_and_pictures(small):
    with pytest.raises(ValueError, match="stacks is 9; give 1 to 8"):
        StackedHourglassNetwork(16, stacks=9)
    with pytest.raises(ValueError, match="choose newell, bearpaw or princeton"):
        StackedHourglassNetwork(16, stem="oxford")
    with pytest.raises(ValueError, match="multiple of 4"):
        StackedHourglassNetwork(16, channels=30)
    with pytest.raises(SettingsError, match="at least 64 pixels"):
        small(torch.zeros(1, 3, 64, 32))
