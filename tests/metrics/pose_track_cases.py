"""Random videos of tracked people, and PoseTrack's protocol once more in plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from lightning_pose_zoo.structures import Poses

K = 17


def random_frames(seed: int, videos: int = 2, keypoints: int = K) -> list[dict]:
    """Make frames with everything that the protocol treats specially; a frame holds its truth and its predictions.

    Tracks switch, end and come back, people and single keypoints are missing, some frames are empty on either side, and
    some have ignored regions, one of which covers everything.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for video in range(videos):
        count = int(rng.integers(1, 5))
        start = rng.uniform(0, 200, (count, 1, 2)) + rng.uniform(0, 90, (count, keypoints, 2))
        speed = rng.normal(0, 5, (count, 1, 2))
        tracks = rng.permutation(30)[:count]
        for number in range(int(rng.integers(2, 9))):
            if rng.random() < 0.3:
                tracks = tracks[rng.permutation(count)]
            if rng.random() < 0.2:
                tracks[rng.integers(count)] = 40 + number
            where = start + speed * number
            points = where + rng.normal(0, rng.choice([1, 5, 12], (count, 1, 1)), where.shape)
            annotated = np.flatnonzero(rng.random(count) < 0.85 * (rng.random() < 0.9))
            found = np.flatnonzero(rng.random(count) < 0.85 * (rng.random() < 0.9))
            image = 1000 * video + 500 - 3 * number  # not in the order of the frames
            frames.append({
                "image_id": image, "video_id": video, "frame_id": number,
                "truth": where[annotated], "labelled": rng.random((len(annotated), keypoints)) < 0.85,
                "head_size": rng.uniform(8, 40, len(annotated)), "person_tracks": annotated,
                "keypoints": points[found], "scores": rng.random((len(found), keypoints)).round(1) + 0.001,
                "predicted": rng.random((len(found), keypoints)) < 0.85, "tracks": tracks[found],
                "regions": _regions(rng),
            })  # fmt: skip
    return frames


def _regions(rng: np.random.Generator) -> list[np.ndarray]:
    if rng.random() > 0.3:
        return []
    if rng.random() < 0.15:
        return [np.array([[-500.0, -500], [900, -500], [900, 900], [-500, 900]])]
    return [rng.integers(0, 300, (int(rng.integers(3, 7)), 2)).astype(float) for _ in range(int(rng.integers(1, 3)))]


def as_update(frames: list[dict]) -> tuple[Poses, list[dict]]:
    """Return what ``update`` takes: keypoints that are not predicted have a score of 0."""
    poses = [Poses.empty(K)]
    poses[0].track_ids = torch.zeros(0, dtype=torch.int64)
    targets = []
    for frame in frames:
        count = len(frame["keypoints"])
        poses.append(
            Poses(
                torch.from_numpy(frame["keypoints"]),
                torch.from_numpy(np.where(frame["predicted"], frame["scores"], 0.0)),
                torch.ones(count),
                torch.zeros(count, 4),
                torch.full((count,), frame["image_id"]),
                track_ids=torch.from_numpy(frame["tracks"]),
            )
        )
        truth = np.concatenate([frame["truth"], frame["labelled"][..., None]], axis=2)
        targets.append({
            "image_id": frame["image_id"], "video_id": frame["video_id"], "frame_id": frame["frame_id"],
            "keypoints": torch.from_numpy(truth), "head_size": torch.from_numpy(frame["head_size"]),
            "track_ids": torch.from_numpy(frame["person_tracks"]), "ignore_regions": frame["regions"],
        })  # fmt: skip
    return Poses.cat(poses), targets


def visible(
    frame: dict, inside
) -> tuple[list[dict[int, np.ndarray]], list[dict[int, np.ndarray]], list[int], list[int]]:
    """Return the keypoints that count of each person and each pose by their index, and who is left.

    In frames with regions, whoever has no keypoint left is gone.
    """
    result, left = [], []
    for points, there in ((frame["truth"], frame["labelled"]), (frame["keypoints"], frame["predicted"])):
        people = [
            {k: point for k, point in enumerate(person) if there[n, k] and not inside(point, frame["regions"])}
            for n, person in enumerate(points)
        ]
        left.append([n for n, person in enumerate(people) if person or not frame["regions"]])
        result.append(people)
    return result[0], result[1], left[0], left[1]


