"""Boxes that were found before, by the content of the picture and what found them."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np

from lightning_pose_zoo.detection.boxes import Found
from lightning_pose_zoo.detection.detectors import PersonDetector
from lightning_pose_zoo.files import write_atomically

__all__ = ["DEFAULT_CACHE", "DetectionCache", "cache_of"]

DEFAULT_CACHE = "~/.cache/lightning_pose_zoo/detections"

_VERSION = "1"  # of the files; another one makes old files be passed over


class DetectionCache:
    """Keeps what a detector answered, one small file for each picture.

    A file that is damaged counts as absent. Where nothing can be written, the user is told once.

    Args:
        folder: Where the files are; several detectors may share it.
        fingerprint: What tells the detector, its weights and settings from others.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / hashlib.sha256(f"{_VERSION}\n{fingerprint}".encode()).hexdigest()[:20]
        self._writable = True

    @staticmethod
    def key(content: bytes) -> str:
        """Return what a picture is known by: a hash of its file's bytes."""
        return hashlib.sha256(content).hexdigest()

    def _path(self, key: str) -> Path:
        # Folders of a few files each, because writing looks through the folder for what killed processes left.
        return self.folder / key[:2] / f"{key[2:]}.npz"

    def get(self, key: str) -> Found | None:
        """Return the boxes and scores of a picture, None where they are not known."""
        try:
            with np.load(self._path(key), allow_pickle=False) as content:
                boxes, scores = content["boxes"], content["scores"]
        except Exception:
            # A damaged archive raises errors of many kinds, and each means the same.
            return None
        fits = boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == boxes.shape[:1]
        return (boxes.astype(np.float32), scores.astype(np.float32)) if fits else None

    def put(self, key: str, found: Found) -> None:
        """Keep the boxes and scores of a picture."""
        if not self._writable:
            return
        content = io.BytesIO()
        np.savez(content, boxes=found[0], scores=found[1])
        try:
            write_atomically(self._path(key), content.getvalue())
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"detections are not kept: '{self.folder}' cannot be written ({error}). Give a folder that can be, or "
                "cache: null.",
                stacklevel=2,
            )


def cache_of(detector: PersonDetector) -> DetectionCache | None:
    """Return the cache that a detector asks for, None where it asks for none."""
    folder, fingerprint = getattr(detector, "cache", None), getattr(detector, "fingerprint", None)
    if folder is None or not callable(fingerprint):
        return None
    return DetectionCache(Path(folder).expanduser(), str(fingerprint()))
