"""Maps and fields as a perfect network would give them for the people of COCO's annotations, and what is found in them.

People are scored who can be found at all: their labelled parts, the neck among them, hang together by limbs. The others
are drawn too, and ignored by the score. People who are annotated twice are taken once: no map has room for both.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.codecs.paf import PartAffinityCodec
from lightning_pose_zoo.metrics import OKSMeanAveragePrecision
from lightning_pose_zoo.skeletons import get_skeleton

FILES = (
    "coco-mini/annotations/person_keypoints_train2017.json",
    "coco-mini/annotations/person_keypoints_val2017.json",
    "annotations-only/coco_person_keypoints_val2017_subset.json",
)
PARTS = body_parts(get_skeleton("coco17"))


def read_crowds(folder: Path, least: int = 2) -> list[tuple[tuple[int, int], list[dict]]]:
    """Return height and width, and the labelled people, of the pictures that have at least so many of them."""
    crowds = []
    for file in FILES:
        content = json.loads((folder / file).read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        people: dict[int, list[dict]] = {}
        for person in content["annotations"]:
            if person.get("num_keypoints") and not person["iscrowd"]:
                people.setdefault(person["image_id"], []).append(person)
        crowds += [(sizes[image], once) for image, here in people.items() if len(once := each_once(here)) >= least]
    return crowds


def each_once(people: list[dict]) -> list[dict]:
    """Drop people whose keypoints lie on those of somebody else: half of them within a tenth of their extent."""
    kept: list[dict] = []
    for person in sorted(people, key=lambda person: -person["num_keypoints"]):
        mine = np.reshape(person["keypoints"], (-1, 3))
        for other in kept:
            theirs = np.reshape(other["keypoints"], (-1, 3))
            both = (mine[:, 2] > 0) & (theirs[:, 2] > 0)
            near = 0.1 * min(person["area"], other["area"]) ** 0.5
            if both.sum() > 1 and np.median(np.linalg.norm(mine[both, :2] - theirs[both, :2], axis=1)) < near:
                break
        else:
            kept.append(person)
    return kept


def hangs_together(labelled: torch.Tensor) -> bool:
    """Tell whether limbs join all labelled parts (J,) of a person, two at least."""
    there = {int(part) for part in labelled.nonzero()[:, 0]}
    reached, edge = set(), {min(there)}
    while edge:
        reached |= edge
        edge = {b for limb in PARTS.skeleton.limbs for a, b in (limb, limb[::-1]) if a in edge and b in there} - reached
    return len(there) > 1 and reached == there


def score(crowds: list, height: int, grouping: PartGrouping, noise: float = 0.0) -> dict[str, float]:
    """Draw each crowd at so many pixels of height, add noise to maps and fields, group, and return COCO's numbers."""
    codec, metric, people = PartAffinityCodec(), OKSMeanAveragePrecision("coco17"), 0
    random = torch.Generator().manual_seed(0)
    for image, (size, persons) in enumerate(crowds):
        zoom = height / size[0]
        pixels = [-(-round(side * zoom) // 8) * 8 for side in size]
        truth = torch.tensor([person["keypoints"] for person in persons], dtype=torch.float32).view(-1, 17, 3)
        parts, seen = PARTS.from_keypoints((truth[..., :2] + 0.5) * zoom - 0.5, truth[..., 2])
        rows = torch.zeros(len(persons), dtype=torch.int64)
        targets = codec.encode(parts, seen, rows, PARTS.skeleton.limbs, 1, pixels)
        maps, fields = (m + noise * torch.randn(m.shape, generator=random) for m in (targets.heatmaps, targets.fields))
        found = grouping(maps[:, :-1], fields, PARTS.skeleton.limbs)
        scores = PARTS.to_keypoints(found.part_scores)
        points = (codec.to_pixels(PARTS.to_keypoints(found.cells)) + 0.5) / zoom - 0.5
        whole = torch.tensor([hangs_together(person > 0) for person in seen])
        people += int(whole.sum())
        truth[~whole, :, 2] = 0
        boxes = torch.tensor([person["bbox"] for person in persons])
        boxes[:, 2:] += boxes[:, :2]
        metric.update(
            [{"keypoints": torch.where(scores[..., None] > 0, points, 0), "scores": found.scores, "image_id": image}],
            [{"keypoints": truth, "area": torch.tensor([person["area"] for person in persons]), "boxes": boxes,
              "image_id": image}],
        )  # fmt: skip
    return {name: float(value) for name, value in metric.compute().items()} | {"people": people}
