"""DeepCut from labels to persons: phases, perfect and noisy fields of real crowds, and odd pictures."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
from perfect_fields import perfect_fields
from processes import run_on_ranks

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.checkpoints import read_checkpoint, write_checkpoint
from lightning_pose_zoo.codecs import PartFieldCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import PoseZooError, SettingsError
from lightning_pose_zoo.methods import DeepCut
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.structures import Poses

SMALL = {"backbone": "resnet10t", "codec": PartFieldCodec(radius=9.0), "same_part_distance": 14.0, "time_limit": 1.0}


@pytest.fixture
def crowds():
    return SyntheticPeople(
        "lsp14", image_size=(76, 92), train_size=8, val_size=5, people=(1, 3), batch_size=4, samples="pictures"
    )


@pytest.fixture
def trainer(tmp_path):
    return L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[TrainingPhases([2, 2])],
    )  # fmt: skip


class Perfect(DeepCut):
    """Sees what is labelled in ``batch``, with noise on what its cells say."""

    noise = 0.0

    def forward(self, images):
        scores, offsets, toward = perfect_fields(self.codec, self.batch)
        random = torch.Generator().manual_seed(len(self.batch["keypoints"]))
        toward = toward + self.noise * torch.randn(toward.shape, generator=random)
        scores = scores * (1 - 0.6 * torch.rand(scores.shape, generator=random)) if self.noise else scores
        return scores, offsets + self.noise / 8 * torch.randn(offsets.shape, generator=random), toward

    def showing(self, batches):
        for self.batch in batches:
            yield self.batch


def perfect(skeleton, batches, noise=0.0, **arguments):
    """A method that sees everything, its regressions fitted on some batches."""
    method = Perfect(skeleton, **{**SMALL, "same_part_distance": 37.5, "codec": PartFieldCodec(), **arguments}).eval()
    method.noise = noise
    method.phase = 1
    method.fit_statistics(method.showing(batches))
    return method


def people(places, visibility=None, size=(160, 200), joints=14):
    """A batch of one picture with persons around some places."""
    figure = np.random.default_rng(0).normal(0, 12, (joints, 2))
    keypoints = torch.tensor(np.array(places).reshape(-1, 1, 2) + figure, dtype=torch.float32)
    seen = torch.full(keypoints.shape[:2], 2, dtype=torch.uint8) if visibility is None else visibility
    return {
        "image": torch.zeros(1, 3, *size, dtype=torch.uint8),
        "keypoints": keypoints,
        "visibility": seen,
        "image_index": torch.zeros(len(keypoints), dtype=torch.int64),
    }


def test_fit_test_predict_save_and_load(crowds, trainer, tmp_path):
    method = DeepCut(crowds.skeleton, **SMALL)
    trainer.fit(method, crowds)
    assert trainer.callback_metrics["train/phase"] == 2
    assert torch.isfinite(trainer.callback_metrics["train/loss_scores"])
    [scores] = trainer.test(method, crowds, verbose=False)
    assert 0 <= scores["test/AP"] <= 1
    assert scores["test/optimal"] == 1
    assert scores["test/gap"] == 0
    # Else nothing is found after so few steps.
    method.codec.threshold, method.time_limit = 0.01, 0
    predicted = Poses.cat(trainer.predict(method, crowds))
    assert predicted.keypoints.shape[1:] == (14, 2)
    assert len(predicted) > 0
    assert torch.isfinite(predicted.keypoints).all()

    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt")["phase"] == 1
    loaded = DeepCut.load_from_checkpoint(
        tmp_path / "model.ckpt", codec=PartFieldCodec(radius=9.0, threshold=0.01), time_limit=0
    )
    again = Poses.cat(trainer.predict(loaded, crowds))
    torch.testing.assert_close(again.keypoints, predicted.keypoints)
    torch.testing.assert_close(loaded.network.pairs.pair_mean, method.network.pairs.pair_mean)


def test_each_phase_learns_what_it_trains(crowds):
    torch.manual_seed(0)
    crowds.setup("fit")
    method = DeepCut(crowds.skeleton, **SMALL)
    method.phase = 0
    method.fit_statistics(crowds.statistics_dataloader())
    batch = crowds.datasets["train"].__getitems__(range(4))
    assert {"scores", "offsets", "toward", "early_scores"} == set(method.losses(batch))
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    first = {name: part.item() for name, part in method.losses(batch).items()}
    for _ in range(15):
        optimizer.zero_grad()
        sum(method.losses(batch).values()).backward()
        optimizer.step()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in method.named_parameters() if not name.startswith("network.pairs")}
    last = {name: part.item() for name, part in method.losses(batch).items()}
    assert all(last[name] < 0.9 * first[name] for name in first), (first, last)

    # The regressions learn by gradient too, without their fit.
    seeing = Perfect(crowds.skeleton, **SMALL)
    seeing.phase, seeing.noise, seeing.batch = 1, 6.0, batch
    optimizer = torch.optim.Adam(seeing.network.pairs.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        [loss] = seeing.losses(batch).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # The fit is better than that, and no steps make it better by much.
    seeing.fit_statistics([batch])
    assert seeing.losses(batch)["pairs"].item() < losses[-1]


def test_a_batch_without_people_or_candidates_trains_without_them(crowds):
    crowds.setup("fit")
    batch = crowds.datasets["train"].__getitems__(range(2))
    method = DeepCut(crowds.skeleton, **SMALL)
    method.phase = 0
    method.fit_statistics([batch])
    nobody = {**batch, **{name: batch[name][:0] for name in ("keypoints", "visibility", "image_index")}}
    losses = method.losses(nobody)
    sum(losses.values()).backward()
    assert losses["scores"] > 0  # there is nothing to be found, and that counts
    assert losses["toward"] == 0
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    # Somebody without a label: nobody knows what there is.
    unknown = {**batch, "visibility": torch.zeros_like(batch["visibility"])}
    assert sum(method.losses(unknown).values()) == 0
    method.phase = 1
    loss = method.losses(nobody)["pairs"]
    loss.backward()
    assert loss == 0
    with pytest.warns(UserWarning, match="regressions stay as they are"):
        method.fit_statistics([nobody])


def test_displacements_are_those_of_the_labels():
    method = DeepCut("lsp14", **SMALL)
    method.phase = 0
    batches = [people([(50, 60), (90, 70)]), people([(100, 100)])]
    batches[0]["visibility"][1, 3] = 0
    batches[1]["keypoints"] *= 1.3
    for number, batch in enumerate(batches):
        batch["person_id"] = torch.arange(len(batch["keypoints"])) + 10 * number
        batch["visibility"][:, 5] = 0
    method.fit_statistics(batches)
    everybody = [
        (points.numpy(), seen.numpy())
        for batch in batches
        for points, seen in zip(batch["keypoints"], batch["visibility"], strict=True)
    ]
    for one, other in ((0, 3), (3, 0), (2, 7), (13, 1)):
        found = [points[other] - points[one] for points, seen in everybody if seen[one] and seen[other]]
        np.testing.assert_allclose(method.network.pairs.pair_mean[one, other], np.mean(found, axis=0), atol=1e-4)
        spread = np.maximum(np.std(found, axis=0), 1)
        np.testing.assert_allclose(method.network.pairs.pair_std[one, other], spread, atol=1e-4)
    # Nobody has a label of it.
    assert (method.network.pairs.pair_mean[5] == 0).all()
    assert (method.network.pairs.pair_std[5] == 1).all()


def fit_on_ranks(rank, world_size, folder):
    """Fit both phases on a share of the batches, and write what came of it."""
    if world_size > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    method = Perfect("lsp14", **SMALL).eval()
    method.noise = 5.0
    batches = [people([(60, 60 + 9 * number), (100, 90)][: 1 + number % 2]) for number in range(5)]
    for number, batch in enumerate(batches):
        batch["keypoints"] += torch.randn(batch["keypoints"].shape, generator=torch.Generator().manual_seed(number))
        batch["image_id"] = torch.tensor([number])
        batch["person_id"] = 10 * number + torch.arange(len(batch["keypoints"]))
    batches = batches[rank::world_size]
    for method.phase in (0, 1):
        method.fit_statistics(method.showing(batches))
    write_checkpoint(method.network.pairs.state_dict(), folder / f"{world_size}_{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def test_statistics_are_the_same_on_two_processes(tmp_path):
    fit_on_ranks(0, 1, tmp_path)
    run_on_ranks(fit_on_ranks, 2, 2, tmp_path)
    alone = torch.load(tmp_path / "1_0.pt", weights_only=True)
    assert not torch.equal(alone["weights"], DeepCut("lsp14", **SMALL).network.pairs.weights)
    for rank in range(2):
        both = torch.load(tmp_path / f"2_{rank}.pt", weights_only=True)
        torch.testing.assert_close(both, alone, rtol=0, atol=0)


def test_the_exact_solution_costs_no_more_than_the_greedy_one():
    train = [people([(60, 60), (90, 75), (120, 60), (75, 100)]), people([(60, 80), (85, 80), (110, 90)])]
    method = perfect("lsp14", train, noise=15.0)
    for seed in range(3):
        method.batch = people(np.random.default_rng(seed).uniform(50, 110, (3, 2)))
        solutions = []
        for method.time_limit in (3.0, 0.0):
            found = method.estimate(method.batch)
            solutions += method.partitions
            assert len(found) == solutions[-1].clusters.max() + 1
        exact, greedy = solutions
        assert (exact.labels.shape, greedy.status) == (greedy.labels.shape, "heuristic")
        assert greedy.bound <= exact.bound <= exact.objective <= greedy.objective


@pytest.mark.parametrize("time_limit", [1.0, 0.0])
def test_people_come_back_from_perfect_fields_in_odd_pictures(time_limit):
    crowd = [(x, y) for x in range(60, 800, 62) for y in range(60, 360, 62)]
    codec = PartFieldCodec(spacing=4.0, most=64)
    method = perfect("lsp14", [people(crowd[20:40], size=(401, 863))], codec=codec, time_limit=time_limit)
    for batch, count in (
        (people([]), 0),
        (people([(100, 80)], size=(161, 203)), 1),
        (people([(60, 60), (100, 90)], size=(157, 199)), 2),
        (people(crowd, size=(401, 863)), 60),
    ):
        method.batch = batch
        found = method.estimate(batch)
        assert len(found) == count
        for keypoints in batch["keypoints"]:
            assert (found.keypoints - keypoints).abs().amax(dim=(1, 2)).min() < 0.01
    single = torch.zeros(1, 14, dtype=torch.uint8)
    single[0, 4] = 1
    method.batch = people([(100, 80)], single)
    found = method.estimate(method.batch)
    assert len(found) == 1
    assert (found.keypoint_scores > 0).nonzero().tolist() == [[0, 4]]
    method.batch = people([(100, 80)])
    method.batch["keypoints"][:] = 50.0
    assert len(method.estimate(method.batch)) >= 1
    method.batch["image"] = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert len(method.estimate(method.batch)) == 0  # all outside


def test_poses_are_in_pixels_of_the_original_pictures():
    method = perfect("lsp14", [people([(60, 80), (140, 80)])])
    method.batch = batch = people([(60, 60), (120, 90)])
    batch["image_id"] = torch.tensor([77])
    batch["to_original"] = torch.tensor([[[2.0, 0, 10], [0, 2, -5]]])
    found = method.estimate(batch)
    assert found.image_ids.tolist() == [77, 77]
    expected = batch["keypoints"] * 2 + torch.tensor([10, -5])
    nearest = (found.keypoints[:, None] - expected[None]).abs().amax(dim=(2, 3)).min(dim=0).values
    assert nearest.max() < 0.01
    assert found.person_ids is None


def test_several_candidates_of_a_part_become_one_keypoint():
    method = perfect("lsp14", [people([(60, 80), (140, 80)])])
    method.batch = batch = people([(80, 80)])
    scores, offsets, toward = method(batch["image"])
    [[y, x], *_] = scores[0, 3].nonzero().tolist()
    offsets[0, 3, 0, y, x] += 10  # a cell whose refined place lies apart
    scores[0, 3] *= 0.6
    scores[0, 3, y, x] = 0.3
    found = method.poses_from_fields((scores, offsets, toward), batch)
    assert len(found) == 1
    expected = batch["keypoints"][0, 3] + torch.tensor([10 * 0.3 / 0.9, 0])
    torch.testing.assert_close(found.keypoints[0, 3], expected, rtol=0, atol=0.01)
    assert found.keypoint_scores[0, 3] == pytest.approx(0.6)
    assert found.scores[0] == pytest.approx((13 + 0.6) / 14)


def test_one_person_in_each_crop(crowds):
    method = perfect("lsp14", [people([(60, 80), (140, 80)])], single_person=True)
    batch = people([(60, 60), (130, 100)])
    batch["visibility"][1, 2:] = 0  # less of the second one
    method.batch = batch
    fields = method(batch["image"])
    fields[0][0, 9] *= 0.1  # below the threshold: read where the map is highest
    crop = {"image": batch["image"], "image_id": torch.tensor([4]), "person_id": torch.tensor([9])}
    found = method.poses_from_fields(fields, crop)
    assert found.person_ids.tolist() == [9]
    torch.testing.assert_close(found.keypoints[0], batch["keypoints"][0], rtol=0, atol=0.01)
    assert found.keypoint_scores[0, 9] == pytest.approx(0.1)
    assert method.partitions[0].clusters.max() == 0
    # Where nothing is found, one person stands there nevertheless.
    empty = tuple(torch.zeros_like(field) for field in fields)
    assert method.poses_from_fields(empty, crop).keypoints.shape == (1, 14, 2)
    assert method.partitions[0].labels.shape == (0,)

    # Crops of single persons train it too.
    crops = SyntheticPeople("lsp14", image_size=(64, 48), train_size=4, batch_size=2)
    crops.setup("fit")
    trained = DeepCut("lsp14", single_person=True, **SMALL)
    batch = crops.datasets["train"].__getitems__(range(2))
    trained.phase = 0
    trained.fit_statistics([batch])
    assert sum(trained.losses(batch).values()).isfinite()
    assert trained.eval().estimate(batch).person_ids.tolist() == batch["person_id"].tolist()


def test_without_time_the_solution_is_feasible_and_says_so():
    torch.manual_seed(0)
    fields = torch.rand(1, 14, 20, 25), torch.randn(1, 14, 2, 20, 25), 40 * torch.randn(1, 14, 14, 2, 20, 25)
    method = DeepCut("lsp14", **{**SMALL, "time_limit": 0.05}).eval()
    batch = people([])
    found = method.poses_from_fields(fields, batch)
    [solved] = method.partitions
    assert solved.status == "time_limit"
    assert solved.gap > 0
    assert len(found) == solved.clusters.max() + 1
    method.time_limit = 0
    method.poses_from_fields(fields, batch)
    assert method.partitions[0].status == "heuristic"
    assert "greedy" in method.protocol()
    fields[0][0, 0, 0, 0] = torch.nan
    with pytest.raises(PoseZooError, match="NaN or infinite"):
        method.poses_from_fields(fields, batch)


def test_the_exported_program_and_mixed_precision_say_the_same():
    method = DeepCut("lsp14", **SMALL, channels_last=True).eval()
    method.configure_model()
    images = torch.randint(0, 256, (2, 3, 52, 75), dtype=torch.uint8)
    with torch.no_grad():
        expected = method(images)
        exported = torch.export.export(method, (images,)).module()(images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = method(images)
    for ours, theirs, half in zip(expected, exported, mixed, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, ours, rtol=0.1, atol=0.1)
    assert [tuple(part.shape) for part in expected] == [(2, 14, 7, 10), (2, 14, 2, 7, 10), (2, 14, 14, 2, 7, 10)]


def test_weights_of_other_keypoints_are_taken_over_by_name(trainer, tmp_path):
    theirs = DeepCut("coco17", **SMALL)
    with torch.no_grad():
        for value in [*theirs.network.pairs.parameters(), *theirs.network.pairs.buffers()]:
            value.copy_(torch.randn_like(value))
    trainer.strategy.connect(theirs)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    mine = DeepCut("crowdpose14", weights=str(tmp_path / "first.ckpt"), **SMALL)
    names, others = get_skeleton("crowdpose14").names, get_skeleton("coco17").names
    one, other = (names.index(name) for name in ("left_wrist", "right_knee"))
    a, b = (others.index(name) for name in ("left_wrist", "right_knee"))
    for key in ("weights", "pair_mean", "pair_std"):
        assert torch.equal(getattr(mine.network.pairs, key)[one, other], getattr(theirs.network.pairs, key)[a, b]), key
    assert torch.equal(mine.network.toward.deep_weight[:, one, other], theirs.network.toward.deep_weight[:, a, b])
    assert torch.equal(mine.network.offsets.bias.view(14, 2)[one], theirs.network.offsets.bias.view(17, 2)[a])


def test_wrong_settings_are_refused():
    with pytest.raises(SettingsError, match="codec's stride to 8"):
        DeepCut("lsp14", backbone="resnet10t", codec=PartFieldCodec(stride=4))
    with pytest.raises(SettingsError, match="same_part_distance is 0"):
        DeepCut("lsp14", backbone="resnet10t", same_part_distance=0)
    assert len(DeepCut(Skeleton("dot", ("a", "b")), backbone="resnet10t").phases) == 2
