"""What all metrics promise as torchmetrics: state, types, copies, and that nothing is counted twice or dropped."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from metric_cases import ARGUMENTS, metrics, people, scores, update
from torchmetrics import MetricCollection

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import (
    AUC,
    EPE,
    MPJPE,
    NME,
    PCK,
    PCP,
    PDJ,
    RMSE,
    ImplausiblePoses,
    OKSMeanAveragePrecision,
    PCKh,
)
from lightning_pose_zoo.metrics.rows import RowMetric, first_rows, running_ids

COLUMNS = people(24)
KEYS = sorted(metrics(COLUMNS))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*images with samples were visited"),
    pytest.mark.filterwarnings("ignore:.*persons are left out"),
]


def _filled(key, persons=range(24), size=5):
    metric = metrics(COLUMNS)[key]
    persons = list(persons)
    for start in range(0, len(persons), size):
        update(metric, COLUMNS, persons[start : start + size])
    return metric


def _equal(one, other):
    """Compare exactly, NaN with NaN."""
    assert one.keys() == other.keys()
    assert len(one) >= 5
    for name, value in one.items():
        assert value == other[name] or (np.isnan(value) and np.isnan(other[name])), name


@pytest.mark.parametrize("key", KEYS)
def test_neither_the_order_nor_the_size_of_batches_changes_a_bit(key):
    expected = scores(_filled(key))
    _equal(scores(_filled(key, size=1)), expected)
    _equal(scores(_filled(key, reversed(range(24)), size=24)), expected)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.filterwarnings("ignore:.*different ids")
def test_repeated_persons_are_dropped(key):
    metric = _filled(key)
    expected = scores(metric)
    update(metric, COLUMNS, [3, 4, 0])
    _equal(scores(metric), expected)


def test_many_repeated_ids_are_reported():
    metric = _filled("epe")
    metric.compute()
    update(metric, COLUMNS, range(24))
    with pytest.warns(UserWarning, match="only 24 of 48 persons have different ids"):
        metric.compute()


@pytest.mark.parametrize("key", KEYS)
def test_clone_pickle_and_reset(key):
    metric = _filled(key, range(12))
    copy, pickled = metric.clone(), pickle.loads(pickle.dumps(metric))
    expected = scores(_filled(key))
    for one in (metric, copy, pickled):
        update(one, COLUMNS, range(12, 24))
        _equal(scores(one), expected)
    assert metric.state_dict() == {}
    metric.reset()
    update(metric, COLUMNS, range(12))
    _equal(scores(metric), scores(_filled(key, range(12))))


@pytest.mark.parametrize("key", KEYS)
def test_a_value_is_computed_anew_after_each_update(key):
    metric = _filled(key, range(12))
    first = scores(metric)
    _equal(scores(metric), first)
    update(metric, COLUMNS, range(12, 24))
    _equal(scores(metric), scores(_filled(key)))
    assert any(value != first[name] for name, value in scores(metric).items())


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to(torch.float16), lambda m: m.bfloat16()])
@pytest.mark.parametrize("key", KEYS)
def test_half_precision_of_the_module_around_does_no_harm(key, cast):
    metric = _filled(key, range(12))
    holder = torch.nn.Module()
    holder.metric, holder.layer = metric, torch.nn.Linear(2, 2)
    cast(holder)
    assert holder.layer.weight.dtype in (torch.float16, torch.bfloat16)
    update(metric, COLUMNS, range(12, 24))
    assert all(value.dtype == torch.float64 for value in metric.compute().values())
    _equal(scores(metric), scores(_filled(key)))
    metric.set_dtype(torch.float16)
    _equal(scores(metric), scores(_filled(key)))


def test_half_precision_predictions_are_counted_in_float64():
    metric = PCK("mpii16")
    target = torch.full((3, 16, 2), 300.0)
    metric.update((target + 1).half(), target, torch.ones(3, 16), torch.full((3,), 4.0))
    assert metric.compute()["PCK@0.2"] == 0  # 1.41 of 4 pixels
    metric.update((target * 100).half(), target * 100, torch.ones(3, 16), torch.full((3,), 4.0))
    assert metric.compute()["PCK@0.2"] == 0.5


@pytest.mark.parametrize("key", sorted(ARGUMENTS))
def test_forward_returns_the_batch_s_value_and_keeps_the_rest(key):
    def arguments(persons):
        return [COLUMNS[name][torch.tensor(persons)] for name in ARGUMENTS[key]]

    metric, alone, whole = (metrics(COLUMNS)[key] for _ in range(3))
    metric.update(*arguments([0, 1, 2]))
    value = metric(*arguments([3, 4]))
    alone.update(*arguments([3, 4]))
    _equal({name: v.item() for name, v in value.items()}, scores(alone))
    whole.update(*arguments([0, 1, 2, 3, 4]))
    _equal(scores(metric), scores(whole))


def test_metrics_of_two_places_are_merged():
    first, second, whole = (metrics(COLUMNS)["epe"] for _ in range(3))
    for metric, persons in ((first, [0, 1]), (second, [2, 3, 4]), (whole, [0, 1, 2, 3, 4])):
        metric.update(*(COLUMNS[name][persons] for name in ("predicted", "target", "visibility")))
    first.merge_state(second)
    _equal(scores(first), scores(whole))


def test_what_was_given_may_be_changed_afterwards():
    metric, expected = EPE("mpii16"), scores(_filled("epe", range(3)))
    ids = COLUMNS["person_id"][:3].clone()
    arguments = [COLUMNS[name][:3].clone() for name in ("predicted", "target", "visibility")]
    metric.update(*arguments, ids)
    for value in (*arguments, ids):
        value.zero_()
    _equal(scores(metric), expected)


def _one_of_each_size():
    return {
        "torso": PCK("mpii16"),
        "box": PCK("mpii16", normalize_by="box"),
        "head": PCKh(),
        "pixel": EPE("mpii16"),
        "diameter": PDJ("mpii16"),
        "limbs": PCP("mpii16"),
        "curve": AUC("mpii16", 0.5, 51, "head", "mpii"),
    }


def test_a_collection_never_shares_the_rows_of_different_metrics():
    """The first update has nobody in it, so that all states look alike to torchmetrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collection = MetricCollection(_one_of_each_size())
        for persons in (0, 24):
            target, visibility = COLUMNS["target"][:persons], COLUMNS["visibility"][:persons]
            arguments = {"keypoints": COLUMNS["predicted"][:persons], "target": target, "visibility": visibility}
            sizes = {"normalizer": COLUMNS["head_size"][:persons] * 2, "head_size": COLUMNS["head_size"][:persons]}
            collection.update(**arguments, **sizes)
        together = {name: value.item() for name, value in collection.compute().items()}
    for key, metric in _one_of_each_size().items():
        size = {"head": "head_size", "pixel": None, "limbs": None}.get(key, "normalizer")
        metric.update(**arguments, **({size: sizes[size]} if size else {}))
        for name, value in scores(metric).items():
            assert together[f"{key}_{name}"] == value or np.isnan(value)


