"""Errors of three-dimensional poses against mmpose's numbers, scipy's Procrustes and plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_pose_zoo.errors import MetricError, SkeletonError
from lightning_pose_zoo.metrics import AUC3D, MPJPE, PCK3D
from lightning_pose_zoo.metrics.functional import align_poses, auc_3d, mpjpe, pck_3d
from lightning_pose_zoo.skeletons import get_skeleton

NAMES = {"none": "MPJPE", "scale": "N-MPJPE", "procrustes": "PA-MPJPE"}


def _rotation(rng):
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def _people(seed, persons=20, noise=40.0):
    """Poses in millimetres; predictions are turned, scaled, shifted and noisy; a third of keypoints has no label."""
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 400, (persons, 17, 3))
    turned = np.stack([rng.uniform(0.6, 1.4) * pose @ _rotation(rng) + rng.normal(0, 200, 3) for pose in target])
    return turned + rng.normal(0, noise, target.shape), target, rng.integers(0, 3, (persons, 17))


def _slow_aligned(predicted, target, counted, alignment):
    """Align one pose; procrustes by scipy's rotation that fits best."""
    x, y = predicted[counted], target[counted]
    if alignment == "none":
        return predicted
    if alignment == "scale":
        return predicted * (x * y).sum() / (x * x).sum()
    from scipy.spatial.transform import Rotation

    centre, goal = x.mean(axis=0), y.mean(axis=0)
    rotation = Rotation.align_vectors(y - goal, x - centre)[0]
    turned = rotation.apply(x - centre)
    scale = (turned * (y - goal)).sum() / (turned**2).sum()
    return scale * rotation.apply(predicted - centre) + goal


def _slow_errors(predicted, target, visibility, alignment, align_on):
    errors = np.full(visibility.shape, np.nan)
    for n in range(len(target)):
        counted = np.ones(17, bool) if align_on == "all" else visibility[n] > 0
        offset = _slow_aligned(predicted[n], target[n], counted, alignment) - target[n]
        errors[n] = np.where(visibility[n] > 0, np.linalg.norm(offset, axis=-1), np.nan)
    return errors


@pytest.mark.parametrize("alignment", list(NAMES))
@pytest.mark.parametrize("align_on", ["labelled", "all"])
def test_equal_plain_loops(alignment, align_on):
    pytest.importorskip("scipy")
    people = _people(len(alignment))
    errors = _slow_errors(*people, alignment, align_on)
    tensors = [torch.from_numpy(value) for value in people]
    options = {"alignment": alignment, "align_on": align_on}
    joint, right, area = MPJPE(**options), PCK3D(thresholds=(150, 60), **options), AUC3D(**options)
    for metric in (joint, right, area):
        for part in torch.arange(20).split(6):
            metric.update(*(value[part] for value in tensors))
    name, prefix = NAMES[alignment], NAMES[alignment].removesuffix("MPJPE")
    scores = joint.compute() | right.compute() | area.compute()
    assert scores[name].item() == pytest.approx(np.nanmean(errors), rel=1e-9)
    assert mpjpe(*tensors, **options).item() == pytest.approx(np.nanmean(errors), rel=1e-9)
    counted = errors[~np.isnan(errors)]
    for threshold in (150, 60):
        assert scores[f"{prefix}PCK3D@{threshold}"].item() == np.mean(counted < threshold)
        assert pck_3d(*tensors, threshold, **options).item() == np.mean(counted < threshold)
    curve = [np.mean(counted < threshold) for threshold in range(0, 151, 5)]
    assert scores[f"{prefix}AUC3D"].item() == pytest.approx(np.mean(curve), abs=1e-12)
    assert auc_3d(*tensors, **options).item() == pytest.approx(np.mean(curve), abs=1e-12)
    for k, part in enumerate(get_skeleton("h36m17").names):
        own = errors[~np.isnan(errors[:, k]), k]
        assert scores[f"{name}/{part}"].item() == pytest.approx(own.mean(), rel=1e-9)
        assert scores[f"{prefix}PCK3D@150/{part}"].item() == np.mean(own < 150)


