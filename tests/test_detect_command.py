"""``pose-zoo detect``: ids, choosing from boxes, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_pose_zoo.cli import main
from lightning_pose_zoo.errors import PoseZooError

SIZES = {"frame10.png": (30, 20), "frame2.png": (40, 60), "more/frame3.png": (50, 50)}


@pytest.fixture
def photos(tmp_path):
    for name, size in SIZES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return tmp_path / "photos"


def detected(folder, *words):
    main(["detect", f"--images={folder}", f"--out={folder.parent / 'out' / 'boxes.json'}", *words])
    return json.loads((folder.parent / "out" / "boxes.json").read_text())


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom lightning_pose_zoo.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['detect', '--help'])\nmain(['--help'])\n"
        "heavy = {'torch', 'lightning', 'numpy', 'cv2'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--detector" in done.stdout
    assert "detect     find persons in pictures" in done.stdout


def test_ids_are_the_numbers_in_the_names(photos, capsys):
    entries = detected(photos, "--detector=whole_picture")
    assert entries == [
        {"image_id": number, "category_id": 1, "bbox": [0, 0, *SIZES[name]], "score": 1.0}
        for number, name in ((2, "frame2.png"), (10, "frame10.png"), (3, "more/frame3.png"))
    ]
    assert "3 persons in 3 pictures, 0 of them without any, are written to" in capsys.readouterr().out
    assert [path.name for path in (photos.parent / "out").iterdir()] == ["boxes.json"]


def annotations(photos, names):
    content = {"images": [{"id": 70 + n, "file_name": name} for n, name in enumerate(names)], "annotations": [],
               "categories": []}  # fmt: skip
    path = photos.parent / "annotations.json"
    path.write_text(json.dumps(content))
    return f"--annotations={path}"


def test_ids_of_an_annotation_file(photos):
    entries = detected(photos, "--detector=whole_picture", annotations(photos, ["more/frame3.png", "frame10.png"]))
    assert [(entry["image_id"], entry["bbox"][2:]) for entry in entries] == [(70, [50, 50]), (71, [30, 20])]


def test_pictures_that_are_missing_are_told_at_once(photos):
    with pytest.raises(SystemExit):
        detected(photos, "--detector=whole_picture", annotations(photos, ["a.png", "frame10.png", "b.png"]))


def test_choosing_from_a_file_of_boxes(photos):
    given = [{"image_id": image, "category_id": 1, "bbox": [n, 0, 10, 10], "score": 0.9 - n / 10}
             for image in (70, 71) for n in (0, 1, 4, 9)]  # fmt: skip
    boxes = photos.parent / "given.json"
    boxes.write_text(json.dumps(given))
    where = annotations(photos, ["more/frame3.png", "frame10.png"])
    chosen = detected(photos, where, f"--boxes={boxes}", "--nms=0.5", "--min_score=0.45")
    assert [(entry["image_id"], entry["bbox"][0]) for entry in chosen] == [(70, 0), (70, 4), (71, 0), (71, 4)]
    assert [entry["score"] for entry in chosen[:2]] == pytest.approx([0.9, 0.5])
    best = detected(photos, where, f"--boxes={boxes}", "--max_boxes=1")
    assert [entry["bbox"][0] for entry in best] == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--detector=yolo"], "no detector 'yolo'"), (["--detector=whole_picture", "--nms=7"], "nms is 7"),
     (["--boxes=missing.json"], "missing.json"), (["--weights=missing.pth"], "missing.pth does not exist")],
)  # fmt: skip
def test_what_is_wrong_is_one_clear_message(photos, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        detected(photos, *words)
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_nothing_is_left_of_a_run_that_failed(photos, monkeypatch):
    def fail(*_):
        raise PoseZooError("no")

    monkeypatch.setattr("lightning_pose_zoo.data.results.write_atomically", fail)
    with pytest.raises(SystemExit):
        detected(photos, "--detector=whole_picture")
    assert not (photos.parent / "out").exists()


def test_scores_of_a_file_read_back_as_they_were(photos):
    values = np.random.default_rng(0).uniform(0.1, 1, 5).astype(np.float32)
    given = [{"image_id": 2, "bbox": [0, 0, 10 + float(v), 10], "score": float(v)} for v in values]
    boxes = photos.parent / "given.json"
    boxes.write_text(json.dumps(given))
    chosen = detected(photos, f"--boxes={boxes}")
    assert [np.float32(entry["score"]) for entry in chosen] == sorted(values, reverse=True)
