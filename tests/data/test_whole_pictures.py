"""Whole pictures with all their people: where points land, who stays, which regions are ignored, who sees what."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonargparse
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_pose_zoo import geometry
from lightning_pose_zoo.data import (
    LSP,
    MPII,
    COCOKeypoints,
    CropAugmentation,
    CropSettings,
    PictureAugmentation,
    PictureDataset,
    PoseDataModule,
    SyntheticPeople,
    WholePicture,
)
from lightning_pose_zoo.data.sampling import PoseSampler, SampleKey
from lightning_pose_zoo.data.whole_pictures import TablePictures
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import Skeleton

FIVE = Skeleton.from_names("five", ["nose", "left_hand", "right_hand", "left_foot", "right_foot"])
KEYS = {
    "image", "ignore", "keypoints", "visibility", "box", "area", "head_size", "person_id", "image_index", "image_id",
    "to_original", "content",
}  # fmt: skip


class OnePicture(PictureDataset):
    """Always the same picture."""

    def __init__(self, picture, size=(192, 256), augmentation=None, convention="center"):
        super().__init__(FIVE, CropSettings(size, convention=convention), augmentation)
        self.picture = picture

    def __len__(self):
        return 1

    def load(self, key):
        return self.picture


def two_people():
    """A picture of 280 x 300 pixels with two persons of five keypoints."""
    first = np.array([[150, 90], [170, 140], [120, 150], [165, 230], [130, 240]], dtype=np.float32)
    keypoints = np.stack([first, first * 0.5 + np.array([100, 5], dtype=np.float32)])
    boxes = geometry.boxes_from_keypoints(keypoints, np.full((2, 5), 2), 0.1).astype(np.float32)
    return WholePicture(
        image=np.zeros((300, 280, 3), dtype=np.uint8),
        size=(300, 280),
        keypoints=keypoints,
        visibility=np.array([[2, 1, 2, 1, 2], [2, 2, 1, 1, 2]], dtype=np.uint8),
        boxes=boxes,
        areas=geometry.box_area(boxes),
        head_sizes=np.array([12.0, np.nan], dtype=np.float32),
        person_ids=np.array([40, 41]),
        image_id=7,
    )


def zoom_of(batch):
    """How much larger each picture is in the batch than in the original, (B,)."""
    return torch.linalg.det(batch["to_original"][:, :, :2].double()).abs() ** -0.5


def coco(test_data, **options):
    settings = {"samples": "pictures", "image_size": (128, 160), "num_workers": 0, "batch_size": 8}
    data = COCOKeypoints(str(test_data / "coco-mini"), **(settings | options))
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def coco_mini(test_data):
    return coco(test_data)


@pytest.mark.parametrize("convention", ["center", "msra", "udp"])
@pytest.mark.parametrize("augmented", [False, True])
def test_keypoints_follow_the_pixels(convention, augmented):
    """A white dot at one keypoint after the other is found where the batch says that this keypoint is."""
    plain = two_people()
    augmentation = PictureAugmentation(scale=(0.8, 1.4), center_jitter=10) if augmented else None
    rows, columns = np.mgrid[:192, :256]
    seen = flips = 0
    for epoch in range(6):
        for person, keypoint in np.ndindex(2, 5):
            x, y = plain.keypoints[person, keypoint].astype(int)
            image = np.zeros_like(plain.image)
            image[y - 4 : y + 5, x - 4 : x + 5] = 255
            dotted = replace(plain, image=image, keypoints=np.floor(plain.keypoints))
            batch = OnePicture(dotted, augmentation=augmentation, convention=convention)[SampleKey(epoch, 0)]
            mirrored = bool(torch.linalg.det(batch["to_original"][0, :, :2]) < 0)
            flips += mirrored
            place = FIVE.flip_permutation[keypoint] if mirrored else keypoint
            where = (batch["person_id"] == 40 + person).nonzero()
            if not len(where) or batch["visibility"][where[0, 0], place] == 0:
                continue
            point = batch["keypoints"][where[0, 0], place].numpy()
            if not ((point > 8).all() and (point < [247, 183]).all()):
                continue
            dot = batch["image"][0, 0].numpy().astype(float)
            found = np.array([(dot * columns).sum(), (dot * rows).sum()]) / dot.sum()
            np.testing.assert_allclose(found, point, atol=0.2)  # a shrunk dot is sampled coarsely
            assert batch["visibility"][where[0, 0], place] == plain.visibility[person, keypoint]
            back = geometry.apply_affine(point.astype(np.float64), batch["to_original"][0].double().numpy())
            np.testing.assert_allclose(back, [x, y], atol=1e-3)
            seen += 1
    assert seen >= (30 if augmented else 60)
    assert (0 < flips < 60) if augmented else flips == 0


def test_points_equal_turning_scaling_and_moving_one_at_a_time():
    """Plain trigonometry for each point, from what the augmentation drew."""
    picture = two_people()
    augmentation = PictureAugmentation(scale=(0.4, 0.8), rotation=180.0, flip_probability=0.5, min_keypoints=1)
    data = OnePicture(picture, (192, 256), augmentation)
    flips = 0
    for epoch in range(12):
        rng = np.random.default_rng((0, epoch, 0))
        center, window, angle, flip = augmentation.vary(
            (300, 280), (192, 256), picture.boxes, picture.areas, picture.visibility, rng
        )
        batch = data[SampleKey(epoch, 0)]
        flips += flip
        for row, person in enumerate((batch["person_id"] - 40).tolist()):
            for place in range(5):
                if batch["visibility"][row, place] == 0:
                    continue
                x, y = picture.keypoints[person, [0, 2, 1, 4, 3][place] if flip else place].astype(float) + 0.5
                zoom = 256 / window[0]
                x, y = zoom * (x - center[0]), zoom * (y - center[1])
                turn = np.deg2rad(angle)  # counter-clockwise as seen, and y points down
                x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
                x, y = x + 128 - 0.5, y + 96 - 0.5
                expected = [255 - x if flip else x, y]
                np.testing.assert_allclose(batch["keypoints"][row, place], expected, atol=1e-3)
    assert 0 < flips < 12


def test_evaluation_fits_the_whole_picture_and_fills_up_at_the_right_and_bottom():
    picture = replace(two_people(), image=np.full((300, 280, 3), 200, dtype=np.uint8))
    for size in ((150, 200), (200, 70)):
        batch = OnePicture(picture, size)[0]
        zoom = min(size[0] / 300, size[1] / 280)
        image = batch["image"][0, 0]
        inside = (int(300 * zoom), int(280 * zoom))
        assert (image[: inside[0] - 1, : inside[1] - 1] > 190).all()
        assert not image[inside[0] + 1 :].any()
        assert not image[:, inside[1] + 1 :].any()
        expected = zoom * (picture.keypoints + 0.5) - 0.5
        np.testing.assert_allclose(batch["keypoints"], expected, atol=1e-4)
        np.testing.assert_array_equal(batch["original_keypoints"], picture.keypoints)
        np.testing.assert_array_equal(batch["original_box"], picture.boxes)
        assert batch["person_id"].tolist() == [40, 41]
        assert batch["image_id"].tolist() == [7]


def test_people_at_the_border_stay_and_those_outside_are_dropped():
    picture = two_people()
    picture.keypoints[:] = 50
    picture.keypoints[0, :4] = [[0, 0], [279, 299], [-0.4, 299.4], [279.6, 20]]
    picture.keypoints[1] = [300, 20]
    picture.visibility[:] = 2
    whole = PictureAugmentation(None, (1, 1), rotation=0, center_jitter=0, flip_probability=0)
    batch = OnePicture(picture, (300, 280), whole)[0]
    assert batch["person_id"].tolist() == [40]
    assert batch["visibility"].tolist() == [[2, 2, 2, 0, 2]]
    np.testing.assert_allclose(batch["keypoints"][0, :3], picture.keypoints[0, :3], atol=1e-4)
    assert batch["keypoints"][0, 3].tolist() == [0, 0]
    evaluated = OnePicture(picture, (300, 280))[0]
    assert evaluated["person_id"].tolist() == [40, 41], "evaluation forgives nobody"
    assert (evaluated["visibility"] == 2).all()


def test_training_batches_equal_a_point_by_point_account(coco_mini):
    data = coco_mini
    dataset = data.datasets["train"]
    table, height, width = dataset.table, 128, 160
    dropped = 0
    for epoch in range(2):
        batch = dataset.__getitems__([SampleKey(epoch, index) for index in range(len(dataset))])
        assert set(batch) == KEYS
        expected, present = [], {}
        for slot, image_id in enumerate(batch["image_id"].tolist()):
            linear, shift = np.split(batch["to_original"][slot].double().numpy(), [2], axis=1)
            row = int(np.flatnonzero(table.image_ids == image_id)[0])
            for person in np.flatnonzero((table.image_rows == row) & dataset.labelled):
                flags = table.visibility[person] > 0
                points = np.linalg.solve(linear, table.keypoints[person].T.astype(float) - shift).T
                inside = (points > -0.5).all(axis=1) & (points[:, 0] < width - 0.5) & (points[:, 1] < height - 0.5)
                if (flags & inside).any():
                    expected.append((slot, int(table.person_ids[person])))
                    present[expected[-1]] = (person, (flags & inside).sum())
                else:
                    dropped += 1
        assert list(zip(batch["image_index"].tolist(), batch["person_id"].tolist(), strict=True)) == expected
        for row, key in enumerate(expected):
            person, count = present[key]
            assert (batch["visibility"][row] > 0).sum() == count
            assert batch["area"][row] == table.areas[person]
            left, top, right, bottom = batch["box"][row].tolist()
            assert 0 <= left <= right <= width
            assert 0 <= top <= bottom <= height
        labelled = batch["visibility"] > 0
        back = geometry.apply_affine(batch["keypoints"], batch["to_original"][batch["image_index"]])
        for row, key in enumerate(expected):
            person = present[key][0]
            mirrored = torch.linalg.det(batch["to_original"][key[0], :, :2]) < 0
            truth = table.keypoints[person][data.skeleton.flip_permutation if mirrored else slice(None)]
            np.testing.assert_allclose(back[row][labelled[row]], truth[labelled[row]], atol=1e-3)
    assert dropped > 10


def test_every_picture_of_the_evaluation_is_seen_once_on_any_number_of_processes(coco_mini):
    data = coco_mini
    dataset = data.datasets["val"]
    ids = [image["id"] for image in json.loads((data.files["val"][0]).read_text())["images"]]
    for world_size in (1, 2, 3):
        seen, people = [], []
        for rank in range(world_size):
            sampler = PoseSampler(dataset, shuffle=False, pad=False, rank=rank, world_size=world_size)
            batch = dataset.__getitems__(list(sampler))
            seen += batch["image_id"].tolist()
            people += batch["person_id"].tolist()
        assert sorted(seen) == sorted(ids)
        assert len(people) == len(set(people)) == 26


def test_training_takes_the_pictures_with_somebody_labelled(coco_mini):
    data = coco_mini
    content = json.loads(data.files["train"][0].read_text())
    labelled = {entry["image_id"] for entry in content["annotations"] if entry["num_keypoints"]}
    dataset = data.datasets["train"]
    assert {int(dataset.table.image_ids[row]) for row in dataset.pictures} == labelled
    assert len(labelled) < len(content["images"])


def test_pictures_without_people_are_samples(coco_mini):
    dataset = coco_mini.datasets["val"]
    counts = [int(dataset.labelled[dataset.table.image_rows == row].sum()) for row in range(len(dataset))]
    negatives = [row for row, count in enumerate(counts) if count == 0]
    batch = dataset.__getitems__(negatives)
    assert len(batch["image"]) == len(negatives) == 8
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes["keypoints"] == (0, 17, 2)
    assert shapes["visibility"] == (0, 17)
    assert shapes["box"] == shapes["original_box"] == (0, 4)
    assert shapes["area"] == shapes["person_id"] == shapes["image_index"] == (0,)
    mixed = dataset.__getitems__([negatives[0], int(np.argmax(counts)), negatives[1]])
    assert mixed["image_index"].tolist() == [1] * max(counts)
    types = {name: value.dtype for name, value in mixed.items()}
    assert types == {name: value.dtype for name, value in batch.items()}
    assert (types["image"], types["ignore"], types["visibility"]) == (torch.uint8, torch.bool, torch.uint8)
    assert types["image_index"] == types["image_id"] == types["person_id"] == torch.int64
    assert {types[name] for name in ("keypoints", "box", "area", "head_size", "to_original")} == {torch.float32}
    nobody = dataset.nobody()
    assert {name: value.dtype for name, value in nobody.items()} == types
    assert all(len(value) == 0 for value in nobody.values())
    assert mixed["image"].is_contiguous(memory_format=torch.channels_last)


def expected_masks(annotations):
    """Return for each picture (H, W) bool by pycocotools: people without labels, and crowds less labelled people."""
    from pycocotools.coco import COCO

    reader = COCO(str(annotations))
    masks = {}
    for image_id, image in reader.imgs.items():
        entries = reader.loadAnns(reader.getAnnIds(imgIds=[image_id]))
        empty = np.zeros((image["height"], image["width"]), dtype=bool)
        crowd, people, hidden = empty.copy(), empty.copy(), empty.copy()
        for entry in entries:
            mask = reader.annToMask(entry) > 0
            if entry["iscrowd"]:
                crowd |= mask
            elif entry["num_keypoints"]:
                people |= mask
            else:
                hidden |= mask
        masks[image_id] = hidden | (crowd & ~people)
    return masks


@pytest.mark.parametrize("split", ["train", "val"])
def test_ignored_regions_are_those_of_pycocotools(coco_mini, split):
    data = coco_mini
    table = data.table(split)
    masks = expected_masks(data.files[split][0])
    covered = 0
    for row, image_id in enumerate(table.image_ids.tolist()):
        width, height = table.image_sizes[row].tolist()
        # At the picture's own size nothing is resampled.
        batch = TablePictures(table, CropSettings((height, width)))[row]
        np.testing.assert_array_equal(batch["ignore"][0], masks[image_id])
        covered += masks[image_id].any()
    assert covered >= (16 if split == "train" else 5)


def test_ignored_regions_turn_with_the_picture(coco_mini):
    data = coco_mini
    dataset = data.datasets["train"]
    masks = expected_masks(data.files["train"][0])
    rows, columns = np.mgrid[:128, :160]
    pixels = np.stack([columns, rows], axis=-1).astype(float)
    ignored = 0
    for index in range(len(dataset)):
        batch = dataset[SampleKey(1, index)]
        mask = masks[int(batch["image_id"])]
        source = geometry.apply_affine(pixels, batch["to_original"][0].double().numpy())
        x, y = np.rint(source).astype(int).transpose(2, 0, 1)
        inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
        expected = inside & mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]
        # OpenCV rounds coordinates to a fraction of a pixel, so what is just between two pixels may fall to either.
        assert (expected != batch["ignore"][0].numpy()).mean() < 0.01
        ignored += expected.any()
    assert ignored >= 5


def test_people_without_an_outline_are_ignored_by_their_box(small_coco):
    small_coco.content["annotations"][0].update(keypoints=[0] * 15, num_keypoints=0)
    crowd = dict(small_coco.content["annotations"][1], id=900, iscrowd=1, keypoints=[0] * 15, bbox=[0, 0, 120, 50])
    small_coco.content["annotations"].append(crowd)
    data = small_coco.module(samples="pictures", image_size=(100, 120), augmentation=None)
    data.setup("validate")
    hidden, crowded, plain = (data.datasets["val"][row]["ignore"][0] for row in range(3))
    expected = torch.zeros(100, 120, dtype=torch.bool)
    expected[10:90, 10:100] = True
    assert torch.equal(hidden, expected)
    above = torch.zeros(100, 120, dtype=torch.bool)
    above[:50] = True
    assert torch.equal(crowded, above & ~expected), "what the labelled person covers in the crowd counts"
    assert not plain.any()


def batches(data, epochs=2):
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


@pytest.mark.parametrize("kind", ["coco", "synthetic"])
def test_samples_follow_from_seed_epoch_and_index_alone(test_data, kind):
    def module(workers, seed=0):
        if kind == "coco":
            return coco(test_data, num_workers=workers, seed=seed, image_size=(64, 64))
        return SyntheticPeople(
            samples="pictures", people=(1, 3), image_size=(64, 96), train_size=12, val_size=4, batch_size=4,
            num_workers=workers, augmentation=PictureAugmentation(center_jitter=5), seed=seed, crops_per_picture=2,
        )  # fmt: skip

    expected, helped, other = batches(module(0)), batches(module(2)), batches(module(0, seed=1), 1)
    for first, second in zip(expected, helped, strict=True):
        for one, two in zip(first, second, strict=True):
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name].nan_to_num(), two[name].nan_to_num()) for name in one)
    assert not torch.equal(expected[0][0]["image"], expected[1][0]["image"])
    assert not torch.equal(expected[0][0]["image"], other[0][0]["image"])


def test_synthetic_pictures_show_everybody_as_rendered():
    data = SyntheticPeople(samples="pictures", people=(1, 4), image_size=(96, 128), train_size=6, val_size=10)
    data.setup("fit")
    dataset = data.datasets["val"]
    assert len(dataset) == 10
    batch = dataset.__getitems__(range(10))
    assert set(batch) == KEYS | {"original_keypoints", "original_box"}
    counts = []
    for index in range(10):
        scene = dataset.scene(index)
        mine = batch["image_index"] == index
        people = np.flatnonzero((scene.visibility > 0).any(axis=1))
        counts.append(len(people))
        np.testing.assert_array_equal(batch["image"][index].permute(1, 2, 0), scene.image)
        np.testing.assert_array_equal(batch["original_keypoints"][mine], scene.keypoints[people])
        np.testing.assert_array_equal(batch["visibility"][mine], scene.visibility[people])
        np.testing.assert_array_equal(batch["area"][mine], scene.areas[people])
    assert max(counts) > 1
    assert len(batch["person_id"].unique()) == len(batch["person_id"])
    train = data.datasets["train"]
    assert train.random_order
    assert not torch.equal(train[SampleKey(0, 1)]["image"], train[SampleKey(1, 1)]["image"])


def test_drawn_persons_have_the_published_size_and_place():
    """Height of 0.6 times 0.5 to 1.1 of the cut, up to 40 degrees, at most 40 pixels off the middle."""
    picture = two_people()
    data = OnePicture(picture, (368, 368), PictureAugmentation(min_area=picture.areas[1] + 1))
    heights, angles, offsets = [], [], []
    middle, size = (values[0] for values in geometry.box_center_size(picture.boxes.astype(float)))
    for epoch in range(250):
        batch = data[SampleKey(epoch, 0)]
        matrix = batch["to_original"][0].double().numpy()
        offsets.append(np.linalg.solve(matrix[:, :2], middle - 0.5 - matrix[:, 2]) - 183.5)
        heights.append(float(zoom_of(batch)) * size[1] / 368)
        angle = np.rad2deg(np.arctan2(matrix[1, 1], matrix[0, 1]) - np.pi / 2)
        angles.append((angle + 180) % 360 - 180)
    assert 0.2999 < min(heights) < 0.31
    assert 0.65 < max(heights) < 0.6601
    # The shift is along the picture's axes, which are turned.
    assert 40 < np.linalg.norm(offsets, axis=1).max() <= 40 * 2**0.5 + 1e-3
    assert 38 < np.max(np.abs(angles)) <= 40.001
    assert abs(np.mean(angles)) < 4


def test_small_and_barely_labelled_people_are_not_drawn():
    picture = two_people()
    rng = np.random.default_rng
    arguments = ((300, 280), (368, 368), picture.boxes, picture.areas, picture.visibility)
    choosy = PictureAugmentation(center_jitter=0, min_area=float(picture.areas[1]) + 1)
    centers = np.array([choosy.vary(*arguments, rng(seed))[0] for seed in range(20)])
    np.testing.assert_allclose(centers, np.broadcast_to((picture.boxes[0, :2] + picture.boxes[0, 2:]) / 2, (20, 2)))
    nobody = PictureAugmentation(center_jitter=0, min_keypoints=6)
    for seed in range(20):
        center, window, _, _ = nobody.vary(*arguments, rng(seed))
        zoom = 368 / window[0]
        assert 0.5 <= zoom * 300 / 368 <= 1.1
        assert (center - window / 2 >= -1e-6)[window < [280, 300]].all()
        assert (center + window / 2 <= np.array([280, 300]) + 1e-6)[window < [280, 300]].all()
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5), dtype=np.uint8)
    assert np.isfinite(choosy.vary((300, 280), (368, 368), *empty, rng(0))[1]).all()


def test_mpii_takes_pictures_of_unknown_size_and_ignores_who_has_no_joint(test_data, tmp_path):
    source = test_data / "mmpose-samples/mpii"
    people = json.loads((source / "test_mpii.json").read_text())
    stranger = dict(people[0], joints_vis=[0] * 16, center=[300.0, 300.0], scale=1.0)
    (tmp_path / "annot").mkdir()
    for name in ("train", "valid"):
        (tmp_path / f"annot/{name}.json").write_text(json.dumps([*people, stranger]))
    (tmp_path / "images").symlink_to(source)
    data = MPII(str(tmp_path), samples="pictures", image_size=(160, 256), num_workers=0, batch_size=5)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["person_id"].tolist() == [0, 1, 2, 3, 4]
    width, height = Image.open(source / people[0]["image"]).size
    zoom = min(160 / height, 256 / width)
    np.testing.assert_allclose(zoom_of(batch)[0], zoom, rtol=1e-5)
    rows, columns = (batch["ignore"][0]).nonzero(as_tuple=True)
    np.testing.assert_allclose(columns.float().mean(), zoom * 299.5 - 0.5, atol=1)
    np.testing.assert_allclose(rows.float().mean(), zoom * 314.5 - 0.5, atol=1)
    assert abs(int(batch["ignore"].sum()) - (200 * zoom) ** 2) < 0.05 * (200 * zoom) ** 2
    assert [type(getattr(metric, "metric", metric)).__name__ for metric in data.metrics()] == [
        "PCKhMeanAveragePrecision", "PCKh", "AUC",
    ]  # fmt: skip
    next(iter(data.train_dataloader()))


def test_lsp_evaluates_the_pictures_of_its_own_split(test_data):
    data = LSP(str(test_data / "lsp-400"), samples="pictures", image_size=(64, 64), num_workers=0)
    data.setup("fit")
    splits = [set(data.datasets[name].table.image_ids.tolist()) for name in ("train", "val")]
    assert len(data.datasets["val"]) == len(splits[1]) == 40
    assert len(data.datasets["train"]) == 360
    assert not splits[0] & splits[1]


def test_missing_pictures_without_people_are_refused_or_left_out(small_coco):
    small_coco.content["images"].append({"id": 77, "file_name": "gone.png", "width": 9, "height": 9})
    with pytest.raises(DatasetError, match=r"gone\.png.*missing picture"):
        small_coco.module(samples="pictures").setup("validate")
    data = small_coco.module(samples="pictures", on_bad="skip")
    with pytest.warns(UserWarning, match="missing picture"):
        data.setup("fit")
    assert len(data.datasets["val"]) == 6
    assert 77 not in data.metrics()[0].annotations.image_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": "people"}, "samples is 'people'; there are persons and pictures"),
        ({"samples": "pictures", "predict_boxes": "boxes.json"}, "predict_boxes cuts persons out"),
        ({"samples": "pictures", "val_boxes": "boxes.json"}, "val_boxes cuts persons out"),
        ({"samples": "pictures", "augmentation": CropAugmentation()}, "whole pictures are varied by PictureAug"),
        ({"augmentation": PictureAugmentation()}, "crops are varied by CropAugmentation"),
    ],
)
def test_what_does_not_fit_together_is_refused(small_coco, options, message):
    with pytest.raises(DatasetError, match=message):
        small_coco.module(**options).setup("fit")


@pytest.mark.parametrize("arguments", [{"scale": (1.1, 0.5)}, {"scale": (0, 1)}, {"target_dist": 0}])
def test_augmentations_that_make_no_sense_are_refused(arguments):
    with pytest.raises(DatasetError, match="give the smaller and the larger factor"):
        PictureAugmentation(**arguments)


def test_recipes_and_the_command_line_take_whole_pictures():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PoseDataModule, "data")
    augmentation = {"class_path": "PictureAugmentation", "init_args": {"target_dist": None, "scale": [0.85, 1.15]}}
    content = {"samples": "pictures", "image_size": [384, 384], "augmentation": augmentation}
    config = parser.parse_object({"data": {"class_path": "COCOKeypoints", "init_args": content}})
    recipe = parser.instantiate(config).data
    assert (recipe.samples, recipe.settings.size) == ("pictures", (384, 384))
    assert (recipe.augmentation.target_dist, recipe.augmentation.scale) == (None, (0.85, 1.15))
    words = ["--data", "CrowdPose", "--data.samples", "pictures", "--data.augmentation", "PictureAugmentation"]
    typed = parser.instantiate(parser.parse_args([*words, "--data.augmentation.rotation", "30"])).data
    assert (typed.samples, typed.augmentation.rotation) == ("pictures", 30)
    default = parser.instantiate(parser.parse_args(words[:4])).data.augmentation
    assert (default.target_dist, default.scale, default.center_jitter) == (0.6, (0.5, 1.1), 40)
