"""mmpose's regression networks into DeepPose's first stage, and DeepPose onto other keypoints."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from lightning_pose_zoo.cli import main
from lightning_pose_zoo.codecs import RegressionCodec
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import DeepPose
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.weights import load_weights

NAME = "mmpose_deeppose_r50_coco"


def test_public_weights_give_public_outputs(reference):
    public = reference(NAME)
    given = {"codec": RegressionCodec("mmpose"), "normalization": Normalization(channel_order="bgr")}
    method = DeepPose("coco17", 1, "resnet50", input_size=(256, 192), **given)
    report = load_weights(method.eval(), {"state_dict": public.state})
    assert (len(report.kept), report.new, report.dropped, report.keypoints) == (len(public.state), (), (), None)
    with torch.no_grad():
        output = method.network(public.images).numpy()
        keypoints, _ = method(public.images)
    [expected] = public.outputs
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-4 * expected.std()
    # mmpose multiplies by width and height.
    np.testing.assert_allclose(keypoints.numpy(), expected * [192, 256], atol=256e-4 * expected.std())
    assert method.normalization.channel_order == "rgb"
    assert [line.split(":")[0] for line in report.advice] == ["normalization"]


def small(skeleton="coco17", stages=3, head="shared_select", seed=0, backbone="resnet18", **arguments):
    torch.manual_seed(seed)
    return DeepPose(skeleton, stages, backbone, head, input_size=(32, 32), **arguments)


def as_mmpose(network, head="head"):
    first = network.stages[0].state_dict()
    return {f"{head}.{k.replace('head', 'fc')}" if k.startswith("head") else k: v for k, v in first.items()}


@pytest.mark.parametrize("head", ["head", "keypoint_head"])
def test_the_first_of_three_stages_alone(head):
    theirs, mine = small(), small(seed=1)
    later = {key: value.clone() for key, value in mine.network.state_dict().items() if not key.startswith("stages.0.")}
    report = load_weights(mine, as_mmpose(theirs.network, head))
    assert set(report.new) == set(later)
    for key, value in mine.network.state_dict().items():
        assert torch.equal(value, later[key] if key in later else theirs.network.state_dict()[key]), key
    assert any("RegressionCodec('mmpose'" in line for line in report.advice)
    with pytest.raises(CheckpointError, match=r"1 problem\n  - stages\.0\.backbone\.bn1\.bias: not in the file"):
        load_weights(mine, {k: v for k, v in as_mmpose(theirs.network).items() if k != "backbone.bn1.bias"})


def test_the_first_stage_onto_other_keypoints():
    theirs, mine = small(), small("crowdpose14", seed=1)
    before = mine.network.stages[0].head.weight.clone().view(14, 2, -1)
    report = load_weights(mine, as_mmpose(theirs.network))
    assert report.keypoints.new == ["head_top", "neck"]
    rows, given = (method.network.stages[0].head.weight.view(-1, 2, 512) for method in (mine, theirs))
    for index, name in enumerate(mine.skeleton.names):
        expected = before[index] if name in report.keypoints.new else given[theirs.skeleton.index(name)]
        assert torch.equal(rows[index], expected), name


@pytest.mark.parametrize("head", ["shared_select", "per_joint", "shared_2out"])
@pytest.mark.parametrize("same_number", [True, False])
def test_all_stages_onto_other_keypoints(tmp_path, head, same_number):
    """Heads, statistics and the networks of single joints follow the names."""
    names = ("a", "b", "c")
    skeleton = Skeleton.from_names("mine", ("c", "new", "a") if same_number else ("b", "c", "new", "a"))
    theirs = small(Skeleton.from_names("theirs", names), 2, head, backbone="test_resnet")
    mine = small(skeleton, 2, head, seed=1, backbone="test_resnet")
    stage = theirs.network.stages[1]
    stage.displacement_std.copy_(torch.rand(3, 2))
    if head == "per_joint":
        for number, regressor in enumerate(stage.regressors):
            torch.nn.init.constant_(regressor.head.bias, float(number))
    checkpoint = {"state_dict": theirs.state_dict(), "hyper_parameters": dict(theirs.hparams)}
    theirs.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    fresh = {key: value.clone() for key, value in mine.state_dict().items()}
    load_weights(mine, tmp_path / "theirs.ckpt")
    for index, name in enumerate(skeleton.names):
        if name != "new":
            number = names.index(name)
            assert torch.equal(mine.network.stages[1].displacement_std[index], stage.displacement_std[number])
            if head == "per_joint":
                found = mine.network.stages[1].regressors[index].state_dict()
                torch.testing.assert_close(found, stage.regressors[number].state_dict(), rtol=0, atol=0)
        elif head == "per_joint":
            prefix = f"network.stages.1.regressors.{index}."
            now = {key: value for key, value in mine.state_dict().items() if key.startswith(prefix)}
            assert now
            assert all(torch.equal(value, fresh[key]) for key, value in now.items())


def test_files_are_described(tmp_path, capsys):
    torch.save(as_mmpose(small(stages=1).network), tmp_path / "theirs.pth")
    main(["weights", str(tmp_path / "theirs.pth")])
    assert "DeepPose(skeleton='coco17', stages=1, backbone='resnet18')" in capsys.readouterr().out
    method = small(Skeleton.from_names("three", ("a", "b", "c")), 2, "per_joint")
    torch.save({"state_dict": method.state_dict(), "hyper_parameters": dict(method.hparams)}, tmp_path / "own.ckpt")
    main(["weights", str(tmp_path / "own.ckpt")])
    told = capsys.readouterr().out
    assert "stages=2, backbone='resnet18', head='per_joint'" in told
    assert "three" in told


def test_training_starts_from_a_file(tmp_path, caplog):
    torch.save(as_mmpose(small(stages=1).network), tmp_path / "theirs.pth")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        method = small(stages=2, weights=str(tmp_path / "theirs.pth"), seed=1)
    assert "mmpose ResNet with coordinates" in caplog.text
    assert torch.equal(method.network.stages[0].head.weight, small(stages=1).network.stages[0].head.weight)
