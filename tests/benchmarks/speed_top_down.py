"""Speed of top-down prediction on photos of many people: batches over people and pictures, against one at a time.

Both sides find the same keypoints of the same people with the same network and the same boxes, from files to
coordinates in the pictures. The baselines take one person at a time: crop, normalise to floats, transpose, call the
network, read the maps, map back. One decodes the picture for each person, as mmpose's pipeline does where it is given a
file; the other once for each picture. The chain is what ``pose-zoo predict`` runs: a Trainer with its callbacks, a file
of boxes, OKS-NMS and a file of results; drawing is off. Photos are tiles of real ones, so that several people are in
each.

    POSE_ZOO_TEST_DATA=<folder> python tests/benchmarks/speed_top_down.py [--repetitions 5] [--seed 0]

One thread; seconds are the processor's, so that other work on the machine counts less. Repetitions of the sides
alternate, and medians are compared. Prints a table and the profile by stage for each size of crops, and exits with 1
where the chain with the smallest crops is less than 3 times as fast as one person at a time, or finds other keypoints.
With larger crops the network's own arithmetic, of which batches save about half, is most of the time on one thread.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lightning_pose_zoo import geometry
from lightning_pose_zoo.callbacks import ReportStageTimes, WritePredictions
from lightning_pose_zoo.data import COCOKeypoints
from lightning_pose_zoo.data.results import read_coco_results, write_coco_detections
from lightning_pose_zoo.methods import HRNet, SimpleBaseline
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.stage_times import StageTimes

BAR = 3.0
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PICTURES = 16
PLAIN = {"pretrained": False, "flip_test": False, "channels_last": True}
NETWORKS = {
    "HRNet w18_small": lambda: HRNet("coco17", variant="w18_small", **PLAIN),
    "SimpleBaseline resnet18": lambda: SimpleBaseline("coco17", backbone="resnet18", **PLAIN),
}


def tiled(root: Path, folder: Path, side: int, seed: int) -> tuple[list[Path], list[tuple[np.ndarray, np.ndarray]]]:
    """Write pictures of side x side real photos as JPEG, and return them with the boxes of their people."""
    content = json.loads((root / "annotations/person_keypoints_train2017.json").read_text())
    boxes: dict[int, list[list[float]]] = {}
    for person in content["annotations"]:
        x, y, width, height = person["bbox"]
        if not person["iscrowd"] and min(width, height) > 20:
            boxes.setdefault(person["image_id"], []).append([x, y, x + width, y + height])
    photos = [entry for entry in content["images"] if entry["id"] in boxes]
    rng = np.random.default_rng(seed)
    rounds = -(-(side**2) * PICTURES // len(photos))  # with few photos each comes again, beside others
    order = np.concatenate([rng.permutation(len(photos)) for _ in range(rounds)])
    files, answers = [], []
    for number in range(PICTURES):
        canvas, people = np.zeros((640 * side, 640 * side, 3), np.uint8), []
        for place, index in enumerate(order[number * side**2 : (number + 1) * side**2]):
            entry = photos[index]
            photo = cv2.imread(str(root / "train2017" / entry["file_name"]))
            x, y = 640 * (place % side), 640 * (place // side)
            canvas[y : y + photo.shape[0], x : x + photo.shape[1]] = photo
            people += (np.array(boxes[entry["id"]]) + np.array([x, y, x, y])).tolist()
        files.append(folder / f"{number}.jpg")
        cv2.imwrite(str(files[-1]), canvas, [cv2.IMWRITE_JPEG_QUALITY, 92])
        answers.append((np.array(people, np.float32), np.linspace(1, 0.5, len(people))))
    return files, answers


def one_at_a_time(
    method: HeatmapMethod, files: list[Path], answers: list, size: tuple[int, int], once: bool
) -> np.ndarray:
    """Return the keypoints of all people (P, K, 2), each prepared, looked at and read off alone."""
    found = []
    for file, (boxes, _) in zip(files, answers, strict=True):
        picture = cv2.imread(str(file)) if once else None
        for box in boxes.astype(np.float64):
            image = cv2.imread(str(file)) if picture is None else picture
            center, extent = geometry.box_center_size(box)
            extent = geometry.fit_aspect(extent, size[1] / size[0], 1.25)
            matrix = geometry.crop_affine(center, extent, size, convention="msra")
            crop = cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)
            pixels = ((crop[:, :, ::-1] / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
            with torch.no_grad():
                maps = method.network(torch.from_numpy(np.ascontiguousarray(pixels[None])))[0].numpy()
            found.append(geometry.apply_affine(peaks(maps), geometry.invert_affine(matrix)))
    return np.array(found)


def peaks(maps: np.ndarray) -> np.ndarray:
    """Return the peaks of maps (K, h, w) in pixels of the crop (K, 2), as public code reads them off."""
    count, height, width = maps.shape
    cells = np.zeros((count, 2))
    flat = maps.reshape(count, -1)
    best, highest = flat.argmax(axis=1), flat.max(axis=1)
    for joint in range(count):
        row, column = divmod(int(best[joint]), width)
        if highest[joint] <= 0:
            continue
        cells[joint] = column, row
        if 1 < column < width - 1 and 1 < row < height - 1:
            here = maps[joint]
            cells[joint, 0] += 0.25 * np.sign(here[row, column + 1] - here[row, column - 1])
            cells[joint, 1] += 0.25 * np.sign(here[row + 1, column] - here[row - 1, column])
    return cells * 4


class Keep(Callback):
    """Keeps the stage times of a prediction."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def teardown(self, trainer, pl_module, stage):
        self.seconds = trainer.datamodule.stage_times.seconds()


