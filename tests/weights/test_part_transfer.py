"""OpenPose's weights on another skeleton: maps follow their parts, fields their limbs, whatever end these begin at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.methods import OpenPose
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.weights import load_weights

VARIANTS = ["v1", "v1_bn", "v2", "v2_bn"]


def build(skeleton, seed, variant="v2_bn"):
    torch.manual_seed(seed)
    stages = (2, 2) if variant.startswith("v1") else (2, 3)
    method = OpenPose(skeleton, variant, stages=stages, channels=8, backbone="resnet10t").eval()
    for parameter in method.network.parameters():
        nn.init.normal_(parameter, std=0.1)  # as large that every channel matters
    return method


def saved(method):
    checkpoint = {"state_dict": method.state_dict(), "hyper_parameters": dict(method.hparams)}
    method.on_save_checkpoint(checkpoint)
    return checkpoint


def silenced(method, parts, limbs):
    """Let a network see nothing of some parts and limbs, so that nothing else depends on them."""
    state = method.network.state_dict()
    for key, axes in method.network.part_channels().items():
        if 0 in axes:
            rows = parts if axes[0] == ("maps",) else [2 * limb + part for limb in limbs for part in (0, 1)]
            state[key][rows] = 0  # entries of a state are the parameters themselves
    return method


@pytest.mark.parametrize("skeleton", ["crowdpose14", "mpii16", "body25"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_follow_their_parts_and_fields_their_limbs(variant, skeleton):
    theirs, mine = build("coco17", 0, variant), build(skeleton, 1, variant)
    table = load_weights(build(skeleton, 2, variant), saved(theirs)).keypoints
    lost = [[index for index in range(size) if index not in found] for size, found in
            ((18, table.found), (19, table.limbs.found))]  # fmt: skip
    fresh = [[index for index, found in enumerate(side) if found is None] for side in (table.found, table.limbs.found)]
    assert lost[1]
    assert all(fresh)
    silenced(theirs, *lost)
    silenced(mine, *fresh)
    report = load_weights(mine, saved(theirs))
    assert (report.new, report.dropped) == ((), ())
    images = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        before, after = theirs.network(images), mine.network(images)
    limbs = 0
    for number, (there, way) in enumerate(zip(table.limbs.found, table.limbs.ways, strict=True)):
        if there is not None:
            limbs += 1
            expected = way * before.fields[:, :, 2 * there : 2 * there + 2]
            assert expected.std() > 0
            torch.testing.assert_close(after.fields[:, :, 2 * number : 2 * number + 2], expected, rtol=1e-3, atol=1e-4)
    assert limbs >= 10
    for number, there in enumerate(table.found):
        if there is not None:
            torch.testing.assert_close(after.heatmaps[:, :, number], before.heatmaps[:, :, there], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.heatmaps[:, :, -1], before.heatmaps[:, :, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("skeleton", ["crowdpose14", "lsp14", "posetrack17"])
def test_limbs_that_begin_at_the_other_end_are_turned(skeleton):
    """Fields of the same people, drawn for both skeletons, differ by what the table says and by nothing else."""
    theirs, mine = body_parts(get_skeleton("coco17")), body_parts(get_skeleton(skeleton))
    table = load_weights(build(skeleton, 1), saved(build("coco17", 0))).keypoints
    codec = OpenPose(skeleton, "v2_bn", (1, 1), 8, backbone="resnet10t").codec
    random, rows = torch.Generator().manual_seed(0), torch.zeros(3, dtype=torch.int64)
    places = torch.rand(3, 18, 2, generator=random) * 80
    here = torch.rand(3, mine.skeleton.num_keypoints, 2, generator=random) * 80
    for number, there in enumerate(table.found):
        if there is not None:
            here[:, number] = places[:, there]
    drawn, expected = (
        codec.encode(points, torch.full(points.shape[:2], 2), rows, parts.skeleton.limbs, 1, (80, 80)).fields
        for points, parts in ((places, theirs), (here, mine))
    )
    turned = 0
    for number, (there, way) in enumerate(zip(table.limbs.found, table.limbs.ways, strict=True)):
        if there is not None:
            turned += way < 0
            torch.testing.assert_close(
                way * drawn[:, 2 * there : 2 * there + 2], expected[:, 2 * number : 2 * number + 2]
            )
    assert turned >= 1


def test_a_computed_neck_is_a_thorax_or_else_a_neck():
    coco = saved(build("coco17", 0))
    assert ("thorax", "neck") in load_weights(build("mpii16", 1), coco).keypoints.kept
    table = load_weights(build("crowdpose14", 1), coco).keypoints
    assert ("neck", "neck") in table.kept
    assert ("neck", "thorax") in load_weights(build("coco17", 1), saved(build("mpii16", 0))).keypoints.kept
    # And back: what crowdpose14 has of COCO, the computed neck among it.
    assert load_weights(build("coco17", 1), saved(build("crowdpose14", 0))).keypoints.kept.count(("neck", "neck")) == 1


def test_the_report_lists_parts_and_limbs():
    text = str(load_weights(build("crowdpose14", 1), saved(build("coco17", 0))))
    lines = [line.split() for line in text.splitlines()]
    assert ["left_elbow", "left_elbow", "kept"] in lines
    assert ["head_top", "-", "new"] in lines
    assert ["-", "left_ear", "dropped"] in lines
    assert ["left_shoulder-neck", "neck-left_shoulder", "kept,", "turned"] in lines
    assert ["left_shoulder-left_hip", "-", "new"] in lines
    assert ["-", "nose-left_eye", "dropped"] in lines
    assert "from skeleton coco18 to crowdpose14_parts:" in text


def test_the_same_keypoints_in_another_order_have_the_same_parts():
    coco = get_skeleton("coco17")
    names = coco.names[::-1]
    other = Skeleton("backwards", names, tuple((16 - a, 16 - b) for a, b in coco.flip_pairs))
    theirs, mine = build("coco17", 0), build(other, 1)
    load_weights(mine, saved(theirs))
    torch.testing.assert_close(mine.network.state_dict(), theirs.network.state_dict())


def test_entries_of_one_part_are_those_of_the_file_or_fresh():
    theirs, mine = build("coco17", 0), build("mpii16", 1)
    fresh = mine.network.maps[0].head.bias.detach().clone()
    load_weights(mine, saved(theirs))
    parts, others = mine.parts.skeleton.names, theirs.parts.skeleton.names
    for name, there in (("left_wrist", "left_wrist"), ("thorax", "neck")):
        assert (
            mine.network.maps[0].head.bias[parts.index(name)] == theirs.network.maps[0].head.bias[others.index(there)]
        )
    assert torch.equal(mine.network.maps[0].head.bias[-1], theirs.network.maps[0].head.bias[-1])
    for name in ("pelvis", "head_top"):
        assert mine.network.maps[0].head.bias[parts.index(name)] == fresh[parts.index(name)]


def test_which_skeleton_a_file_has():
    lsp = build("lsp14", 0).network.state_dict()
    method = build("coco17", 1)
    with pytest.raises(CheckpointError, match=r"finds 14 parts and 14 limbs; lsp14.* Give the skeleton"):
        load_weights(method, lsp)
    assert load_weights(method, lsp, skeleton="lsp14").keypoints.theirs.name == "lsp14_parts"
    with pytest.raises(CheckpointError, match="'mpii16' has others"):
        load_weights(method, lsp, skeleton="mpii16")
    same = load_weights(build("lsp14", 2), lsp)
    assert same.keypoints is None
    # Another network is refused entry by entry, as it was.
    with pytest.raises(CheckpointError, match="entries fit"):
        load_weights(method, build("lsp14", 0, "v1_bn").network.state_dict(), skeleton="lsp14")
