"""The area under PCK's curve against mmpose's numbers, plain loops and numpy's trapezoids."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import AUC, PCK
from lightning_pose_zoo.metrics.functional import auc
from lightning_pose_zoo.skeletons import get_skeleton


def _people(seed, persons=30, keypoints=16):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 200, (persons, keypoints, 2))
    predicted = target + rng.normal(0, 12, target.shape)
    visibility = rng.integers(0, 3, (persons, keypoints))
    return predicted, target, visibility, rng.uniform(20, 60, persons)


def test_reproduces_mmpose(test_data):
    folder = test_data / "oracles"
    processing = json.loads((folder / "processing" / "metrics_mmpose.json").read_text())
    lsp = json.loads((folder / "expected.json").read_text())["pck_lspet"]["expected"]["AUC_norm30_20thr"]
    for file, skeleton, largest, expected in (
        ("processing/metrics_mmpose.npz", "mpii16", processing["auc_norm"], processing["auc"]),
        ("pck_lspet/input.npz", "lsp14", 30.0, lsp),
    ):
        with np.load(folder / file) as data:
            arguments = [torch.from_numpy(data[name]) for name in ("pred", "gt", "mask")]
        metric = AUC(skeleton, max_threshold=largest)
        metric.update(*arguments)
        assert metric.compute()["AUC"].item() == pytest.approx(expected, abs=1e-12)
        assert auc(*arguments, max_threshold=largest).item() == pytest.approx(expected, abs=1e-12)


def _slow_mmpose(predicted, target, visibility, largest, count):
    area = 0.0
    for index in range(count):
        fractions = []
        for k in range(target.shape[1]):
            seen = visibility[:, k] > 0
            distances = np.linalg.norm(predicted[seen, k] - target[seen, k], axis=-1)
            fractions.append(np.mean(distances < index / count * largest))
        area += np.mean(fractions) / count
    return area


def _slow_mpii(predicted, target, visibility, sizes, largest, count, counted):
    distances = np.linalg.norm(predicted - target, axis=-1)[:, counted] / sizes[:, None]
    seen = visibility[:, counted] > 0
    thresholds = np.linspace(0, largest, count)
    return np.trapezoid([np.mean(distances[seen] <= threshold) for threshold in thresholds], thresholds) / largest


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed):
    people = _people(seed)
    tensors = [torch.from_numpy(value) for value in people]
    names = get_skeleton("mpii16").names
    for largest, count in ((30.0, 20), (12.5, 7)):
        metric = AUC("mpii16", largest, count)
        for part in torch.arange(30).split(8):
            metric.update(*(value[part] for value in tensors[:3]))
        scores = metric.compute()
        assert scores["AUC"].item() == pytest.approx(_slow_mmpose(*people[:3], largest, count), abs=1e-12)
        for k in (0, 9):
            one = [value[:, k : k + 1] for value in people[:3]]
            assert scores[f"AUC/{names[k]}"].item() == pytest.approx(_slow_mmpose(*one, largest, count), abs=1e-12)
    metric = AUC("mpii16", 0.5, 51, normalize_by="head", convention="mpii")
    metric.update(*tensors)
    counted = [k for k, name in enumerate(names) if name not in ("pelvis", "thorax")]
    expected = _slow_mpii(*people, 0.5, 51, counted)
    assert metric.compute()["AUC"].item() == pytest.approx(expected, abs=1e-12)
    some = [value[:, counted] for value in tensors[:3]]
    assert auc(*some, tensors[3], 0.5, 51, "mpii").item() == pytest.approx(expected, abs=1e-12)
    for k in (0, 6):
        one = _slow_mpii(*people, 0.5, 51, [k])
        assert metric.compute()[f"AUC/{names[k]}"].item() == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("name", ["bearpaw-hg_s2_b1", "tompson"])
def test_mpii_s_area_on_published_predictions(test_data, name):
    scipy_io = pytest.importorskip("scipy.io")
    truth = scipy_io.loadmat(test_data / "oracles" / "mpii" / "gt_valid.mat")
    with np.load(test_data / "oracles" / "mpii" / f"preds_{name}.npz") as data:
        predicted = data["preds"].astype(float)
    target = truth["pos_gt_src"].transpose(2, 0, 1).astype(float)
    visibility = 1 - truth["jnt_missing"].T.astype(int)
    corners = truth["headboxes_src"].astype(float)
    head = 0.6 * np.linalg.norm(corners[1] - corners[0], axis=0)
    metric = AUC("mpii16", 0.5, 51, normalize_by="head", convention="mpii")
    metric.update(*(torch.from_numpy(value) for value in (predicted, target, visibility, head)))
    counted = [k for k, part in enumerate(get_skeleton("mpii16").names) if part not in ("pelvis", "thorax")]
    expected = _slow_mpii(predicted, target, visibility, head, 0.5, 51, counted)
    assert metric.compute()["AUC"].item() == pytest.approx(expected, abs=1e-9)
    assert 0.4 < expected < 0.7
    thresholds, fractions = metric.curve()
    assert (thresholds[0], thresholds[-1], len(fractions)) == (0.0, 0.5, 51)
    wanted = json.loads((test_data / "oracles" / "expected.json").read_text())[f"mpii_pckh_{name}"]["expected"]
    for key in ("0.5", "0.2", "0.1", "0.05"):
        at = thresholds.index(pytest.approx(float(key)))
        assert 100 * fractions[at] == pytest.approx(wanted["by_threshold"][f"PCKh@{key}"]["mean_weighted_14"], abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 100), st.integers(2, 60))
def test_bounds_and_the_last_point_of_the_curve(seed, largest, count):
    tensors = [torch.from_numpy(value) for value in _people(seed, persons=3)[:3]]
    metric = AUC("mpii16", largest, count, convention="mpii")
    metric.update(*tensors)
    area = metric.compute()["AUC"].item()
    thresholds, fractions = metric.curve()
    assert fractions == sorted(fractions)
    assert thresholds[-1] == largest
    assert fractions[0] - 1e-12 <= area <= fractions[-1] + 1e-12
    # Doubling all lengths changes nothing.
    twice = AUC("mpii16", 2 * largest, count, convention="mpii")
    twice.update(2 * tensors[0], 2 * tensors[1], tensors[2])
    assert twice.compute()["AUC"].item() == area


def test_strictness_at_a_threshold():
    target = torch.zeros(1, 14, 2)
    people = (target + torch.tensor([3.0, 4.0]), target, torch.ones(1, 14))
    assert auc(*people, max_threshold=10.0, num_thresholds=10).item() == pytest.approx(0.4)  # 6, 7, 8, 9 of 0..9
    assert auc(*people, max_threshold=10.0, num_thresholds=11, convention="mpii").item() == pytest.approx(0.55)


def test_pck_in_pixels_is_a_point_of_the_curve():
    people = [torch.from_numpy(value) for value in _people(1)[:3]]
    pck, area = PCK("mpii16", (6.0, 15.0), "pixel", strict=True, average="macro"), AUC("mpii16")
    pck.update(*people)
    area.update(*people)
    thresholds, fractions = area.curve()
    scores = pck.compute()
    assert scores["PCK@6"].item() == fractions[thresholds.index(6.0)]
    assert scores["PCK@15"].item() == fractions[thresholds.index(15.0)]


def test_the_curve_follows_updates_copies_and_reset():
    people = [torch.from_numpy(value) for value in _people(2)[:3]]
    metric = AUC("mpii16")
    metric.update(*(value[:10] for value in people))
    first = metric.curve()
    metric.update(*(value[10:] for value in people))
    assert metric.curve()[1] != first[1]
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert copy.curve() == metric.curve()
    metric.reset()
    metric.update(*(value[:10] for value in people))
    assert metric.curve() == first


def test_plot_draws_the_curve_or_given_values():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metric = AUC("mpii16", 0.5, 51, "head", "mpii")
    metric.update(*(torch.from_numpy(value) for value in _people(4)))
    figure, axes = metric.plot()
    (line,) = axes.lines
    thresholds, fractions = metric.curve()
    np.testing.assert_array_equal(line.get_xdata(), thresholds)
    np.testing.assert_array_equal(line.get_ydata(), fractions)
    assert "head" in axes.get_xlabel()
    assert f"{metric.compute()['AUC'].item():.3f}" in axes.get_legend().get_texts()[0].get_text()
    _, same = metric.plot(ax=axes)
    assert same is axes
    assert len(axes.lines) == 2
    values, _ = metric.plot([metric.compute(), metric.compute()])
    plt.close(figure)
    plt.close(values)


def test_wrong_settings_are_refused_and_nobody_is_nan():
    with pytest.raises(MetricError, match="at least 2 thresholds up to a positive one, not 1 up to 30"):
        AUC(num_thresholds=1)
    with pytest.raises(MetricError, match="not 20 up to 0"):
        AUC(max_threshold=0)
    with pytest.raises(MetricError, match="AUC knows mmpose and mpii"):
        AUC(convention="coco")
    for metric in (AUC(), AUC("mpii16", 0.5, 51, "head", "mpii")):
        with pytest.warns(UserWarning, match="before the ``update``"):
            scores = metric.compute()
        assert all(value.isnan() for value in scores.values())
