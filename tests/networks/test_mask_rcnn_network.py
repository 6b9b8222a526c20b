"""Mask R-CNN's network: torchvision's to the last bit, other backbones, other layouts, what is ignored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import keypointrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from lightning_pose_zoo.codecs import RegionHeatmapCodec
from lightning_pose_zoo.methods import MaskRCNN
from lightning_pose_zoo.networks import HeadSizes, MaskRCNNNetwork, RegionSettings
from lightning_pose_zoo.networks.feature_pyramid import FeaturePyramid
from lightning_pose_zoo.networks.region_proposals import Anchors, PyramidRoIAlign, leave_out_ignored
from lightning_pose_zoo.structures import PoseBatch

SMALL = HeadSizes((16, 32, 64, 128, 256), 16, 32, (16, 16), 8, (16,))


@pytest.fixture(scope="module")
def theirs():
    """torchvision's network of random weights, which finds people everywhere; pictures are taken as large as they are.

    Its batch norm has seen a picture, so that the maps neither vanish nor explode.
    """
    torch.manual_seed(0)
    network = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, rpn_pre_nms_top_n_train=100,
                                        rpn_post_nms_top_n_train=40, rpn_pre_nms_top_n_test=80,
                                        rpn_post_nms_top_n_test=30, box_batch_size_per_image=16,
                                        box_detections_per_img=4, box_score_thresh=0.0)  # fmt: skip
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.backbone(torch.randn(2, 3, 96, 128))
    # No resizing: what comes is as it is.
    network.transform.resize = lambda image, target=None: (image, target)
    return network.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    regions = RegionSettings((100, 40), (80, 30), sampled=16, min_score=0.0, most=4)
    method = MaskRCNN("coco17", batch_norm="trained", regions=regions, codec=RegionHeatmapCodec("logit")).eval()
    method.network.load_state_dict(theirs.state_dict())
    return method


def pictures(*sizes):
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]


def batch_of(images, canvas):
    """Pictures in the upper left corners of a canvas."""
    filled = torch.zeros(len(images), 3, *canvas, dtype=torch.uint8)
    for row, image in enumerate(images):
        filled[row, :, : image.shape[1], : image.shape[2]] = image
    return PoseBatch(image=filled, content=torch.tensor([list(image.shape[1:]) for image in images]))


def test_state_dicts_are_equal_and_so_are_the_numbers_of_parameters(theirs):
    frozen, trained = MaskRCNNNetwork(17), MaskRCNNNetwork(17, batch_norm="trained")
    assert sum(p.numel() for p in trained.parameters()) == 59_190_378
    assert sum(p.numel() for p in frozen.parameters()) == 59_137_258
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in trained.state_dict().items()} == shapes
    plain = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in frozen.state_dict().items()} == plain
    masked = MaskRCNNNetwork(17, masks=True, sizes=HeadSizes(keypoint=(8,)))
    parts = {"mask_head": MaskRCNNHeads(256, (256,) * 4, 1), "mask_predictor": MaskRCNNPredictor(256, 256, 2)}
    for name, part in parts.items():
        own = getattr(masked.roi_heads, name).state_dict()
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in part.state_dict().items()}


@pytest.mark.parametrize(
    ("sizes", "canvas"),
    [([(96, 128)], (96, 128)), ([(96, 128), (70, 101), (90, 61)], (160, 160))],
    ids=["one", "several"],
)
def test_outputs_are_torchvisions_to_the_last_bit(theirs, ours, sizes, canvas):
    images = pictures(*sizes)
    with torch.no_grad():
        expected = theirs([image / 255 for image in images])
        found = ours.estimate(batch_of(images, canvas))
    assert len(found) == 4 * len(sizes)
    assert found.image_ids.tolist() == [row for row, one in enumerate(expected) for _ in one["scores"]]
    for name, value in {
        "boxes": found.boxes,
        "scores": found.scores,
        "keypoints": torch.cat([found.keypoints, torch.ones(len(found), 17, 1)], dim=-1),
        "keypoints_scores": found.keypoint_scores,
    }.items():
        assert torch.equal(value, torch.cat([one[name] for one in expected])), name


def test_losses_are_torchvisions_to_the_last_bit(theirs, ours):
    images = pictures((96, 128), (96, 128))
    boxes = torch.tensor([[10.0, 10, 60, 90], [70, 20, 110, 80], [5, 30, 70, 70]])
    points = boxes[:, None, :2] + torch.rand(3, 17, 2) * (boxes[:, None, 2:] - boxes[:, None, :2])
    owners, visible = torch.tensor([0, 0, 1]), torch.randint(0, 3, (3, 17))
    targets = [
        {
            "boxes": boxes[owners == row],
            "labels": torch.ones(int((owners == row).sum()), dtype=torch.int64),
            "keypoints": torch.cat([points, visible[..., None]], dim=-1)[owners == row],
        }
        for row in range(2)
    ]
    batch = PoseBatch(image=torch.stack(images), box=boxes, keypoints=points, visibility=visible, image_index=owners)
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            expected = theirs.train()([image / 255 for image in images], targets)
            torch.manual_seed(0)
            found = ours.train().losses(batch)
    finally:
        theirs.eval()
        ours.eval()
    names = {"objectness": "loss_objectness", "proposals": "loss_rpn_box_reg", "classes": "loss_classifier",
             "boxes": "loss_box_reg", "keypoints": "loss_keypoint"}  # fmt: skip
    assert set(found) == set(names)
    # Batch norm learns from the first call what the second one sees; the losses use the batch's own statistics.
    for name, other in names.items():
        assert torch.equal(found[name], expected[other]), name


@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224",
                                      "mobilenetv3_small_100", "hrnet_w18_small"])  # fmt: skip
def test_pyramids_of_all_kinds_of_backbones(backbone):
    with torch.device("meta"):
        pyramid = FeaturePyramid(backbone, channels=16).eval()
        maps = pyramid(torch.zeros(2, 3, 64, 96))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    for (height, width), level in zip(((16, 24), (8, 12), (4, 6), (2, 3), (1, 2)), maps.values(), strict=True):
        assert level.shape == (2, 16, height, width)


def test_backbones_without_the_stages_are_refused():
    with pytest.raises(ValueError, match=r"vit_tiny.* (has stages of stride|has no backbone)"):
        FeaturePyramid("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=r"similar names: .*resnet50"):
        FeaturePyramid("resnet5")
    with pytest.raises(ValueError, match="'torchvision' and 'detectron2'"):
        MaskRCNNNetwork(17, "resnet18", layout="mmdet")
    with pytest.raises(ValueError, match="five sizes of anchors"):
        HeadSizes(anchors=(32, 64))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t"])
def test_frozen_batch_norm_learns_nothing(backbone):
    def norms(pyramid, kind):
        return [module for module in pyramid.modules() if kind in type(module).__name__]

    frozen = FeaturePyramid(backbone, channels=16)
    assert not norms(frozen, "BatchNorm2d") or all(
        isinstance(m, FrozenBatchNorm2d) for m in norms(frozen, "BatchNorm2d")
    )
    assert norms(frozen, "FrozenBatchNorm")
    assert not [name for name, _ in frozen.body.named_parameters() if ".bn" in name]
    eps0 = FeaturePyramid(backbone, batch_norm="frozen_eps0", channels=16)
    assert {module.eps for module in norms(eps0, "FrozenBatchNorm")} == {0.0}
    trained = FeaturePyramid(backbone, batch_norm="trained", channels=16)
    assert not norms(trained, "FrozenBatchNorm")


def test_what_the_published_training_does_not_train():
    network = MaskRCNNNetwork(17, "resnet18", sizes=SMALL, freeze=True)
    still = {name.split(".")[2] for name, p in network.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}
    assert all(p.requires_grad for p in MaskRCNNNetwork(17, "resnet18", sizes=SMALL).parameters())


def test_detectron2s_layout():
    ours, theirs = (MaskRCNNNetwork(17, "resnet50", layout, sizes=SMALL) for layout in ("torchvision", "detectron2"))
    block = theirs.backbone.body.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert ours.backbone.body.layer2[0].conv1.stride == (1, 1)
    images = torch.randn(1, 3, 64, 64)
    for network in (ours, theirs):
        assert network.backbone(images)["3"].shape == (1, 16, 2, 2)
    assert theirs.roi_heads.box_beta == 0.5
    exact, rounded = Anchors((32,) * 5, rounded=False).cell_anchors[0], Anchors((32,) * 5).cell_anchors[0]
    assert torch.equal(exact.round(), rounded)
    torch.testing.assert_close((exact[:, 2] * exact[:, 3] * 4).sqrt(), torch.full((3,), 32.0))
    # By the middles of pixels, a region of the map's own cells is the map.
    level = torch.randn(1, 2, 16, 16)
    maps = {str(number): level for number in range(4)}
    cut = PyramidRoIAlign(4, detectron2=True)(maps, [torch.tensor([[16.0, 16, 32, 32]])])
    torch.testing.assert_close(cut[0], level[0, :, 4:8, 4:8])


def test_regions_are_cut_out_as_torchvision_does():
    torch.manual_seed(0)
    maps = {
        str(number): torch.randn(2, 5, 256 // stride, 320 // stride) for number, stride in enumerate((4, 8, 16, 32))
    }
    low = 100 * torch.rand(40, 2)
    boxes = torch.cat([low, low + 10 + torch.cat([20 * torch.rand(20, 2), 200 * torch.rand(20, 2)])], dim=1)
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(maps, [boxes, boxes[:5]], [(256, 320)] * 2)
    assert torch.equal(PyramidRoIAlign(7)(maps, [boxes, boxes[:5]]), expected)
    half = {name: level.bfloat16() for name, level in maps.items()}
    assert PyramidRoIAlign(7)(half, [boxes, boxes[:5]]).dtype == torch.bfloat16
    assert PyramidRoIAlign(7)(maps, [boxes[:0], boxes[:0]]).shape == (0, 5, 7, 7)


def test_background_over_what_is_ignored_counts_nothing():
    ignore = torch.zeros(40, 60, dtype=torch.bool)
    ignore[10:30, 20:40] = True
    boxes = torch.tensor([[20.0, 10, 40, 30], [20, 10, 44, 30], [0, 0, 60, 40], [30, 10, 60, 30], [-50, 10, 30, 30],
                          [20, 10, 40, 30]])  # fmt: skip
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    [left] = leave_out_ignored([labels], [boxes], [{"ignore": ignore}])
    # Shares of 1, 0.83, 0.17, 0.33, and of the part inside of the picture 0.33; a person stays one.
    assert left.tolist() == [-1, -1, 0, 0, 0, 1]
    [same] = leave_out_ignored([labels], [boxes], [{}])
    assert same is labels


def test_coordinates_stay_exact_in_half_precision():
    network = MaskRCNNNetwork(17, "resnet10t", sizes=SMALL, batch_norm="trained").eval()
    image = ImageList(torch.zeros(1, 3, 32, 4096), [(32, 4096)])
    maps = {str(n): torch.zeros(1, 16, 32 // s, 4096 // s, dtype=torch.bfloat16) for n, s in enumerate((4, 8, 16, 32))}
    [anchors] = network.rpn.anchor_generator(image, [*maps.values(), maps["3"]])
    assert anchors.dtype == torch.float32
    assert (anchors[:, 0] + anchors[:, 2]).max() / 2 == 4092
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        proposals, _ = network.rpn(image, {**maps, "pool": maps["3"]})
        found = network(torch.randn(1, 3, 64, 96))
    assert proposals[0].dtype == found.boxes.dtype == found.keypoint_logits.dtype == torch.float32
    assert (proposals[0] % 16 != 0).any()


def test_settings_limit_what_is_found():
    torch.manual_seed(0)
    network = MaskRCNNNetwork(17, "resnet10t", sizes=SMALL, regions=RegionSettings(most=3, min_score=0.0)).eval()
    with torch.no_grad():
        found = network(torch.randn(2, 3, 64, 96))
        none = MaskRCNNNetwork(17, "resnet10t", sizes=SMALL, regions=RegionSettings(min_score=1.0)).eval()(
            torch.randn(2, 3, 64, 96)
        )
    assert found.rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert none.keypoint_logits.shape == (0, 17, 32, 32)
