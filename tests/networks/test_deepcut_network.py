"""The network of DeeperCut: sizes, heads, and what batch norm does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_pose_zoo.networks import DeepCutNetwork


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepCutNetwork(5, "resnet18")


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (71, 40), (33, 17)])
def test_any_size_gives_one_cell_for_eight_pixels(network, size):
    fields = network.eval()(torch.randn(1, 3, *size))
    height, width = -(-size[0] // 8), -(-size[1] // 8)
    assert fields.scores.shape == (1, 5, height, width)
    assert fields.early_scores.shape == (1, 5, height, width)
    assert fields.offsets.shape == (1, 5, 2, height, width)
    assert fields.toward.shape == (1, 5, 5, 2, height, width)


def test_heads_are_a_transposed_convolution_and_a_skip(network):
    head = network.toward
    deep, fine = torch.randn(2, 512, 4, 3), torch.randn(2, 128, 7, 6)
    up = nn.ConvTranspose2d(512, 50, 3, 2, 1, output_padding=1)
    skip = nn.Conv2d(128, 50, 1, bias=False)
    with torch.no_grad():
        up.weight.copy_(head.deep_weight.reshape(512, 50, 3, 3))
        up.bias.copy_(head.bias.reshape(50))
        skip.weight.copy_(head.fine_weight.reshape(50, 128, 1, 1))
        expected = up(deep)[..., :7, :6] + skip(fine)
        torch.testing.assert_close(head(deep, fine).flatten(1, 3), expected, rtol=1e-4, atol=1e-5)


def test_before_training_no_part_is_expected_anywhere(network):
    fields = network.eval()(torch.randn(1, 3, 64, 64))
    assert fields.scores.sigmoid().max() < 0.1


def test_without_intermediate_supervision_there_is_no_early_head():
    network = DeepCutNetwork(3, "resnet18", intermediate_supervision=False)
    assert network.eval()(torch.randn(1, 3, 32, 32)).early_scores is None
    assert not [name for name in network.state_dict() if name.startswith("early")]


def test_imagenets_statistics_are_kept(network):
    layers = [layer for layer in network.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    network.train()
    assert all(layer.training for layer in layers)
    network.keeps_statistics = True  # what starting from ImageNet's weights sets
    network.train()
    assert not any(layer.training for layer in layers)
    assert network.scores.training
    network.keeps_statistics = False


def test_the_published_network_has_the_published_channels():
    with torch.device("meta"):
        network = DeepCutNetwork(14, "resnet152")
    assert network.scores.deep_weight.shape == (2048, 14, 3, 3)
    assert network.offsets.deep_weight.shape == (2048, 28, 3, 3)
    assert network.toward.deep_weight.shape == (2048, 14, 14, 2, 3, 3)  # 364 and the 28 of a part to itself
    assert network.scores.fine_weight.shape == (14, 512, 1, 1)
    assert network.early_scores.deep_weight.shape == (1024, 14, 3, 3)


def test_other_backbones_are_named():
    with pytest.raises(ValueError, match="resnet999"):
        DeepCutNetwork(3, "resnet999")
    with pytest.raises(ValueError, match=r"can be used here .*similar names: resnet50, resnet101|not 8, 16 and 16"):
        DeepCutNetwork(3, "vit_tiny_patch16_224")
