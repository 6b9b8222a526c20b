"""The errors that this package raises for bad input; each says what was found, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "DatasetError",
    "ImageError",
    "MetricError",
    "PoseZooError",
    "SettingsError",
    "SkeletonError",
    "TrainingError",
    "UnsafeCheckpointError",
    "complain",
]


class PoseZooError(Exception):
    """Base class of all errors that a user of this package can mend."""


class DatasetError(PoseZooError):
    """A data set's annotations, folders or boxes cannot be used as they are."""


class ImageError(PoseZooError):
    """A picture file is missing, damaged, too large or not a picture."""


class SkeletonError(PoseZooError):
    """A skeleton is unknown or contradicts itself."""


class SettingsError(PoseZooError, ValueError):
    """Settings that cannot work together."""


class CheckpointError(PoseZooError):
    """A file of weights cannot be read or does not fit."""


class UnsafeCheckpointError(CheckpointError):
    """A file of weights asks for code to be run; it was not read."""


class TrainingError(PoseZooError):
    """Training cannot go on, such as after a loss of NaN."""


class MetricError(PoseZooError):
    """A metric was given something that has no score."""


def complain(what: str, problems: Sequence[str], remedy: str, most: int = 20) -> str:
    """Compose one message out of many problems.

    Args:
        what: What the problems were found in, usually a file.
        problems: One line for each problem.
        remedy: What the user can do.
        most: How many problems are listed; the rest is counted.

    Returns:
        The message: a headline with the count, the first problems, the remedy.
    """
    noun = "problem" if len(problems) == 1 else "problems"
    lines = [f"{what}: {len(problems)} {noun}", *(f"  - {problem}" for problem in problems[:most])]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join([*lines, remedy])
