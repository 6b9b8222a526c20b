"""Detectors over many pictures: order, batches, the cache, several processes, and what can be wrong."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import Fixed, Kept
from PIL import Image
from processes import run_on_ranks

from lightning_pose_zoo.detection import PersonDetector, WholePicture, detect_pictures, get_detector
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.stage_times import StageTimes

SIZES = [(40, 60), (30, 20), (50, 50), (20, 70), (64, 64)]
ANSWERS = {size: ([[number, 0, number + 10, 12]] * number, [0.9 - n / 10 for n in range(number)])
           for number, size in enumerate(SIZES)}  # fmt: skip


def pictures(folder: Path) -> list[Path]:
    files = [folder / f"{number}.png" for number in range(len(SIZES))]
    folder.mkdir(parents=True, exist_ok=True)
    for file, size in zip(files, SIZES, strict=True):
        Image.new("RGB", size, (size[0], 0, 0)).save(file)
    return files


def found_by(numbers) -> list[tuple[list, list]]:
    return [
        (ANSWERS[SIZES[number]][0], [np.float32(score) for score in ANSWERS[SIZES[number]][1]]) for number in numbers
    ]


def as_lists(found) -> list[tuple[list, list]]:
    return [(boxes.tolist(), scores.tolist()) for boxes, scores in found]


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_boxes_come_in_the_order_of_the_files(tmp_path, batch_size):
    files, detector, times = pictures(tmp_path), Fixed(ANSWERS, batch_size), StageTimes()
    found = detect_pictures([files[2], files[4], files[0], files[1]], detector, times)
    assert as_lists(found) == found_by([2, 4, 0, 1])
    assert found[0][0].dtype == found[0][1].dtype == np.float32
    assert found[2][0].shape == (0, 4)
    assert detector.batches == {1: [1, 1, 1, 1], 2: [2, 2], 9: [4]}[batch_size]
    assert times.seconds()["read"] > 0 < times.seconds()["detect"]


def test_progress_is_shown(tmp_path, capsys):
    detect_pictures(pictures(tmp_path), Fixed(ANSWERS, 2))
    assert "Detecting: 100%" in capsys.readouterr().err


def test_a_thousand_boxes_of_one_picture_are_all_taken(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 30, (1000, 2))
    many = np.concatenate([low, low + rng.uniform(1, 9, (1000, 2))], axis=1).astype(np.float32)
    [found] = detect_pictures(pictures(tmp_path)[:1], Fixed({SIZES[0]: (many, np.ones(1000))}))
    assert np.array_equal(found[0], many)


def test_bad_boxes_are_left_out_with_one_warning(tmp_path):
    files = pictures(tmp_path)
    bad = ([[0, 0, float("nan"), 5], [3, 3, 3, 9], [99, 99, 105, 105], [1, 1, 2, 2]], [0.9, 0.8, 0.7, 0.6])
    with pytest.warns(UserWarning, match=r"^Fixed: 6 boxes are left out: 2 x .*first in '.*1\.png'") as caught:
        found = detect_pictures(files[1:3], Fixed({SIZES[1]: bad, SIZES[2]: bad}))
    assert len(caught) == 1
    assert [boxes.tolist() for boxes, _ in found] == [[[1, 1, 2, 2]]] * 2  # a pixel is a box


def test_answers_of_the_wrong_kind_name_detector_and_picture(tmp_path):
    files = pictures(tmp_path)
    with pytest.raises(DatasetError, match=r"Fixed answered for '.*0\.png' with boxes of the shape \(1, 5\)"):
        detect_pictures(files[:1], Fixed({SIZES[0]: ([[1, 2, 3, 4, 5]], [0.5])}))

    class Forgetful(Fixed):
        def detect(self, pictures):
            return super().detect(pictures)[:-1]

    with pytest.raises(DatasetError, match="Forgetful answered with boxes of 1 pictures, but was given 2"):
        detect_pictures(files[:2], Forgetful(ANSWERS, 2))


def test_all_damaged_pictures_are_told_at_once(tmp_path):
    files = pictures(tmp_path)
    for number in (1, 3):
        files[number].write_bytes(files[number].read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"2 problems\n.*1\.png.*\n.*3\.png") as caught:
        detect_pictures([*files, tmp_path / "missing.png"][:5], Fixed(ANSWERS, 2))
    assert "Take these pictures out" in str(caught.value)


def test_a_detector_that_fails_is_not_waited_for(tmp_path):
    class Failing(Fixed):
        def detect(self, pictures):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        detect_pictures(pictures(tmp_path), Failing(ANSWERS))


def test_answers_are_kept_by_content_and_settings(tmp_path):
    files, cache = pictures(tmp_path / "a"), str(tmp_path / "cache")
    first = Kept(ANSWERS, cache)
    assert as_lists(detect_pictures(files, first)) == found_by(range(5))
    assert first.seen == SIZES

    # The same content under another name is known; other settings, and other content, are not.
    copies = pictures(tmp_path / "copies")
    again = Kept({}, cache)
    assert as_lists(detect_pictures(copies[::-1], again)) == found_by(range(5))[::-1]
    assert again.seen == []
    other = Kept(ANSWERS, cache, "b")
    detect_pictures(copies, other)
    assert other.seen == SIZES
    Image.new("RGB", SIZES[1], (1, 2, 3)).save(copies[1])
    changed = Kept({SIZES[1]: ([[0, 0, 5, 5]], [0.3])}, cache)
    assert as_lists(detect_pictures(copies, changed))[1] == ([[0, 0, 5, 5]], [np.float32(0.3)])
    assert changed.seen == [SIZES[1]]


def test_what_is_left_out_is_told_again_when_it_was_kept(tmp_path):
    files, bad = pictures(tmp_path / "a"), {SIZES[0]: ([[3, 3, 3, 9], [0, 0, 5, 5]], [0.9, 0.8])}
    for answers in (bad, {}):
        with pytest.warns(UserWarning, match="1 x a box without area"):
            [found] = detect_pictures(files[:1], Kept(answers, str(tmp_path / "cache")))
        assert found[0].tolist() == [[0, 0, 5, 5]]


def test_a_damaged_cache_is_no_loss(tmp_path):
    files, cache = pictures(tmp_path / "a"), tmp_path / "cache"
    detect_pictures(files, Kept(ANSWERS, str(cache)))
    kept = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(kept) == 5
    kept[0].write_bytes(b"nothing")
    kept[1].write_bytes(kept[1].read_bytes()[:100])
    with kept[2].open("wb") as file:
        np.savez(file, boxes=np.zeros((2, 3)), scores=np.zeros(2))
    again = Kept(ANSWERS, str(cache))
    assert as_lists(detect_pictures(files, again)) == found_by(range(5))
    assert len(again.seen) == 3
    once_more = Kept({}, str(cache))
    assert as_lists(detect_pictures(files, once_more)) == found_by(range(5))


def test_a_cache_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="detections are not kept") as caught:
        found = detect_pictures(pictures(tmp_path / "a"), Kept(ANSWERS, str(tmp_path / "file")))
    assert as_lists(found) == found_by(range(5))
    assert len(caught) == 1


def on_rank(rank: int, folder: Path) -> None:
    """Detect with the others, and write down what came out and which pictures this process was shown."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=3, init_method="env://")
    files, detector = [folder / f"{number}.png" for number in range(5)], Fixed(ANSWERS)
    found = detect_pictures(files, detector, None, rank, 3)
    (folder / f"{rank}.json").write_text(json.dumps([as_lists(found), detector.seen]))
    torch.distributed.destroy_process_group()


