"""Adversarial PoseNet's generator and critics: sizes, the way of the maps, and what each critic depends on."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.networks import AdversarialPoseNetNetwork, MapCritic
from lightning_pose_zoo.networks.stacked_hourglass import Hourglass, Residual


@pytest.mark.parametrize(
    ("channels", "stacks", "parameters"),
    [
        (256, 1, 6_231_360), (256, 2, 11_826_560), (256, 4, 23_016_960),
        (512, 1, 24_740_416), (512, 2, 47_005_824), (512, 4, 91_536_640),
    ],
)  # fmt: skip
def test_parameters(channels, stacks, parameters):
    with torch.device("meta"):
        network = AdversarialPoseNetNetwork(16, stacks, channels)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("inputs", "channels", "parameters"),
    [(35, 128, 756_758), (32, 128, 756_176), (35, 256, 2_987_990), (32, 256, 2_986_832)],
)
def test_parameters_of_critics(inputs, channels, parameters):
    with torch.device("meta"):
        critic = MapCritic(inputs, 16, channels)
    assert sum(parameter.numel() for parameter in critic.parameters()) == parameters


def test_each_stack_has_two_hourglasses_and_twice_as_many_maps_as_keypoints():
    network = AdversarialPoseNetNetwork(16, 2, 8)
    sizes = []
    for module in network.modules():
        if isinstance(module, Hourglass):
            module.bottom.register_forward_hook(lambda _, seen, __: sizes.append(tuple(seen[0].shape[-2:])))
    maps = network(torch.rand(1, 3, 256, 256))
    assert maps.shape == (1, 2, 2, 16, 64, 64)
    assert maps[:, 0].flatten(1, 2).shape[1] == 32
    assert sizes == [(4, 4)] * 4
    # Three in the stem, 13 in each hourglass.
    assert sum(isinstance(module, Residual) for module in network.modules()) == 3 + 2 * 2 * 13


def test_a_stack_sees_the_features_of_the_stem_and_both_kinds_of_maps_of_the_one_before():
    network = AdversarialPoseNetNetwork(5, 2, 8).eval()
    images = torch.rand(2, 3, 64, 64)
    seen = []
    network.stacks[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
        features = network.stem(images)
        maps = network(images)[:, 0]
        expected = features + network.stacks[0].merge_pose(maps[:, 0]) + network.stacks[0].merge_occlusion(maps[:, 1])
    torch.testing.assert_close(seen[0], expected)
    for merge in (network.stacks[0].merge_pose, network.stacks[0].merge_occlusion):
        torch.nn.init.zeros_(merge.weight)
        torch.nn.init.zeros_(merge.bias)
    with torch.no_grad():
        network(images)
    torch.testing.assert_close(seen[-1], features, rtol=0, atol=0)


def test_a_loss_on_the_last_maps_reaches_every_parameter():
    network = AdversarialPoseNetNetwork(5, 3, 8)
    network(torch.rand(2, 3, 64, 64))[:, -1].square().sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    network.zero_grad()
    network(torch.rand(2, 3, 64, 64))[:, -1, 0].square().sum().backward()
    # Maps of keypoints come from the first hourglass of a stack, and so depend on hidden ones of earlier stacks alone.
    assert network.stacks[2].occlusion_hourglass.bottom[0].conv1.weight.grad.abs().sum() == 0
    assert network.stacks[1].occlusion_hourglass.bottom[0].conv1.weight.grad.abs().sum() > 0


def test_a_critic_judges_each_sample_by_itself():
    torch.manual_seed(0)
    critic = MapCritic(9, 4, 16).train()
    maps = torch.rand(3, 9, 16, 16)
    alone = torch.cat([critic(one[None]) for one in maps])
    torch.testing.assert_close(critic(maps), alone, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="stacks is 9; give 1 to 8"):
        AdversarialPoseNetNetwork(5, 9, 8)
    with pytest.raises(ValueError, match="channels is 7; give an even number"):
        AdversarialPoseNetNetwork(5, 1, 7)
    with pytest.raises(ValueError, match="critics' channels are 5"):
        MapCritic(9, 4, 5)
    with pytest.raises(SettingsError, match="too small for an hourglass"):
        AdversarialPoseNetNetwork(5, 1, 8)(torch.rand(1, 3, 48, 64))
