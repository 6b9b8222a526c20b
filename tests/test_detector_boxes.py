"""Top-down evaluation on a detector's boxes, against the published steps one by one: crop, flip test, NMS and AP."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_on_ranks
from torch import nn

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import COCOKeypoints
from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.top_down import evaluation_protocol
from lightning_pose_zoo.metrics import OKSMeanAveragePrecision
from lightning_pose_zoo.structures import Poses

NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")
HEIGHT, WIDTH = 96, 72
PAIRS = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Filters(nn.Module):
    """One random filter per keypoint: its peaks move with the picture, so that like boxes give like poses."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.pool = nn.AvgPool2d(4)
        self.convolution = nn.Conv2d(3, 17, 7, padding=3, bias=False)
        with torch.no_grad():
            weight = torch.randn(17, 3, 7, 7, generator=generator)
            self.convolution.weight.copy_((weight - weight.mean(dim=(1, 2, 3), keepdim=True)) * 0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.pool(images))


class Filtering(HeatmapMethod):
    """A top-down method of the published kind around the filters."""

    def __init__(self) -> None:
        super().__init__("coco17", HeatmapCodec("msra"), None, True, torch.optim.Adam, None, None, False)
        self._use(Filters(), 4)


def cropping(box) -> tuple[np.ndarray, np.ndarray]:
    """Center and size of the crop of a box x, y, width, height, as in the HRNet repository."""
    x, y, width, height = box
    center = np.array([x + width * 0.5, y + height * 0.5])
    aspect = WIDTH / HEIGHT
    if width > aspect * height:
        height = width / aspect
    elif width < aspect * height:
        width = height * aspect
    return center, np.array([width, height]) * 1.25


def corners(center, size, output) -> np.ndarray:
    """Matrix (2, 3) from three points of the picture to three of an output of some width and height."""
    half = size[0] / 2
    source = np.array([center, center - [0, half], center - [half, half]], dtype=np.float32)
    middle = np.array([output[0] / 2, output[1] / 2])
    half = output[0] / 2
    target = np.array([middle, middle - [0, half], middle - [half, half]], dtype=np.float32)
    return cv2.getAffineTransform(source, target)


