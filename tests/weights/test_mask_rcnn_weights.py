"""Weights of torchvision's and detectron2's Keypoint R-CNN, by state dicts with their names."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import CheckpointError, UnsafeCheckpointError
from lightning_pose_zoo.methods import HRNet, MaskRCNN
from lightning_pose_zoo.networks import HeadSizes, MaskRCNNNetwork
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.weights import load_weights
from lightning_pose_zoo.weights_command import identify

# The published widths of the boxes' head and of the keypoints', made narrow.
NARROW = HeadSizes(box=8, keypoint=(16,) * 8, mask=(16,) * 4)
HEAD = "roi_heads.keypoint_predictor.kps_score_lowres"


def published(masks=False, keypoints=17):
    """Entries as torchvision has them, with random values."""
    torch.manual_seed(0)
    network = MaskRCNNNetwork(keypoints, masks=masks, batch_norm="trained", sizes=NARROW)
    return {key: torch.rand_like(value) if value.is_floating_point() else value + 3
            for key, value in network.state_dict().items()}  # fmt: skip


def as_detectron2(state):
    """Name and shape torchvision's entries as detectron2 has them."""
    renamed = {}
    stem = {"conv1": "conv1", "bn1": "conv1.norm"}
    for key, value in state.items():
        module, _, entry = key.rpartition(".")
        if entry == "num_batches_tracked":
            continue
        if match := re.fullmatch(r"backbone\.body\.(conv1|bn1)", module):
            module = f"backbone.bottom_up.stem.{stem[match[1]]}"
        elif match := re.fullmatch(r"backbone\.body\.layer(\d)\.(\d+)\.(conv|bn)(\d)", module):
            norm = ".norm" if match[3] == "bn" else ""
            module = f"backbone.bottom_up.res{int(match[1]) + 1}.{match[2]}.conv{match[4]}{norm}"
        elif match := re.fullmatch(r"backbone\.body\.layer(\d)\.0\.downsample\.([01])", module):
            module = f"backbone.bottom_up.res{int(match[1]) + 1}.0.shortcut{'.norm' if match[2] == '1' else ''}"
        elif match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0", module):
            module = f"backbone.fpn_{'lateral' if match[1] == 'inner' else 'output'}{int(match[2]) + 2}"
        elif match := re.fullmatch(r"roi_heads\.(keypoint|mask)_head\.(\d+)(\.0)?", module):
            place = int(match[2])
            module = f"roi_heads.keypoint_head.conv_fcn{place // 2 + 1}"
            if match[1] == "mask":
                module = f"roi_heads.mask_head.mask_fcn{place + 1}"
        elif module == "roi_heads.box_predictor.cls_score":
            value = value[[1, 0]]  # a person, then the background
        elif module == "roi_heads.box_predictor.bbox_pred":
            value = value[4:]
        elif module == "roi_heads.mask_predictor.mask_fcn_logits":
            module, value = "roi_heads.mask_head.predictor", value[1:]
        module = {
            "rpn.head.conv.0.0": "proposal_generator.rpn_head.conv",
            "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
            "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
            "roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
            "roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
            HEAD: "roi_heads.keypoint_head.score_lowres",
            "roi_heads.mask_predictor.conv5_mask": "roi_heads.mask_head.deconv",
        }.get(module, module)
        renamed[f"{module}.{entry}"] = value
    # What stands beside the weights in files of the model zoo.
    anchors = {f"proposal_generator.anchor_generator.cell_anchors.{level}": torch.rand(3, 4) for level in range(5)}
    return renamed | anchors | {"pixel_mean": torch.rand(3, 1, 1), "pixel_std": torch.rand(3, 1, 1)}


def assert_holds(method, state):
    own = method.network.state_dict()
    for key, value in own.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


def test_torchvisions_weights():
    state = published()
    method = MaskRCNN("coco17", batch_norm="frozen_eps0", heads=NARROW)
    report = load_weights(method, state)
    assert report.source == "torchvision's Keypoint R-CNN"
    assert (report.new, report.keypoints, report.advice) == ((), None, ())
    assert all(key.endswith("num_batches_tracked") for key in report.dropped)
    assert_holds(method, state)
    [advice] = load_weights(MaskRCNN("coco17", heads=NARROW), state).advice
    assert "batch_norm='frozen_eps0'" in advice