def test_reproduce_mmpose_and_mpi_inf_3dhp(test_data):
    folder = test_data / "oracles"
    expected = json.loads((folder / "expected.json").read_text())["h36m_3d"]["expected"]
    with np.load(folder / "h36m_3d" / "input.npz") as data:
        predicted, target, mask = (torch.from_numpy(data[name]) for name in ("pred", "gt", "mask"))
    for alignment, name in NAMES.items():
        # The reference fits all keypoints and leaves unlabelled ones out of the mean only.
        metric = MPJPE(alignment=alignment, align_on="all")
        metric.update(predicted, target, mask)
        assert metric.compute()[name].item() == pytest.approx(expected[f"MPJPE_{alignment}"], abs=1e-9)
        metric = MPJPE(alignment=alignment)
        metric.update(predicted, target, torch.ones_like(mask))
        assert metric.compute()[name].item() == pytest.approx(expected[f"MPJPE_{alignment}_all_joints"], abs=1e-9)
    right, area = PCK3D(), AUC3D()
    for metric in (right, area):
        metric.update(predicted, target, mask)
    assert 100 * right.compute()["PCK3D@150"].item() == pytest.approx(expected["PCK3D@150"], abs=1e-9)
    assert 100 * area.compute()["AUC3D"].item() == pytest.approx(expected["AUC3D_0_150_31thr"], abs=1e-9)

    processing = json.loads((folder / "processing" / "metrics_mmpose.json").read_text())
    with np.load(folder / "processing" / "metrics_mmpose.npz") as data:
        predicted, target = (torch.from_numpy(data[name]) for name in ("pred3d", "gt3d"))
    for alignment in NAMES:
        value = mpjpe(predicted, target, torch.ones(50, 17), alignment)
        assert value.item() == pytest.approx(processing[f"mpjpe_{alignment}"], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-1e4, 1e4))
def test_procrustes_undoes_every_similarity_and_is_never_worse(seed, scale, shift):
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.normal(0, 400, (3, 17, 3)))
    moved = scale * target @ torch.from_numpy(_rotation(rng)) + shift
    labelled = torch.ones(3, 17)
    assert mpjpe(moved, target, labelled, "procrustes") < 1e-6
    noisy = moved + torch.from_numpy(rng.normal(0, 50 * scale, moved.shape))
    squares = [
        ((align_poses(noisy, target, labelled, alignment) - target) ** 2).sum().item() for alignment in reversed(NAMES)
    ]
    assert squares == sorted(squares)  # procrustes fits best, then scale, then nothing
    # The result does not change when the prediction is moved.
    again = mpjpe(moved @ torch.from_numpy(_rotation(rng)) - 3 * shift, target, labelled, "procrustes")
    assert again < 1e-6


def test_a_reflection_is_not_undone():
    """A mirrored pose is left and right exchanged; an alignment that allows reflections would call it perfect."""
    target = torch.from_numpy(_people(1)[1])
    mirrored = target * torch.tensor([-1.0, 1.0, 1.0])
    labelled = torch.ones(20, 17)
    assert mpjpe(mirrored, target, labelled, "procrustes") > 100
    from scipy.spatial.transform import Rotation

    for pose, other, aligned in zip(mirrored, target, align_poses(mirrored, target, labelled), strict=True):
        x, y = (pose - pose.mean(dim=0)).numpy(), (other - other.mean(dim=0)).numpy()
        turned = Rotation.align_vectors(y, x)[0].apply(x)
        scale = (turned * y).sum() / (turned**2).sum()
        np.testing.assert_allclose(aligned.numpy(), scale * turned + other.mean(dim=0).numpy(), atol=1e-6)


def test_flat_and_collapsed_poses_are_aligned():
    rng = np.random.default_rng(0)
    flat = torch.from_numpy(rng.normal(0, 400, (2, 17, 3)))
    flat[..., 2] = 0
    turned = flat @ torch.from_numpy(_rotation(rng))
    assert mpjpe(turned, flat, torch.ones(2, 17), "procrustes") < 1e-9
    collapsed = torch.zeros(2, 17, 3) + 5
    spread = (flat - flat.mean(dim=1, keepdim=True)).norm(dim=-1).mean()
    assert mpjpe(collapsed, flat, torch.ones(2, 17), "procrustes").item() == pytest.approx(spread.item())
    assert mpjpe(collapsed * 0, flat, torch.ones(2, 17), "scale").item() == pytest.approx(
        flat.norm(dim=-1).mean().item()
    )