def test_processes_share_the_pictures_and_know_all_boxes(tmp_path):
    pictures(tmp_path)
    run_on_ranks(on_rank, 3, tmp_path)
    seen = []
    for rank in range(3):
        found, shown = json.loads((tmp_path / f"{rank}.json").read_text())
        assert [(boxes, scores) for boxes, scores in found] == found_by(range(5))
        seen += [tuple(size) for size in shown]
    assert sorted(seen) == sorted(SIZES)


def test_whole_pictures():
    answers = WholePicture().detect([np.zeros((20, 30, 3), np.uint8)])
    assert answers == [([[0, 0, 30, 20]], [1.0])]


def test_detectors_by_name():
    assert isinstance(get_detector("whole_picture"), WholePicture)
    mine = Fixed(ANSWERS)
    assert get_detector(mine) is mine
    made = get_detector("detectors.Bright")
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[4:8, 10:16] = 200
    assert made.detect([picture]) == [([[10, 4, 16, 8], [10, 4, 16, 6]], [0.9, 0.4])]
    assert isinstance(made, PersonDetector)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.Detector", "cannot be imported"), ("detectors.Missing", "cannot be imported"),
     ("detectors.demanding", "cannot be made without arguments"),
     ("detectors.not_a_detector", "needs the method detect"),
     ("yolo", "torchvision has no detector 'yolo'; it has .*retinanet_resnet50_fpn_v2.*whole_picture")],
)  # fmt: skip
def test_unknown_detectors_are_refused(name, message):
    with pytest.raises(SettingsError, match=message):
        get_detector(name)


def test_nothing_is_warned_of_where_all_is_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detect_pictures(pictures(tmp_path), Fixed(ANSWERS))
