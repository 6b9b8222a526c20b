"""What all tests share: one thread, no network, and the place of the real data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import pytest
import torch

cv2.setNumThreads(1)
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures, annotations and reference numbers."""
    place = os.environ.get("POSE_ZOO_TEST_DATA")
    if not place:
        pytest.skip("POSE_ZOO_TEST_DATA is not set: it names the folder with the real pictures and reference numbers")
    folder = Path(place)
    if not folder.is_dir():
        pytest.fail(f"POSE_ZOO_TEST_DATA is {folder}, which is no folder")
    return folder