def test_the_root_is_moved_to_the_origin_of_both():
    predicted, target, _ = (torch.from_numpy(value) for value in _people(2))
    visibility = torch.ones(20, 17)
    moved = MPJPE(root="pelvis")
    moved.update(predicted + 1000, target - 500, visibility)
    expected = np.linalg.norm((predicted - predicted[:, :1]) - (target - target[:, :1]), axis=-1).mean()
    assert moved.compute()["MPJPE"].item() == pytest.approx(expected, rel=1e-9)
    assert moved.compute()["MPJPE/pelvis"] == 0
    visibility[:3, 0] = 0
    moved.reset()
    moved.update(predicted, target, visibility)
    with pytest.warns(UserWarning, match="3 of 20 persons are left out"):
        value = moved.compute()["MPJPE"]
    assert value == mpjpe(predicted[3:], target[3:], visibility[3:], root=0)


def test_persons_who_fit_anything_are_left_out_of_procrustes():
    predicted, target, _ = (torch.from_numpy(value) for value in _people(3, persons=4))
    visibility = torch.zeros(4, 17)
    visibility[0, :2] = visibility[1, :3] = visibility[2, :9] = 1  # the last has no label at all
    target[visibility == 0] = torch.nan
    metric = MPJPE(alignment="procrustes")
    metric.update(predicted, target, visibility)
    with pytest.warns(UserWarning, match="1 of 4 persons are left out"):
        value = metric.compute()["PA-MPJPE"]
    assert value == mpjpe(predicted[1:3], target[1:3], visibility[1:3], "procrustes")
    assert value > 0


def test_unlabelled_truth_may_be_anything_unless_it_is_aligned_to():
    predicted, target, visibility = (torch.from_numpy(value) for value in _people(4))
    expected = {alignment: mpjpe(predicted, target, visibility, alignment) for alignment in NAMES}
    target[visibility == 0] = torch.nan
    for alignment, value in expected.items():
        assert mpjpe(predicted, target, visibility, alignment) == value
    MPJPE(align_on="all").update(predicted, target, visibility)
    with pytest.raises(MetricError, match="true keypoints"):
        MPJPE(alignment="scale", align_on="all").update(predicted, target, visibility)


def test_plot_draws_the_curve():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    metric = AUC3D(alignment="procrustes")
    metric.update(*(torch.from_numpy(value) for value in _people(5)))
    figure, axes = metric.plot()
    (line,) = axes.lines
    thresholds, fractions = metric.curve()
    np.testing.assert_array_equal(line.get_ydata(), fractions)
    assert thresholds == [5.0 * index for index in range(31)]
    assert "PA-AUC3D" in axes.get_legend().get_texts()[0].get_text()
    plt.close(figure)
    values, _ = metric.plot(metric.compute())
    plt.close(values)


def test_wrong_settings_and_input_are_refused_and_nobody_is_nan():
    with pytest.raises(MetricError, match="MPJPE knows none, scale and procrustes"):
        MPJPE(alignment="rigid")
    with pytest.raises(MetricError, match="PCK3D knows labelled and all"):
        PCK3D(align_on="visible")
    with pytest.raises(SkeletonError, match="no keypoint 'hip'"):
        AUC3D(root="hip")
    with pytest.raises(MetricError, match="at least 2 thresholds"):
        AUC3D(num_thresholds=1)
    people = [torch.from_numpy(value) for value in _people(6)]
    with pytest.raises(MetricError, match=r"needs predictions \(20, 17, 3\), not \(20, 17, 2\)"):
        MPJPE().update(people[0][..., :2], *people[1:])
    with pytest.raises(MetricError, match=r"needs visibility \(20, 17\), not \(19, 17\)"):
        MPJPE().update(*people[:2], people[2][1:])
    people[0][7, 0, 2] = torch.inf
    with pytest.raises(MetricError, match=r"predicted keypoints.*rows \[7\]"):
        MPJPE().update(*people)
    for metric in (MPJPE(alignment="procrustes"), PCK3D(), AUC3D(alignment="scale")):
        with pytest.warns(UserWarning, match="before the ``update``"):
            scores = metric.compute()
        assert len(scores) == 18
        assert all(value.isnan() for value in scores.values())
