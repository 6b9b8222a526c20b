"""AlphaPose's files and our own of it: what they are said to be, and that they are built again from that."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.methods import AlphaPose
from lightning_pose_zoo.weights.description import describe
from lightning_pose_zoo.weights_command import identify


def as_published(method):
    return {
        key.removeprefix("estimator.").replace("backbone.", "preact.", 1): value
        for key, value in method.network.state_dict().items()
    }


def test_a_published_file_is_told_by_its_entries(tmp_path):
    method = AlphaPose("coco17", backbone="resnet18", channels=(16, 8), transformer=None)
    torch.save(as_published(method), tmp_path / "fast.pth")
    said = identify(str(tmp_path / "fast.pth"))
    assert "AlphaPose repository, FastPose" in said
    assert "AlphaPose(skeleton='coco17', backbone='resnet18', channels=(16, 8), transformer=None)" in said
    assert "all " in said
    assert "mean (0.406, 0.457, 0.48), deviation (1.0, 1.0, 1.0)" in said


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone": "test_resnet", "channels": (16, 8), "transformer": "test_resnet"},
        {"backbone": "test_resnet", "channels": (16, 8), "transformer": "test_resnet", "parallel": False},
        {"estimator": "stacked_hourglass", "stacks": 2, "channels": (8,), "transformer": "test_resnet"},
        {"estimator": "simple_baseline", "backbone": "test_resnet", "channels": (8, 8), "transformer": None},
        {"estimator": "hrnet", "backbone": "w18_small", "transformer": None},
    ],
)
def test_our_own_files_are_built_again_from_what_they_say(arguments):
    method = AlphaPose("lsp14", **arguments)
    described = describe(method.network.state_dict(), dict(method.hparams))
    assert described.method == "AlphaPose"
    assert described.keypoints == 14
    again = described.network().state_dict()
    assert {key: value.shape for key, value in again.items()} == {
        key: value.shape for key, value in method.network.state_dict().items()
    }


def test_names_that_lead_to_a_hub_are_not_followed():
    method = AlphaPose("lsp14", backbone="test_resnet", channels=(16, 8), transformer="test_resnet")
    given = dict(method.hparams)
    for name in ("backbone", "transformer"):
        assert describe(method.network.state_dict(), given | {name: "hf-hub:somebody/model"}) is None
