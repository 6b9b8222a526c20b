"""What a person detector is, and how one is named."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import SettingsError

__all__ = ["DetectorLike", "PersonDetector", "Pictures", "WholePicture", "get_detector"]

Pictures: TypeAlias = Sequence[npt.NDArray[np.uint8]]


@runtime_checkable
class PersonDetector(Protocol):
    """Finds persons in pictures; a detector of your own needs this one method.

    Nothing has to be derived from this class. These attributes are looked at where a detector has them:

    - ``batch_size``: how many pictures ``detect`` is given at once; 1 without it. They may differ in size.
    - ``fingerprint()``: a text that is another one wherever the boxes may be others, so that it speaks of weights and
      settings; and ``cache``: a folder that boxes are kept in by the pictures' content and this text. Without both
      nothing is kept.
    """

    # Any, because the command line takes only those methods whose types are the same, and anything for Any.
    def detect(self, pictures: Any, /) -> Any:
        """Find the persons in some pictures.

        Args:
            pictures: A list of arrays, each (H, W, 3) uint8, RGB, upright.

        Returns:
            For each picture its boxes (n, 4), x0, y0, x1, y1 in pixels with x1 = x0 + width, and their scores (n,):
            arrays, tensors or lists; n may be 0.
        """
        ...


DetectorLike: TypeAlias = PersonDetector | str
"""A detector, or its name as ``get_detector`` takes it."""


class WholePicture(PersonDetector):
    """Takes every picture as one person's: for pictures that were cut out already."""

    def detect(self, pictures: Pictures) -> Sequence[tuple[Any, Any]]:
        """Return the whole of each picture, with the score 1."""
        return [([[0, 0, picture.shape[1], picture.shape[0]]], [1.0]) for picture in pictures]


def get_detector(detector: DetectorLike) -> PersonDetector:
    """Return a detector by its name.

    Args:
        detector: The name of a detector of torchvision, ``whole_picture``, or the dotted path of what makes one when it
            is called without arguments: a class or a function. A detector is returned as it is.

    Raises:
        SettingsError: Where there is no such detector, or it has no method ``detect``.
    """
    made = _named(detector) if isinstance(detector, str) else detector
    if not isinstance(made, PersonDetector) or not callable(made.detect):
        raise SettingsError(f"{type(made).__name__} is no detector: it needs the method detect(pictures).")
    return made


def _named(name: str) -> Any:
    if name == "whole_picture":
        return WholePicture()
    if "." not in name:
        from lightning_pose_zoo.detection.torchvision_detector import TorchvisionDetector

        return TorchvisionDetector(name)
    module, _, attribute = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"the detector '{name}' cannot be imported: {error}. Give the dotted path of a class or function that can "
            "be called without arguments, from a package that is installed or in the folder you are in."
        ) from error
    try:
        return made()
    except TypeError as error:
        raise SettingsError(
            f"the detector '{name}' cannot be made without arguments: {error}. Give the path of a function that makes "
            "it, or its class with its arguments."
        ) from error
