"""Real crowds, drawn as a perfect network would see them, are put together again by the integer programme."""

from __future__ import annotations

import json

import pytest
import torch
from perfect_fields import coco_pictures, perfect_fields
from real_crowds import each_once

from lightning_pose_zoo.codecs import PartFieldCodec
from lightning_pose_zoo.data.results import write_coco_results
from lightning_pose_zoo.methods import DeepCut
from lightning_pose_zoo.metrics import evaluate_coco
from lightning_pose_zoo.structures import Poses

TRAIN = "coco-mini/annotations/person_keypoints_train2017.json"
VAL = "coco-mini/annotations/person_keypoints_val2017.json"
MORE = "annotations-only/coco_person_keypoints_val2017_subset.json"


class Perfect(DeepCut):
    """Sees what is labelled in ``batch``."""

    def forward(self, images):
        return perfect_fields(self.codec, self.batch)

    def showing(self, batches):
        for self.batch in batches:
            yield self.batch


def without_twins(source, file, step):
    """Write a file with every ``step``-th picture, and nobody who is annotated twice: no field has room for both."""
    content = json.loads(source.read_text())
    content["images"] = content["images"][::step]
    people = [person for person in content["annotations"] if person["num_keypoints"] and not person["iscrowd"]]
    shown = {image["id"]: [] for image in content["images"]}
    for person in people:
        shown.get(person["image_id"], []).append(person)
    kept = [person for here in shown.values() for person in each_once(here)]
    content["annotations"] = kept
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(("source", "step"), [(VAL, 1), (MORE, 6)])
def test_real_crowds_come_back_from_perfect_fields(test_data, tmp_path, source, step):
    torch.manual_seed(0)
    method = Perfect("coco17", backbone="resnet10t", codec=PartFieldCodec(), time_limit=5.0).eval()
    method.phase = 1
    method.fit_statistics(method.showing(coco_pictures(test_data / TRAIN, 736)[::2]))
    file = without_twins(test_data / source, tmp_path / "annotations.json", step)
    batches, found = coco_pictures(file, 736), []
    assert len(batches) > 15
    for method.batch in batches:
        found.append(method.estimate(method.batch))
        assert method.partitions[0].status == "optimal"
    write_coco_results(tmp_path / "results.json", Poses.cat(found))
    assert evaluate_coco(file, tmp_path / "results.json")["AP"] >= 0.97
