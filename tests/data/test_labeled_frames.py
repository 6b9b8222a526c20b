"""Projects of DeepLabCut and Lightning Pose against an independent reading of their CSV."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from lightning_pose_zoo.data import LabeledFrames
from lightning_pose_zoo.errors import DatasetError


def project(root, rows, header=None, file="CollectedData.csv", frames=True):
    """Write a small project whose rows are (path, x, y, x, y)."""
    header = header or [
        ["scorer", "me", "me", "me", "me"],
        ["bodyparts", "nose", "nose", "tail", "tail"],
        ["coords", "x", "y", "x", "y"],
    ]
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    with (root / file).open("w", newline="") as handle:
        csv.writer(handle).writerows([*header, *rows])
    for row in rows if frames else []:
        path = root / row[0].replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(path)
    return LabeledFrames(str(root), num_workers=0, image_size=(32, 32), batch_size=2)


def rows_of(count):
    return [[f"labeled-data/video/img{number}.png", 3, 4, 5 + number, 6] for number in range(count)]


@pytest.mark.parametrize(
    ("name", "file", "frames", "labels", "size", "pairs"),
    [
        ("mirror-mouse", "CollectedData.csv", 90, 1396, (396, 406), ((0, 3), (1, 2), (8, 11), (9, 10))),
        ("openfield-dlc", "labeled-data/m4s1/CollectedData_Pranav.csv", 116, 464, (640, 480), ((1, 2),)),
    ],
)
def test_real_projects(test_data, name, file, frames, labels, size, pairs):
    data = LabeledFrames(str(test_data / name), num_workers=0)
    table = data.table()
    rows = list(csv.reader((test_data / name / file).open()))
    assert data.skeleton.names == tuple(rows[1][1::2])
    assert data.skeleton.flip_pairs == pairs
    assert data.skeleton.name == name
    assert len(table) == frames == len(rows) - 3
    assert (table.visibility > 0).sum() == labels
    np.testing.assert_array_equal(table.boxes, np.tile([0, 0, *size], (frames, 1)))
    for number, row in enumerate(rows[3:]):
        assert table.file_names[number] == row[0]
        for part, (x, y) in enumerate(zip(row[1::2], row[2::2], strict=True)):
            expected = [float(x), float(y)] if x else [0, 0]
            np.testing.assert_allclose(table.keypoints[number, part], expected, rtol=1e-6)
            assert (table.visibility[number, part] > 0) == bool(x)


def test_the_split_is_stated_and_complete(test_data):
    data = LabeledFrames(str(test_data / "mirror-mouse"), num_workers=0)
    data.setup("fit")
    data.setup("test")
    train, val, test = (set(data.datasets[name].table.person_ids.tolist()) for name in ("train", "val", "test"))
    assert len(val) == 18
    assert not train & val
    assert train | val == set(range(90))
    assert test == val
    other = LabeledFrames(str(test_data / "mirror-mouse"), num_workers=0, split_seed=1)
    other.setup("validate")
    assert set(other.datasets["val"].table.person_ids.tolist()) != val
    assert [type(metric).__name__ for metric in data.metrics()] == ["EPE", "RMSE", "PCK"]


def test_frames_are_fitted_whole(tmp_path):
    data = project(tmp_path, rows_of(4))
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    # 60 x 40 pixels in 32 x 32: a factor of 32 / 60, the middle in the middle.
    scale = 32 / 60
    expected = [(3 + 0.5) * scale - 0.5, (4 + 0.5 - 20) * scale + 16 - 0.5]
    np.testing.assert_allclose(batch["keypoints"][0, 0], expected, atol=1e-4)
    np.testing.assert_array_equal(batch["original_box"][0], [0, 0, 60, 40])


def test_several_files_are_joined(tmp_path):
    project(tmp_path, [["labeled-data/a/img1.png", 1, 2, 3, 4]], file="labeled-data/a/CollectedData_me.csv")
    data = project(tmp_path, [["labeled-data/b/img1.png", 5, 6, "", ""]], file="labeled-data/b/CollectedData_me.csv")
    table = data.table()
    assert table.file_names.tolist() == ["labeled-data/a/img1.png", "labeled-data/b/img1.png"]
    assert table.visibility.tolist() == [[2, 2], [2, 0]]
    rows = [["labeled-data/c/img1.png", 1, 2, 3, 4]]
    header = [["scorer"] + ["me"] * 4, ["bodyparts", "tail", "tail", "nose", "nose"], ["coords", "x", "y", "x", "y"]]
    other = project(tmp_path, rows, header, "labeled-data/c/CollectedData_me.csv")
    with pytest.raises(DatasetError, match="same body parts in the same order"):
        other.table()


def test_paths_in_three_columns_and_likelihoods(tmp_path):
    header = [
        ["scorer", "", "", "me", "me", "me"],
        ["bodyparts", "", "", "nose", "nose", "nose"],
        ["coords", "", "", "x", "y", "likelihood"],
    ]
    rows = [["labeled-data", "video", f"img{number}.png", 7, 8, 0.2] for number in range(2)]
    data = project(tmp_path, rows, header, frames=False)
    for row in rows:
        path = tmp_path / "/".join(row[:3])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(path)
    assert data.skeleton.names == ("nose",)
    np.testing.assert_array_equal(data.table().keypoints, [[[7, 8]], [[7, 8]]])


@pytest.mark.parametrize("prefix", ["C:\\old\\project\\", "/home/old/project/", "../project/"])
def test_projects_may_have_moved(tmp_path, prefix):
    data = project(tmp_path, rows_of(2))
    rows = [[prefix + row[0].replace("/", "\\" if "\\" in prefix else "/"), *row[1:]] for row in rows_of(2)]
    project(tmp_path, rows, frames=False)
    assert data.table().file_names.tolist() == [row[0] for row in rows_of(2)]


def test_frames_beside_the_csv_are_found(tmp_path):
    data = project(tmp_path, rows_of(2), file="labeled-data/renamed/CollectedData_me.csv")
    for frame in (tmp_path / "labeled-data/video").iterdir():
        shutil.move(frame, tmp_path / "labeled-data/renamed" / frame.name)
    assert data.table().file_names.tolist() == ["labeled-data/renamed/img0.png", "labeled-data/renamed/img1.png"]


def test_bad_frames_are_told_at_once_or_skipped(tmp_path):
    rows = rows_of(7)
    rows[1][1] = "abc"
    rows[2][2] = ""
    rows[3][1] = "inf"
    rows[4] = list(rows[0])
    rows[5][0] = "../../secret.png"
    data = project(tmp_path, rows[:5] + rows[6:])
    (tmp_path / rows[6][0]).unlink()
    project(tmp_path, rows, frames=False)
    with pytest.raises(DatasetError) as caught:
        data.setup("fit")
    message = str(caught.value)
    assert "CollectedData.csv: 6 problems" in message
    for frame, reason in {
        rows[1][0]: "'abc'", rows[2][0]: "only one of x and y is given: nose", rows[3][0]: "not finite",
        rows[4][0]: "labelled twice", rows[5][0]: "points out", rows[6][0]: "does not exist",
    }.items():  # fmt: skip
        assert any(frame in line and reason in line for line in message.splitlines()), (frame, reason)
    rows[1] = ["labeled-data/video/img1.png", 1, 2, 3, 4]
    project(tmp_path, rows, frames=False)
    with pytest.warns(UserWarning, match="5 problems"):
        kept = LabeledFrames(str(tmp_path), on_bad="skip").table()
    assert kept.file_names.tolist() == [rows[0][0], rows[1][0]]


def test_several_animals_are_refused_by_name(tmp_path):
    header = [["scorer", "a", "a"], ["individuals", "m1", "m1"], ["bodyparts", "nose", "nose"], ["coords", "x", "y"]]
    with pytest.raises(DatasetError, match="several animals"):
        _ = project(tmp_path, [], header).skeleton


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ([["a", "b"], ["c", "d"], ["e", "f"]], "does not start with"),
        ([["scorer", "s"], ["bodyparts", "nose"], ["coords", "x"]], "x or y is missing"),
        ([["scorer", "s"], ["bodyparts"], ["coords"]], "no body parts"),
        ([["scorer", "s", "s", "s"], ["bodyparts", "n", "n", "n"], ["coords", "x", "y", "x"]], "given twice"),
        ([["scorer", "s", "s", "s"], ["bodyparts", "n", "n", "n"], ["coords", "x", "y", "z"]], "neither x, y"),
    ],
)
def test_broken_headers_are_refused(tmp_path, header, reason):
    with pytest.raises(DatasetError, match=reason):
        _ = project(tmp_path, [], header).skeleton


def test_nothing_to_read(tmp_path):
    with pytest.raises(DatasetError, match="no CollectedData"):
        _ = LabeledFrames(str(tmp_path)).skeleton
    with pytest.raises(DatasetError, match=r"labels\.csv.*does not exist"):
        _ = LabeledFrames(str(tmp_path), annotations="labels.csv").skeleton
    with pytest.raises(DatasetError, match="1 labelled frames"):
        project(tmp_path, rows_of(1)).setup("fit")
    with pytest.raises(DatasetError, match="val_fraction"):
        LabeledFrames(str(tmp_path), val_fraction=1.0)
