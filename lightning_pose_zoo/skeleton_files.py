"""Reading skeletons from files and definitions, in the vocabularies that people already have.

Understood are ``Skeleton.to_dict``'s own form, mmpose's ``keypoint_info`` / ``skeleton_info``, the HRNet repository's
``flip_pairs`` beside names, ultralytics' ``kpt_shape`` / ``flip_idx``, and a COCO category.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pose_zoo.errors import SkeletonError
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["read_coco_category", "read_definition", "read_skeleton_file"]


def read_skeleton_file(path: Path) -> Skeleton:
    """Read a skeleton from a YAML (or JSON) file.

    Raises:
        SkeletonError: Where the file is missing or is no skeleton.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SkeletonError(
            f"skeleton file '{path}' does not exist; give the path of a YAML file that defines one."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SkeletonError(f"skeleton file '{path}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SkeletonError(f"skeleton file '{path}' holds no mapping; it needs at least 'names: [...]'.")
    return read_definition({"name": path.stem, **content})


def read_definition(definition: Mapping[str, Any]) -> Skeleton:
    """Build a skeleton from a mapping in any of the forms above.

    Raises:
        SkeletonError: Where the mapping is of none of them, or contradicts itself.
    """
    try:
        if "keypoint_info" in definition:
            return _from_mmpose(definition)
        if "kpt_shape" in definition:
            return _from_ultralytics(definition)
        if "keypoints" in definition:
            return read_coco_category(definition)
        if "names" in definition:
            return _from_own(definition)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise SkeletonError(f"skeleton definition {definition.get('name', '')!r} is malformed: {error!r}") from error
    raise SkeletonError(
        "a skeleton definition needs 'names' (ours), 'keypoint_info' (mmpose), 'kpt_shape' (ultralytics) or "
        f"'keypoints' (a COCO category); this one has: {', '.join(map(str, definition))}."
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _from_own(definition: Mapping[str, Any]) -> Skeleton:
    known = {field.name for field in dataclasses.fields(Skeleton)}
    unknown = sorted(set(definition) - known)
    if unknown:
        raise SkeletonError(
            f"skeleton '{definition.get('name', '')}' has unknown entries: {', '.join(map(str, unknown))}."
        )
    given = {key: _tuples(value) for key, value in definition.items()}
    given.setdefault("name", "custom")
    names = given["names"]
    index = {name: position for position, name in enumerate(names)}

    def by_index(value: Any) -> Any:
        """Let pairs be written with names as well as with numbers."""
        if isinstance(value, tuple):
            return tuple(by_index(item) for item in value)
        if isinstance(value, str) and value not in index:
            raise SkeletonError(f"skeleton '{given['name']}': '{value}' is not among its keypoints.")
        return index[value] if isinstance(value, str) else int(value)

    for key in ("flip_pairs", "limbs", "torso", "head", "upper_body"):
        if key in given:
            given[key] = by_index(given[key])
    derived = Skeleton.from_names(given["name"], names)
    for key in ("flip_pairs", "torso", "head", "upper_body"):
        given.setdefault(key, getattr(derived, key))
    return Skeleton(**given)


def _from_mmpose(definition: Mapping[str, Any]) -> Skeleton:
    entries = sorted(definition["keypoint_info"].values(), key=lambda entry: int(entry["id"]))
    names = [entry["name"] for entry in entries]
    swaps = [(position, names.index(entry["swap"])) for position, entry in enumerate(entries) if entry.get("swap")]
    links = [entry["link"] for entry in definition.get("skeleton_info", {}).values()]
    name = str(definition.get("dataset_name") or definition.get("name") or "custom")
    derived = Skeleton.from_names(name, names)
    return dataclasses.replace(
        derived,
        flip_pairs=tuple((a, b) for a, b in swaps if a < b),
        limbs=tuple((names.index(a), names.index(b)) for a, b in links),
        sigmas=tuple(float(sigma) for sigma in definition.get("sigmas", ())) or derived.sigmas,
        upper_body=tuple(i for i, entry in enumerate(entries) if entry.get("type") == "upper"),
        colors=tuple(_tuples([int(c) for c in entry["color"]]) for entry in entries)
        if all("color" in e for e in entries)
        else (),
    )


def _from_ultralytics(definition: Mapping[str, Any]) -> Skeleton:
    count = int(definition["kpt_shape"][0])
    names: Any = definition.get("kpt_names") or [f"keypoint_{index}" for index in range(count)]
    if isinstance(names, Mapping):
        names = next(iter(names.values()))
    if len(names) != count:
        raise SkeletonError(f"kpt_shape says {count} keypoints, but kpt_names lists {len(names)}.")
    flip = [int(index) for index in definition.get("flip_idx", range(count))]
    if sorted(flip) != list(range(count)) or any(flip[flip[index]] != index for index in range(count)):
        raise SkeletonError(f"flip_idx {flip} is no exchange of pairs over {count} keypoints.")
    derived = Skeleton.from_names(str(definition.get("name", "custom")), [str(name) for name in names])
    return dataclasses.replace(derived, flip_pairs=tuple((a, b) for a, b in enumerate(flip) if a < b), colors=())


def read_coco_category(category: Mapping[str, Any]) -> Skeleton:
    """Build a skeleton from an entry of ``categories`` in a COCO file.

    Its ``skeleton`` holds pairs that count from 1. A category whose keypoints are those of a built-in skeleton gives
    that one, with its sigmas.

    Raises:
        SkeletonError: Where the category has no keypoints.
    """
    from lightning_pose_zoo.skeletons import SKELETON_NAMES, get_skeleton

    names = [str(name) for name in category.get("keypoints", ())]
    if not names:
        raise SkeletonError(f"category '{category.get('name', '?')}' lists no keypoints; choose one that does.")
    for published in SKELETON_NAMES:
        if list(get_skeleton(published).names) == names:
            return get_skeleton(published)
    links: Sequence[Sequence[int]] = category.get("skeleton", ())
    limbs = [(int(a) - 1, int(b) - 1) for a, b in links]
    # CrowdPose's own files list the limbs of COCO's seventeen keypoints; limbs of none of these are left out.
    limbs = [limb for limb in limbs if all(0 <= index < len(names) for index in limb)]
    return Skeleton.from_names(str(category.get("name", "custom")), names, limbs)
