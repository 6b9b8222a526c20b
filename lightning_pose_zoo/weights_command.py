"""The command ``pose-zoo weights``: say what a file of weights is, what it fits, and what to do with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_pose_zoo.weights.description import Description
    from lightning_pose_zoo.weights.reading import TrainedWeights
    from lightning_pose_zoo.weights.sources import Source

__all__ = ["identify", "main"]

_DATA_SETS = {
    "coco17": "coco",
    "mpii16": "mpii",
    "lsp14": "lsp",
    "crowdpose14": "crowdpose",
    "posetrack17": "posetrack",
}

_CODECS = {"OpenPose": "PartAffinityCodec", "DeepPose": "RegressionCodec"}


def main(words: Sequence[str]) -> None:
    """Parse the words after ``weights``, and print what the file is.

    Raises:
        SystemExit: With 2 where the command line is wrong, with 0 after ``--help``.
        PoseZooError: Where the file cannot be read, or is of no known source.
    """
    parser = argparse.ArgumentParser(prog="pose-zoo weights", description="Say what a file of weights is and fits.")
    parser.add_argument("file", help="a checkpoint of torch or safetensors, from any project")
    parser.add_argument("--skeleton", help="the keypoints that it was trained for, where the file does not say")
    parser.add_argument("--onto", help="a skeleton to train on: lists which keypoints would be kept")
    given = parser.parse_args(list(words))
    print(identify(given.file, given.skeleton, given.onto))


def identify(file: str, skeleton: str | None = None, onto: str | None = None) -> str:
    """Say what a file of weights is.

    Args:
        file: A checkpoint of torch or safetensors.
        skeleton: The keypoints that it was trained for: a name or a YAML file.
        onto: Another skeleton; lists which keypoints would be taken over to it.

    Returns:
        Lines of text: source, method, keypoints, whether all entries fit, what the weights expect, recipes.

    Raises:
        CheckpointError: Where the file cannot be read, or is of no known source.
    """
    from lightning_pose_zoo.errors import CheckpointError
    from lightning_pose_zoo.weights.description import describe, describe_backbone
    from lightning_pose_zoo.weights.reading import read_weights
    from lightning_pose_zoo.weights.sources import BACKBONE, PLAIN, SOURCES, foreign, recognized

    trained = read_weights(file)
    who = foreign(trained.state)
    source = recognized(trained.state) or PLAIN
    described = describe(source.renamed(trained.state), {**source.arguments, **trained.hyper_parameters}, source.stem)
    if described is not None:
        return "\n".join(_about(trained, source, described, skeleton, onto))
    backbone = describe_backbone(BACKBONE.renamed(trained.state))
    if backbone:
        return f"{file}: {who or BACKBONE.name}\n  fits the backbone of {backbone}; the head starts fresh"
    if who:
        return f"{file}: {who}; no method of this package has that network."
    examples = ", ".join(list(trained.state)[:3])
    raise CheckpointError(
        f"{file} is of no known source; it has {len(trained.state)} entries ({examples}, ...). Known are: "
        f"{', '.join(known.name for known in (*SOURCES, BACKBONE))}. A backbone of timm that is none of these is "
        "read by load_weights into the method that has it."
    )


def _about(
    trained: TrainedWeights, source: Source, described: Description, given: str | None, onto: str | None
) -> list[str]:
    """Write what is known of a file of a whole network."""
    from lightning_pose_zoo.skeleton_synonyms import matched_keypoints
    from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
    from lightning_pose_zoo.weights.expectations import pixels_of
    from lightning_pose_zoo.weights.keypoints import KeypointTable
    from lightning_pose_zoo.weights.part_channels import part_table

    skeleton: Skeleton | None = get_skeleton(given) if given else trained.skeleton
    if skeleton is None and described.keypoints in source.skeletons:
        skeleton = get_skeleton(source.skeletons[described.keypoints])
    said = "as you say" if given else "as the file says" if trained.skeleton else "assumed from their number"
    which = f"{skeleton.name}, {said}" if skeleton else "of which skeleton? give --skeleton"
    name = skeleton.name if skeleton else "..."
    values = sum(value.numel() for key, value in trained.state.items() if "running_" not in key) / 1e6
    lines = [
        f"{trained.name}: {source.name}",
        f"  method     {described.call(name)}",
        f"  keypoints  {described.keypoints}, {which}",
        f"  entries    {len(trained.state)}{' in ' * bool(trained.nest)}{trained.nest}, {values:.1f} M parameters",
        f"  fit        {_fit(trained, source, described)}",
    ]
    pixels = pixels_of(trained, source)
    if pixels is not None:
        lines.append(f"  pixels     {pixels.channel_order}, mean {pixels.mean}, deviation {pixels.std}")
    if source.convention:
        codec = _CODECS.get(described.method, "HeatmapCodec")
        lines.append(f"  maps       {codec}('{source.convention}', ...)")
    lines += [
        f"  {name:<10} {' '.join(part.split())}" for name, part in trained.parts.items() if name != "normalization"
    ]
    recipes = _recipes(described, name)
    lines += [f"  {'recipes' if not index else '':<10} {recipe}" for index, recipe in enumerate(recipes)]
    if onto and skeleton:
        mine = get_skeleton(onto)
        if described.method == "OpenPose":
            table = part_table(skeleton, mine)
        else:
            table = KeypointTable(skeleton, mine, matched_keypoints(skeleton, mine))
        lines += [f"from skeleton {skeleton.name} to {mine.name}:", str(table)]
    return lines


def _fit(trained: TrainedWeights, source: Source, described: Description) -> str:
    """Say whether all entries fit the described network."""
    from lightning_pose_zoo.weights.loading import misfits

    try:
        own = described.network().state_dict()
    except Exception as error:
        # The arguments come out of a stranger's file.
        return f"this package cannot build that network: {error}"
    problems = misfits(own, source.renamed(trained.state))
    return f"{len(problems)} entries do not fit, such as {problems[0]}" if problems else f"all {len(own)} entries"


def _recipes(described: Description, skeleton: str) -> list[str]:
    """Find the recipes of a method, its variant and the skeleton's data set, by their names."""
    folders = (Path("recipes"), Path(__file__).parents[1] / "recipes")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return []
    named = [part.name for part in folder.iterdir() if part.name.replace("_", "") == described.method.lower()]
    pattern = f"{described.recipe}_{_DATA_SETS.get(skeleton, '')}*.yaml"
    return [str(path) for name in named for path in sorted((folder / name).glob(pattern))]
