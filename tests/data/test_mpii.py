"""MPII's layout against an independent reading, and its conventions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import scipy.io

from lightning_pose_zoo import geometry
from lightning_pose_zoo.data import MPII
from lightning_pose_zoo.data.mpii import HEAD_OF_STICK, read_mpii
from lightning_pose_zoo.errors import DatasetError


@pytest.fixture
def root(test_data, tmp_path):
    """Five real pictures in the HRNet repository's layout, as training and validation set."""
    source = test_data / "mmpose-samples/mpii"
    folder = tmp_path / "mpii"
    (folder / "annot").mkdir(parents=True)
    shutil.copytree(source, folder / "images")
    for name in ("train", "valid"):
        shutil.copy(source / "test_mpii.json", folder / f"annot/{name}.json")
    return folder


def save_head_boxes(test_data, folder, rows):
    # The five pictures are the first five of the validation set.
    boxes = scipy.io.loadmat(test_data / "oracles/mpii/gt_valid.mat")["headboxes_src"][..., :rows]
    scipy.io.savemat(folder / "annot/gt_valid.mat", {"headboxes_src": boxes})
    return boxes


def test_columns_equal_the_file_counted_from_zero(root):
    table = read_mpii(root / "annot/valid.json", root / "images")
    content = json.loads((root / "annot/valid.json").read_text())
    assert table.person_ids.tolist() == [0, 1, 2, 3, 4]
    for row, entry in enumerate(content):
        assert table.path(table.image_rows[row]).name == entry["image"]
        for joint in range(16):
            if entry["joints_vis"][joint]:
                expected = [entry["joints"][joint][0] - 1, entry["joints"][joint][1] - 1]
                np.testing.assert_allclose(table.keypoints[row, joint], expected, atol=1e-4)
                assert table.visibility[row, joint] == 2
            else:
                assert table.visibility[row, joint] == 0


def test_crops_are_those_of_the_hrnet_repository(root):
    """Its centre and scale: centre + 15 * scale downwards, scale * 1.25, then counted from 0."""
    table = read_mpii(root / "annot/valid.json", root / "images")
    for row, entry in enumerate(json.loads((root / "annot/valid.json").read_text())):
        side = 200 * entry["scale"] * 1.25
        expected = np.array([entry["center"][0] - 1, entry["center"][1] + 15 * entry["scale"] - 1])
        center, size = geometry.box_center_size(table.boxes[row].astype(float))
        np.testing.assert_allclose(center, expected, atol=1e-3)
        np.testing.assert_allclose(geometry.fit_aspect(size, 1.0, 1.25), [side, side], rtol=1e-5)


def test_head_sizes_come_from_the_boxes(root, test_data):
    boxes = save_head_boxes(test_data, root, 5)
    data = MPII(str(root), num_workers=0)
    data.setup("validate")
    expected = [0.6 * np.hypot(*(boxes[1, :, row] - boxes[0, :, row])) for row in range(5)]
    (batch,) = data.val_dataloader()
    np.testing.assert_allclose(batch["head_size"], expected, rtol=1e-5)


def test_head_sizes_without_boxes_agree_with_them(test_data):
    """The estimate is the median over all 2,958 persons of the validation set."""
    content = json.loads((test_data / "annotations-only/mpii_valid_hrnet_layout.json").read_text())
    joints, visible = (np.array([entry[key] for entry in content]) for key in ("joints", "joints_vis"))
    corners = scipy.io.loadmat(test_data / "oracles/mpii/gt_valid.mat")["headboxes_src"].astype(float)
    size = 0.6 * np.linalg.norm(corners[1] - corners[0], axis=0)
    both = (visible[:, 8] > 0) & (visible[:, 9] > 0)
    ratio = size[both] / np.linalg.norm(joints[both, 8] - joints[both, 9], axis=1)
    assert np.median(ratio) == pytest.approx(HEAD_OF_STICK, abs=1e-3)
    assert (np.abs(ratio - HEAD_OF_STICK) < 0.02).mean() > 0.98


def test_protocol_and_skeleton(root):
    data = MPII(str(root), num_workers=0, batch_size=4)
    assert data.skeleton.name == "mpii16"
    assert [type(metric).__name__ for metric in data.metrics()] == ["PCKh", "AUC"]
    assert (data.augmentation.scale, data.augmentation.rotation, data.augmentation.half_body_probability) == (
        0.25,
        30,
        0,
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 256, 256)
    assert batch["head_size"].isfinite().all()


def test_mmpose_names_are_found(root):
    (root / "annot").rename(root / "annotations")
    (root / "annotations/valid.json").rename(root / "annotations/mpii_val.json")
    data = MPII(str(root), num_workers=0)
    data.setup("test")
    assert len(data.datasets["test"]) == 5


def test_pictures_of_several_persons_have_one_id(root):
    content = json.loads((root / "annot/valid.json").read_text())
    (root / "annot/valid.json").write_text(json.dumps([*content, content[0]]))
    table = read_mpii(root / "annot/valid.json", root / "images")
    assert len(table.image_ids) == 5
    assert table.image_rows.tolist() == [0, 1, 2, 3, 4, 0]
    assert table.person_ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_head_boxes_of_another_file_are_refused(root, test_data):
    save_head_boxes(test_data, root, 4)
    with pytest.raises(DatasetError, match=r"gt_valid\.mat.*\(2, 2, 5\)"):
        MPII(str(root)).setup("validate")


def test_bad_rows_are_told_at_once(root):
    content = json.loads((root / "annot/valid.json").read_text())
    content[0]["image"] = "../secret.jpg"
    content[1]["joints"] = content[1]["joints"][:15]
    content[2]["scale"] = 0
    content[3]["center"] = [1e9, 3]
    content[4]["joints"][0][0] = float("nan")
    (root / "annot/valid.json").write_text(json.dumps([*content, 7]))
    with pytest.raises(DatasetError) as caught:
        MPII(str(root)).setup("validate")
    message = str(caught.value)
    assert "valid.json: 6 problems" in message
    for row, reason in enumerate(["points out", "needs center", "scale", "beyond", "not finite", "image None"]):
        assert f"person {row}: " in message
        assert reason in message


@pytest.mark.parametrize(
    "content", [b"", b"MATLAB 5.0 MAT-file nonsense" + bytes(200), b"\x89HDF\r\n\x1a\n" + bytes(600)]
)
def test_broken_matlab_files_are_refused(root, content):
    (root / "annot/gt_valid.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=r"gt_valid\.mat"):
        MPII(str(root)).setup("validate")
