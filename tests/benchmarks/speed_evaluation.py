"""Average precision of 100,000 detections in 5000 images: ours against pycocotools, faster-coco-eval and hotcoco.

Run: python tests/benchmarks/speed_evaluation.py [--repetitions 3]
The size is that of COCO val2017 with 20 detections per image; 11,000 persons, crowds and unlabelled ones among them.
Every measurement is a process of its own, on one thread; the sides take turns, and medians are compared. Times are the
processor's, because other work on the machine disturbs them least: of evaluate + accumulate (ours: from columns to the
ten numbers), and of the whole way from the two JSON files. Memory is how far the peak of the evaluation lies above the
loaded data. faster-coco-eval and hotcoco take part where installed.

Exits with 1 where ours is less than 15 times as fast as pycocotools, not faster than faster-coco-eval, takes more than
1.5 times pycocotools' memory, or where any of the ten numbers differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BAR, MEMORY_BAR = 15.0, 1.5
IMAGES, PERSONS, DETECTIONS, KEYPOINTS = 5000, 11_000, 100_000, 17
NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")
SIDES = {
    "pycocotools": "pycocotools.cocoeval", "faster-coco-eval": "faster_coco_eval", "hotcoco": "hotcoco",
    "ours": "lightning_pose_zoo.metrics",
}  # fmt: skip
"""Each side, and the module whose import does not count as its time."""


def make(folder: Path) -> None:
    """Write annotations and results by one seed, as COCO's JSON and as columns."""
    import numpy as np

    from lightning_pose_zoo.skeletons import get_skeleton

    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(4.5, 0.7, PERSONS))
    points = rng.uniform(0, 500, (PERSONS, 1, 2)) + rng.normal(0, 0.25, (PERSONS, KEYPOINTS, 2)) * size[:, None, None]
    points, crowd = points.round(), rng.random(PERSONS) < 0.01
    visibility = rng.choice([0, 1, 2], (PERSONS, KEYPOINTS), p=[0.3, 0.1, 0.6]) * (rng.random(PERSONS) > 0.4)[:, None]
    visibility[crowd] = 0
    low, extent = points.min(axis=1), np.ptp(points, axis=1)
    who = rng.integers(0, PERSONS, DETECTIONS)
    noise = rng.choice([0.01, 0.03, 0.1, 0.5], DETECTIONS) * size[who]
    found = points[who] + rng.normal(0, 1, (DETECTIONS, KEYPOINTS, 2)) * noise[:, None, None]
    images = rng.integers(1, IMAGES + 1, PERSONS)
    ones = np.ones((DETECTIONS, KEYPOINTS, 1))
    columns = {
        "images": images, "keypoints": np.concatenate([points, visibility[..., None]], axis=2),
        "boxes": np.concatenate([low, extent], axis=1), "areas": (0.53 * extent[:, 0] * extent[:, 1]).round(2),
        "crowd": crowd, "found_images": images[who], "found": np.concatenate([found.round(2), ones], axis=2),
        "scores": rng.random(DETECTIONS).round(4),
    }  # fmt: skip
    np.savez(folder / "columns.npz", **columns)
    content, results = as_dicts(columns, list(get_skeleton("coco17").names))
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))


