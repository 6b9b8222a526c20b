"""The command ``pose-zoo evaluate``: score a file of COCO results, from any tool, and say what is wrong with it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = ["evaluate", "main"]

_MEANINGS = {
    "miss": "keypoints far from every annotated place",
    "swap": "keypoints on another person",
    "inversion": "left keypoints on the right, and the other way round",
    "jitter": "keypoints near their place, but not close",
    "score": "persons whose better detection has the lower score",
    "background": "detections of nobody, or of somebody once more",
    "missed_person": "persons whom no detection is near",
}


def main(words: Sequence[str]) -> None:
    """Parse the words after ``evaluate``, and evaluate.

    Raises:
        SystemExit: With 2 where the command line is wrong.
        PoseZooError: Where the files are.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pose-zoo evaluate")
    parser.add_function_arguments(evaluate, as_positional=False, sub_configs=False)
    evaluate(**parser.parse_args(list(words)).as_dict())


def evaluate(
    annotations: str,
    results: str,
    skeleton: str | None = None,
    backend: Literal["numpy", "hotcoco"] = "numpy",
    out: str | None = None,
) -> None:
    """Score a file of COCO keypoint results, from any tool, and say what is wrong with it.

    Prints COCO's ten numbers, PCK of each keypoint, what kinds of mistakes cost how much, and why AP is 0 where it is.

    Args:
        annotations: JSON file of annotations in COCO's format.
        results: JSON file of results in COCO's format.
        skeleton: Whose sigmas count, a built-in name or a file; by default by the names of the category's keypoints.
        backend: Who computes the ten numbers; hotcoco has to be installed.
        out: Folder for evaluation.json and diagnosis.png; by default nothing is written.

    Raises:
        PoseZooError: Where a file cannot be scored.
    """
    from lightning_pose_zoo.metrics.coco_files import evaluate_coco, score_coco
    from lightning_pose_zoo.metrics.coco_hints import explain_low_scores
    from lightning_pose_zoo.metrics.coco_reading import read_coco_files
    from lightning_pose_zoo.metrics.coco_report import count_entries, diagnose_categories, score_keypoints

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        files = read_coco_files(annotations, results, skeleton)
        hotcoco = backend == "hotcoco"
        scores = evaluate_coco(annotations, results, files.skeleton, backend) if hotcoco else score_coco(files)
    diagnoses = diagnose_categories(files)
    report: dict[str, Any] = {
        "annotations": str(annotations),
        "results": str(results),
        "skeleton": files.skeleton.name,
        "sigmas": dict(zip(files.skeleton.names, files.skeleton.sigmas, strict=True)),
        "sigmas_from": files.sigmas_from,
        "counts": count_entries(files),
        "scores": scores,
        "warnings": [str(warning.message) for warning in caught],
        "hints": explain_low_scores(files, scores),
        "PCK": score_keypoints(files, list(diagnoses.values())) if diagnoses else None,
        "diagnosis": {str(category): diagnosis.numbers() for category, diagnosis in diagnoses.items()},
    }
    _print(report, diagnoses)
    if out is not None:
        _write(Path(out), report, diagnoses)


def _print(report: dict[str, Any], diagnoses: dict[int, Any]) -> None:
    _print_head(report)
    if diagnoses:
        _print_keypoints(report["PCK"])
    for category, diagnosis in diagnoses.items():
        _print_diagnosis(diagnosis, f" of category {category}" if len(diagnoses) > 1 else "")
    if report["hints"]:
        average_precision = report["scores"]["AP"]
        print("\nwhy AP is so low" if average_precision > 0 else f"\nwhy AP is {average_precision:.0f}")
        for hint in report["hints"]:
            print(f"  - {hint}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of words: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(f"  {line}" for line in lines)


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _print_head(report: dict[str, Any]) -> None:
    counts, scores = report["counts"], report["scores"]
    persons = counts["persons"] + counts["ignored"] + counts["crowds"]
    print(f"annotations  {report['annotations']}: {counts['images']} images, {persons} persons")
    print(
        f"             {counts['persons']} persons count; ignored are {counts['ignored']} without a labelled keypoint "
        f"and {counts['crowds']} crowds"
    )
    print(
        f"results      {report['results']}: {counts['detections']} detections in {counts['images_with_detections']} "
        f"images; {counts['dropped']} beyond the best {counts['most_per_image']} of an image are dropped"
    )
    print(f"sigmas       {report['sigmas_from']}")
    for warning in report["warnings"]:
        print(f"warning      {warning}")
    names = list(scores)
    remark = "; -1: nobody of the size is annotated" if -1 in scores.values() else ""
    print(f"\nOKS average precision and recall{remark}")
    for start in range(0, len(names), 5):
        part = names[start : start + 5]
        width = max(9, *(len(name) + 2 for name in names))
        print("  " + "".join(name.ljust(width) for name in part).rstrip())
        print("  " + "".join(f"{scores[name]:.4f}".ljust(width) for name in part).rstrip())


def _print_keypoints(keypoints: dict[str, Any]) -> None:
    what = "distance of shoulder and opposite hip" if keypoints["normalizer"] == "torso" else "longer side of the box"
    print(
        f"\nkeypoints: PCK by the {keypoints['normalizer']} ({what}), and what those of found persons are, in percent"
    )
    rows = keypoints["keypoints"]
    columns = list(rows["all"])
    print(_table([
        ["", *columns],
        *(
            [name, str(row["labelled"]), *(_number(100 * row[column], 1) for column in columns[1:])]
            for name, row in rows.items()
        ),
    ]))  # fmt: skip
    print(
        "  PCK: detections and persons of an image are joined one to one, the highest OKS first; who has no detection\n"
        "  has all keypoints wrong; persons whose size is unknown are left out."
    )


def _print_diagnosis(diagnosis: Any, where: str) -> None:
    from lightning_pose_zoo.metrics.functional.error_diagnosis import KEYPOINT_KINDS, KINDS

    print(f"\nwhat costs AP{where}: {_number(diagnosis.average_precision())} as predicted; see docs/metrics.md")
    rows = [["mistake", "how many", "AP gain alone", "AP with all above"]]
    for kind in KINDS:
        count = diagnosis.keypoints[kind].sum() if kind in KEYPOINT_KINDS else diagnosis.counts[kind]
        rows.append(
            [kind.replace("_", " "), str(count), f"{diagnosis.gain(kind):+.4f}", _number(diagnosis.after(kind))]
        )
    lines = _table(rows).splitlines()
    print(lines[0])
    for line, kind in zip(lines[1:], KINDS, strict=True):
        print(f"{line}   {_MEANINGS[kind]}")


def _write(folder: Path, report: dict[str, Any], diagnoses: dict[int, Any]) -> None:
    """Write evaluation.json and a picture of each diagnosis."""
    import io

    from lightning_pose_zoo.files import write_atomically

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_atomically(folder / "evaluation.json", json.dumps(plain(report), indent=1).encode())
    written = ["evaluation.json"]
    for category, diagnosis in diagnoses.items():
        from lightning_pose_zoo.metrics.error_diagnosis import draw_diagnosis

        figure, _ = draw_diagnosis(diagnosis)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        name = "diagnosis.png" if len(diagnoses) == 1 else f"diagnosis_{category}.png"
        write_atomically(folder / name, picture.getvalue())
        written.append(name)
    print(f"\nwritten to {folder}: {', '.join(written)}")
