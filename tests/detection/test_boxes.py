"""Which boxes somebody can be cut out by, and which of them are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_pose_zoo.detection import select_boxes
from lightning_pose_zoo.detection.boxes import LeftOut, box_problem, found_boxes, usable
from lightning_pose_zoo.errors import DatasetError, SettingsError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([0, 0, 10, 10], None), ([-5, -5, 1, 1], None), ([29, 19, 300, 300], None), ([3, 4, 4, 5], None),
        ([3, 4, 3.25, 4.25], None), ([0, 0, NAN, 10], "not finite"), ([0, -INF, 5, 10], "not finite"),
        ([0, 0, 1e7, 10], "not finite"), ([3, 4, 3, 9], "without area"), ([9, 4, 3, 9], "without area"),
        ([30, 0, 40, 10], "outside"), ([0, 20, 5, 25], "outside"), ([-9, 0, 0, 5], "outside"),
        ([0, -9, 5, 0], "outside"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_box(box, problem):
    found = box_problem(np.array(box, dtype=np.float64), 30, 20)
    assert found is None if problem is None else problem in found


def test_nothing_is_outside_of_a_picture_of_unknown_size():
    assert box_problem(np.array([900.0, 900, 910, 910]), 0, 0) is None


def test_unusable_boxes_are_left_out_and_counted():
    left_out = LeftOut()
    boxes = np.array(
        [[0, 0, 9, 9], [0, 0, NAN, 9], [5, 5, 5, 9], [40, 0, 50, 9], [1, 1, 9, 9], [2, 2, 2, 2]], np.float32
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6, NAN, 0.5], np.float32)
    kept = usable((boxes, scores), (30, 20), Path("a.jpg"), left_out)
    assert kept[0].tolist() == [[0, 0, 9, 9]]
    assert kept[1].tolist() == [np.float32(0.9)]
    other = LeftOut()
    usable((boxes[1:2], scores[1:2]), (30, 20), Path("b.jpg"), other)
    text = str(left_out.join([other]))
    assert text.startswith("6 boxes are left out: ")
    assert "2 x a box without area (first in 'a.jpg')" in text
    assert "2 x a box that is not finite (first in 'a.jpg')" in text
    assert "1 x a box outside of its picture" in text
    assert "1 x a score that is not finite" in text
    assert left_out.counts.total() == 5


@pytest.mark.parametrize(
    "answer",
    [
        (torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5])), (np.array([[1, 2, 3, 4]]), np.array([0.5])),
        ([[1, 2, 3, 4]], [0.5]), [[(1, 2, 3, 4)], (0.5,)],
    ],
)  # fmt: skip
def test_tensors_arrays_and_lists_are_taken(answer):
    boxes, scores = found_boxes(answer, "Mine", Path("a.jpg"))
    assert boxes.tolist() == [[1, 2, 3, 4]]
    assert scores.tolist() == [0.5]


@pytest.mark.parametrize("answer", [([], []), (torch.zeros(0, 4), torch.zeros(0)), (np.zeros((0, 5)), [])])
def test_nobody(answer):
    boxes, scores = found_boxes(answer, "Mine", Path("a.jpg"))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.mark.parametrize(
    "answer",
    [None, 3, ([[1, 2, 3]], [0.5]), ([[1, 2, 3, 4]], [0.5, 0.6]), ([1, 2, 3, 4], [0.5]), ([[1, 2, 3, 4]],),
     ([["a", 2, 3, 4]], [0.5]), ([[1, 2, 3, 4], [1, 2]], [0.5, 1]), ([[1, 2, 3, 4]], [[0.5]])],
)  # fmt: skip
def test_what_is_no_boxes_and_scores_is_refused(answer):
    with pytest.raises(DatasetError, match=r"^Mine answered for 'a\.jpg'"):
        found_boxes(answer, "Mine", Path("a.jpg"))


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("seed", range(5))
def test_selection_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (1000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 60, (1000, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(1000).astype(np.float32) / 1000
    kept = []
    for row in np.argsort(-scores):
        if scores[row] >= 0.25 and all(iou(boxes[row], boxes[other]) <= 0.4 for other in kept):
            kept.append(int(row))
    assert 20 < len(kept) < 400
    assert select_boxes((boxes, scores), 0.25, 0.4).tolist() == kept
    assert select_boxes((boxes, scores), 0.25, 0.4, 15).tolist() == kept[:15]
    assert select_boxes((boxes, scores)).tolist() == np.argsort(-scores).tolist()


def test_settings_that_make_no_sense():
    nobody = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert not len(select_boxes(nobody, 0.5, 0.5, 5))
    for settings, name in (((NAN, None, None), "min_score"), ((0, 0, None), "nms"), ((0, 60, None), "nms"),
                           ((0, None, 0), "max_boxes")):  # fmt: skip
        with pytest.raises(SettingsError, match=f"^{name} is"):
            select_boxes(nobody, *settings)
