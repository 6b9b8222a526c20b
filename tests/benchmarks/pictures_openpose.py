"""Draws the pictures of docs/methods/openpose.md: maps, fields, candidates and persons.

    python tests/benchmarks/pictures_openpose.py --out docs/images/openpose.jpg

A crowd is rendered, its maps and fields are drawn as a perfect network would give them, and persons are put together
from them. The same seed always gives the same picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from lightning_pose_zoo.association.candidates import find_candidates
from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.codecs import PartAffinityCodec
from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.visualization import contact_sheet, draw_poses, heatmap_overlay, save_picture, to_picture

COLORS = ((255, 128, 0), (51, 153, 255), (90, 220, 90), (230, 60, 180), (240, 220, 60), (80, 220, 220))


def field_overlay(picture: np.ndarray, fields: np.ndarray, stride: int) -> np.ndarray:
    """Draw the vectors of all limbs (2 C, h, w), coloured by their direction, as short lines over a dimmed picture."""
    canvas = (0.35 * picture).astype(np.uint8)
    vectors = fields.reshape(-1, 2, *fields.shape[-2:])
    for vector in vectors:
        for y, x in np.argwhere(np.hypot(*vector) > 0.3):
            along = vector[:, y, x]
            hue = int((np.arctan2(along[1], along[0]) / np.pi + 1) * 90) % 180
            color = cv2.cvtColor(np.uint8([[[hue, 220, 255]]]), cv2.COLOR_HSV2RGB)[0, 0].tolist()
            middle = (np.array([x, y]) + 0.5) * stride - 0.5
            ends = [
                tuple(np.rint(8 * (middle + side * 0.45 * stride * along)).astype(int).tolist()) for side in (-1, 1)
            ]
            cv2.arrowedLine(canvas, *ends, color, 1, cv2.LINE_AA, 3, 0.35)
    return canvas


def main() -> None:
    """Draw and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/openpose.jpg"))
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    size = (320, 400)
    people = SyntheticPeople(samples="pictures", image_size=size, people=(4, 4), val_size=1, batch_size=1,
                             seed=arguments.seed)  # fmt: skip
    people.setup("validate")
    batch = next(iter(people.val_dataloader()))
    codec, parts = PartAffinityCodec(), body_parts(people.skeleton)
    limbs = parts.skeleton.limbs
    places, seen = parts.from_keypoints(batch["keypoints"], batch["visibility"])
    fields, maps = codec.encode(places, seen, batch["image_index"], limbs, 1, size)
    picture = to_picture(batch["image"][0])
    candidates = find_candidates(maps[:, :-1])
    spots = torch.full((len(candidates.rows), len(parts.skeleton.names), 2), torch.nan)
    spots[torch.arange(len(spots)), candidates.parts] = codec.to_pixels(candidates.cells)
    found = PartGrouping()(maps[:, :-1], fields, limbs)
    persons = picture
    for person, color in zip(range(len(found.scores)), COLORS, strict=False):
        cells, scores = found.cells[person : person + 1], found.part_scores[person : person + 1]
        points = parts.to_keypoints(codec.to_pixels(cells)).numpy()
        persons = draw_poses(persons, points, people.skeleton, parts.to_keypoints(scores).numpy(), color=color)
    tiles = {
        "confidence maps of all parts": heatmap_overlay(picture, maps[0, :-1].numpy()),
        "affinity fields of all limbs": field_overlay(picture, fields[0].numpy(), codec.stride),
        "candidates": draw_poses((0.6 * picture).astype(np.uint8), spots.numpy(), parts.skeleton),
        "persons": persons,
    }
    sheet = contact_sheet(list(tiles.values()), columns=2, captions=list(tiles))
    save_picture(arguments.out, sheet)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
