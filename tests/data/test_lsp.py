"""Leeds Sports Pose: both layouts, flags, splits and parts of the data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from lightning_pose_zoo.data import LSP
from lightning_pose_zoo.data.lsp import read_lsp
from lightning_pose_zoo.errors import DatasetError


def make(root, count, original, digits=None):
    rng = np.random.default_rng(count)
    joints = rng.uniform(10, 90, (count, 14, 3))
    joints[..., 2] = rng.integers(0, 2, (count, 14))
    joints[:, :2, 2] = 0 if original else 1
    (root / "images").mkdir(parents=True)
    for number in range(1, count + 1):
        name = f"im{number:04d}.jpg" if original else f"im{number:05d}.jpg"
        Image.new("RGB", (100, 100)).save(root / "images" / name)
    layout = joints.transpose(2, 1, 0) if original else joints.transpose(1, 2, 0)
    scipy.io.savemat(root / "joints.mat", {"joints": layout})
    return joints


@pytest.mark.parametrize(
    ("name", "first", "last", "visible"), [("lsp-400", 1, 400, 4866), ("lsp-extended-401-1200", 401, 1200, 9895)]
)
def test_real_parts_of_the_extended_set(test_data, name, first, last, visible):
    table = read_lsp(test_data / name)
    joints = scipy.io.loadmat(test_data / name / "joints.mat")["joints"]
    assert len(table) == last - first + 1
    assert (table.visibility > 0).sum() == visible
    for row in (0, 7, len(table) - 1):
        number = first + row
        assert table.path(table.image_rows[row]).name == f"im{number:05d}.jpg"
        assert table.person_ids[row] == table.image_ids[row] == 100_000 + number
        labelled = joints[:, 2, number - 1] == 1
        np.testing.assert_array_equal(table.visibility[row] == 2, labelled)
        np.testing.assert_allclose(table.keypoints[row][labelled], joints[labelled, :2, number - 1], rtol=1e-6)
        assert not table.keypoints[row][~labelled].any()


def test_the_extended_set_alone_is_split_at_its_end(test_data):
    data = LSP(str(test_data / "lsp-400"), val_fraction=0.25, num_workers=0)
    data.setup("fit")
    train, val = (data.datasets[name].table.person_ids - 100_000 for name in ("train", "val"))
    assert train.tolist() == list(range(1, 301))
    assert val.tolist() == list(range(301, 401))
    assert [type(metric).__name__ for metric in data.metrics()] == ["PCK", "PDJ", "PCP"]


def test_the_original_marks_hidden_joints(tmp_path):
    joints = make(tmp_path / "lsp", 5, original=True)
    table = read_lsp(tmp_path / "lsp")
    np.testing.assert_array_equal(table.visibility, np.where(joints[..., 2] == 1, 1, 2))
    np.testing.assert_allclose(table.keypoints, joints[..., :2], rtol=1e-6)
    assert table.file_names[0] == "im0001.jpg"


def test_the_original_is_split_in_the_middle(tmp_path, monkeypatch):
    make(tmp_path / "lsp", 9, original=True)
    make(tmp_path / "lspet", 3, original=False)
    monkeypatch.setattr("lightning_pose_zoo.data.lsp._ORIGINAL_TRAIN", 6)
    data = LSP(
        str(tmp_path / "lsp"), extended=str(tmp_path / "lspet"), num_workers=0, batch_size=3, image_size=(32, 32)
    )
    data.setup("fit")
    data.setup("test")
    assert data.datasets["train"].table.person_ids.tolist() == [1, 2, 3, 4, 5, 6, 100_001, 100_002, 100_003]
    assert (
        data.datasets["val"].table.person_ids.tolist() == data.datasets["test"].table.person_ids.tolist() == [7, 8, 9]
    )
    assert sum(len(batch["image"]) for batch in data.train_dataloader()) == 9
    paths = [data.datasets["train"].table.path(row) for row in range(len(data.datasets["train"].table.file_names))]
    assert all(path.exists() for path in paths)


def test_boxes_hold_the_labelled_joints_with_a_margin(tmp_path):
    joints = make(tmp_path / "lspet", 3, original=False)
    table = read_lsp(tmp_path / "lspet")
    for row in range(3):
        points = joints[row][joints[row, :, 2] == 1, :2]
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.1 * (high - low)
        np.testing.assert_allclose(table.boxes[row], [*(low - margin), *(high + margin)], rtol=1e-5)


def test_missing_pictures_are_counted(tmp_path):
    make(tmp_path / "lsp", 5, original=True)
    (tmp_path / "lsp/images/im0002.jpg").unlink()
    with pytest.warns(UserWarning, match="1 of 5 pictures are missing"):
        table = read_lsp(tmp_path / "lsp")
    assert table.person_ids.tolist() == [1, 3, 4, 5]
    (tmp_path / "lsp/available.json").write_text(json.dumps({"available_indices_1based": [1, 3]}))
    with pytest.raises(DatasetError, match=r"missing picture: 'im0002\.jpg'"):
        read_lsp(tmp_path / "lsp")


def test_wrong_shapes_and_files_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"joints\.mat.*does not exist"):
        read_lsp(tmp_path)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": np.zeros((16, 3, 4))})
    with pytest.raises(DatasetError, match=r"\(16, 3, 4\)"):
        read_lsp(tmp_path)
    scipy.io.savemat(tmp_path / "joints.mat", {"other": np.zeros((14, 3, 4))})
    with pytest.raises(DatasetError, match="no array of numbers 'joints'"):
        read_lsp(tmp_path)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": np.zeros((14, 3, 4))})
    with pytest.raises(DatasetError, match="none of the pictures"):
        read_lsp(tmp_path)


def test_joints_that_are_not_finite_are_refused(tmp_path):
    make(tmp_path / "lspet", 3, original=False)
    joints = scipy.io.loadmat(tmp_path / "lspet/joints.mat")["joints"]
    joints[0, 0, 1] = np.nan
    scipy.io.savemat(tmp_path / "lspet/joints.mat", {"joints": joints})
    with pytest.raises(DatasetError, match="picture 2: a coordinate is not finite"):
        read_lsp(tmp_path / "lspet")
