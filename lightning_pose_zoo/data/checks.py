"""Checks that the data formats share, made before training starts, so that all problems are told at once."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.images import image_size
from lightning_pose_zoo.errors import DatasetError, ImageError, complain
from lightning_pose_zoo.geometry import FAR_AWAY

__all__ = ["Findings", "OnBad", "check_pictures", "is_number", "number_list", "pixel_problem", "read_json", "safe_name"]

OnBad = Literal["refuse", "skip"]
"""What to do about annotations that cannot be used: stop with a list of them, or leave them out with a warning."""

_HEADERS_READ = 2000


class Findings:
    """Collects what is wrong with one annotation file.

    Args:
        source: The file, for the headline.
        remedy: What the user can do.
    """

    def __init__(self, source: Path, remedy: str = "Mend the file.") -> None:
        self.source = source
        self.remedy = remedy
        self.general: list[str] = []
        self.rejected: dict[int | str, tuple[str, str]] = {}

    def add(self, problem: str) -> None:
        """Note a problem of the file as a whole, which cannot be skipped."""
        self.general.append(problem)

    def reject(self, row: int | str, name: str, reason: str) -> None:
        """Note that one annotation cannot be used, and why; the first reason counts.

        Args:
            row: What tells it from the others.
            name: What the user knows it by, as in "annotation 17".
            reason: What is wrong with it.
        """
        self.rejected.setdefault(row, (name, reason))

    def settle(self, on_bad: OnBad = "refuse") -> None:
        """Raise what has been found, or warn where that may be skipped.

        Raises:
            DatasetError: With all problems at once.
        """
        skippable = [f"{name}: {reason}" for name, reason in self.rejected.values()]
        if self.general or (skippable and on_bad == "refuse"):
            remedy = self.remedy if self.general else f"{self.remedy} Or leave these annotations out with on_bad: skip."
            raise DatasetError(complain(str(self.source), [*self.general, *skippable], remedy))
        if skippable:
            counts = Counter(reason.split(":")[0] for _, reason in self.rejected.values())
            listed = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common())
            warnings.warn(
                f"{self.source}: left out is what has one of {len(skippable)} problems: {listed}.", stacklevel=2
            )


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: Where it is missing or no JSON, with line and column.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(
            f"the annotation file '{path}' does not exist; check the root folder and the file's name."
        ) from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"'{path}' is no JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except RecursionError:
        raise DatasetError(f"'{path}' is nested too deeply for an annotation file.") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{path}' cannot be read: {error}.") from error


def is_number(value: Any) -> bool:
    """Tell whether a value of a JSON file is a number (true, false and "12" are not)."""
    return type(value) is int or type(value) is float


def number_list(value: Any, count: int) -> npt.NDArray[np.float64] | None:
    """Return a list of so many numbers as an array, None where it is anything else."""
    if not isinstance(value, list) or len(value) != count or not {*map(type, value)} <= {int, float}:
        return None
    # Integers of JSON may be larger than any float.
    return np.array([number if abs(number) < 1e300 else np.inf for number in value], dtype=np.float64)


def pixel_problem(values: npt.NDArray[np.float64]) -> str | None:
    """Say what is wrong with coordinates of any shape, None where nothing is."""
    if not np.isfinite(values).all():
        return "a coordinate is not finite"
    if (np.abs(values) > FAR_AWAY).any():
        return f"a coordinate is beyond {FAR_AWAY:.0f} pixels"
    return None


def safe_name(name: str) -> str | None:
    """Return a picture's name with forward slashes, or None where it points out of its folder.

    Only the name counts. Symbolic links are followed: nobody but the owner of the folder makes them.
    """
    name = name.replace("\\", "/")
    path = PurePosixPath(name)
    bad = not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or PureWindowsPath(name).drive
    return None if bad else str(path)


def check_pictures(
    folder: Path,
    names: Sequence[str],
    sizes: npt.NDArray[np.int32] | None = None,
) -> dict[int, str]:
    """Find the pictures that are missing, broken, or of another size than annotated.

    Each folder is listed once, instead of asking for every file. Of many pictures 2,000, evenly spread, have their
    headers read; what is wrong with one of the rest is told when it is read.

    Args:
        folder: Where the pictures are.
        names: Their names relative to it.
        sizes: (n, 2) annotated width and height; 0 where unknown.

    Returns:
        For each picture that cannot be used, by its position, why.
    """
    listings: dict[str, set[str]] = {}
    problems: dict[int, str] = {}
    for position, name in enumerate(names):
        parent, _, file = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _listing(folder / parent)
        # A file system may spell a name in another Unicode form than it lists it in.
        if file not in listings[parent] and not _exists(folder / name):
            problems[position] = f"missing picture: '{name}' in '{folder}'"
    for position in np.unique(np.linspace(0, len(names) - 1, min(len(names), _HEADERS_READ)).astype(int)).tolist():
        if position in problems:
            continue
        try:
            width, height = image_size(folder / names[position])
        except ImageError as error:
            problems[position] = f"unreadable picture: {error}"
            continue
        annotated = (width, height) if sizes is None else (int(sizes[position, 0]), int(sizes[position, 1]))
        if 0 not in annotated and annotated != (width, height):
            problems[position] = (
                f"picture of another size: '{names[position]}' is annotated with {annotated[0]} x {annotated[1]} "
                f"pixels, but has {width} x {height} when upright"
            )
    return problems


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):
        return set()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