@pytest.mark.filterwarnings("ignore:.*before the ``update``")
@pytest.mark.parametrize("persons", [0, 24])
def test_a_collection_of_all_gives_what_each_gives_alone(persons):
    """As they are used: without compute groups, and with a first batch that has nobody in it."""
    metric = metrics(COLUMNS)
    collection = MetricCollection({key: metric[key] for key in sorted(ARGUMENTS)}, compute_groups=False)
    for key in collection.keys(keep_base=True):
        for people_of_batch in ([], range(persons)):
            update(collection[key], COLUMNS, people_of_batch)
    together = {name: value.item() for name, value in collection.compute().items()}
    assert len(together) == sum(len(metrics(COLUMNS)[key].compute()) for key in ARGUMENTS)
    for key in ARGUMENTS:
        for name, value in scores(_filled(key, range(persons))).items():
            other = together[f"{key}_{name}"]
            assert other == value or (np.isnan(other) and np.isnan(value)), (key, name)
            assert persons or np.isnan(value)


def test_a_collection_never_shares_the_rows_of_different_sizes():
    sizes = ("torso", "head", "pixel")
    collection = MetricCollection({size: NME("mpii16", normalize_by=size) for size in sizes})
    for persons in (0, 24):
        collection.update(*(COLUMNS[name][:persons] for name in ARGUMENTS["epe"]))
    together = collection.compute()
    for size in sizes:
        alone = NME("mpii16", normalize_by=size)
        alone.update(*(COLUMNS[name] for name in ARGUMENTS["epe"]))
        assert together[f"{size}_NME"] == alone.compute()["NME"]


