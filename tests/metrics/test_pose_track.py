"""PoseTrackAP and MOTA: against plain loops, sequences worked out by hand, and on several processes."""

from __future__ import annotations

import math
import pickle
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pose_track_cases import K, as_update, plain_ap, plain_mot, random_frames

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.clear_mot import clear_mot_counts
from lightning_pose_zoo.metrics.functional.pose_track import POSETRACK_KEYPOINTS, inside_regions
from lightning_pose_zoo.metrics.pose_track import MOTA, PoseTrackAP
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SCORED = [get_skeleton("posetrack17").names.index(name) for name in POSETRACK_KEYPOINTS]


def _inside(point, regions):
    return any(cv2.pointPolygonTest(r.astype(np.float32), tuple(map(float, point)), False) > 0 for r in regions)


def _given(metric, frames, at_once=3):
    for start in range(0, len(frames), at_once):
        metric.update(*as_update(frames[start : start + at_once]))
    return metric


def _scores(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(
        value == other[name] or (math.isnan(value) and math.isnan(other[name])) for name, value in one.items()
    )


@pytest.mark.parametrize("seed", range(25))
def test_ap_equals_plain_loops(seed):
    frames = random_frames(seed)
    scores = _scores(_given(PoseTrackAP(), frames))
    for name, wanted in plain_ap(frames, SCORED, _inside).items():
        single = [scores[f"{name}/{part}"] for part in POSETRACK_KEYPOINTS]
        np.testing.assert_allclose(single, wanted, rtol=1e-12, err_msg=name)
        assert scores[name] == pytest.approx(np.nanmean(wanted), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("convention", ["poseval", "clear_mot"])
@pytest.mark.parametrize("seed", range(25))
def test_mota_equals_plain_loops(seed, convention):
    frames = random_frames(seed)
    metric = _given(MOTA(convention=convention), frames)
    counts, scores = clear_mot_counts(metric.frames(), convention=convention), _scores(metric)
    for n, (k, part) in enumerate(zip(SCORED, POSETRACK_KEYPOINTS, strict=True)):
        wanted = plain_mot(frames, k, _inside, convention)
        for name, value in wanted.items():
            assert getattr(counts, name)[n] == pytest.approx(value, rel=1e-12), (part, name)
        wrong = wanted["misses"] + wanted["switches"] + wanted["false_positives"]
        mota = 1 - wrong / wanted["objects"] if wanted["objects"] else math.nan
        motp = 1 - wanted["distance"] / wanted["matches"] if wanted["matches"] else 0.0
        assert scores[f"MOTA/{part}"] == pytest.approx(mota, rel=1e-12, nan_ok=True)
        assert scores[f"MOTP/{part}"] == pytest.approx(motp, rel=1e-12)


def test_the_plain_loops_meet_switches_and_empty_frames():
    sums = [plain_mot(random_frames(seed), 0, _inside, "clear_mot") for seed in range(25)]
    assert sum(one["switches"] for one in sums) > 10
    frames = [frame for seed in range(25) for frame in random_frames(seed)]
    assert any(not len(frame["truth"]) and len(frame["keypoints"]) for frame in frames)
    assert any(len(frame["truth"]) and not len(frame["keypoints"]) for frame in frames)


def _video(frames=5, people=2):
    """Return people far from each other who stand still, found exactly, with the tracks 10, 11, ..."""
    points = 500.0 * np.arange(people)[:, None, None] + 10.0 * np.arange(K)[None, :, None] + np.zeros((people, K, 2))
    return [
        {
            "image_id": n, "video_id": 0, "frame_id": n, "truth": points, "labelled": np.ones((people, K), bool),
            "head_size": np.full(people, 20.0), "person_tracks": np.arange(people), "keypoints": points.copy(),
            "scores": np.full((people, K), 0.9), "predicted": np.ones((people, K), bool),
            "tracks": np.arange(people) + 10, "regions": [],
        }
        for n in range(frames)
    ]  # fmt: skip


def _without_pose(frame, pose):
    for name in ("keypoints", "scores", "predicted", "tracks"):
        frame[name] = np.delete(frame[name], pose, axis=0)


def test_perfect_tracking_scores_1():
    for convention in ("poseval", "clear_mot"):
        scores = _scores(_given(MOTA(convention=convention), _video()))
        assert set(scores.values()) == {1.0}
    assert set(_scores(_given(PoseTrackAP(), _video())).values()) == {1.0}


def test_one_switch_costs_each_person_once():
    frames = _video()
    for frame in frames[2:]:
        frame["tracks"] = frame["tracks"][::-1].copy()
    # 2 people x 5 frames, both switch once; poseval leaves out the last of the frames.
    assert _scores(_given(MOTA(convention="clear_mot"), frames))["MOTA"] == pytest.approx(1 - 2 / 10)
    assert _scores(_given(MOTA(), frames))["MOTA"] == pytest.approx(1 - 2 / 8)


def test_a_miss_and_a_false_positive_cost_one_each():
    frames = _video()
    _without_pose(frames[1], 0)
    scores = _scores(_given(MOTA(convention="clear_mot"), frames))
    assert scores["MOTA"] == pytest.approx(1 - 1 / 10)
    assert scores["mot_recall"] == pytest.approx(9 / 10)
    assert scores["mot_precision"] == 1
    frames = _video()
    frames[1]["keypoints"][0] += 90  # more than half a head off: missed, and a false positive
    scores = _scores(_given(MOTA(convention="clear_mot"), frames))
    assert scores["MOTA"] == pytest.approx(1 - 2 / 10)
    assert scores["mot_recall"] == scores["mot_precision"] == pytest.approx(9 / 10)
    assert _scores(_given(PoseTrackAP(), frames))["recall"] == pytest.approx(9 / 10)


def test_a_track_goes_on_after_a_gap_and_is_preferred_to_a_nearer_one():
    frames = _video(people=1)
    _without_pose(frames[2], 0)
    assert _scores(_given(MOTA(convention="clear_mot"), frames))["MOTA"] == pytest.approx(1 - 1 / 5)
    frames = _video(people=1)
    near = frames[3]
    near["tracks"] = np.array([99, 10])
    near["keypoints"] = np.concatenate([near["keypoints"], near["keypoints"] + 3])
    near["scores"], near["predicted"] = np.full((2, K), 0.9), np.ones((2, K), bool)
    scores = _scores(_given(MOTA(convention="clear_mot"), frames))
    assert scores["MOTA"] == pytest.approx(1 - 1 / 5)  # one false positive, no switch
    assert scores["MOTP"] == pytest.approx(1 - math.sqrt(18) / 20 / 5)


def _placed(people, tracks):
    """Return a frame of people and poses at some places along x, by their tracks."""
    frame = _video(1, 0)[0]
    for name, places in (("truth", people), ("keypoints", tracks)):
        frame[name] = np.array(list(places.values()), float).reshape(-1, 1, 1) * [1.0, 0.0] + np.zeros((1, K, 2))
    frame["labelled"], frame["predicted"] = (np.ones((len(places), K), bool) for places in (people, tracks))
    frame["person_tracks"], frame["tracks"] = (np.array(list(places)) for places in (people, tracks))
    return frame | {"head_size": np.full(len(people), 20.0), "scores": np.full((len(tracks), K), 0.9)}


def test_of_two_people_who_had_a_track_only_one_keeps_it():
    frames = [_placed({0: 0}, {10: 0}), _placed({1: 3}, {10: 3}), _placed({0: 0, 1: 3}, {10: 2})]
    for n, frame in enumerate(frames):
        frame.update(image_id=n, frame_id=n)
    scores = _scores(_given(MOTA(convention="clear_mot"), frames))
    assert scores["mot_recall"] == pytest.approx(3 / 4)
    assert scores["MOTP"] == pytest.approx(1 - 2 / 20 / 3)  # the first one, though the other is nearer


def test_as_many_as_possible_are_matched_before_the_nearest():
    scores = _scores(_given(MOTA(convention="clear_mot"), [_placed({0: 0, 1: 8.2}, {10: 0.2, 11: -8})]))
    assert scores["MOTA"] == 1
    assert scores["MOTP"] == pytest.approx(1 - 8 / 20)


def test_the_distance_in_heads_is_motp():
    frames = _video(people=1)
    for frame in frames:
        frame["keypoints"] = frame["keypoints"] + [3.0, 4.0]
    assert _scores(_given(MOTA(convention="clear_mot"), frames))["MOTP"] == pytest.approx(1 - 5 / 20)
    # poseval finds each distance twice in the table of events: as it is, and as a match.
    assert _scores(_given(MOTA(), frames))["MOTP"] == pytest.approx(1 - 2 * 5 / 20)


def test_nobody_predicted():
    frames = _video(people=3)
    for frame in frames:
        for _ in range(3):
            _without_pose(frame, 0)
    assert {name: _scores(_given(PoseTrackAP(), frames))[name] for name in ("AP", "precision", "recall")} == {
        "AP": 0, "precision": 0, "recall": 0,
    }  # fmt: skip
    scores = _scores(_given(MOTA(convention="clear_mot"), frames))
    assert (scores["MOTA"], scores["MOTP"], scores["mot_recall"]) == (0, 0, 0)
    assert math.isnan(scores["mot_precision"])
    # poseval counts a miss and a false positive for the three misses of such a frame.
    assert _scores(_given(MOTA(), frames))["MOTA"] == -1
    metric = MOTA()
    metric.update(Poses.empty(K), as_update(frames)[1])  # no track ids are needed for nobody
    assert _scores(metric)["MOTA"] == -1


def test_nothing_at_all_has_no_score():
    for metric in (PoseTrackAP(), MOTA()):
        metric.update(Poses.empty(K), [])
        assert all(math.isnan(value) or name.startswith("MOTP") for name, value in _scores(metric).items())
        empty = _video(1, 0)
        assert math.isnan(_scores(_given(metric, empty))["AP" if "AP" in _scores(metric) else "MOTA"])


def test_only_sure_keypoints_count_where_asked():
    frames = _video()
    frames[1]["scores"][0] = 0.3
    frames[1]["keypoints"][0] += 90
    scores = [_scores(_given(MOTA(keypoint_threshold=t, convention="clear_mot"), frames))["MOTA"] for t in (0.0, 0.3)]
    assert scores == [pytest.approx(1 - 2 / 10), pytest.approx(1 - 1 / 10)]


def test_ears_count_only_where_they_are_scored():
    frames = _video()
    for frame in frames:
        frame["keypoints"][:, 3:5] += 300
    assert _scores(_given(PoseTrackAP(), frames))["AP"] == 1
    scores = _scores(_given(PoseTrackAP(keypoints=("nose", "left_ear")), frames))
    assert (scores["AP/nose"], scores["AP/left_ear"], scores["AP"]) == (1, 0, 0.5)
    assert len(PoseTrackAP("coco17").names) == 17


def test_head_boxes_stand_in_for_sizes():
    poses, targets = as_update(_video())
    for target in targets:
        size = target.pop("head_size") / 0.6
        target["head_boxes"] = torch.stack([size, size, size * 1.6, size * 1.8], dim=1)
    poses.keypoints[:, :, 0] += 9.99  # 0.6 times the diagonal of 0.6 by 0.8 is 0.6; half of 20 pixels is the limit
    for shift, wanted in ((0.0, 1.0), (0.02, 0.0)):
        poses.keypoints[:, :, 0] += shift
        metric = MOTA()
        metric.update(poses, targets)
        assert metric.compute()["mot_recall"] == wanted


def test_points_in_polygons_equal_opencv():
    rng = np.random.default_rng(0)
    on_edge = 0
    for _ in range(40):
        polygon = rng.integers(0, 12, (int(rng.integers(3, 9)), 2)).astype(float)  # most cross themselves
        points = np.stack(np.meshgrid(np.arange(-1, 13), np.arange(-1, 13)), axis=-1).reshape(-1, 2).astype(float)
        wanted = [cv2.pointPolygonTest(polygon.astype(np.float32), tuple(point), False) for point in points.tolist()]
        on_edge += wanted.count(0.0)
        np.testing.assert_array_equal(inside_regions(points, [polygon]), np.array(wanted) > 0)
    assert on_edge > 100
    assert not inside_regions(np.zeros((3, 15, 2)), []).any()


def test_order_of_frames_and_repeats_do_not_matter():
    frames = [frame for seed in (3, 4) for frame in random_frames(seed)]
    for n, frame in enumerate(frames):
        frame["image_id"] = 7 * n
        frame["video_id"] += 10 * (n >= len(random_frames(3)))
    shuffled = [frames[n] for n in np.random.default_rng(0).permutation(len(frames))]
    for make in (PoseTrackAP, MOTA):
        wanted = _scores(_given(make(), frames))
        assert _same(_scores(_given(_given(make(), shuffled), shuffled[:4], 2)), wanted)


def _run(rank, folder):
    torch.set_num_threads(1)
    results = {}
    for world_size in (2, 3, 4):  # one after the other in the same processes, because starting them takes longest
        if rank >= world_size:
            continue
        store = dist.FileStore(f"{folder}/store_{world_size}", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=120))
        for seed, way, frames, shares in _shares(world_size):
            for name, make in (("ap", PoseTrackAP), ("mota", MOTA)):
                metric = _given(make(), [frames[n] for n in shares[rank]], rank + 1)
                if not shares[rank]:
                    metric.update(Poses.empty(K), [])
                results[world_size, seed, way, name] = _scores(metric)
        dist.destroy_process_group()
    Path(f"{folder}/{rank}.pkl").write_bytes(pickle.dumps(results))


def _shares(world_size):
    for seed, count in enumerate((0, 1, 2, 3, 7, 64, 101)):
        frames = random_frames(seed, videos=40)[:count]
        padded = [n % count for n in range(-(-count // world_size) * world_size)]
        yield seed, "in turn", frames, [padded[rank::world_size] for rank in range(world_size)]
        yield seed, "all on the last", frames, [[]] * (world_size - 1) + [list(range(count))]


@pytest.mark.filterwarnings("ignore")
def test_frames_spread_over_processes_score_as_on_one_to_the_last_bit(tmp_path):
    mp.spawn(_run, args=(str(tmp_path),), nprocs=4)
    by_rank = [pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(4)]
    for world_size in (2, 3, 4):
        for seed, way, frames, _ in _shares(world_size):
            for name, metric in (("ap", PoseTrackAP()), ("mota", MOTA())):
                alone = _scores(_given(metric, frames))
                assert len(frames) < 7 or any(0 < value < 1 for value in alone.values())
                several = [results[world_size, seed, way, name] for results in by_rank[:world_size]]
                assert all(_same(one, alone) for one in several), (world_size, seed, way, name)


def test_the_plot_has_a_bar_for_each_keypoint_and_the_mean():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    metric = _given(MOTA(), random_frames(1))
    axes = metric.plot()[1]
    assert [bar.get_width() for bar in axes.patches][-1] == metric.compute()["MOTA"].item()
    assert len(axes.patches) == 16
    assert axes.get_xlabel() == "MOTA"
    other, drawn_on = plt.subplots()
    assert metric.plot([metric.compute(), metric.compute()], ax=drawn_on) == (other, drawn_on)
    assert len(drawn_on.patches) == 32
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: setattr(given.poses, "track_ids", None), "run a tracker first"),
        (lambda given: given.poses.keypoints.__setitem__((1, 2, 0), torch.nan), "NaN or infinite"),
        (lambda given: given.poses.keypoint_scores.__setitem__((1, 2), torch.nan), "scores: 1 of"),
        (lambda given: given.poses.image_ids.fill_(77), "frames without a target, image_ids .77"),
        (lambda given: given.poses.track_ids.fill_(5), "in image 0 several poses have the track id 5"),
        (lambda given: given.targets.append(given.targets[0]), "holds a frame twice"),
        (lambda given: given.targets[1].pop("head_size"), "image 1 has no head_size"),
        (lambda given: given.targets[1].pop("track_ids"), "image 1 has no track_ids"),
        (lambda given: given.targets[1].pop("video_id"), "image 1 has no video_id"),
        (lambda given: given.targets[1].update(head_size=torch.zeros(2)), "pixels above 0"),
        (lambda given: given.targets[1].update(head_size=torch.ones(3)), r"shape \(3,\), not \(2,\)"),
        (lambda given: given.targets[1].update(keypoints=torch.ones(2, 16, 3)), r"not \(2, 17, 3\)"),
        (lambda given: given.targets[1]["keypoints"].__setitem__((0, 0, 0), torch.inf), "true keypoints: 1 of"),
        (lambda given: given.targets[1].update(ignore_regions=[[[1, 2], [3, 4]]]), "ignored region"),
    ],
)
def test_nonsense_is_refused(change, message):
    poses, targets = as_update(_video())
    change(SimpleNamespace(poses=poses, targets=targets))
    with pytest.raises(MetricError, match=message):
        MOTA().update(poses, targets)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(MetricError, match=r"'mpii16' has no keypoints .'tail'. to score"):
        PoseTrackAP("mpii16", keypoints=("head_top", "tail"))
    with pytest.raises(MetricError, match="knows poseval and clear_mot"):
        MOTA(convention="motchallenge")
    with pytest.raises(MetricError, match="above 0"):
        PoseTrackAP(threshold=0)
    with pytest.raises(MetricError, match="needs 17 keypoints, not 16"):
        PoseTrackAP().update(Poses.empty(16), [])


def test_a_frame_in_two_parts_is_refused():
    metric = _given(MOTA(), _video())
    other = _video()[:1]
    _without_pose(other[0], 0)
    metric.update(*as_update(other))
    with pytest.raises(MetricError, match="image 0 came several times"):
        metric.compute()


def test_annotated_twins_are_said_aloud():
    frames = _video()
    frames[0]["person_tracks"] = np.array([1, 1])
    with pytest.warns(UserWarning, match="same track id"):
        _scores(_given(MOTA(), frames))
