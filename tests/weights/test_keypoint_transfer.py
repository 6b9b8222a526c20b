"""Weights on another skeleton: the maps of every keypoint stay its own, wherever its channel went."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import HRNet, SimpleBaseline
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.weights import load_weights
from lightning_pose_zoo.weights.keypoints import keypoint_axes

THEIRS = Skeleton.from_names("theirs", ["right_wrist", "nose", "left_wrist", "upper_neck"])
# One spelled otherwise, one under a synonym, one left out, two new.
MINE = Skeleton.from_names("mine", ["LeftWrist", "tail", "neck", "right_wrist", "left_paw"])
FOUND = [2, None, 3, 0, None]

CPM = {"stages": 3, "channels": 16}
METHODS = {
    "hrnet": lambda skeleton: HRNet(skeleton, "w18_small"),
    "simple_baseline": lambda skeleton: SimpleBaseline(skeleton, "resnet18", deconv_channels=(8, 8, 8)),
    "stacked_hourglass": lambda skeleton: StackedHourglass(skeleton, stacks=3, channels=16),
    "cpm": lambda skeleton: ConvolutionalPoseMachine(skeleton, **CPM),
    "cpm_vgg": lambda skeleton: ConvolutionalPoseMachine(skeleton, "vgg", **CPM),
    "cpm_mmpose": lambda skeleton: ConvolutionalPoseMachine(skeleton, "mmpose", center_map=False, **CPM),
}


def build(name, skeleton, seed):
    torch.manual_seed(seed)
    method = METHODS[name](skeleton).eval()
    for parameter in method.network.parameters():
        # As large that every channel matters.
        nn.init.normal_(parameter, std=0.1)
    if name == "cpm":
        # The stages of the released network see the picture's features before the maps.
        method.network.keypoint_inputs_at = CPM["channels"] // 4
    return method


def saved(method):
    checkpoint = {"state_dict": method.state_dict(), "hyper_parameters": dict(method.hparams)}
    method.on_save_checkpoint(checkpoint)
    return checkpoint


def maps_of(method, images):
    """Maps (stages, maps, h, w)."""
    with torch.no_grad():
        maps = method.network(images)[0]
    return maps if maps.ndim == 4 else maps[None]


@pytest.mark.parametrize("name", METHODS)
def test_maps_follow_their_keypoints(name):
    theirs, mine = build(name, THEIRS, 0), build(name, MINE, 1)
    # What only one side has must not change the other maps: keypoints that are dropped or new have empty maps.
    for method, silent in ((theirs, [1]), (mine, [1, 4])):
        for key, axes in keypoint_axes(method).items():
            if 0 in axes:
                with torch.no_grad():
                    method.network.state_dict()[key][silent] = 0
    report = load_weights(mine, saved(theirs))
    assert report.keypoints.kept == [
        ("LeftWrist", "left_wrist"),
        ("neck", "upper_neck"),
        ("right_wrist", "right_wrist"),
    ]
    assert report.keypoints.new == ["tail", "left_paw"]
    assert report.keypoints.dropped == ["nose"]
    assert not report.new
    images = torch.randn(1, 3, 64, 64)
    before, after = maps_of(theirs, images), maps_of(mine, images)
    assert before.std() > 0
    for here, there in enumerate(FOUND):
        if there is not None:
            assert before[:, there].std() > 0
            torch.testing.assert_close(
                after[:, here], before[:, there], rtol=1e-4, atol=1e-5 * float(before.abs().max())
            )
    # A background map comes last, before and after.
    torch.testing.assert_close(after[:, 5:], before[:, 4:], rtol=1e-4, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("name", ["stacked_hourglass", "cpm", "cpm_vgg", "simple_baseline"])
def test_the_same_number_in_another_order(name):
    lsp, aic = get_skeleton("lsp14"), get_skeleton("aic14")
    theirs, mine = build(name, lsp, 0), build(name, aic, 1)
    assert load_weights(mine, saved(theirs)).keypoints.new == []
    images = torch.randn(1, 3, 64, 64)
    before, after = maps_of(theirs, images), maps_of(mine, images)
    order = [lsp.names.index(part) for part in aic.names]
    torch.testing.assert_close(after[:, :14], before[:, order], rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_which_axes_belong_to_keypoints():
    hourglass = keypoint_axes(build("stacked_hourglass", THEIRS, 0))
    merged = {f"stacks.{stack}.merge_maps.weight": {1: (1, 0, 0)} for stack in (0, 1)}
    heads = {f"stacks.{stack}.head.{part}": {0: (1, 0, 0)} for stack in (0, 1, 2) for part in ("weight", "bias")}
    assert hourglass == merged | heads
    cpm = keypoint_axes(build("cpm", THEIRS, 0))
    # Four features of the picture, the maps, the background and the centre.
    assert cpm["stages.0.convs.0.conv.weight"] == {1: (1, 6, 4)}
    assert cpm["stages.0.head.bias"] == {0: (1, 1, 0)}


class Regressor(nn.Module):
    """Gives x and y of every keypoint side by side."""

    def __init__(self, skeleton):
        super().__init__()
        self.skeleton = get_skeleton(skeleton)
        self.hparams = {"skeleton": self.skeleton}
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2 * self.skeleton.num_keypoints))


def test_coordinates_move_in_pairs_and_new_ones_start_fresh():
    theirs, mine = Regressor(THEIRS), Regressor(MINE)
    fresh = mine.network[1].weight.detach().clone().view(5, 2, 7)
    load_weights(mine, theirs.network.state_dict(), skeleton=THEIRS)
    moved, source = mine.network[1].weight.view(5, 2, 7), theirs.network[1].weight.view(4, 2, 7)
    for here, there in enumerate(FOUND):
        assert torch.equal(moved[here], fresh[here] if there is None else source[there])


def official(keypoints):
    """Entries as the Simple Baselines repository names them."""
    network = SimpleBaseline(Skeleton.from_names("any", [f"k{i}" for i in range(keypoints)]), "resnet18",
                             deconv_channels=(8, 8, 8)).network  # fmt: skip
    return {key.removeprefix("backbone."): value for key, value in network.state_dict().items()}


def test_which_skeleton_a_file_has():
    method = METHODS["simple_baseline"]("crowdpose14")
    report = load_weights(method, official(17))
    assert report.keypoints.theirs == get_skeleton("coco17")
    assert report.keypoints.new == ["head_top", "neck"]
    assert any("taken for coco17" in line for line in report.advice)
    with pytest.raises(CheckpointError, match="finds 14 keypoints, which may be those of lsp14, crowdpose14, aic14"):
        load_weights(method, official(14))
    assert load_weights(method, official(14), skeleton="lsp14").keypoints.theirs.name == "lsp14"
    assert load_weights(method, official(14), skeleton="crowdpose14").keypoints is None
    with pytest.raises(CheckpointError, match="finds 14 keypoints, but skeleton 'coco17' has 17"):
        load_weights(method, official(14), skeleton="coco17")
    with pytest.raises(CheckpointError, match="finds 5 keypoints, and does not say which"):
        load_weights(method, official(5))
    five = METHODS["simple_baseline"](MINE)
    assert "order of mine" in load_weights(five, official(5)).advice[0]
    named = {
        "state_dict": official(5),
        "meta": {"dataset_meta": {"keypoint_id2name": dict(enumerate(MINE.names[::-1]))}},
    }
    assert load_weights(five, named).keypoints.found == [4, 3, 2, 1, 0]


def test_the_table_is_printed_by_keypoint():
    mine = build("simple_baseline", MINE, 1)
    text = str(load_weights(mine, saved(build("simple_baseline", THEIRS, 0))))
    assert "from skeleton theirs to mine:" in text
    assert [line.split() for line in text.splitlines() if line.startswith("  ")] == [
        ["keypoint", "in", "the", "file"],
        ["LeftWrist", "left_wrist", "kept"],
        ["neck", "upper_neck", "kept"],
        ["right_wrist", "right_wrist", "kept"],
        ["tail", "-", "new"],
        ["left_paw", "-", "new"],
        ["-", "nose", "dropped"],
    ]


def test_other_shapes_than_the_keypoints_are_still_refused():
    narrow = SimpleBaseline(THEIRS, "resnet18", deconv_channels=(8, 8, 4))
    with pytest.raises(CheckpointError, match=r"final_layer\.weight: the file has \(4, 4, 1, 1\)"):
        load_weights(METHODS["simple_baseline"](MINE), saved(narrow))
    same_names = dataclasses.replace(THEIRS, name="other")
    with pytest.raises(CheckpointError, match=r"deconv_layers\.6\.weight: the file has"):
        load_weights(METHODS["simple_baseline"](same_names), saved(narrow))