def test_older_files_of_torchvision():
    state = published(masks=True)
    old = {re.sub(r"(blocks\.\d|conv)\.0(\.0)?\.(weight|bias)$", r"\1.\3", key): value for key, value in state.items()}
    old = {re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", key): value
           for key, value in old.items()}  # fmt: skip
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias", "roi_heads.mask_head.mask_fcn1.weight"} <= set(
        old
    )
    method = MaskRCNN("coco17", masks=True, batch_norm="frozen_eps0", heads=NARROW)
    assert not load_weights(method, old).new
    assert_holds(method, state)


@pytest.mark.parametrize("masks", [False, True], ids=["keypoints", "masks"])
def test_detectron2s_weights(masks):
    state = published(masks)
    method = MaskRCNN("coco17", masks=masks, layout="detectron2", heads=NARROW)
    report = load_weights(method, as_detectron2(state))
    assert report.source == "detectron2's Keypoint R-CNN"
    assert report.new == ()
    assert len(report.dropped) == 7
    # There is no box and no mask of the background, and nobody reads ours.
    state["roi_heads.box_predictor.bbox_pred.weight"][:4] = 0
    state["roi_heads.box_predictor.bbox_pred.bias"][:4] = 0
    if masks:
        state["roi_heads.mask_predictor.mask_fcn_logits.weight"][:1] = 0
        state["roi_heads.mask_predictor.mask_fcn_logits.bias"][:1] = 0
    assert_holds(method, state)
    # Its pixels: blue first, 0 to 255 less a mean.
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    torch.testing.assert_close(method.normalized(images), images.flip(1) - mean, rtol=0, atol=1e-3)
    assert any("normalization: set to" in line for line in report.advice)
    other = MaskRCNN("coco17", masks=masks, heads=NARROW)
    assert any("layout='detectron2'" in line for line in load_weights(other, as_detectron2(state)).advice)


def test_keypoints_move_by_their_names():
    state = published()
    mine = MaskRCNN("crowdpose14", batch_norm="frozen_eps0", heads=NARROW)
    before = mine.network.state_dict()[f"{HEAD}.weight"].clone()
    report = load_weights(mine, state)
    assert report.keypoints is not None
    assert report.keypoints.new == ["head_top", "neck"]
    own, names, theirs = mine.network.state_dict(), mine.skeleton.names, get_skeleton("coco17").names
    for place, name in enumerate(names):
        expected = before[:, place] if name in ("head_top", "neck") else state[f"{HEAD}.weight"][:, theirs.index(name)]
        assert torch.equal(own[f"{HEAD}.weight"][:, place], expected), name


def test_files_of_the_model_zoo_are_pickles_of_arrays(tmp_path):
    state = published()
    arrays = {key: value.numpy() for key, value in as_detectron2(state).items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "scale": np.float32(1)}, protocol=2))
    method = MaskRCNN("coco17", layout="detectron2", heads=NARROW)
    assert not load_weights(method, path).new
    assert torch.equal(method.network.state_dict()["backbone.body.conv1.weight"], state["backbone.body.conv1.weight"])
    text = identify(str(path))
    assert "detectron2's Keypoint R-CNN" in text
    assert "MaskRCNN(skeleton='coco17', backbone='resnet50', layout='detectron2')" in text
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model_final\.pkl' is damaged"):
        load_weights(method, path)


class Command:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickles_that_run_code_are_refused(tmp_path):
    path = tmp_path / "model.pkl"
    for protocol in (2, 4):
        path.write_bytes(
            pickle.dumps({"model": {"a": np.zeros(3)}, "b": Command(tmp_path / "made")}, protocol=protocol)
        )
        with pytest.raises(UnsafeCheckpointError, match=r"model\.pkl' was not read: it asks for '(posix|nt)\.mkdir'"):
            load_weights(MaskRCNN("coco17", "resnet18", heads=NARROW), path)
    assert not (tmp_path / "made").exists()


def test_networks_that_do_not_fit_are_told_by_their_entries():
    with pytest.raises(CheckpointError, match=r"MaskRCNN\(skeleton='coco17', backbone='resnet50', masks=True"):
        load_weights(MaskRCNN("coco17", "resnet18", heads=NARROW), published(masks=True))
    boxes = {key: value for key, value in published().items() if "keypoint" not in key}
    with pytest.raises(CheckpointError, match=r"detector of boxes"):
        load_weights(HRNet("coco17"), boxes)
