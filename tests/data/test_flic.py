"""Frames Labeled in Cinema: the published structure, both meanings of the sides, splits, boxes and bad files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from lightning_pose_zoo.data import FLIC
from lightning_pose_zoo.data.flic import read_flic
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeleton_synonyms import matched_keypoints
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.structures import Poses

# As the data set's own lookupPart.m numbers them, from 1.
COLUMN = {"left_shoulder": 1, "left_elbow": 2, "left_wrist": 3, "right_shoulder": 4, "right_elbow": 5, "right_wrist": 6,
          "left_hip": 7, "right_hip": 10, "left_eye": 13, "right_eye": 14, "nose": 17}  # fmt: skip
# A person of 60 x 90 pixels seen from the front: the left arm is at the right of the picture.
FRONT = {"left_shoulder": (50, 30), "left_elbow": (58, 50), "left_wrist": (60, 70), "right_shoulder": (20, 30),
         "right_elbow": (8, 50), "right_wrist": (2, 70), "left_hip": (44, 80), "right_hip": (26, 80),
         "left_eye": (39, 8), "right_eye": (31, 8), "nose": (35, 14)}  # fmt: skip
TORSO = (17.0, 28.0, 53.0, 82.0)
FIELDS = ("poselet_hit_idx", "moviename", "coords", "filepath", "imgdims", "currframe", "torsobox", "istrain", "istest")
SIZE = (240, 200)


def example(number, corner, split, back=False, **changes):
    """One struct of the published file; ``corner`` is the place of the person, pixels from 1."""
    coords = np.full((2, 29), np.nan)
    for name, place in FRONT.items():
        shown = {"left": "right", "right": "left"}.get(name.split("_")[0], "") + name[name.find("_") :]
        coords[:, COLUMN[name] - 1] = np.add(corner, FRONT[shown] if back and "_" in name else place)
    fields = {"poselet_hit_idx": np.arange(3.0), "moviename": "a-film", "coords": coords,
              "filepath": f"a-film-{number:08d}.jpg", "imgdims": np.array([[SIZE[1], SIZE[0], 3.0]]), "currframe": 7.0,
              "torsobox": np.add(np.tile(corner, 2), TORSO), "istrain": split == "train",
              "istest": split == "test"}  # fmt: skip
    return fields | changes


def save(root, examples, fields=FIELDS):
    (root / "images").mkdir(parents=True, exist_ok=True)
    structs = np.zeros((1, len(examples)), dtype=[(field, object) for field in fields])
    for row, entry in enumerate(examples):
        structs[0, row] = tuple(entry[field] for field in fields)
        path = root / "images" / str(entry["filepath"])
        if not path.exists() and isinstance(entry["filepath"], str) and ".." not in entry["filepath"]:
            Image.new("RGB", SIZE).save(path)
    scipy.io.savemat(root / "examples.mat", {"examples": structs})
    return root


@pytest.fixture
def root(tmp_path):
    """Five people: three to train on, of which two are in one picture and one shows her back, and two to test on."""
    other = example(2, (151, 61), "train", filepath="a-film-00000001.jpg")
    people = [example(1, (21, 41), "train"), other, example(3, (61, 51), "train", back=True)]
    people += [example(4, (81, 31), "test"), example(5, (71, 71), "test", back=True)]
    return save(tmp_path / "flic", people)


def place(table, row, name):
    return table.keypoints[row, get_skeleton("flic").index(name)].tolist()


def test_columns_are_found_by_name_and_counted_from_zero(root):
    table, for_training = read_flic(root, sides="person")
    assert for_training.tolist() == [True, True, True, False, False]
    assert table.person_ids.tolist() == [1, 2, 3, 4, 5]
    assert (table.visibility == 2).all()
    assert np.isnan(table.head_sizes).all()
    for name, (x, y) in FRONT.items():
        assert place(table, 0, name) == [20 + x, 40 + y]
        assert place(table, 3, name) == [80 + x, 30 + y]


def test_people_share_pictures(root):
    table, _ = read_flic(root)
    assert [table.path(row).name for row in table.image_rows] == [
        f"a-film-{number:08d}.jpg" for number in (1, 1, 3, 4, 5)
    ]
    assert table.image_ids[table.image_rows].tolist() == [1, 1, 3, 4, 5]
    batch = FLIC(str(root), num_workers=0, augmentation=None).dataset("train")[0]
    assert batch["others_visibility"].shape == (1, 1, 11)


def test_the_person_s_own_sides_are_those_of_the_file(root):
    table, _ = read_flic(root, sides="person")
    assert place(table, 2, "left_wrist") == [60 + 2, 50 + 70]
    assert place(table, 2, "left_eye") == [60 + 31, 50 + 8]


def test_the_observer_s_left_arm_is_at_the_right_of_the_picture(root):
    table, _ = read_flic(root, sides="observer")
    for row, corner in ((0, (20, 40)), (2, (60, 50)), (4, (70, 70))):
        for name, where in FRONT.items():
            assert place(table, row, name) == np.add(corner, where).tolist()
    assert FLIC(str(root)).sides == "observer"


def test_a_missing_shoulder_leaves_the_sides_alone(root):
    people = [example(1, (21, 41), "train", back=True), example(2, (21, 41), "test")]
    people[0]["coords"][:, COLUMN["left_shoulder"] - 1] = np.nan
    table, _ = read_flic(save(root, people))
    assert place(table, 0, "left_wrist") == [20 + 2, 40 + 70]


def test_keypoints_without_a_label(root):
    people = [example(1, (21, 41), "train"), example(2, (21, 41), "test")]
    people[0]["coords"][:, [COLUMN["left_wrist"] - 1, COLUMN["nose"] - 1]] = np.nan
    table, _ = read_flic(save(root, people))
    names = get_skeleton("flic").names
    assert {names[k] for k in np.flatnonzero(table.visibility[0] == 0)} == {"left_wrist", "nose"}
    assert place(table, 0, "nose") == [0, 0]
    assert table.visibility[1].all()


def test_boxes_are_squares_in_heights_of_the_torso(root):
    table, _ = read_flic(root, torso_scale=2.5)
    # The torso's box of the first person is 38..74 x 69..123, from 1, and so 54 high.
    center, half = (37 + 36 / 2, 68 + 0.3 * 54), 2.5 * 54 / 2
    expected = [center[0] - half, center[1] - half, center[0] + half, center[1] + half]
    np.testing.assert_allclose(table.boxes[0], expected, rtol=1e-6)
    low, high = table.keypoints.min(axis=1), table.keypoints.max(axis=1)
    assert (table.boxes[:, :2] < low).all()
    assert (table.boxes[:, 2:] > high).all()


def test_crops_show_the_keypoints_where_they_are(root):
    table, _ = read_flic(root)
    colors = np.arange(1, 12) * 20
    for image in range(len(table.file_names)):
        picture = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
        for row in np.flatnonzero(table.image_rows == image):
            for (x, y), color in zip(table.keypoints[row].astype(int), colors, strict=True):
                picture[y - 1 : y + 2, x - 1 : x + 2] = color
        Image.fromarray(picture).save(table.path(image).with_suffix(".png"))
        table.path(image).with_suffix(".png").replace(table.path(image))
    data = FLIC(str(root), num_workers=0, image_size=(192, 192), batch_size=5)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["person_id"].tolist() == [4, 5]
    for image, keypoints in zip(batch["image"], batch["keypoints"], strict=True):
        for (x, y), color in zip(keypoints.round().int().tolist(), colors, strict=True):
            assert abs(int(image[0, y, x]) - color) <= 3
    restored = torch.einsum("nij,nkj->nki", batch["to_original"][:, :, :2], batch["keypoints"])
    restored += batch["to_original"][:, None, :, 2]
    np.testing.assert_allclose(restored, batch["original_keypoints"], atol=1e-3)


def test_splits_and_protocol(root):
    data = FLIC(str(root), num_workers=0, batch_size=2)
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    ids = {name: dataset.table.person_ids.tolist() for name, dataset in data.datasets.items()}
    assert ids == {"train": [1, 2, 3], "val": [4, 5], "test": [4, 5], "predict": [4, 5]}
    assert data.skeleton is get_skeleton("flic")
    assert [(type(metric).__name__, metric.thresholds) for metric in data.metrics()] == [
        ("PDJ", (0.2, 0.15, 0.1, 0.05)),
        ("PCK", (0.2, 0.15, 0.1, 0.05)),
    ]


def test_scores_are_by_left_shoulder_to_right_hip(root):
    """As the data set's authors score: 100 * distance / |lsho - rhip|, here in plain numpy."""
    data = FLIC(str(root), num_workers=0, batch_size=2)
    data.setup("test")
    (batch,) = data.test_dataloader()
    truth = batch["original_keypoints"].numpy()
    shift = np.random.default_rng(0).uniform(-9, 9, truth.shape)
    (metric, _) = data.metrics()
    poses = Poses(
        keypoints=torch.from_numpy(truth + shift), keypoint_scores=torch.ones(2, 11), scores=torch.ones(2),
        boxes=torch.zeros(2, 4), image_ids=batch["image_id"], person_ids=batch["person_id"],
    )  # fmt: skip
    metric.update_batch(poses, batch)
    values = metric.compute()
    size = np.hypot(*(truth[:, 0] - truth[:, 7]).T)
    for threshold in (0.2, 0.15, 0.1, 0.05):
        right = np.hypot(shift[..., 0], shift[..., 1]) / size[:, None] <= threshold
        assert float(values[f"PDJ@{threshold}"]) == pytest.approx(right.mean())
        for part, columns in (("elbow", (1, 4)), ("wrist", (2, 5))):
            both = [float(values[f"PDJ@{threshold}/{side}_{part}"]) for side in ("left", "right")]
            assert both == pytest.approx(right[:, columns].mean(axis=0).tolist())


