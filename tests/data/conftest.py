"""Small data sets that tests of several formats make and break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dots import draw_dots


class SmallCOCO:
    """A data set of five keypoints in COCO's layout, whose content may be changed before it is written."""

    names = ("nose", "left_hand", "right_hand", "left_foot", "right_foot")

    def __init__(self, root: Path, pictures: int = 6) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        self.content: dict = {"images": [], "annotations": [], "categories": []}
        self.content["categories"].append(
            {"id": 1, "name": "person", "keypoints": list(self.names), "skeleton": [[1, 2]]}
        )
        for number in range(pictures):
            keypoints = rng.integers(20, 80, (5, 2))
            name = f"picture{number}.png"
            draw_dots(root / "images" / name, keypoints, (120, 100))
            self.content["images"].append({"id": 10 + number, "file_name": name, "width": 120, "height": 100})
            flat = [int(value) for x, y in keypoints for value in (x, y, 2)]
            self.content["annotations"].append(
                {"id": 100 + number, "image_id": 10 + number, "category_id": 1, "keypoints": flat, "num_keypoints": 5,
                 "bbox": [10, 10, 90, 80], "area": 3000.0, "iscrowd": 0}
            )  # fmt: skip

    def write(self) -> Path:
        """Write the annotations and return their path."""
        path = self.root / "annotations.json"
        path.write_text(json.dumps(self.content), encoding="utf-8")
        return path

    def module(self, **options):
        """Write the annotations and return a data module that trains and validates on them."""
        from lightning_pose_zoo.data import COCOKeypoints

        self.write()
        settings = {
            "train_annotations": "annotations.json", "train_images": "images", "val_annotations": "annotations.json",
            "val_images": "images", "skeleton": None, "image_size": (64, 48), "batch_size": 4, "num_workers": 0,
        }  # fmt: skip
        return COCOKeypoints(root=str(self.root), **(settings | options))


@pytest.fixture
def small_coco(tmp_path):
    """A valid data set of six pictures with one person each."""
    return SmallCOCO(tmp_path / "small")
