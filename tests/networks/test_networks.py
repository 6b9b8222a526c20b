"""Networks against the published counts and against other people's implementations given the same weights."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.networks import HRNetNetwork, SimpleBaselineNetwork
from lightning_pose_zoo.weights import load_weights

# Parameters, and multiply-adds of convolutions at 256x192, in 1e9: measured from the official implementations.
TABLE = [
    (
        "HRNet-W32",
        lambda: HRNetNetwork(17, "w32"),
        28_536_113,
        {(256, 192): 7.6450, (384, 288): 17.2013, (256, 256): 10.1933},
    ),
    ("HRNet-W32, 16", lambda: HRNetNetwork(16, "w32"), 28_536_080, {(256, 256): 10.1932}),
    ("HRNet-W48", lambda: HRNetNetwork(17, "w48"), 63_595_745, {(256, 192): 15.6918, (384, 288): 35.3066}),
    ("HRNet-W48, 16", lambda: HRNetNetwork(16, "w48"), 63_595_696, {(256, 256): 20.9222}),
    ("HRNet-W18", lambda: HRNetNetwork(17, "w18"), 9_318_215, {(256, 192): 3.188}),
    ("R18", lambda: SimpleBaselineNetwork(17, "resnet18"), 15_376_721, {(256, 192): 2.8972}),
    ("R34", lambda: SimpleBaselineNetwork(17, "resnet34"), 25_484_881, {(256, 192): 4.7092}),
    ("R50", lambda: SimpleBaselineNetwork(17, "resnet50"), 33_999_697, {(256, 192): 5.4264, (384, 288): 12.2094}),
    ("R50, 16", lambda: SimpleBaselineNetwork(16, "resnet50"), 33_999_440, {}),
    ("R101", lambda: SimpleBaselineNetwork(17, "resnet101"), 52_991_825, {(256, 192): 9.0628, (384, 288): 20.3914}),
    ("R152", lambda: SimpleBaselineNetwork(17, "resnet152"), 68_635_473, {(256, 192): 12.6993, (384, 288): 28.5734}),
]


@pytest.mark.parametrize(("name", "build", "parameters", "gmacs"), TABLE, ids=[row[0] for row in TABLE])
def test_parameters_and_macs(name, build, parameters, gmacs):
    with torch.device("meta"):
        network = build()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    network.eval()
    for size, expected in gmacs.items():
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            maps = network(torch.empty(1, 3, *size, device="meta"))
        assert maps.shape[-2:] == (size[0] // 4, size[1] // 4)
        # A multiply-add is two operations.
        assert counter.get_total_flops() / 2e9 == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "build", "entries"),
    [
        ("official_hrnet_w32_coco", lambda: HRNetNetwork(17), 1754),
        ("official_simple_baseline_r50_coco", lambda: SimpleBaselineNetwork(17), 338),
    ],
)
def test_official_weights_give_official_outputs(test_data, name, build, entries):
    folder = test_data / "oracles" / "networks"
    spec = importlib.util.spec_from_file_location("deterministic_weights", folder / "deterministic_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    description = json.loads((folder / f"{name}.json").read_text())
    state = {
        key: torch.from_numpy(np.asarray(weights.fill(key, tuple(shape))))
        for key, shape in dict(description["state_dict"]).items()
    }
    network = build().eval()
    report = load_weights(network, state)
    assert len(report.kept) == entries
    assert not report.new
    assert not report.dropped
    with torch.no_grad():
        output = network(torch.from_numpy(weights.image(name, tuple(description["input_shape"]))))
    expected = np.load(folder / f"{name}.npz")["output_0"]
    assert np.abs(output.numpy() - expected).max() < 1e-4 * expected.std()


def test_every_parameter_of_hrnet_gets_a_gradient():
    network = HRNetNetwork(5, "w18")
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert len(network.backbone.stage4[-1].fuse_layers) == 1


def test_first_values_are_as_published():
    torch.manual_seed(0)
    hrnet, baseline = HRNetNetwork(17, "w18"), SimpleBaselineNetwork(17, "resnet18")
    for layer in (hrnet.final_layer, hrnet.backbone.conv1, baseline.final_layer, baseline.deconv_layers[0]):
        assert layer.weight.std().item() == pytest.approx(0.001, rel=0.08)
    assert HRNetNetwork(17, "w18_small", paper_init=False).backbone.conv1.weight.std() > 0.02


@pytest.mark.parametrize("kernel", [4, 3, 2])
def test_every_deconvolution_kernel_doubles_the_size(kernel):
    network = SimpleBaselineNetwork(3, "resnet18", deconv_channels=(16, 8), deconv_kernel=kernel)
    assert network.stride == 8
    assert network(torch.randn(2, 3, 64, 96)).shape == (2, 3, 8, 12)


def test_any_timm_backbone_and_unknown_names():
    network = SimpleBaselineNetwork(4, "mobilenetv3_small_050", deconv_channels=(8, 8, 8))
    assert network.stride == 4
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 4, 16, 16)
    with pytest.raises(ValueError, match="resnt50"):
        SimpleBaselineNetwork(4, "resnt50")
    with pytest.raises(ValueError, match="none of 7"):
        SimpleBaselineNetwork(4, "resnet18", backbone_stride=7)
    shallow = SimpleBaselineNetwork(4, "resnet18", deconv_channels=(8, 8), backbone_stride=16)
    assert shallow.stride == 4
    assert not any("layer4" in name for name, _ in shallow.named_parameters())
    with pytest.raises(ValueError, match="deconv_kernel"):
        SimpleBaselineNetwork(4, "resnet18", deconv_kernel=5)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "r18.pth"
    torch.save(SimpleBaselineNetwork(17, "resnet18").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"r18.pth.*\n.*backbone"):
        load_weights(SimpleBaselineNetwork(17, "resnet34"), path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(SimpleBaselineNetwork(17, "resnet18"), tmp_path / "nothing.pth")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"r18.pth' is damaged"):
        load_weights(SimpleBaselineNetwork(17, "resnet18"), path)
