"""Outlines in COCO's format against pycocotools, and those that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lightning_pose_zoo.data.regions import Regions, fill_boxes, outline_problem
from lightning_pose_zoo.errors import DatasetError

SIZE = [30, 20]  # width, height
TRIANGLE = [[2.0, 3.0, 25.5, 4.0, 10.0, 18.0]]
TWO = [[2.0, 3.0, 10.0, 4.0, 6.0, 12.0], [15, 10, 28, 10, 28, 19, 15, 19], [1, 1, 2, 2]]


def run_lengths(seed):
    mask = np.random.default_rng(seed).random((20, 30)) < 0.5
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return mask, compressed["counts"].decode(), ([0] if flat[0] else []) + counts


def filled(regions, rows):
    mask = np.zeros((20, 30), dtype=bool)
    regions.fill(np.array(rows), mask)
    return mask


def test_polygons_and_run_lengths_equal_pycocotools():
    random, text, counts = run_lengths(0)
    outlines = [TRIANGLE, None, TWO, {"size": [20, 30], "counts": text}, {"size": [20, 30], "counts": counts}, []]
    assert [outline_problem(outline, SIZE) for outline in outlines] == [None] * 6
    regions = Regions.encode(outlines, np.tile(np.array(SIZE, dtype=np.int32), (6, 1)))
    triangle, two = (
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 20, 30))) > 0 for rings in (TRIANGLE, TWO[:2])
    )
    expected = [triangle, two & False, two, random, random, two & False]
    for row, mask in enumerate(expected):
        np.testing.assert_array_equal(filled(regions, [row]), mask)
    np.testing.assert_array_equal(filled(regions, [0, 2]), triangle | two)
    assert regions.known(np.arange(6)).tolist() == [True, False, True, True, True, False]
    some = regions.select(np.array([3, 1, 0]))
    np.testing.assert_array_equal(filled(some, [0]), random)
    np.testing.assert_array_equal(filled(some, [2]), triangle)
    assert len(some) == 3
    assert not some.known(np.array([1])).any()


def test_polygons_of_pictures_of_unknown_size_keep_their_place():
    regions = Regions.encode([TRIANGLE], np.zeros((1, 2), dtype=np.int32))
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(TRIANGLE, 20, 30))) > 0
    np.testing.assert_array_equal(filled(regions, [0]), expected)


def test_compressed_run_lengths_of_any_picture_are_understood():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        mask = np.zeros((int(rng.integers(1, 400)), int(rng.integers(1, 400))), dtype=np.uint8, order="F")
        for _ in range(int(rng.integers(0, 4))):
            x, y = rng.integers(0, mask.shape[1]), rng.integers(0, mask.shape[0])
            mask[y : y + rng.integers(1, 200), x : x + rng.integers(1, 200)] = 1
        outline = {"size": list(mask.shape), "counts": coco_mask.encode(mask)["counts"].decode()}
        assert outline_problem(outline, mask.shape[::-1]) is None
        outline["size"][0] += 1
        assert outline_problem(outline, [0, 0]) == "segmentation has run lengths that do not fill its size"


def test_boxes_cover_the_pixels_whose_centre_is_inside():
    mask = np.zeros((20, 30), dtype=bool)
    boxes = np.array([[3.4, 2.6, 7.4, 9.5], [25.6, 15, 99, 99], [-9, -9, 1.2, 1.6]])
    fill_boxes(boxes, mask)
    expected = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        expected[y, x] = any(a <= x + 0.5 < c and b <= y + 0.5 < d for a, b, c, d in boxes)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ("all of it", "neither a list of polygons nor run lengths"),
        ([1, 2, 3, 4, 5, 6], "neither a list of polygons"),
        ([[1, 2, 3, 4, 5]], "no list of x, y"),
        ([[1, 2, 3, "4", 5, 6]], "no list of x, y"),
        ([[1, 2, 3, float("nan"), 5, 6]], "segmentation: a coordinate is not finite"),
        ([[1, 2, 3, 10**400, 5, 6]], "a coordinate is not finite"),
        ({"counts": [600]}, "no size of height and width"),
        ({"size": [30, 20], "counts": [600]}, "of a picture of 20 x 30 pixels, but its picture has 30 x 20"),
        ({"size": [20, 30], "counts": [599]}, "do not fill its size"),
        ({"size": [20, 30], "counts": [-1, 601]}, "do not fill its size"),
        ({"size": [20, 30], "counts": "zzzz"}, "do not fill its size"),
        ({"size": [20, 30], "counts": "é"}, "do not fill its size"),
        ({"size": [20, 30]}, "do not fill its size"),
    ],
)
def test_what_cannot_be_an_outline_is_refused_by_annotation(small_coco, outline, message):
    assert message in (outline_problem(outline, SIZE) or "")
    small_coco.content["annotations"][2].update(segmentation=outline, keypoints=[0] * 15)  # so the outline is needed
    for entry in small_coco.content["images"]:
        entry["width"], entry["height"] = 0, 0  # not said
    if "of a picture of" in message:
        small_coco.content["images"][2].update(width=120, height=100)
        message = "of a picture of 20 x 30 pixels, but its picture has 120 x 100"
    with pytest.raises(DatasetError, match=f"(?s)annotation 102: .*{message}"):
        small_coco.module(samples="pictures").setup("fit")
    small_coco.module().setup("fit")  # crops need no outline
    data = small_coco.module(samples="pictures", on_bad="skip")
    with pytest.warns(UserWarning, match="left out"):
        data.setup("fit")
    assert 102 not in data.table("train").person_ids