def as_dicts(columns: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results as the JSON files hold them."""
    annotations = [
        {
            "id": row + 1, "image_id": int(columns["images"][row]), "category_id": 1,
            "iscrowd": int(columns["crowd"][row]), "keypoints": columns["keypoints"][row].ravel().tolist(),
            "num_keypoints": int((columns["keypoints"][row, :, 2] > 0).sum()), "area": float(columns["areas"][row]),
            "bbox": columns["boxes"][row].tolist(),
        }
        for row in range(len(columns["images"]))
    ]  # fmt: skip
    results = [
        {"image_id": image, "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
        for image, points, score in zip(
            columns["found_images"].tolist(), columns["found"], columns["scores"].tolist(), strict=True
        )
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(1, IMAGES + 1)]
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def ours(truth: Path, results: Path, columns: Path | None) -> Callable[[], list[float]]:
    """Load for our evaluation; return what evaluates."""
    import numpy as np

    from lightning_pose_zoo.metrics.coco_reading import read_coco_files
    from lightning_pose_zoo.metrics.functional import GroundTruth, average_precision
    from lightning_pose_zoo.skeletons import get_skeleton

    if columns is None:
        files = read_coco_files(truth, results)
        (persons,), found = files.truths.values(), files.predictions
        given = (persons, found.image_ids, found.keypoints, found.scores, files.skeleton.sigmas, found.areas)
    else:
        with np.load(columns) as data:
            keypoints, boxes, visibility = data["keypoints"][..., :2], data["boxes"], data["keypoints"][..., 2]
            boxes[:, 2:] += boxes[:, :2]
            persons = GroundTruth(
                np.arange(1, IMAGES + 1), data["images"] - 1, np.arange(PERSONS), keypoints, visibility, boxes,
                data["areas"], data["crowd"],
            )  # fmt: skip
            sigmas = get_skeleton("coco17").sigmas
            given = (persons, data["found_images"], data["found"][..., :2].copy(), data["scores"], sigmas, None)
    return lambda: list(average_precision(*given).values())


def peer(side: str, truth: Path, results: Path, columns: Path | None) -> Callable[[], list[float]]:
    """Load for one of the others, which all have the same classes; return what evaluates."""
    if side == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif side == "hotcoco":
        from hotcoco import COCO, COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    if columns is None or side == "hotcoco":  # which reads files without making objects of them
        known = COCO(str(truth))
        found = known.loadRes(str(results))
    else:
        import numpy as np

        with np.load(columns) as data:
            content, rows = as_dicts(dict(data), [])
        known = COCO()
        known.dataset = content
        known.createIndex()
        found = known.loadRes(rows)

    def evaluate() -> list[float]:
        evaluation = COCOeval(known, found, "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return [float(value) for value in list(evaluation.stats)[: len(NAMES)]]

    return evaluate


def measure(side: str, folder: Path, memory: bool) -> dict[str, Any]:
    """Measure one side in this process: seconds from the files, or megabytes from the columns."""
    files = (folder / "gt.json", folder / "results.json", folder / "columns.npz" if memory else None)
    importlib.import_module(SIDES[side])
    start = time.process_time()
    evaluate = ours(*files) if side == "ours" else peer(side, *files)
    loaded = time.process_time()
    if memory:  # let the peak begin at what is loaded, not at what loading took
        Path("/proc/self/clear_refs").write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = evaluate()
    end = time.process_time()
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"scores": scores, "evaluate": end - loaded, "files": end - start, "megabytes": megabytes}


def in_a_process(*arguments: str) -> str:
    """Run this file in a process of its own, and return what it prints."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    one_thread = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | one_thread).stdout


def compare(folder: Path, repetitions: int) -> bool:
    """Measure all sides in turns, print the table and say whether the bars are reached."""
    sides = [side for side, module in SIDES.items() if importlib.util.find_spec(module.split(".")[0]) is not None]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(repetitions):
        for side in sides:
            runs[side].append(json.loads(in_a_process("--side", side, "--folder", str(folder))))
    megabytes = {}
    if Path("/proc/self/clear_refs").exists():
        for side in sides:
            output = in_a_process("--side", side, "--folder", str(folder), "--memory")
            megabytes[side] = json.loads(output)["megabytes"]
    seconds = {
        what: {side: statistics.median(run[what] for run in runs[side]) for side in sides}
        for what in ("evaluate", "files")
    }
    expected = runs["pycocotools"][0]["scores"]
    worst = {
        side: max(abs(a - b) for run in runs[side] for a, b in zip(run["scores"], expected, strict=True))
        for side in sides
    }
    print(f"{IMAGES} images, {PERSONS} persons, {DETECTIONS} detections; medians of {repetitions}, one thread")
    print(f"{'':18}{'evaluate s':>11}{'x':>7}{'from files s':>14}{'x':>7}{'peak +MB':>10}{'largest difference':>20}")
    for side in sides:
        evaluate, files = seconds["evaluate"], seconds["files"]
        print(
            f"{side:18}{evaluate[side]:11.3f}{evaluate['pycocotools'] / evaluate[side]:7.1f}{files[side]:14.2f}"
            f"{files['pycocotools'] / files[side]:7.1f}{megabytes.get(side, float('nan')):10.0f}{worst[side]:20.1e}"
        )
    print(", ".join(f"{name} {value:.4f}" for name, value in zip(NAMES, expected, strict=True)))
    times = seconds["evaluate"]["pycocotools"] / seconds["evaluate"]["ours"]
    faster = seconds["evaluate"]["ours"] < seconds["evaluate"].get("faster-coco-eval", float("inf"))
    share = megabytes["ours"] / megabytes["pycocotools"] if megabytes else 0.0
    print(
        f"ours: {times:.1f} x pycocotools (bar {BAR} x), faster than faster-coco-eval: {faster}, "
        f"{share:.2f} of pycocotools' memory (bar {MEMORY_BAR})"
    )
    return times >= BAR and faster and share <= MEMORY_BAR and max(worst.values()) <= 1e-12


def main() -> int:
    """Make the data, measure and judge; with --side measure one side in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="how often each side is measured")
    for hidden in ("--side", "--folder", "--make"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(Path(arguments.make))
        return 0
    if arguments.side:
        with contextlib.redirect_stdout(io.StringIO()):
            result = measure(arguments.side, Path(arguments.folder), arguments.memory)
        print(json.dumps(result))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        in_a_process("--make", folder)
        return 0 if compare(Path(folder), arguments.repetitions) else 1


if __name__ == "__main__":
    sys.exit(main())
