"""Running a detector over many pictures, on one process or on all of a training's."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_pose_zoo.data.images import image_size, read_image
from lightning_pose_zoo.detection.boxes import Found, LeftOut, found_boxes, usable
from lightning_pose_zoo.detection.cache import DetectionCache, cache_of
from lightning_pose_zoo.detection.detectors import PersonDetector
from lightning_pose_zoo.errors import DatasetError, ImageError, complain
from lightning_pose_zoo.stage_times import StageTimes, timed

__all__ = ["detect_pictures"]

_AHEAD = 4  # batches of pictures that are read while the detector works


@dataclass
class _Picture:
    """One picture on its way: what was kept of it, or its pixels."""

    file: Path
    size: tuple[int, int]
    key: str | None
    found: Found | None
    pixels: npt.NDArray[np.uint8] | None


@dataclass
class _Share:
    """What one process has found: boxes by the row of the picture, what was left out, and what could not be read."""

    found: dict[int, Found] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    problems: list[str] = field(default_factory=list)


def detect_pictures(
    files: Sequence[Path],
    detector: PersonDetector,
    times: StageTimes | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[Found]:
    """Find the persons in pictures.

    Boxes that nobody can be cut out by (not finite, without area, outside of the picture) are left out, with one
    warning that counts them. Answers are kept where the detector has a cache; see ``PersonDetector``.

    Args:
        files: The pictures.
        detector: Who finds them.
        times: Where the seconds for reading and detecting are added up.
        rank: Which of several processes this is; all of them must call this with the same pictures.
        world_size: How many there are. They share the pictures out, and each returns all boxes.

    Returns:
        For each picture its boxes (n, 4), x0, y0, x1, y1 in pixels, and scores (n,), both float32.

    Raises:
        DatasetError: Where pictures cannot be read, all of them at once, or the detector's answers are no boxes.
    """
    share = _Share()
    mine = list(range(len(files)))[rank::world_size]
    _detect(mine, files, detector, share, times, quiet=rank > 0)
    shares = _everybodys(share, world_size)
    problems = [problem for one in shares for problem in one.problems]
    if problems:
        raise DatasetError(complain("pictures", problems, "Take these pictures out, or mend them."))
    left_out = LeftOut().join(one.left_out for one in shares)
    if left_out.counts and rank == 0:
        warnings.warn(f"{type(detector).__name__}: {left_out}", stacklevel=2)
    found = {row: boxes for one in shares for row, boxes in one.found.items()}
    return [found[row] for row in range(len(files))]


def _detect(
    rows: list[int],
    files: Sequence[Path],
    detector: PersonDetector,
    share: _Share,
    times: StageTimes | None,
    quiet: bool,
) -> None:
    """Fill one process's share."""
    from tqdm import tqdm

    batch_size = max(int(getattr(detector, "batch_size", 1)), 1)
    with timed(times, "detect"):
        cache = cache_of(detector)
    waiting: list[tuple[int, _Picture]] = []
    bar = tqdm(total=len(rows), desc="Detecting", unit="picture", disable=quiet)
    with bar:
        for row, picture in _read_ahead(rows, files, cache, _AHEAD * batch_size, times):
            if isinstance(picture, ImageError):
                share.problems.append(str(picture))
                bar.update()
            elif picture.found is not None:
                share.found[row] = usable(picture.found, picture.size, picture.file, share.left_out)
                bar.update()
            else:
                waiting.append((row, picture))
                if len(waiting) == batch_size:
                    bar.update(_ask(waiting, detector, cache, share, times))
        bar.update(_ask(waiting, detector, cache, share, times))


def _ask(
    waiting: list[tuple[int, _Picture]],
    detector: PersonDetector,
    cache: DetectionCache | None,
    share: _Share,
    times: StageTimes | None,
) -> int:
    """Let the detector look at the pictures that wait for it; return how many these were."""
    if not waiting:
        return 0
    who, count = type(detector).__name__, len(waiting)
    with timed(times, "detect"):
        pixels = [picture.pixels for _, picture in waiting if picture.pixels is not None]
        answers: Sequence[Any] = detector.detect(pixels)
        if len(answers) != count:
            raise DatasetError(f"{who} answered with boxes of {len(answers)} pictures, but was given {count}.")
        for (row, picture), answer in zip(waiting, answers, strict=True):
            found = found_boxes(answer, who, picture.file)
            if cache is not None and picture.key is not None:
                cache.put(picture.key, found)
            share.found[row] = usable(found, picture.size, picture.file, share.left_out)
    waiting.clear()
    return count


def _read_ahead(
    rows: list[int], files: Sequence[Path], cache: DetectionCache | None, ahead: int, times: StageTimes | None
) -> Iterator[tuple[int, _Picture | ImageError]]:
    """Yield the pictures in their order, reading the next ones meanwhile."""
    pending: deque[tuple[int, Future[_Picture | ImageError]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as reader:
        try:
            for row in rows:
                pending.append((row, reader.submit(_read, files[row], cache, times)))
                if len(pending) > ahead:
                    number, picture = pending.popleft()
                    yield number, picture.result()
            while pending:
                number, picture = pending.popleft()
                yield number, picture.result()
        finally:
            for _, picture in pending:
                picture.cancel()


def _read(file: Path, cache: DetectionCache | None, times: StageTimes | None) -> _Picture | ImageError:
    """Read one picture, its pixels only where nothing is known of it."""
    with timed(times, "read"):
        try:
            size = image_size(file)
            key = None if cache is None else cache.key(file.read_bytes())
            found = None if cache is None or key is None else cache.get(key)
            return _Picture(file, size, key, found, None if found is not None else read_image(file))
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(f"'{file}' cannot be read: {error}.")


def _everybodys(share: _Share, world_size: int) -> list[_Share]:
    """Return the shares of all processes, on each of them."""
    if world_size == 1:
        return [share]
    shares: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(shares, share)
    return shares
