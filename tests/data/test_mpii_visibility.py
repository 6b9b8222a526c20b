"""Hidden keypoints of MPII: the data set's own file, written as it is nested, with its gaps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
from test_mpii import root  # noqa: F401

from lightning_pose_zoo.data import MPII
from lightning_pose_zoo.data.mpii import read_mpii
from lightning_pose_zoo.errors import DatasetError

HEAD = (8, 9)  # upper neck and head top, for which the file has no flag


def release(people, order=1):
    """Nest persons as the release does: some flags are text, some empty, some persons have no points."""
    pictures = []
    for row, entry in enumerate(people[::order]):
        points = []
        for index, (place, flag) in enumerate(zip(entry["joints"], entry["joints_vis"], strict=True)):
            if not flag:
                continue
            seen = np.zeros((0, 0)) if index in HEAD else str(index % 2) if row % 2 else index % 2
            points.append({"x": place[0], "y": place[1], "id": index, "is_visible": seen})
        somebody = {"scale": 1.0, "annopoints": {"point": points}}
        nobody = {"scale": 2.0, "annopoints": np.zeros((0, 0))}
        elsewhere = {"scale": 1.0, "annopoints": {"point": [{"x": 1.0, "y": 2.0, "id": 3, "is_visible": 0}]}}
        rects = [nobody, elsewhere, somebody] if row else somebody
        pictures.append({"image": {"name": entry["image"]}, "annorect": rects})
    return {"RELEASE": {"annolist": pictures, "version": "1"}}


def test_hidden_keypoints_are_found_again(root):  # noqa: F811
    people = json.loads((root / "annot/valid.json").read_text())
    path = root / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(path, release(people, order=-1))
    plain = read_mpii(root / "annot/valid.json", root / "images")
    table = read_mpii(root / "annot/valid.json", root / "images", release=path)
    np.testing.assert_array_equal(table.keypoints, plain.keypoints)
    for row, entry in enumerate(people):
        for index, flag in enumerate(entry["joints_vis"]):
            hidden = index not in HEAD and index % 2 == 0
            assert table.visibility[row, index] == (0 if not flag else 1 if hidden else 2)
    data = MPII(str(root), num_workers=0)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    np.testing.assert_array_equal(batch["visibility"], table.visibility)


def test_persons_who_are_not_in_it_are_counted(root):  # noqa: F811
    people = json.loads((root / "annot/valid.json").read_text())
    path = root / "release.mat"
    scipy.io.savemat(path, release(people[:3]))
    with pytest.warns(UserWarning, match=r"2 of 5 persons of valid.json are not in it"):
        table = read_mpii(root / "annot/valid.json", root / "images", release=path)
    assert (table.visibility[3:] != 1).all()
    assert (table.visibility[:3] == 1).any(axis=1).all()


def test_other_files_are_refused(root):  # noqa: F811
    path = root / "release.mat"
    scipy.io.savemat(path, {"RELEASE": {"other": 1}})
    with pytest.raises(DatasetError, match=r"release.mat' has no RELEASE.annolist"):
        read_mpii(root / "annot/valid.json", root / "images", release=path)
    scipy.io.savemat(path, {"RELEASE": {"annolist": [{"image": 3}, {"image": 4}]}})
    with pytest.raises(DatasetError, match="not those of MPII's release"):
        read_mpii(root / "annot/valid.json", root / "images", release=path)
