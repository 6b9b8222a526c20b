"""PCK and PCKh against a plain loop and the published evaluators' numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import PCK, PCKh
from lightning_pose_zoo.metrics.functional import pck, pckh
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

MPII = get_skeleton("mpii16")


def _random_people(seed, persons=40, keypoints=14):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 200, (persons, keypoints, 2))
    predicted = target + rng.normal(0, 12, target.shape)
    visibility = rng.integers(0, 3, (persons, keypoints))
    return predicted, target, visibility, rng.uniform(20, 60, persons)


def _slow_pck(predicted, target, visibility, sizes, threshold, strict):
    """Count right and labelled keypoints by loops; (K,) each."""
    right, counted = np.zeros(target.shape[1]), np.zeros(target.shape[1])
    for n in range(len(target)):
        for k in range(target.shape[1]):
            if visibility[n, k] > 0 and sizes[n] > 0:
                distance = ((predicted[n, k] - target[n, k]) ** 2).sum() ** 0.5 / sizes[n]
                counted[k] += 1
                right[k] += distance < threshold if strict else distance <= threshold
    return right, counted


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strict", [False, True])
def test_pck_equals_a_plain_loop(seed, strict):
    people = _random_people(seed)
    right, counted = _slow_pck(*people, 0.2, strict)
    tensors = [torch.from_numpy(value) for value in people]
    assert pck(*tensors, strict=strict).item() == right.sum() / counted.sum()
    assert pck(*tensors, strict=strict, average="macro").item() == pytest.approx((right / counted).mean(), abs=1e-15)
    metric = PCK(skeleton="lsp14", strict=strict)
    for part in torch.arange(40).split(7):
        metric.update(*(value[part] for value in tensors))
    scores = metric.compute()
    assert scores["PCK@0.2"].item() == right.sum() / counted.sum()
    for k, name in enumerate(get_skeleton("lsp14").names):
        assert scores[f"PCK@0.2/{name}"].item() == right[k] / counted[k]


def test_strict_matters_exactly_at_the_threshold():
    target = torch.zeros(1, 14, 2)
    predicted = target + torch.tensor([3.0, 4.0])  # 5 pixels of 10
    arguments = (predicted, target, torch.ones(1, 14), torch.tensor([10.0]), 0.5)
    assert pck(*arguments).item() == 1
    assert pck(*arguments, strict=True).item() == 0


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_micro_weighs_keypoints_by_their_labels_and_macro_does_not(average):
    target = torch.zeros(4, 14, 2)
    predicted = target.clone()
    predicted[:, 0] += 100  # always wrong, and labelled in all four; the second is right, and labelled once
    visibility = torch.zeros(4, 14)
    visibility[:, 0], visibility[0, 1] = 2, 1
    metric = PCK("lsp14", average=average)
    metric.update(predicted, target, visibility, torch.ones(4))
    assert metric.compute()["PCK@0.2"].item() == {"micro": 1 / 5, "macro": 1 / 2}[average]


def test_pck_reproduces_mmpose_on_real_ground_truth(test_data):
    expected = json.loads((test_data / "oracles" / "expected.json").read_text())["pck_lspet"]["expected"]
    with np.load(test_data / "oracles" / "pck_lspet" / "input.npz") as data:
        predicted, target, mask, torso = (torch.from_numpy(data[name]) for name in ("pred", "gt", "mask", "torso"))
    metric = PCK("lsp14", thresholds=(0.05, 0.1, 0.2, 0.5), strict=True, average="macro")
    metric.update(predicted, target, mask, torso)
    scores = metric.compute()
    for threshold in ("0.05", "0.1", "0.2", "0.5"):
        wanted = expected[f"PCK@{threshold}_torso"]
        assert scores[f"PCK@{threshold}"].item() == pytest.approx(wanted["mean"], abs=1e-12)
        single = [scores[f"PCK@{threshold}/{name}"].item() for name in get_skeleton("lsp14").names]
        np.testing.assert_allclose(single, wanted["per_joint"], atol=1e-12)
    measured = PCK("lsp14", strict=True, average="macro")
    measured.update(predicted, target, mask)  # the torso is measured on the truth, right shoulder to left hip
    assert measured.compute()["PCK@0.2"].item() == pytest.approx(expected["PCK@0.2_torso"]["mean"], abs=1e-12)


def test_pck_reproduces_mmpose_processing_numbers(test_data):
    folder = test_data / "oracles" / "processing"
    expected = json.loads((folder / "metrics_mmpose.json").read_text())
    with np.load(folder / "metrics_mmpose.npz") as data:
        predicted, target, mask, size = (torch.from_numpy(data[name]) for name in ("pred", "gt", "mask", "norm"))
    metric = PCK("mpii16", thresholds=(0.05, 0.1, 0.2, 0.5), strict=True, average="macro")
    metric.update(predicted, target, mask, size)
    scores = metric.compute()
    for threshold in ("0.05", "0.1", "0.2", "0.5"):
        wanted = expected[f"pck_{threshold}"]
        assert scores[f"PCK@{threshold}"].item() == pytest.approx(wanted["mean"], abs=1e-12)
        single = [scores[f"PCK@{threshold}/{name}"].item() for name in MPII.names]
        np.testing.assert_allclose(single, wanted["per_joint"], atol=1e-12)


def _mpii(test_data, name):
    scipy_io = pytest.importorskip("scipy.io")
    truth = scipy_io.loadmat(test_data / "oracles" / "mpii" / "gt_valid.mat")
    with np.load(test_data / "oracles" / "mpii" / f"preds_{name}.npz") as data:
        predicted = torch.from_numpy(data["preds"])
    target = torch.from_numpy(truth["pos_gt_src"].transpose(2, 0, 1).astype(float))
    visibility = torch.from_numpy(1 - truth["jnt_missing"].T.astype(int))
    corners = truth["headboxes_src"].astype(float)
    head = torch.from_numpy(0.6 * np.linalg.norm(corners[1] - corners[0], axis=0))
    return predicted, target, visibility, head


@pytest.mark.parametrize("name", ["bearpaw-hg_s2_b1", "tompson"])
def test_pckh_reproduces_both_published_evaluators(test_data, name):
    people = _mpii(test_data, name)
    expected = json.loads((test_data / "oracles" / "expected.json").read_text())[f"mpii_pckh_{name}"]["expected"]
    metric = PCKh(thresholds=(0.5, 0.2, 0.11, 0.1, 0.05))
    metric.update(*people)
    scores = {key: 100 * value.item() for key, value in metric.compute().items()}
    official = expected["hrnet_evaluate"]
    for group in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
        assert scores[f"PCKh@0.5/{group}"] == pytest.approx(official[group], abs=1e-9)
    assert scores["PCKh@0.5"] == pytest.approx(official["Mean"], abs=1e-9)
    assert scores["PCKh@0.11"] == pytest.approx(official["Mean@0.1"], abs=1e-9)
    for key, wanted in expected["by_threshold"].items():
        assert scores[key] == pytest.approx(wanted["mean_weighted_14"], abs=1e-9)
        single = [scores[f"{key}/{part}"] for part in MPII.names]
        np.testing.assert_allclose(single, list(wanted["per_joint"].values()), atol=1e-9)
    assert 100 * pckh(*people).item() == pytest.approx(official["Mean"], abs=1e-9)

    bearpaw = PCKh(thresholds=(0.5,), convention="bearpaw")
    bearpaw.update(*people)
    scores = {key: round(100 * value.item(), 2) for key, value in bearpaw.compute().items()}
    printed = expected["bearpaw_eval_PCKh"]
    assert scores["PCKh@0.5"] == printed["Mean"]
    assert {group: scores[f"PCKh@0.5/{group}"] for group in printed if group != "Mean"} == {
        group: value for group, value in printed.items() if group != "Mean"
    }
    assert round(100 * pckh(*people, convention="bearpaw").item(), 2) == printed["Mean"]


def test_persons_without_a_size_are_left_out_and_counted():
    predicted, target, visibility, sizes = (torch.from_numpy(value) for value in _random_people(1))
    spoilt = sizes.clone()
    spoilt[:3] = torch.tensor([0.0, torch.nan, -1.0])
    metric = PCK("lsp14")
    metric.update(predicted, target, visibility, spoilt)
    with pytest.warns(UserWarning, match="3 of 40 persons are left out"):
        score = metric.compute()["PCK@0.2"]
    assert score == pck(predicted[3:], target[3:], visibility[3:], sizes[3:])


def test_a_torso_falls_back_on_its_second_pair():
    names = get_skeleton("coco17").names
    target = torch.zeros(1, 17, 2)
    target[0, names.index("left_shoulder")] = torch.tensor([0.0, 30.0])
    target[0, names.index("right_hip")] = torch.tensor([40.0, 0.0])  # a torso of 50 pixels
    visibility = torch.ones(1, 17)
    visibility[0, names.index("right_shoulder")] = 0
    metric = PCK(thresholds=(0.19, 0.21))
    metric.update(target + torch.tensor([10.0, 0.0]), target, visibility)  # off by 0.2 of it
    scores = metric.compute()
    assert scores["PCK@0.19"] == 0
    assert scores["PCK@0.21"] == 1


def _batch(n=4, skeleton=MPII, scale=2.0):
    """A top-down batch of n persons whose crops are the original, shrunk by a factor and shifted."""
    generator = torch.Generator().manual_seed(n)
    original = torch.rand(n, skeleton.num_keypoints, 2, generator=generator) * 100
    matrix = torch.tensor([[scale, 0.0, 7.0], [0.0, scale, -3.0]]).expand(n, 2, 3)
    crop = (original - torch.tensor([7.0, -3.0])) / scale
    return original, {
        "image": torch.zeros(n, 3, 8, 8, dtype=torch.uint8),
        "keypoints": crop,
        "visibility": torch.full((n, skeleton.num_keypoints), 2, dtype=torch.uint8),
        "box": (torch.tensor([[0.0, 0.0, 40.0, 20.0]]).expand(n, 4) - torch.tensor([7.0, -3.0, 7.0, -3.0])) / scale,
        "head_size": torch.full((n,), 10.0),
        "image_id": torch.arange(n) + 100,
        "person_id": torch.arange(n) + 500,
        "to_original": matrix,
    }


def _poses(keypoints, image_ids, person_ids):
    n, k, _ = keypoints.shape
    return Poses(keypoints, torch.ones(n, k), torch.ones(n), torch.zeros(n, 4), image_ids, person_ids)


@pytest.mark.parametrize(
    ("metric", "inside", "outside"),
    [
        (PCKh(thresholds=(0.5,)), 4.9, 5.1),
        (PCK("mpii16", thresholds=(0.1,), normalize_by="box"), 3.9, 4.1),  # of the longer side, 40
        (PCK("mpii16", thresholds=(0.5,), normalize_by="head"), 4.9, 5.1),
    ],
    ids=["PCKh", "box", "head"],
)
def test_update_batch_measures_in_pixels_of_the_original_image(metric, inside, outside):
    original, batch = _batch()
    for offset, score in ((inside, 1), (outside, 0)):
        metric.reset()
        shifted = original + torch.tensor([offset, 0.0])
        metric.update_batch(_poses(shifted, batch["image_id"], batch["person_id"]), batch)
        assert next(iter(metric.compute().values())) == score


def test_update_batch_matches_by_person_and_counts_the_unpredicted_as_missed():
    original, batch = _batch(4)
    original[1] = original[2]  # so that another one's pose would be right for the missing person 1
    batch["original_keypoints"] = original
    order = torch.tensor([2, 0, 3])
    metric = PCKh(thresholds=(0.5,))
    metric.update_batch(_poses(original[order], batch["image_id"][order], batch["person_id"][order]), batch)
    assert metric.compute()["PCKh@0.5"] == 3 / 4
    metric.reset()
    nobody = _poses(original[:0], batch["image_id"][:0], batch["person_id"][:0])
    metric.update_batch(nobody, batch)
    assert metric.compute()["PCKh@0.5"] == 0


def test_annotated_keypoints_are_preferred_to_mapped_ones():
    original, batch = _batch()
    metric = PCKh(thresholds=(0.5,))
    batch |= {"original_keypoints": original + 1000}
    metric.update_batch(_poses(original + 1000, batch["image_id"], batch["person_id"]), batch)
    assert metric.compute()["PCKh@0.5"] == 1


def test_a_stranger_s_batch_without_ids_is_matched_by_position_and_nothing_is_dropped():
    original, batch = _batch(4)
    for key in ("person_id", "image_id", "to_original"):
        del batch[key]
    batch["keypoints"] = original
    metric = PCKh(thresholds=(0.5,))
    wrong = original.clone()
    wrong[0] += 50
    for _ in range(2):  # the same rows twice: without ids they are different persons
        metric.update_batch(_poses(wrong, torch.arange(4), None), batch)
    assert len(metric.errors()) == 8
    assert metric.compute()["PCKh@0.5"] == 6 / 8


def test_poses_in_an_order_of_their_own_are_refused():
    original, batch = _batch(4)
    metric = PCKh()
    with pytest.raises(MetricError, match="OKSMeanAveragePrecision"):
        metric.update_batch(_poses(original[:3], batch["image_id"][:3], None), batch)
    with pytest.raises(MetricError, match="not in their order"):
        metric.update_batch(_poses(original, batch["image_id"].flip(0), None), batch)
    two_in_one_image = batch | {"image_index": torch.tensor([0, 1, 1, 2])}
    with pytest.raises(MetricError, match="not in their order"):
        metric.update_batch(_poses(original, batch["image_id"][[0, 1, 1, 2]], None), two_in_one_image)
    one_per_image = batch | {"image_index": torch.arange(4)}
    metric.update_batch(_poses(original, batch["image_id"], None), one_per_image)
    assert metric.compute()["PCKh@0.5"] == 1


def test_head_sizes_fall_back_on_the_skeleton_s_head():
    original, batch = _batch(2)
    head = MPII.head[0]
    original[:, head[0]], original[:, head[1]] = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 20.0])
    batch |= {"original_keypoints": original, "head_size": torch.tensor([torch.nan, 10.0])}
    metric = PCKh(thresholds=(0.4,))
    metric.update_batch(_poses(original + torch.tensor([7.0, 0.0]), batch["image_id"], batch["person_id"]), batch)
    assert metric.compute()["PCKh@0.4"] == 0.5  # 7 <= 0.4 * 20, but 7 > 0.4 * 10
    del batch["head_size"]
    metric.reset()
    metric.update_batch(_poses(original + torch.tensor([7.0, 0.0]), batch["image_id"], batch["person_id"]), batch)
    assert metric.compute()["PCKh@0.4"] == 1


def test_before_any_update_everything_is_nan():
    for metric in (PCK(), PCKh()):
        with pytest.warns(UserWarning, match="before the ``update``"):
            scores = metric.compute()
        assert all(value.isnan() for value in scores.values())
        assert len(scores) > metric.skeleton.num_keypoints


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers_are_refused(bad):
    predicted, target, visibility, sizes = (torch.from_numpy(value) for value in _random_people(0))
    predicted[7, 3, 1] = bad
    with pytest.raises(MetricError, match=r"1 of 40 rows .*\(rows \[7\]\)"):
        PCK("lsp14").update(predicted, target, visibility, sizes)


def test_only_labelled_truth_has_to_be_finite():
    predicted, target, visibility, sizes = (torch.from_numpy(value) for value in _random_people(0))
    expected = pck(predicted, target, visibility, sizes)
    target[visibility == 0] = torch.nan
    metric = PCK("lsp14")
    metric.update(predicted, target, visibility, sizes)
    assert metric.compute()["PCK@0.2"] == expected
    target[visibility > 0] = torch.nan
    with pytest.raises(MetricError, match="true keypoints"):
        metric.update(predicted, target, visibility, sizes)


def test_wrong_shapes_and_settings_are_refused():
    people = [torch.from_numpy(value) for value in _random_people(0)]
    with pytest.raises(MetricError, match=r"\(N, 17, 2\), not \(40, 14, 2\)"):
        PCK("coco17").update(*people)
    with pytest.raises(MetricError, match="39 predicted persons, but 40"):
        PCK("lsp14").update(people[0][:39], *people[1:])
    with pytest.raises(MetricError, match="sizes"):
        PCK("lsp14").update(*people[:3], people[3][:5])
    with pytest.raises(MetricError, match="longer side"):
        PCK("lsp14", normalize_by="box").update(*people[:3])
    with pytest.raises(MetricError, match="no torso"):
        PCK({"name": "mouse", "names": ["nose", "tail"]})
    with pytest.raises(MetricError, match="knows torso, box, head and pixel"):
        PCK(normalize_by="spine")
    with pytest.raises(MetricError, match="bearpaw"):
        PCKh(convention="mpii")
    with pytest.raises(MetricError, match="no keypoints and no visibility"):
        PCKh().update_batch(Poses.empty(16), {"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(MetricError, match="16 keypoints"):
        pckh(*people)
