"""Random COCO data sets with everything that the protocol treats specially, and pycocotools' verdict on them."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import torch

from lightning_pose_zoo.metrics import GroundTruth

NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")


def random_coco(seed: int | tuple[int, ...], keypoints: int = 17, categories: int = 1) -> tuple[dict, list[dict]]:
    """Make annotations and results: crowds, unlabelled persons, twins, ties, crowds of detections, empty images.

    Areas lie also on the very borders between medium and large, and images are listed in no order.
    """
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.arange(1, 400))[: int(rng.integers(1, 9))].tolist()
    annotations: list[dict] = []
    for image in image_ids:
        for _ in range(int(rng.integers(0, 6))):
            annotations.append(
                _person(rng, len(annotations) + 1, image, keypoints, int(rng.integers(1, categories + 1)))
            )
            if rng.random() < 0.2:  # a twin: equal similarity to everything
                annotations.append(annotations[-1] | {"id": len(annotations) + 1})
    order = rng.permutation(len(annotations))
    annotations = [annotations[n] for n in order]
    results = []
    for annotation in annotations:
        for _ in range(int(rng.choice([0, 1, 1, 2, 30], p=[0.2, 0.4, 0.2, 0.15, 0.05]))):
            results.append(_detection(rng, annotation, keypoints))
    for image in image_ids:
        if rng.random() < 0.3:
            stranger = _person(rng, 0, image, keypoints, int(rng.integers(1, categories + 1)))
            results.append(_detection(rng, stranger, keypoints))
    results = [results[n] for n in rng.permutation(len(results))]
    parts = [f"part_{n}" for n in range(keypoints)]
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in image_ids],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": f"kind {n}", "keypoints": parts} for n in range(categories)],
    }, results


def _person(rng: np.random.Generator, number: int, image: int, keypoints: int, category: int) -> dict:
    points = rng.integers(0, 300, (1, 2)) + rng.integers(0, int(rng.choice([30, 120, 300])), (keypoints, 2))
    visibility = rng.integers(0, 3, keypoints) * (rng.random() > 0.15)
    is_crowd = int(rng.random() < 0.1)
    if is_crowd:
        visibility[:] = 0
    low, high = points.min(axis=0), points.max(axis=0)
    area = float(rng.choice([1024, 9216, 1023.9, 9216.1, *rng.uniform(300, 30000, 6)]))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "keypoints": np.concatenate([points, visibility[:, None]], axis=1).ravel().tolist(),
        "num_keypoints": int((visibility > 0).sum()),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": area,
        "iscrowd": is_crowd,
    }


def _detection(rng: np.random.Generator, person: dict, keypoints: int) -> dict:
    points = np.array(person["keypoints"], dtype=float).reshape(-1, 3)[:, :2]
    points = points + rng.integers(-1, 2, points.shape) * rng.choice([0, 1, 3, 8, 25])
    return {
        "image_id": person["image_id"],
        "category_id": person["category_id"],
        "keypoints": np.concatenate([points, np.ones((keypoints, 1))], axis=1).ravel().tolist(),
        "score": round(float(rng.random()), 1),
    }


def by_pycocotools(content: dict, results: list[dict], sigmas: tuple[float, ...]) -> dict[str, float]:
    """Return the ten numbers by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


def columns(content: dict, keypoints: int = 17) -> GroundTruth:
    """Return annotations as columns, in their order."""
    annotations = content["annotations"]
    image_ids = [image["id"] for image in content["images"]]
    points = np.array([a["keypoints"] for a in annotations], dtype=float).reshape(-1, keypoints, 3)
    boxes = np.array([a["bbox"] for a in annotations], dtype=float).reshape(-1, 4)
    return GroundTruth(
        image_ids=np.array(image_ids),
        image_rows=np.array([image_ids.index(a["image_id"]) for a in annotations], dtype=np.int64),
        person_ids=np.array([a["id"] for a in annotations], dtype=np.int64),
        keypoints=points[..., :2],
        visibility=points[..., 2],
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        areas=np.array([a["area"] for a in annotations], dtype=float),
        is_crowd=np.array([a["iscrowd"] for a in annotations], dtype=bool),
    )


def dicts(content: dict, results: list[dict], keypoints: int = 17) -> tuple[list[dict], list[dict]]:
    """Return predictions and targets as lists of dicts of tensors, one of each for every image."""
    preds, targets = [], []
    for image in (entry["id"] for entry in content["images"]):
        found = [r for r in results if r["image_id"] == image]
        people = [a for a in content["annotations"] if a["image_id"] == image]
        points = torch.tensor([r["keypoints"] for r in found], dtype=torch.float64).reshape(-1, keypoints, 3)
        scores = torch.tensor([r["score"] for r in found], dtype=torch.float64)
        preds.append({"image_id": image, "keypoints": points, "scores": scores})
        boxes = torch.tensor([a["bbox"] for a in people], dtype=torch.float64).reshape(-1, 4)
        truth = torch.tensor([a["keypoints"] for a in people], dtype=torch.float64).reshape(-1, keypoints, 3)
        targets.append({
            "image_id": image, "keypoints": truth,
            "area": torch.tensor([a["area"] for a in people], dtype=torch.float64),
            "iscrowd": torch.tensor([a["iscrowd"] for a in people], dtype=torch.int64),
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        })  # fmt: skip
    return preds, targets