def maps_of(network, crop) -> np.ndarray:
    pixels = ((crop / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
    with torch.no_grad():
        return network(torch.from_numpy(pixels[None]))[0].numpy()


def estimated(network, image, box) -> tuple[np.ndarray, np.ndarray, float]:
    """Keypoints (17, 2) in pixels of the picture, their scores (17,), and the area of the padded crop."""
    center, size = cropping(box)
    matrix = corners(center, size, (WIDTH, HEIGHT))
    crop = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    maps = maps_of(network, crop)
    mirrored = maps_of(network, crop[:, ::-1])[:, :, ::-1].copy()
    for a, b in PAIRS:
        mirrored[[a, b]] = mirrored[[b, a]]
    mirrored[:, :, 1:] = mirrored[:, :, :-1].copy()
    maps = (maps + mirrored) * 0.5
    count, height, width = maps.shape
    cells, scores = np.zeros((count, 2)), np.zeros(count)
    for joint in range(count):
        row, column = divmod(int(maps[joint].argmax()), width)
        scores[joint] = maps[joint, row, column]
        if scores[joint] <= 0:
            continue
        cells[joint] = column, row
        if 1 < column < width - 1 and 1 < row < height - 1:
            here = maps[joint]
            cells[joint, 0] += 0.25 * np.sign(here[row, column + 1] - here[row, column - 1])
            cells[joint, 1] += 0.25 * np.sign(here[row + 1, column] - here[row - 1, column])
    back = cv2.invertAffineTransform(corners(center, size, (width, height)))
    return cells @ back[:, :2].T + back[:, 2], scores, float(size[0] * size[1])


def suppressed(poses: list[dict]) -> list[dict]:
    """The poses of one picture that are left, greedily from the best."""
    order = list(reversed(poses))
    order.sort(key=lambda pose: -pose["score"])
    left = []
    while order:
        best = order.pop(0)
        left.append(best)
        others, order = order, []
        for pose in others:
            area = (best["area"] + pose["area"]) / 2 + np.spacing(1)
            distances = ((best["points"] - pose["points"]) ** 2).sum(axis=1)
            similarity = [math.exp(-d / (2 * s) ** 2 / area / 2) for d, s in zip(distances, SIGMAS, strict=True)]
            if sum(similarity) / len(SIGMAS) <= 0.9:
                order.append(pose)
    return left


def by_pycocotools(content: dict, poses: list[dict]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [
        {"image_id": pose["image_id"], "category_id": 1, "score": pose["score"],
         "keypoints": np.column_stack([pose["points"], pose["scores"]]).ravel().tolist()}
        for pose in poses
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


class Case:
    """Real pictures, persons whom the filters find more or less well, and a detector's boxes."""

    def __init__(self, folder: Path, coco_mini: Path) -> None:
        self.folder, self.pictures = folder, coco_mini / "val2017"
        self.content = json.loads((coco_mini / "annotations/person_keypoints_val2017.json").read_text())
        self.images = {}
        for entry in self.content["images"]:
            with Image.open(self.pictures / entry["file_name"]) as picture:
                self.images[entry["id"]] = np.asarray(picture.convert("RGB"))
        self.network, rng = Filters().eval(), np.random.default_rng(0)
        detections = []
        for person in self.content["annotations"]:
            box = np.round(np.array(person["bbox"]) * 4) / 4
            if not person["iscrowd"]:
                points, _, _ = estimated(self.network, self.images[person["image_id"]], box)
                points += rng.normal(0, 1, (17, 2)) * rng.choice([0, 0.03, 0.1]) * math.sqrt(person["area"])
                flags = rng.integers(0, 3, 17) * int(rng.random() > 0.15)
                person["keypoints"] = np.column_stack([points, flags]).ravel().tolist()
                person["num_keypoints"] = int((flags > 0).sum())
            jitter = box + np.round(rng.normal(0, 0.03, 4) * box[[2, 3, 2, 3]] * 4) / 4
            near = box + np.round(rng.normal(0, 0.004, 4) * box[[2, 3, 2, 3]] * 4) / 4
            detections += [(person["image_id"], found) for found in (box, jitter, near, jitter)]
        for image_id, image in self.images.items():
            height, width = image.shape[:2]
            wrong = rng.integers(0, [width // 2, height // 2, width, height], (3, 4))
            wrong[:, 2:] += 10
            detections += [(image_id, box) for box in wrong]
        self.detections = [
            {"image_id": image_id, "category_id": 1, "bbox": [float(v) for v in box], "score": float(rng.random())}
            for image_id, box in detections
        ]
        rng.shuffle(self.detections)
        self.detections.append({"image_id": image_id, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.99})
        (folder / "val.json").write_text(json.dumps(self.content))
        (folder / "boxes.json").write_text(json.dumps(self.detections))

    def poses(self) -> dict[int, list[dict]]:
        """All poses of each picture with the published scores."""
        found: dict[int, list[dict]] = {image_id: [] for image_id in sorted(self.images)}
        for detection in self.detections:
            if detection["category_id"] == 1:
                image_id = detection["image_id"]
                points, scores, area = estimated(self.network, self.images[image_id], detection["bbox"])
                sure = [score for score in scores if score > 0.2]
                score = sum(sure) / max(len(sure), 1) * detection["score"]
                found[image_id].append(
                    {"points": points, "scores": scores, "area": area, "score": score, "image_id": image_id}
                )
        return found


def data_of(folder: Path, pictures: Path) -> COCOKeypoints:
    return COCOKeypoints(
        root=str(folder), train_annotations="val.json", train_images=str(pictures), val_annotations="val.json",
        val_images=str(pictures), val_boxes="boxes.json", image_size=(HEIGHT, WIDTH), batch_size=1, num_workers=0,
        crop_convention="msra",
    )  # fmt: skip


def evaluate(rank: int, folder: Path, pictures: Path, devices: int) -> None:
    """Validate, and write down the unrounded numbers and the record of how they were obtained."""
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    method, data = Filtering(), data_of(folder, pictures)
    [logged] = trainer.validate(method, data, verbose=False)
    record = evaluation_protocol(data, method, *method.evaluation)
    (folder / f"{devices}_{rank}.json").write_text(json.dumps({"logged": logged, "protocol": record}))


@pytest.fixture(scope="module")
def case(test_data, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("detected"), test_data / "coco-mini")


@pytest.fixture(scope="module")
def alone(case) -> dict:
    evaluate(0, case.folder, case.pictures, 1)
    return json.loads((case.folder / "1_0.json").read_text())


def test_equals_the_published_steps(case, alone):
    by_image = case.poses()
    every = [pose for poses in by_image.values() for pose in poses]
    kept = [pose for poses in by_image.values() for pose in suppressed(poses)]
    expected = by_pycocotools(case.content, kept)
    # The case must be one where each step counts, and where the answer is neither all nor nothing.
    assert len(case.detections) - 1 == len(every) > 1.3 * len(kept)
    assert abs(by_pycocotools(case.content, every)["AP"] - expected["AP"]) > 0.01
    assert all(0.05 < expected[name] < 0.95 for name in NAMES)
    assert set(alone["logged"]) == {f"val/{name}" for name in NAMES}
    for name in NAMES:
        assert alone["logged"][f"val/{name}"] == pytest.approx(expected[name], abs=1e-6), name


def test_two_processes_equal_one(case, alone):
    run_on_ranks(evaluate, 2, case.folder, case.pictures, 2)
    for rank in range(2):
        assert json.loads((case.folder / f"2_{rank}.json").read_text()) == alone


def test_the_record_says_how_the_numbers_were_obtained(alone):
    for part in (
        "val.json",
        "detected boxes of boxes.json",
        "96x72 (msra, padding 1.25)",
        "OKS-NMS 0.9",
        "24 of 24 im",
    ):
        assert part in alone["protocol"]


def test_annotated_boxes_are_not_suppressed_and_keep_their_pck(case):
    data = data_of(case.folder, case.pictures)
    data.val_boxes = None
    average_precision, pck = data.metrics()
    assert average_precision.oks_nms is None
    assert "annotated boxes" in evaluation_protocol(data, average_precision)
    assert "no OKS-NMS" in evaluation_protocol(data, average_precision, pck)


def twins(areas_of: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A person, a pose two pixels beside it, and the OKS of the two over an area."""
    generator = np.random.default_rng(1)
    person = generator.uniform(0, 80, (17, 2))
    similarity = float(np.exp(-(2.0**2) / (2 * SIGMAS) ** 2 / areas_of / 2).mean())
    return torch.tensor(person), torch.tensor(person + np.array([2.0, 0.0])), similarity


@pytest.mark.parametrize("way", ["poses", "dicts", "crops", "crops by id", "pictures"])
def test_areas_are_taken_from_where_they_stand(way):
    """The area decides whether the twin is kept: a threshold just above, and just below, the OKS over that area."""
    area = 1.5**2 * 40 * 30
    a, b, similarity = twins(area)
    scores = torch.tensor([0.9, 0.8])
    boxes = torch.tensor([[0, 0, 1.5 * 40, 1.5 * 30]] * 2)
    keypoints, images = torch.stack([a, b]), torch.tensor([7, 7])
    target = {"image_id": 7, "keypoints": torch.cat([a, torch.full((17, 1), 2)], dim=1)[None], "area": torch.ones(1)}
    for threshold, left in ((similarity + 1e-4, 2), (similarity - 1e-4, 1)):
        metric = OKSMeanAveragePrecision(oks_nms=threshold)
        if way == "poses":
            metric.update(Poses(keypoints, torch.ones(2, 17), scores, boxes, images), [target])
        elif way == "dicts":
            metric.update([{"keypoints": keypoints, "scores": scores, "area": torch.full((2,), area)}], [target])
        else:
            across, along = 1.5 * math.cos(0.5), 1.5 * math.sin(0.5)  # turned, which changes no area
            turned = torch.tensor([[across, -along, 9], [along, across, -4.0]])
            batch = {"image": torch.zeros(2, 3, 40, 30), "image_id": images, "person_id": torch.tensor([2, 5]),
                     "keypoints": keypoints, "visibility": torch.ones(2, 17), "area": torch.ones(2),
                     "to_original": torch.stack([turned, turned])}  # fmt: skip
            poses = Poses(keypoints, torch.ones(2, 17), scores, boxes * 3, images)
            if way == "pictures":
                poses.boxes = boxes
                batch |= {"image": torch.zeros(1, 3, 400, 300), "image_id": images[:1],
                          "image_index": torch.zeros(2, dtype=torch.int64), "to_original": turned[None]}  # fmt: skip
            elif way == "crops by id":  # between the two a crop in which nobody was found
                batch = {key: value[[0, 0, 1]] for key, value in batch.items()}
                batch["person_id"], batch["to_original"][1] = torch.tensor([2, 4, 5]), 50 * turned
                poses.person_ids = torch.tensor([2, 5])
            metric.update_batch(poses, batch)
        assert len(metric.gathered()[1]) == left


def test_what_cannot_be_suppressed_is_refused():
    with pytest.raises(MetricError, match=r"oks_nms is 90"):
        OKSMeanAveragePrecision(oks_nms=90)
    metric = OKSMeanAveragePrecision(oks_nms=0.9)
    person = {"keypoints": torch.rand(1, 17, 3), "scores": torch.ones(1)}
    target = {"keypoints": torch.ones(1, 17, 3), "area": torch.ones(1)}
    with pytest.raises(MetricError, match=r"1 of 1 predictions have no 'area'"):
        metric.update([person], [target])
    batch = {"image": torch.zeros(2, 3, 8, 8), "keypoints": torch.rand(2, 17, 2), "visibility": torch.ones(2, 17),
             "image_id": torch.tensor([0, 1]), "area": torch.ones(2)}  # fmt: skip
    one = Poses(torch.rand(1, 17, 2), torch.ones(1, 17), torch.ones(1), torch.ones(1, 4), torch.tensor([0]))
    with pytest.raises(MetricError, match=r"1 poses of 2 crops"):
        metric.update_batch(one, batch)
