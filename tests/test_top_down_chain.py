"""From photos to scores: detect, cut out, estimate, suppress, write, evaluate; on real photos, by the command line."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from test_detector_boxes import NAMES, Case, Filtering, by_pycocotools, data_of, suppressed

from lightning_pose_zoo.callbacks import ReportStageTimes, WritePredictions
from lightning_pose_zoo.cli import main
from lightning_pose_zoo.data import COCOKeypoints
from lightning_pose_zoo.detection import PersonDetector
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.stage_times import STAGES

KNOWN: dict[str, list] = {}
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
}


class Known(PersonDetector):
    """Knows the boxes of pictures by their pixels."""

    batch_size = 3

    def detect(self, pictures):
        return [KNOWN[hashlib.sha256(picture.tobytes()).hexdigest()] for picture in pictures]


@pytest.fixture(scope="module")
def case(test_data, tmp_path_factory) -> Case:
    """Photos, and what a detector and the filters find in them; see test_detector_boxes."""
    case = Case(tmp_path_factory.mktemp("chain"), test_data / "coco-mini")
    for image_id, image in case.images.items():
        mine = [one for one in case.detections if one["image_id"] == image_id and one["category_id"] == 1]
        boxes = [[*one["bbox"][:2], *np.add(one["bbox"][:2], one["bbox"][2:])] for one in mine]
        KNOWN[hashlib.sha256(image.tobytes()).hexdigest()] = [boxes, [one["score"] for one in mine]]
    return case


@pytest.fixture(scope="module")
def detections(case) -> list:
    """What ``pose-zoo detect`` writes, given the photos of the annotations."""
    main([
        "detect", f"--images={case.pictures}", f"--annotations={case.folder / 'val.json'}", "--min_score=-1",
        "--detector=test_top_down_chain.Known", f"--out={case.folder / 'detected.json'}",
    ])  # fmt: skip
    return json.loads((case.folder / "detected.json").read_text())


def predicted(case, folder, oks_nms=0.9, **options) -> list:
    """Predict on the photos, and return what is written."""
    data = COCOKeypoints(
        predict_images=str(case.pictures), image_size=(96, 72), num_workers=0, batch_size=7, crop_convention="msra",
        **options,
    )  # fmt: skip
    writer = WritePredictions(draw=False, oks_nms=oks_nms)
    trainer = L.Trainer(default_root_dir=folder, callbacks=[writer, ReportStageTimes()], **QUIET)
    trainer.predict(Filtering(), data, return_predictions=False)
    return json.loads((folder / "predictions" / "keypoints.json").read_text())


def test_detect_writes_every_box_of_every_picture(case, detections):
    def sortable(entries):
        return sorted((e["image_id"], -e["score"], *e["bbox"]) for e in entries if e["category_id"] == 1)

    np.testing.assert_allclose(np.array(sortable(detections)), np.array(sortable(case.detections)), rtol=1e-6)


def test_predict_and_evaluate_give_what_the_published_steps_and_validate_give(case, detections, tmp_path, capsys):
    results = predicted(case, tmp_path, predict_detector=Known())
    main([
        "evaluate", f"--annotations={case.folder / 'val.json'}", f"--out={tmp_path / 'scores'}",
        f"--results={tmp_path / 'predictions' / 'keypoints.json'}",
    ])  # fmt: skip
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]

    by_image = case.poses()
    kept = [pose for poses in by_image.values() for pose in suppressed(poses)]
    expected = by_pycocotools(case.content, kept)
    assert len(results) == len(kept) < sum(map(len, by_image.values())) / 1.3
    assert all(0.05 < expected[name] < 0.95 for name in NAMES)
    (case.folder / "boxes.json").write_text(json.dumps(detections))
    trainer = L.Trainer(enable_checkpointing=False, **QUIET)
    [logged] = trainer.validate(Filtering(), data_of(case.folder, case.pictures), verbose=False)
    for name in NAMES:
        assert scores[name] == pytest.approx(expected[name], abs=1e-6), name
        assert scores[name] == pytest.approx(logged[f"val/{name}"], abs=1e-6), name


def test_boxes_of_the_file_give_the_poses_of_the_detector(case, detections, tmp_path):
    def poses(results):
        return sorted([e["image_id"], e["score"], *e["keypoints"]] for e in results)

    found = predicted(case, tmp_path / "a", predict_detector="test_top_down_chain.Known")
    given = predicted(case, tmp_path / "b", predict_boxes=str(case.folder / "detected.json"))
    np.testing.assert_allclose(np.array(poses(given)), np.array(poses(found)), rtol=1e-4, atol=1e-3)
    every = predicted(case, tmp_path / "c", oks_nms=None, predict_detector=Known())
    assert len(every) == len(detections) > len(found)


def test_annotated_boxes_and_whole_pictures_are_not_suppressed(case, tmp_path):
    twice = json.loads(json.dumps(case.content))
    person = next(p for p in twice["annotations"] if not p["iscrowd"])
    twice["annotations"] += [person | {"id": 10**6 + number} for number in range(3)]
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    given = predicted(case, tmp_path, predict_boxes=str(tmp_path / "twice.json"))
    assert len(given) == sum(not p["iscrowd"] for p in twice["annotations"])
    assert len(predicted(case, tmp_path)) == len(case.images)


def test_batches_are_filled_with_people_of_several_pictures(case, tmp_path):
    data = COCOKeypoints(
        predict_images=str(case.pictures), predict_detector=Known(), image_size=(96, 72), num_workers=0, batch_size=32
    )
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert {len(batch["image"]) for batch in batches[:-1]} == {32}
    assert len(batches[0]["image_id"].unique()) > 2
    assert torch.cat([batch["image_id"] for batch in batches]).unique().tolist() == sorted(case.images)


def log_of(caplog, monkeypatch, words) -> str:
    # Lightning logs to its own handler; what it says is seen here only if it is passed on.
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    with caplog.at_level(logging.INFO):
        main(words)
    return caplog.text


def words(test_data, tmp_path, *more) -> list[str]:
    return [
        "predict", "--model=SimpleBaseline", "--model.backbone=resnet18", "--model.deconv_channels=[16,16,16]",
        "--model.pretrained=false", "--data=SyntheticPeople", "--data.image_size=[64,64]", "--data.batch_size=32",
        f"--data.predict_images={test_data / 'mmpose-samples/coco'}", "--trainer.accelerator=cpu",
        "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_the_log_says_how_long_each_stage_took(test_data, tmp_path, caplog, monkeypatch, workers):
    """On the real boxes of a detector: 118 in four photos."""
    boxes = test_data / "mmpose-samples/coco/test_coco_det_AP_H_56.json"
    given = words(test_data, tmp_path, f"--data.predict_boxes={boxes}", f"--data.num_workers={workers}")
    log = log_of(caplog, monkeypatch, given)
    assert re.search(r"118 persons in 4 pictures took \d+\.\d\d s, \d+\.\d persons/s; by stage", log)
    seconds = {name: float(re.search(rf"  {name} +(\d+\.\d\d) s\n?", log)[1]) for name in STAGES}
    assert seconds["network"] > 0
    assert seconds["write"] > 0
    assert seconds["read"] + seconds["crop"] > 0
    assert ("ran in 2 processes, beside the others" in log) == (workers > 0)
    assert ("rest" in log) == (workers == 0)
    results = json.loads((tmp_path / "predictions" / "keypoints.json").read_text())
    assert f"{len(results)} persons in 4 pictures are written" in log
    assert f"OKS-NMS 0.9 dropped {118 - len(results)}." in log
    assert {entry["image_id"] for entry in results} == {785, 40083, 196141, 197388}
    assert len(list((tmp_path / "predictions" / "pictures").iterdir())) == 4


def test_a_detector_of_torchvision_by_the_command_line(test_data, tmp_path, caplog, monkeypatch):
    from torchvision.models import get_model

    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    weights = tmp_path / "detector.pth"
    torch.save(get_model(name, weights=None, weights_backbone=None, num_classes=2).state_dict(), weights)
    settings = {"weights": weights, "min_score": 0.4, "max_boxes": 3, "cache": tmp_path / "cache"}
    out = tmp_path / "detected.json"
    main([
        "detect", f"--images={test_data / 'mmpose-samples/coco'}", f"--out={out}", f"--detector={name}",
        *(f"--{key}={value}" for key, value in settings.items()),
    ])  # fmt: skip
    assert len(json.loads(out.read_text())) == 12
    detector = ["--data.predict_detector=TorchvisionDetector", f"--data.predict_detector.name={name}"]
    detector += [f"--data.predict_detector.{key}={value}" for key, value in settings.items()]
    no_nms = "--trainer.callbacks=[{class_path: WritePredictions, init_args: {oks_nms: null, draw: false}}]"
    log = log_of(caplog, monkeypatch, words(test_data, tmp_path, no_nms, *detector))
    assert "12 persons in 4 pictures are written" in log
    assert "OKS-NMS" not in log


@pytest.mark.parametrize(
    ("given", "persons"),
    [(["--data.predict_detector=whole_picture"], 4), (["--data.predict_detector=WholePicture"], 4),
     (["--data.predict_detector=detectors.Bright"], 8),
     (["--data.predict_detector=detectors.Thresholded", "--data.predict_detector.least=0.5"], 4)],
)  # fmt: skip
def test_detectors_of_your_own_by_the_command_line(test_data, tmp_path, monkeypatch, given, persons):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "detection"))
    no_nms = "--trainer.callbacks=[{class_path: WritePredictions, init_args: {oks_nms: null, draw: false}}]"
    main(words(test_data, tmp_path, no_nms, *given))
    assert len(json.loads((tmp_path / "predictions" / "keypoints.json").read_text())) == persons


def test_what_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="predict_boxes are given too"):
        COCOKeypoints(predict_images="a", predict_boxes="b", predict_detector="whole_picture")
    with pytest.raises(DatasetError, match="predict_images is not given"):
        COCOKeypoints(predict_detector="whole_picture")
    with pytest.raises(DatasetError, match="predict_detector cuts persons out"):
        COCOKeypoints(predict_images="a", predict_detector="whole_picture", samples="pictures")
    with pytest.raises(SettingsError, match="oks_nms is 90"):
        WritePredictions(oks_nms=90)


def test_bad_boxes_on_the_way(case, tmp_path):
    """Of a detector and of a file: those without area and outside are counted and left out, a pixel is a person."""
    photo = case.pictures / "000000000802.jpg"
    height, width = case.images[802].shape[:2]
    boxes = [[0, 0, 0, 50], [width, 0, 9, 9], [-60, 5, 50, 50], [3, 4, 1, 1], [-20, -20, width * 2, height * 2]]
    many = np.random.default_rng(0).uniform(1, 200, (1000, 4)).tolist()

    class Poor(PersonDetector):
        def detect(self, pictures):
            every = [[x, y, x + w, y + h] for x, y, w, h in boxes + many] + [[float("nan")] * 4]
            return [(every, np.linspace(1, 0.1, len(every)))] * len(pictures)

    def rows(**options):
        data = COCOKeypoints(predict_images=str(photo), image_size=(32, 24), num_workers=0, batch_size=600, **options)
        data.setup("predict")
        return list(data.predict_dataloader())

    with pytest.warns(UserWarning, match=r"^Poor: 4 boxes are left out: 2 x a box outside.*802\.jpg"):
        found = rows(predict_detector=Poor())
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 802, "bbox": box, "score": 0.5} for box in boxes + many]))
    with pytest.warns(UserWarning, match=r"boxes\.json: left out .* one of 3 problems: 2 x a box outside"):
        given = rows(predict_boxes=str(path))
    for batches in (found, given):
        assert sum(len(batch["image"]) for batch in batches) == 1002
        assert torch.isfinite(torch.cat([batch["to_original"] for batch in batches])).all()
    torch.testing.assert_close(given[0]["image"], found[0]["image"], atol=1, rtol=0)

    path.write_text(json.dumps([{"image_id": 802, "bbox": [0, 0, float("nan"), 5], "score": 0.5}]))
    with pytest.raises(DatasetError, match=r"boxes\.json: 1 problem\n.*entry 0: it has no usable bbox"):
        rows(predict_boxes=str(path))

    class Blind(PersonDetector):
        def detect(self, pictures):
            return [([[5, 5, 5, 5]], [1])] * len(pictures)

    nobody = pytest.raises(DatasetError, match="nobody was detected in the 1 pictures")
    with nobody, pytest.warns(UserWarning, match="1 x a box without area"):
        rows(predict_detector=Blind())