def plain_ap(frames: list[dict], keypoints: list[int], inside, threshold: float = 0.5) -> dict[str, list[float]]:
    """PoseTrack's AP in plain loops."""
    decisions = {k: [] for k in keypoints}
    annotated = dict.fromkeys(keypoints, 0)
    for frame in frames:
        if not len(frame["truth"]):
            continue
        persons, poses, own, others = visible(frame, inside)
        for g, k in itertools.product(own, keypoints):
            annotated[k] += k in persons[g]

        def right(p, g, k, persons=persons, poses=poses, frame=frame):
            both = k in poses[p] and k in persons[g]
            return both and np.linalg.norm(poses[p][k] - persons[g][k]) / frame["head_size"][g] <= threshold

        best = {}
        for p in others:
            fractions = [
                sum(right(p, g, k) for k in keypoints) / max(1, sum(k in persons[g] for k in keypoints)) for g in own
            ]
            if fractions and max(fractions) > 0:
                best[p] = (own[int(np.argmax(fractions))], max(fractions))
        keeper = {}
        for p, (g, fraction) in best.items():
            if g not in keeper or fraction > best[keeper[g]][1]:
                keeper[g] = p
        for p, k in itertools.product(others, keypoints):
            if k in poses[p]:
                kept = p in best and keeper[best[p][0]] == p
                decisions[k].append((frame["scores"][p, k], kept and right(p, best[p][0], k)))
    values = {"AP": [], "precision": [], "recall": []}
    for k in keypoints:
        decisions[k].reverse()
        ranked = sorted(decisions[k], key=lambda decision: -decision[0])
        hits = np.cumsum([hit for _, hit in ranked])
        precision = [float(hit / (n + 1)) for n, hit in enumerate(hits)]
        area = sum(max(precision[n:]) for n, (_, hit) in enumerate(ranked) if hit)
        total = annotated[k]
        values["AP"].append(area / total if total else np.nan)
        values["precision"].append(precision[-1] if ranked else 0.0 if total else np.nan)
        values["recall"].append((hits[-1] if ranked else 0) / total if total else np.nan)
    return values


def plain_mot(frames: list[dict], k: int, inside, convention: str, threshold: float = 0.5) -> dict[str, float]:
    """Count the CLEAR MOT events of one keypoint in plain loops, with the assignment by trying all."""
    sums = dict.fromkeys(("objects", "matches", "misses", "switches", "false_positives", "distance"), 0.0)
    frames = [frame for frame in frames if len(frame["truth"])]
    for video in dict.fromkeys(frame["video_id"] for frame in frames):
        own = [frame for frame in frames if frame["video_id"] == video]
        last, owner, seen_people, seen_tracks = {}, {}, set(), set()
        for frame in own[:-1] if convention == "poseval" else own:
            persons, poses, there, predicted = visible(frame, inside)
            if convention == "poseval" and not (there and predicted):
                for name in ("objects", "misses", "false_positives"):
                    sums[name] += 1
                continue
            people = {frame["person_tracks"][g]: g for g in there if k in persons[g]}
            tracks = {frame["tracks"][p]: p for p in predicted if k in poses[p]}
            near = {}
            for (o, g), (h, p) in itertools.product(people.items(), tracks.items()):
                distance = np.linalg.norm(poses[p][k] - persons[g][k]) / frame["head_size"][g]
                if distance <= threshold:
                    near[o, h] = distance
            kept = {}
            for o in people:
                if (o, last.get(o)) in near and last[o] not in kept.values():
                    kept[o] = last[o]
            assigned = _best_assignment(
                {pair: d for pair, d in near.items() if pair[0] not in kept and pair[1] not in kept.values()}
            )
            events = [*near.values(), *(near[pair] for pair in kept.items())]
            for o, h in assigned.items():
                moved = h in owner and owner[h] != o
                switched = o in last and last[o] != h
                times = 1 + moved + (moved and o not in seen_people) + (switched and h not in seen_tracks)
                events += [near[o, h]] * times
                sums["switches"] += switched
            matched = kept | assigned
            last |= assigned
            owner |= {h: o for o, h in assigned.items()}
            seen_people |= matched.keys()
            seen_tracks |= set(matched.values())
            sums["objects"] += len(people)
            sums["matches"] += len(matched)
            sums["misses"] += len(people) - len(matched)
            sums["false_positives"] += len(tracks) - len(matched)
            sums["distance"] += sum(events if convention == "poseval" else (near[pair] for pair in matched.items()))
    return sums


def _best_assignment(near: dict[tuple, float]) -> dict:
    best, best_key = {}, (0, 0.0)
    people = sorted({o for o, _ in near})
    tracks = sorted({h for _, h in near})
    for chosen in itertools.product([None, *tracks], repeat=len(people)):
        used = [h for h in chosen if h is not None]
        pairs = [(o, h) for o, h in zip(people, chosen, strict=True) if h is not None]
        if len(set(used)) < len(used) or not all(pair in near for pair in pairs):
            continue
        key = (-len(pairs), sum(near[pair] for pair in pairs))
        if key < best_key:
            best, best_key = dict(pairs), key
    return best