def test_a_collection_never_shares_the_rows_of_different_limbs():
    limbs = {"leg": [("left_hip", "left_knee")], "arm": [("left_elbow", "left_wrist")]}
    collection = MetricCollection({key: PCP("mpii16", limbs=limb) for key, limb in limbs.items()})
    for persons in (0, 24):
        collection.update(*(COLUMNS[name][:persons] for name in ARGUMENTS["pcp"]))
    together = {name: value.item() for name, value in collection.compute().items()}
    whole = scores(_filled("pcp"))
    assert together["leg_PCP@0.5/left_hip-left_knee"] == whole["PCP@0.5/left_hip-left_knee"]
    assert together["arm_PCP@0.5/left_elbow-left_wrist"] == whole["PCP@0.5/left_elbow-left_wrist"]
    assert together["leg_PCP@0.5"] != together["arm_PCP@0.5"]


def test_a_collection_shares_the_poses_of_all_alignments():
    metric = metrics(COLUMNS)
    collection = MetricCollection({key: metric[key] for key in ("mpjpe", "n_mpjpe", "pa_mpjpe", "pck3d", "auc3d")})
    for persons in (0, 24):
        collection.update(*(COLUMNS[name][:persons] for name in ARGUMENTS["mpjpe"]))
    assert len(collection.compute_groups) == 1
    together = {name: value.item() for name, value in collection.compute().items()}
    for key in collection.keys(keep_base=True):
        # Rows without ids stand in the order of arrival, those of `_filled` in that of the ids.
        for name, value in scores(_filled(key)).items():
            assert together[name] == pytest.approx(value, rel=1e-12)


def test_attributes_that_torchmetrics_and_checkpoints_go_by():
    for metric in metrics(COLUMNS).values():
        assert metric.is_differentiable is False
        assert metric.full_state_update is False
        assert metric.higher_is_better is not isinstance(metric, EPE | RMSE | NME | MPJPE | ImplausiblePoses)
        assert metric.plot_lower_bound == 0
    assert OKSMeanAveragePrecision.plot_upper_bound == 1


@pytest.mark.parametrize("key", ["ap", "pcp", "epe", "mpjpe"])
def test_plot_draws_every_value_by_its_name(key):
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    metric = _filled(key)
    figure, axes = metric.plot()
    values = scores(metric)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(values)
    np.testing.assert_array_equal([bar.get_width() for bar in axes.patches], list(values.values()))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first stands at the top
    _, same = metric.plot({"lost": torch.tensor(torch.inf), "nobody": torch.tensor(torch.nan)}, ax=axes)
    assert same is axes
    assert {"inf", "nan"} < {text.get_text() for text in axes.texts}
    over_steps, _ = metric.plot([metric.compute(), metric.compute()])
    plt.close(figure)
    plt.close(over_steps)


def test_rows_of_the_wrong_shape_are_refused_and_nothing_is_kept():
    class Two(RowMetric):
        def __init__(self):
            super().__init__()
            self.add_rows("values", (2,))
            self.add_rows("marks", dtype=torch.bool)

        def update(self, values, marks):
            self.append_rows(values=values, marks=marks)

        def compute(self):
            return self.results({"sum": float(self.rows("values").sum()), "marks": float(self.rows("marks").sum())})

    metric = Two()
    metric.update(torch.ones(3, 2), torch.tensor([True, False, True]))
    with pytest.raises(MetricError, match=r"marks has the shape \(2,\), not \(3,\)"):
        metric.update(torch.ones(3, 2), torch.ones(2))
    with pytest.raises(MetricError, match=r"values has the shape \(3, 3\)"):
        metric.update(torch.ones(3, 3), torch.ones(3))
    assert metric.rows("values").shape == (3, 2)
    assert metric.rows("marks").dtype == torch.bool
    assert {name: value.item() for name, value in metric.compute().items()} == {"sum": 6, "marks": 2}


def test_first_rows_keeps_the_first_of_each_and_all_running_ones():
    ids = np.array([5, 3, 5, 3, 1])
    np.testing.assert_array_equal(first_rows(ids), [4, 1, 0])
    np.testing.assert_array_equal(first_rows(np.array([2, 1, 2, 1, 1]), np.array([0, 0, 0, 1, 0])), [1, 3, 0])
    running = running_ids(3)
    assert len(running.unique()) == 3
    assert running.max() < 0
    np.testing.assert_array_equal(first_rows(torch.cat([running, running]).numpy()), [0, 3, 1, 4, 2, 5])
    assert len(first_rows(np.zeros(0, dtype=np.int64))) == 0