def test_weights_of_other_skeletons_fit_by_name():
    flic = get_skeleton("flic")
    assert None not in matched_keypoints(get_skeleton("coco17"), flic)
    sides = [f"{side}{part}" for side in "lr" for part in ("sho", "elb", "wri")]
    short = Skeleton.from_names("short", [*sides, "lhip", "rhip", "leye", "reye", "nose"])
    assert matched_keypoints(short, flic) == list(range(11))


def test_flic_full_leaves_out_what_is_bad_or_unchecked(root):
    bad = example(2, (21, 41), "", coords=np.full((2, 29), np.inf), torsobox=np.zeros(4), filepath="gone.jpg")
    people = [
        entry | {"isbad": False, "isunchecked": np.zeros((0, 0))}
        for entry in (example(1, (21, 41), "train"), bad, example(3, (21, 41), "test", istrain=np.zeros((0, 0))))
    ]
    save(root, people, (*FIELDS, "isbad", "isunchecked"))
    (root / "images/gone.jpg").unlink()
    table, for_training = read_flic(root)
    assert table.person_ids.tolist() == [1, 3]
    assert for_training.tolist() == [True, False]


def test_flic_plus_names_its_training_examples(root, tmp_path):
    people = [example(1, (21, 41), "train"), example(2, (21, 41), ""), example(3, (21, 41), "test")]
    save(root, people)
    plus = tmp_path / "tr_plus_indices.mat"
    scipy.io.savemat(plus, {"tr_plus_indices": np.array([[1], [2]], dtype=np.uint16)})
    data = FLIC(str(root), plus=str(plus), num_workers=0)
    data.setup("fit")
    assert data.datasets["train"].table.person_ids.tolist() == [1, 2]
    assert data.datasets["val"].table.person_ids.tolist() == [3]
    scipy.io.savemat(plus, {"tr_plus_indices": np.array([[2], [3]])})
    with pytest.raises(DatasetError, match=r"example 3: in the training and the test set, by .*tr_plus_indices\.mat"):
        read_flic(root, plus)
    for wrong in ([0, 1], [1, 4], [1.5]):
        scipy.io.savemat(plus, {"tr_plus_indices": np.array(wrong)})
        with pytest.raises(DatasetError, match="whole numbers from 1 to 3"):
            read_flic(root, plus)


