"""Scoring COCO files with the optional package hotcoco, which reads and evaluates them in native code.

It gives pycocotools' numbers to the last bit, and reads files many times faster. But it is lenient: results of 16
keypoints, without a score or of unknown images are scored as if nothing was wrong, and a missing area counts as none.
So the files are checked here first, as far as that is quick: every annotation, and of the results the form.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError, complain

__all__ = ["score_files"]

_NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")
_KEYPOINTS = re.compile(rb'"keypoints"\s*:\s*\[([^\[\]]*)\]')
_REMEDY = "Mend the file, or score it without hotcoco (backend: numpy)"


def score_files(annotations: Path, results: Path, sigmas: Sequence[float]) -> dict[str, float]:
    """Score a results file by COCO's keypoint protocol, with hotcoco.

    Args:
        annotations: JSON with ``images``, ``annotations`` and ``categories``; every annotation with its ``area``.
        results: JSON list of ``image_id``, ``category_id``, ``keypoints`` (x, y and score, K times) and ``score``.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).

    Returns:
        AP, AP50, AP75, AP_M, AP_L, AR, AR50, AR75, AR_M and AR_L in 0..1, equal to those of ``evaluate_coco``; -1 where
        no person of that size is annotated.

    Raises:
        DatasetError: Where the annotations cannot be read or lack something; names the first ids.
        MetricError: Where hotcoco is not installed, or the results cannot be read, hold NaN or do not belong to the
            annotations. Which rows, the numpy backend tells.
    """
    hotcoco = _import_hotcoco()
    truth = _load(annotations, DatasetError, lambda: hotcoco.COCO(str(annotations)))
    _check_truth(truth, annotations, len(sigmas))
    rows = _check_results(results, len(sigmas))
    found = _load(results, MetricError, lambda: truth.load_res(str(results)))
    problems = list(found.load_warnings)
    if len(found.get_ann_ids()) != rows:
        problems.append(f"{rows} lists of keypoints, but {len(found.get_ann_ids())} results")
    _refuse(results, MetricError, problems)
    evaluation = hotcoco.COCOeval(truth, found, "keypoints")
    evaluation.params.kpt_oks_sigmas = [float(sigma) for sigma in sigmas]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message=".*kpt_oks_sigmas differ")  # as they do for every other skeleton
        evaluation.run()
    return dict(zip(_NAMES, map(float, evaluation.stats), strict=True))


def _import_hotcoco() -> ModuleType:
    try:
        return importlib.import_module("hotcoco")
    except ImportError as reason:
        raise MetricError(
            f"the hotcoco backend needs the package hotcoco ({reason}): pip install hotcoco, or use the numpy backend."
        ) from reason


def _load(path: Path, error: type[PoseZooError], read: Any) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise error(f"'{path}' does not exist.") from None
    except (OSError, ValueError, TypeError, KeyError) as reason:
        raise error(f"'{path}' cannot be read by hotcoco: {reason}. {_REMEDY}.") from reason


def _check_truth(truth: Any, path: Path, count: int) -> None:
    """Refuse annotations that hotcoco would score in another way than we do, or not at all."""
    content = truth.dataset
    problems = list(truth.load_warnings)
    images = [image["id"] for image in content["images"]]
    known = set(images)
    if len(known) < len(images):
        problems.append(f"{len(images) - len(known)} images have the id of another one")
    if not content["categories"]:
        problems.append("there are no categories")
    for entry in content["annotations"]:
        missing = [key for key in ("area", "bbox", "keypoints") if entry.get(key) is None]
        if missing:
            problems.append(f"annotation {entry['id']} has no {' and no '.join(missing)}")
        elif len(entry["keypoints"]) != 3 * count:
            problems.append(f"annotation {entry['id']} has {len(entry['keypoints'])} numbers instead of {3 * count}")
        if entry["image_id"] not in known:
            problems.append(f"annotation {entry['id']}: image {entry['image_id']} is not listed")
    _refuse(path, DatasetError, problems)


def _check_results(path: Path, count: int) -> int:
    """Return the number of results; refuse those whose form is wrong.

    Looks at the text, because turning it into objects takes ten times as long as hotcoco needs for everything.
    """
    content: bytes = _load(path, MetricError, path.read_bytes)
    lengths = [found.group(1).count(b",") + 1 for found in _KEYPOINTS.finditer(content)]
    problems = []
    if not content.lstrip().startswith(b"["):
        problems.append("it is no list of predictions")
    wrong = sum(length != 3 * count for length in lengths)
    if wrong:
        problems.append(f"{wrong} lists of keypoints are not of {3 * count} numbers")
    for key, possible in (("score", {len(lengths)}), ("bbox", {0, len(lengths)})):
        times = len(re.findall(rb'"%s"\s*:' % key.encode(), content))
        if times not in possible:
            problems.append(f"{len(lengths)} results with keypoints, but {times} with {key}")
    _refuse(path, MetricError, problems)
    return len(lengths)


def _refuse(path: Path, error: type[PoseZooError], problems: Sequence[str]) -> None:
    if problems:
        raise error(complain(f"'{path}'", problems, f"{_REMEDY}, which names every row that is wrong."))
