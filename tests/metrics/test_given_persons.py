"""Poses that find people by themselves, matched to given persons, against every possible assignment."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import PCK, GivenPersons, PCKh
from lightning_pose_zoo.structures import Poses


def made_up(seed, persons, found):
    """Persons of three keypoints in two pictures, and poses that are partly of them."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 100, (persons, 14, 2))
    poses = np.concatenate([keypoints[: found // 2] + rng.normal(0, 6, (min(found // 2, persons), 14, 2)),
                            rng.uniform(0, 100, (found - min(found // 2, persons), 14, 2))])  # fmt: skip

    def boxes(points):
        return torch.tensor(np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)).float()

    image_index = torch.tensor(rng.integers(0, 2, persons))
    batch = {
        "image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "keypoints": torch.tensor(keypoints).float(),
        "visibility": torch.full((persons, 14), 2, dtype=torch.uint8), "box": boxes(keypoints),
        "image_index": image_index, "image_id": torch.tensor([31, 5]), "person_id": torch.arange(persons) + 70,
        "head_size": torch.full((persons,), 20.0),
    }  # fmt: skip
    images = torch.tensor(rng.choice([31, 5], found))
    shuffled = torch.tensor(rng.permutation(found))
    predicted = Poses(
        torch.tensor(poses).float()[shuffled], torch.ones(found, 14), torch.ones(found), boxes(poses)[shuffled], images
    )
    return batch, predicted


def overlap(first, second):
    (a, b, c, d), (e, f, g, h) = first.tolist(), second.tolist()
    shared = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
    return shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("persons", "found"), [(3, 4), (4, 2), (2, 0), (0, 3)])
def test_the_best_of_all_assignments_is_scored(seed, persons, found):
    batch, poses = made_up(seed, persons, found)
    images = batch["image_id"][batch["image_index"]]
    overlaps = np.array([[overlap(batch["box"][p], poses.boxes[f]) * (images[p] == poses.image_ids[f]).item()
                          for f in range(found)] for p in range(persons)]).reshape(persons, found)  # fmt: skip
    places = [*range(found), *[None] * persons]
    best = max(
        itertools.permutations(places, persons),
        key=lambda choice: sum(overlaps[p, f] for p, f in enumerate(choice) if f is not None),
    )
    right = 0
    for person, choice in enumerate(best):
        if choice is not None and overlaps[person, choice] > 0:
            distance = (poses.keypoints[choice] - batch["keypoints"][person]).norm(dim=-1)
            right += int((distance <= 10).sum())
    metric = GivenPersons(PCKh("lsp14", thresholds=(0.5,)))
    metric.update_batch(poses, batch)
    value = float(metric.compute()["PCKh@0.5"])
    assert math.isnan(value) if not persons else value == pytest.approx(right / (14 * persons))


def test_it_is_computed_anew_and_forgets():
    metric = GivenPersons(PCK("lsp14", thresholds=(0.2,), normalize_by="box"))
    for seed in range(2):
        batch, poses = made_up(seed, 3, 6)
        exact = Poses(
            batch["keypoints"],
            torch.ones(3, 14),
            torch.ones(3),
            batch["box"],
            torch.tensor([31, 5])[batch["image_index"]],
        )
        metric.update_batch(exact, batch)
        assert float(metric.compute()["PCK@0.2"]) == 1
        nobody = poses[:0]
        metric.update_batch(nobody, dict(batch, person_id=batch["person_id"] + 100))
        assert float(metric.compute()["PCK@0.2"]) == 0.5
        metric.reset()
    assert "overlap the given persons" in metric.protocol()


def test_it_says_what_it_lacks():
    batch, poses = made_up(0, 2, 2)
    del batch["person_id"]
    with pytest.raises(MetricError, match="box, image_id and person_id"):
        GivenPersons(PCKh("lsp14")).update_batch(poses, batch)
