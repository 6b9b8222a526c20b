"""Boxes as a detector draws them: learned from one, stored, and drawn in training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_pose_zoo.cli import main
from lightning_pose_zoo.data import BoxOffsets, CropAugmentation, PoseGuidedProposals, SyntheticPeople
from lightning_pose_zoo.data.mixtures import Mixture, clustered
from lightning_pose_zoo.data.proposals import matched_boxes, normalized_poses, read_offsets, write_offsets
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import get_skeleton

COCO = get_skeleton("coco17")


def standing_and_lying(count, rng):
    """Two kinds of poses in all sizes and places, and offsets of their boxes that depend on the kind."""
    upright = np.stack([rng.normal(0, 0.05, 17) + np.linspace(-0.2, 0.2, 17), np.linspace(-1, 1, 17)], axis=1)
    kind = rng.integers(0, 2, count)
    poses = np.where(kind[:, None, None] > 0, upright[:, ::-1], upright) + rng.normal(0, 0.03, (count, 17, 2))
    keypoints = poses * rng.uniform(20, 200, (count, 1, 1)) + rng.uniform(0, 500, (count, 1, 2))
    means = np.array([[-0.1, 0.0, 0.1, -0.3], [0.2, 0.05, -0.2, 0.05]])
    offsets = means[kind] + rng.normal(0, 1, (count, 4)) * [0.05, 0.02, 0.05, 0.03]
    return keypoints, np.full((count, 17), 2), offsets, kind


def test_offsets_are_learned_by_pose():
    rng = np.random.default_rng(0)
    keypoints, visibility, offsets, kind = standing_and_lying(3000, rng)
    learned = BoxOffsets.fitted(keypoints, visibility, offsets, COCO, atoms=2, components=1)
    assert len(learned.atoms) == 2
    for which in (0, 1):
        person = int(np.flatnonzero(kind == which)[0])
        drawn = np.stack([learned.draw(keypoints[person], visibility[person], rng) for _ in range(1500)])
        np.testing.assert_allclose(drawn.mean(axis=0), offsets[kind == which].mean(axis=0), atol=0.01)
        np.testing.assert_allclose(drawn.std(axis=0), offsets[kind == which].std(axis=0), atol=0.01)
    # Of whom no torso is known, everybody's offsets are taken.
    unknown = np.zeros(17)
    drawn = np.stack([learned.draw(keypoints[0], unknown, rng) for _ in range(1500)])
    np.testing.assert_allclose(drawn.mean(axis=0), offsets.mean(axis=0), atol=0.02)
    assert learned.atom(keypoints[0], unknown) == 2


def test_a_mixture_finds_two_groups_and_what_goes_together():
    rng = np.random.default_rng(1)
    one = rng.multivariate_normal([0, 0], [[1.0, 0.9], [0.9, 1.0]], 3000)
    other = rng.multivariate_normal([8, -4], [[0.3, 0], [0, 2.0]], 1000)
    fitted = Mixture.fitted(np.concatenate([one, other]), 2, np.random.default_rng(0))
    order = np.argsort(-fitted.shares)
    np.testing.assert_allclose(fitted.shares[order], [0.75, 0.25], atol=0.02)
    np.testing.assert_allclose(fitted.means[order], [[0, 0], [8, -4]], atol=0.1)
    np.testing.assert_allclose(fitted.covariances[order[0]], [[1, 0.9], [0.9, 1]], atol=0.1)
    np.testing.assert_allclose(fitted.covariances[order[1]], [[0.3, 0], [0, 2]], atol=0.2)
    drawn = np.stack([fitted.draw(rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(axis=0), [2, -1], atol=0.2)
    # A few rows give one Gaussian, and equal ones no division by zero.
    assert len(Mixture.fitted(np.ones((7, 4)), 3, rng).shares) == 1


def test_density_is_that_of_scipy():
    from scipy.stats import multivariate_normal

    mixture = Mixture(np.array([0.3, 0.7]), np.array([[0.0, 1], [2, 3]]), np.array([[[2, 0.5], [0.5, 1]], np.eye(2)]))
    rows = np.random.default_rng(0).normal(size=(20, 2))
    for one in (0, 1):
        expected = multivariate_normal(mixture.means[one], mixture.covariances[one]).logpdf(rows)
        np.testing.assert_allclose(mixture.log_densities(rows)[:, one], expected + np.log(mixture.shares[one]))


def test_groups_leave_out_what_is_not_known():
    rng = np.random.default_rng(0)
    points = np.repeat([[[0.0, 0], [0, 1]], [[5.0, 5], [6, 5]]], 50, axis=0) + rng.normal(0, 0.1, (100, 2, 2))
    known = rng.random((100, 2)) < 0.7
    points = np.where(known[..., None], points, 1e6)
    seen = known.any(axis=1)
    centers, group = clustered(points[seen], known[seen], 2, rng)
    assert len(np.unique(group[: seen[:50].sum()])) == 1
    np.testing.assert_allclose(sorted(centers[:, 0, 0]), [0, 5], atol=0.1)
    assert len(clustered(np.ones((5, 1, 2)), np.ones((5, 1), bool), 3, rng)[0]) == 1


def test_poses_are_brought_to_one_size_and_place():
    rng = np.random.default_rng(0)
    pose = rng.uniform(0, 1, (17, 2))
    keypoints = np.stack([pose * 50 + 100, pose * 200 - 30, pose])
    visibility = np.full((3, 17), 2)
    visibility[2, [5, 12]] = 0  # the first diagonal is unknown, the second one is taken
    poses, known = normalized_poses(keypoints, visibility, COCO.torso)
    np.testing.assert_allclose(poses[0], poses[1])
    assert known.sum() == 17 + 17 + 15
    visibility[2, [6, 11]] = 0
    assert not normalized_poses(keypoints, visibility, COCO.torso)[1][2].any()


def test_detections_find_their_persons():
    boxes = np.array([[0.0, 0, 10, 20], [100, 0, 120, 40], [0, 0, 10, 20]])
    detections = np.array([[1.0, 0, 10, 16], [0, 0, 4, 4], [101, 4, 122, 40], [1, 0, 10, 20]])
    rows, persons, offsets = matched_boxes(detections, np.array([1, 1, 1, 9]), boxes, np.array([1, 1, 2]))
    assert rows.tolist() == [0, 2]
    assert persons.tolist() == [0, 1]
    np.testing.assert_allclose(offsets, [[0.1, 0, 0, -0.2], [0.05, 0.1, 0.1, 0]])


def test_published_numbers_and_parts_of_the_box():
    rng, box = np.random.default_rng(0), np.array([100.0, 200, 150, 400])
    points, visible = np.zeros((17, 2)), np.full(17, 2, dtype=np.uint8)
    drawn = PoseGuidedProposals(probability=1.0)
    boxes = np.stack([drawn.propose(box, points, visible, COCO, 0, rng) for _ in range(8000)])
    offsets = (boxes - box) / np.array([50, 200, 50, 200])
    np.testing.assert_allclose(offsets.mean(axis=0), [-0.0142, 0.0043, 0.0154, -0.0013], atol=0.006)
    np.testing.assert_allclose(offsets.std(axis=0), [0.1158, 0.068, 0.1337, 0.0711], atol=0.005)
    parts = PoseGuidedProposals(probability=0.0, part=(0.7, 0.9))
    boxes = np.stack([parts.propose(box, points, visible, COCO, 0, rng) for _ in range(2000)])
    assert (boxes[:, :2] >= box[:2]).all()
    assert (boxes[:, 2:] <= box[2:]).all()
    sides = (boxes[:, 2:] - boxes[:, :2]) / (box[2:] - box[:2])
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    assert sides.min() == pytest.approx(0.7, abs=0.01)
    assert sides.max() == pytest.approx(0.9, abs=0.01)
    later = PoseGuidedProposals(first_epoch=3)
    assert later.propose(box, points, visible, COCO, 2, rng) is box
    assert later.propose(box, points, visible, COCO, 3, rng) is not box
    with pytest.raises(DatasetError, match="smaller and the larger"):
        PoseGuidedProposals(part=(0.9, 0.8))


def test_boxes_that_would_turn_inside_out_keep_a_size():
    wild = PoseGuidedProposals(probability=1.0)
    wild.offsets = BoxOffsets((), (), np.zeros((0, 0, 2)), (Mixture(np.ones(1), np.zeros((1, 4)), np.eye(4)[None]),))
    box, rng = np.array([0.0, 0, 10, 20]), np.random.default_rng(0)
    drawn = np.stack([wild.propose(box, np.zeros((17, 2)), np.zeros(17, np.uint8), COCO, 0, rng) for _ in range(500)])
    assert ((drawn[:, 2:] - drawn[:, :2]) >= [1 - 1e-9, 2 - 1e-9]).all()


def test_offsets_come_back_from_their_file(tmp_path):
    keypoints, visibility, offsets, _ = standing_and_lying(200, np.random.default_rng(0))
    learned = BoxOffsets.fitted(keypoints, visibility, offsets, COCO, atoms=3)
    path = tmp_path / "offsets.yaml"
    write_offsets(path, learned)
    again = read_offsets(path)
    assert again.names == COCO.names
    np.testing.assert_allclose(again.atoms, learned.atoms, atol=1e-5)
    for here, there in zip(again.mixtures, learned.mixtures, strict=True):
        np.testing.assert_allclose(here.covariances, there.covariances, atol=1e-7)
    proposals = PoseGuidedProposals(str(path))
    lsp, somebody = get_skeleton("lsp14"), (np.zeros(4), np.zeros((14, 2)), np.zeros(14, np.uint8))
    with pytest.raises(DatasetError, match=r"learned for 17 keypoints(.|\n)*'lsp14'"):
        proposals.propose(*somebody, lsp, 0, np.random.default_rng(0))
    with pytest.raises(DatasetError, match="does not exist"):
        PoseGuidedProposals(str(tmp_path / "none.yaml"))
    text = path.read_text()
    for change in (text.replace("mixtures:", "mixture:"), "[]", text.replace("shares: [", "shares: [3.0, ", 1)):
        path.write_text(change)
        with pytest.raises(DatasetError, match="is no file of offsets"):
            read_offsets(path)
    with pytest.raises(DatasetError, match="at least 10 detections"):
        BoxOffsets.fitted(keypoints[:5], visibility[:5], offsets[:5], COCO)


def test_crops_are_cut_by_proposals_and_keep_the_true_box():
    def crops(augmentation):
        data = SyntheticPeople("coco17", image_size=(64, 64), train_size=6, val_size=2, augmentation=augmentation)
        data.setup("fit")
        return data.datasets["train"].__getitems__(range(6))

    still = {"scale": 0.0, "rotation": 0.0, "flip_probability": 0.0}
    true = crops(CropAugmentation(**still))
    moved = crops(CropAugmentation(**still, proposals=PoseGuidedProposals(probability=1.0)))
    again = crops(CropAugmentation(**still, proposals=PoseGuidedProposals(probability=1.0)))
    middle = true["box"].unflatten(-1, (2, 2)).mean(dim=1)
    assert (middle - 32).abs().max() < 0.5
    assert (moved["box"].unflatten(-1, (2, 2)).mean(dim=1) - 32).abs().max() > 1
    assert all((moved[name] == again[name]).all() for name in ("image", "box", "keypoints"))
    # The box is the person's own, wherever the crop is: it moves with the keypoints.
    inside = (moved["keypoints"] - moved["box"][:, None, :2]) / (moved["box"][:, None, 2:] - moved["box"][:, None, :2])
    same = (true["keypoints"] - true["box"][:, None, :2]) / (true["box"][:, None, 2:] - true["box"][:, None, :2])
    labelled = true["visibility"] > 0
    assert (inside - same)[labelled].abs().max() < 1e-3


def test_the_command_learns_from_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    keypoints, _, offsets, _ = standing_and_lying(60, rng)
    images, annotations, detections = [], [], []
    for number, (points, offset) in enumerate(zip(keypoints, offsets, strict=True)):
        low, high = points.min(axis=0), points.max(axis=0)
        size = high - low
        triples = np.column_stack([points, np.full(17, 2)]).ravel().tolist()
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 2000, "height": 2000})
        box = [*low.tolist(), *size.tolist()]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "keypoints": triples, "bbox": box,
                            "area": float(size.prod()), "iscrowd": 0, "num_keypoints": 17})  # fmt: skip
        found = np.concatenate([low, high]) + offset * np.tile(size, 2)
        box = [*found[:2].tolist(), *(found[2:] - found[:2]).tolist()]
        detections.append({"image_id": number, "category_id": 1, "bbox": box, "score": 0.9})
    category = {"id": 1, "name": "person", "keypoints": list(COCO.names), "skeleton": []}
    files = {"a.json": {"images": images, "annotations": annotations, "categories": [category]}, "d.json": detections}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    out = tmp_path / "offsets.yaml"
    main(["proposals", f"--annotations={tmp_path / 'a.json'}", f"--detections={tmp_path / 'd.json'}", f"--out={out}",
          "--least_iou=0.1", "--atoms=2", "--components=1", "--skeleton=coco17"])  # fmt: skip
    said = capsys.readouterr().out
    assert "60 of 60 detections have one of 60 persons" in said
    assert len(read_offsets(out).atoms) == 2
    with pytest.raises(SystemExit):
        main(["proposals", f"--annotations={tmp_path / 'none.json'}", f"--detections={out}", f"--out={out}"])