def chain(
    method: HeatmapMethod, folder: Path, size: tuple[int, int], batch_size: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Predict as the command line does; return the keypoints (P, K, 2) and the seconds of each stage."""
    data = COCOKeypoints(
        predict_images=str(folder / "pictures"), predict_boxes=str(folder / "boxes.json"), image_size=size,
        batch_size=batch_size, num_workers=0, crop_convention="msra",
    )  # fmt: skip
    keep = Keep()
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[WritePredictions(draw=False, oks_nms=1.0), ReportStageTimes(), keep],
    )  # fmt: skip
    trainer.predict(method, data, return_predictions=False)
    poses = read_coco_results(folder / "predictions" / "keypoints.json")
    return poses.keypoints.numpy(), keep.seconds


def measure(given: argparse.Namespace, size: tuple[int, int], root: Path) -> bool:
    """Measure one size of crops, print its table, and tell whether the bar is reached."""
    name, batch_size = given.network, given.batch_size
    torch.manual_seed(given.seed)
    methods = {side: NETWORKS[name]().eval() for side in ("alone", "chain")}
    methods["alone"].load_state_dict(methods["chain"].state_dict())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pictures").mkdir()
        files, answers = tiled(root, folder / "pictures", given.side, given.seed)
        write_coco_detections(folder / "boxes.json", range(PICTURES), answers)
        people = sum(len(boxes) for boxes, _ in answers)
        seconds: dict[str, list[float]] = {"decoded per person": [], "decoded per picture": [], "chain": []}
        stages: list[dict[str, float]] = []
        for repetition in range(given.repetitions + 1):
            start = time.process_time()
            expected = one_at_a_time(methods["alone"], files, answers, size, once=False)
            first = time.process_time()
            one_at_a_time(methods["alone"], files, answers, size, once=True)
            second = time.process_time()
            found, spent = chain(methods["chain"], folder, size, batch_size)
            third = time.process_time()
            if repetition:  # the first reads fill the disk's cache
                for side, one in zip(seconds, (first - start, second - first, third - second), strict=True):
                    seconds[side].append(one)
                stages.append(spent)
    return report(name, size, batch_size, people, seconds, stages, agreement(found, expected))


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the share of keypoints that both sides put at the same place, to a pixel.

    A random network has maps without clear peaks, where the decoders of JPEG differ by a grey level.
    """
    return float((np.abs(found - expected).max(axis=-1) < 1).mean())


def report(
    name: str,
    size: tuple[int, int],
    batch_size: int,
    people: int,
    seconds: dict[str, list[float]],
    stages: list[dict[str, float]],
    same: float,
) -> bool:
    """Print the table and the profile; tell whether the bar is reached."""
    medians = {side: statistics.median(spent) for side, spent in seconds.items()}
    print(f"\n{name}, {size[0]} x {size[1]}, {people} people in {PICTURES} pictures, batches of {batch_size}")
    print(f"{'side':32} {'ms/person':>10} {'persons/s':>10} {'x':>6}")
    for side, spent in medians.items():
        title = side if side == "chain" else f"one at a time, {side}"
        slowest = medians["decoded per person"]
        print(f"{title:32} {spent / people * 1e3:10.2f} {people / spent:10.1f} {slowest / spent:6.2f}")
    typical = {stage: statistics.median(one[stage] for one in stages) for stage in stages[0]}
    rest = medians["chain"] - sum(typical.values())
    parts = ", ".join(f"{stage} {spent / people * 1e3:.2f}" for stage, spent in [*typical.items(), ("rest", rest)])
    print(f"chain by stage, ms/person: {parts}")
    print(f"keypoints at the same place: {same:.1%}")
    ratio = medians["decoded per person"] / medians["chain"]
    other = medians["decoded per picture"] / medians["chain"]
    print(f"{ratio:.2f} x one at a time, {other:.2f} x where that decodes each picture once; bar: {BAR} x of the first")
    return ratio >= BAR and same > 0.97


def main() -> int:
    """Measure, print the tables, and return 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="of each side")
    parser.add_argument("--network", choices=list(NETWORKS), default="HRNet w18_small")
    parser.add_argument("--size", type=int, nargs=2, help="height and width of a crop; 128 96 and 64 64 by default")
    parser.add_argument("--batch_size", type=int, default=16, help="people that the network sees together")
    parser.add_argument("--side", type=int, default=2, help="each picture is of so many by so many photos")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the choice of photos")
    given = parser.parse_args()
    if "POSE_ZOO_TEST_DATA" not in os.environ:
        parser.error("POSE_ZOO_TEST_DATA must name the folder that holds coco-mini")
    StageTimes.clock = staticmethod(time.thread_time)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    root = Path(os.environ["POSE_ZOO_TEST_DATA"]) / "coco-mini"
    sizes = [(given.size[0], given.size[1])] if given.size else [(128, 96), (64, 64)]
    reached = [measure(given, size, root) for size in sizes][-1]
    print(f"{'reached' if reached else 'NOT reached'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