def test_missing_pictures_are_counted(root):
    (root / "images/a-film-00000003.jpg").unlink()
    with pytest.warns(UserWarning, match="pictures of 1 of 5 people are missing"):
        table, _ = read_flic(root)
    assert table.person_ids.tolist() == [1, 2, 4, 5]
    assert table.image_ids[table.image_rows].tolist() == [1, 1, 4, 5]
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"none of its pictures, such as 'a-film-00000001\.jpg'"):
        read_flic(root)
    (root / "images").rmdir()
    with pytest.raises(DatasetError, match=r"images', cannot be read: No such file"):
        read_flic(root)


@pytest.mark.filterwarnings("ignore:.*are missing and left out")
def test_bad_examples_are_told_at_once(root):
    half = example(1, (21, 41), "train")
    half["coords"][0, 2] = np.nan
    far = example(2, (21, 41), "train")
    far["coords"][0, 2] = 1e9
    people = [
        half,
        far,
        example(3, (21, 41), "train", coords=np.zeros((2, 11))),
        example(4, (21, 41), "train", filepath="../secret.jpg"),
        example(5, (21, 41), "train", filepath=3.0),
        example(6, (21, 41), "train", torsobox=np.array([5.0, 5, 5, 9])),
        example(7, (21, 41), "train", torsobox=np.array([5.0, np.nan, 9, 9])),
        example(8, (21, 41), "train", istest=True),
        example(9, (21, 41), "test", istrain="yes"),
        example(10, (21, 41), "test"),
    ]
    save(root, people)
    (root / "images/a-film-00000010.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError) as caught:
        FLIC(str(root)).setup("fit")
    message = str(caught.value)
    assert "examples.mat: 10 problems" in message
    for number, reason in enumerate(
        ["one coordinate only", "beyond", r"shape (2, 11), (2, 29) is needed", "points out", "missing or points out",
         "no box", "no box", "training and the test set", "istrain is neither 0 nor 1"], 1
    ):  # fmt: skip
        assert any(f"example {number}: " in line and reason in line for line in message.splitlines()), reason
    assert "a-film-00000010.jpg" in message


def test_wrong_files_and_settings_are_refused(root, tmp_path):
    with pytest.raises(DatasetError, match=r"examples\.mat.*does not exist"):
        read_flic(tmp_path)
    scipy.io.savemat(root / "examples.mat", {"examples": np.zeros((2, 29))})
    with pytest.raises(DatasetError, match="no array of structs 'examples' with the fields coords, filepath"):
        read_flic(root)
    save(root, [example(1, (21, 41), "train")], FIELDS[:6])
    with pytest.raises(DatasetError, match="with the fields torsobox, istrain, istest"):
        read_flic(root)
    save(root, [example(1, (21, 41), "")])
    with pytest.raises(DatasetError, match="no example is marked istrain or istest"):
        read_flic(root)
    (root / "examples.mat").write_bytes(b"MATLAB 5.0 MAT-file nonsense" + bytes(200))
    with pytest.raises(DatasetError, match=r"examples\.mat.*damaged"):
        read_flic(root)
    with pytest.raises(DatasetError, match="sides is 'left'"):
        FLIC(str(root), sides="left")
    with pytest.raises(DatasetError, match=r"torso_scale is 0\.0"):
        FLIC(str(root), torso_scale=0.0)


def test_an_empty_test_set_is_told(root):
    save(root, [example(1, (21, 41), "train")])
    with pytest.raises(DatasetError, match="FLIC: the test set is empty"):
        FLIC(str(root)).setup("test")
