"""The command ``pose-zoo proposals``: learn how a detector's boxes lie beside the annotated ones."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["learn_proposals", "main"]


def main(words: Sequence[str]) -> None:
    """Parse the words after ``proposals``, and learn.

    Raises:
        SystemExit: With 2 where the command line is wrong.
        PoseZooError: Where the files are.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pose-zoo proposals")
    parser.add_function_arguments(learn_proposals, as_positional=False, sub_configs=False)
    learn_proposals(**parser.parse_args(list(words)).as_dict())


def learn_proposals(
    annotations: str,
    detections: str,
    out: str,
    skeleton: str | None = None,
    category: str | None = None,
    atoms: int = 8,
    components: int = 2,
    least_iou: float = 0.5,
    seed: int = 0,
) -> None:
    """Learn from a detector's boxes of annotated pictures how they lie beside the true ones, by what people do.

    Training with CropAugmentation(proposals=PoseGuidedProposals(file=...)) then draws boxes as that detector does. Take
    detections of the training pictures, and of a detector that has not been trained on them where that can be had.

    Args:
        annotations: JSON file of annotations in COCO's format.
        detections: JSON list of {image_id, category_id, bbox, score}.
        out: The YAML file that is written.
        skeleton: What the keypoints are: a built-in name or a YAML file; by default the category's own.
        category: Name of the category; by default the only one that has keypoints.
        atoms: Groups of like poses.
        components: Gaussians of the mixture that each group's offsets are.
        least_iou: A detection belongs to the person whose box it overlaps most, if by this much.
        seed: Of the first guesses.

    Raises:
        DatasetError: Where a file cannot be read, or too few detections have a person.
    """
    from pathlib import Path

    import numpy as np

    from lightning_pose_zoo.data.coco_files import choose_category, read_boxes, read_coco, read_content
    from lightning_pose_zoo.data.proposals import BoxOffsets, matched_boxes, write_offsets
    from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

    path = Path(annotations)
    chosen = choose_category(path, read_content(path), category)
    meant = Skeleton.from_dict(chosen) if skeleton is None else get_skeleton(skeleton)
    # Pictures are not looked at, so that the annotations alone do.
    table = read_coco(path, None, meant, category)
    detected, _ = read_boxes(Path(detections), table, int(chosen["id"]))
    people = table.select(table.trainable())
    rows, persons, offsets = matched_boxes(
        detected.boxes, detected.image_rows, people.boxes, people.image_rows, least_iou
    )
    learned = BoxOffsets.fitted(
        people.keypoints[persons], people.visibility[persons], offsets, meant, atoms, components, seed
    )
    write_offsets(Path(out), learned)
    print(f"{len(rows)} of {len(detected)} detections have one of {len(people)} persons; written to {out}")
    print("offsets in widths and heights  x0      y0      x1      y1")
    for name, numbers in (("mean", offsets.mean(axis=0)), ("deviation", np.std(offsets, axis=0))):
        print(f"  {name:<26} {'  '.join(f'{number:+.3f}' for number in numbers)}")
