"""Which keypoints of MPII are hidden: told by the data set's own MATLAB file, and by no other layout of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.matlab import read_matlab_objects
from lightning_pose_zoo.errors import DatasetError

__all__ = ["hidden_keypoints"]

_KEYPOINTS = 16
_SAME_PLACE = 1.5  # pixels; the JSON files have rounded some

Floats = npt.NDArray[np.float64]


def hidden_keypoints(
    path: Path, names: list[str], keypoints: Floats, labelled: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], int]:
    """Find which keypoints of persons are hidden.

    Persons are found again by their picture's name and the places of their keypoints. Somebody who is not found, and
    keypoints of which the file does not say whether they can be seen (head top and upper neck of most), count as seen.

    Args:
        path: ``mpii_human_pose_v1_u12_1.mat``, with ``RELEASE.annolist``.
        names: (n,) the picture of each person.
        keypoints: (n, 16, 2), pixels, counted from 1.
        labelled: (n, 16).

    Returns:
        (n, 16), whether each is hidden, and how many persons were not found.

    Raises:
        DatasetError: Where the file is missing or damaged, or has no such annotations.
    """
    release = read_matlab_objects(path, "RELEASE")
    pictures = getattr(release, "annolist", None)
    if pictures is None:
        raise DatasetError(
            f"'{path}' has no RELEASE.annolist, the annotations of MPII; give mpii_human_pose_v1_u12_1.mat."
        )
    try:
        people = _people(pictures, set(names))
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"'{path}' has annotations that are not those of MPII's release: {error}.") from error
    hidden, missing = np.zeros(labelled.shape, dtype=np.bool_), 0
    for row, (name, places, flags) in enumerate(zip(names, keypoints, labelled, strict=True)):
        for other_places, other_flags, other_hidden in people.get(name, []):
            both = flags & other_flags
            if both.any() and (np.abs(places - other_places)[both].max() <= _SAME_PLACE):
                hidden[row] = other_hidden & flags
                break
        else:
            missing += 1
    return hidden, missing


def _people(
    pictures: Any, wanted: set[str]
) -> dict[str, list[tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]]:
    """Return places (16, 2), whether annotated and whether hidden, of the persons of each picture."""
    people: dict[str, list[tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]] = {}
    for picture in np.atleast_1d(pictures):
        name = str(picture.image.name)
        if name not in wanted:
            continue
        for person in np.atleast_1d(picture.annorect):
            points = list(_points(person))
            if not points:
                continue
            places = np.zeros((_KEYPOINTS, 2))
            present, hidden = np.zeros(_KEYPOINTS, dtype=np.bool_), np.zeros(_KEYPOINTS, dtype=np.bool_)
            for index, x, y, visible in points:
                places[index], present[index], hidden[index] = (x, y), True, not visible
            people.setdefault(name, []).append((places, present, hidden))
    return people


def _points(person: Any) -> Iterator[tuple[int, float, float, bool]]:
    """Yield number, place and whether it can be seen of each annotated keypoint; nothing of who has none."""
    for point in np.atleast_1d(getattr(getattr(person, "annopoints", None), "point", [])):
        # A number, a digit as text, or empty; some persons' points lack it altogether.
        told = np.atleast_1d(getattr(point, "is_visible", []))
        yield int(point.id), float(point.x), float(point.y), not (len(told) and int(told[0]) == 0)
