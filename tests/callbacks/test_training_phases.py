"""Phases are switched in time, only what they train moves, and a training that was stopped ends as one that was not."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace

import lightning as L
import pytest
import torch
from phased_run import LENGTHS, STEPS, CoarseToFine, train, train_on_ranks
from processes import run_on_ranks
from resume_run import SpotsData

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.methods import SimpleBaseline
from lightning_pose_zoo.methods.phased import rows_of_all_processes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    train(folder)
    return folder


class Watch(L.Callback):
    """Writes down what moved in each step, and what was in training mode."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.modes = (pl_module.network.coarse[1].training, pl_module.network.fine[1].training)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        moved = {name for name, value in pl_module.state_dict().items() if not torch.equal(value, self.before[name])}
        parts = tuple(any(name.startswith(f"network.{part}") for name in moved) for part in ("coarse", "fine"))
        self.seen.append((pl_module.phase, parts, self.modes))


def test_each_phase_moves_what_it_trains(tmp_path, monkeypatch):
    watch = Watch()
    make = L.Trainer
    monkeypatch.setattr(L, "Trainer", lambda **words: make(**words | {"callbacks": [*words["callbacks"], watch]}))
    trainer, method = train(tmp_path)
    coarse, fine, both = (True, False), (False, True), (True, True)
    assert watch.seen == [(0, coarse, coarse)] * 4 + [(1, fine, fine)] * 5 + [(2, both, both)] * 3
    assert method.phase == 2
    assert read_checkpoint(tmp_path / "end.ckpt")["phase"] == 2
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    logged = [row for row in rows if row["train/phase"]]
    assert [float(row["train/phase"]) for row in logged] == [1] * 4 + [2] * 5 + [3] * 3
    assert trainer.global_step == STEPS


def test_statistics_are_those_of_the_training_set(whole):
    data = SpotsData()
    data.setup("fit")
    keypoints = torch.cat([batch["keypoints"] for batch in data.statistics_dataloader()])
    assert len(keypoints) == data.size
    state = read_checkpoint(whole / "end.ckpt")["state_dict"]
    torch.testing.assert_close(state["mean"], keypoints.mean(dim=0))
    assert torch.isfinite(state["spread"]).all()
    assert not torch.allclose(state["spread"], keypoints.std(dim=0))
    few = list(data.statistics_dataloader(6))
    assert torch.cat([batch["image_id"] for batch in few]).tolist() == [0, 3, 7, 11, 14, 18]


# Goes on in a phase's middle (3, 6), and where the next one is just about to begin (4, 9).
@pytest.mark.parametrize(("every", "stop"), [(3, 5), (4, 5), (3, 8), (3, 11)])
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path, whole, every, stop):
    with pytest.raises(InterruptedError):
        train(tmp_path, stop_after=stop, every=every)
    train(tmp_path, resume=True)
    torch.testing.assert_close(
        read_checkpoint(tmp_path / "end.ckpt")["state_dict"],
        read_checkpoint(whole / "end.ckpt")["state_dict"],
        rtol=0,
        atol=0,
    )


def test_two_processes_have_the_statistics_of_one_and_resume_exactly(tmp_path, whole):
    once, twice = tmp_path / "whole", tmp_path / "parts"
    run_on_ranks(train_on_ranks, 2, once, False, None)
    run_on_ranks(train_on_ranks, 2, twice, False, 7)
    run_on_ranks(train_on_ranks, 2, twice, True, None)
    of_one = read_checkpoint(whole / "end.ckpt")["state_dict"]
    ranks = [read_checkpoint(once / f"rank_{rank}.pt") for rank in range(2)]
    assert torch.equal(ranks[0]["mean"], of_one["mean"])
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0] if "running" not in name)
    for rank in range(2):
        torch.testing.assert_close(read_checkpoint(twice / f"rank_{rank}.pt"), ranks[rank], rtol=0, atol=0)


def test_phases_are_said_when_they_begin(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(tmp_path)
    assert [line for line in caplog.messages if line.startswith("phase ") or "fitting" in line] == [
        "coarse: fitting the mean pose",
        "phase 1 of 3, coarse: trains network.coarse; loss coarse x 1; steps 0 to 4",
        "fine: fitting errors of the coarse pose",
        "phase 2 of 3, fine: trains network.fine; loss fine x 1; steps 4 to 9",
        "phase 3 of 3, joint: trains everything; loss coarse x 0.5, fine x 1; steps 9 to 12",
    ]


def test_lengths_may_be_epochs_or_equal_parts(tmp_path):
    trainer, method = train(tmp_path)
    per_epoch = trainer.num_training_batches
    assert per_epoch == 5
    assert TrainingPhases([1, 2, 1], "epochs").ends(trainer, method, 4 * per_epoch) == [5, 15, 20]
    assert TrainingPhases().ends(trainer, method, 10) == [3, 6, 10]
    assert TrainingPhases().ends(trainer, method, 2) == [1, 1, 2]
    uneven = type("Uneven", (), {"phases": [replace(method.phases[0], share=share) for share in (98, 1, 1)]})
    assert TrainingPhases().ends(trainer, uneven, 200) == [196, 198, 200]
    assert TrainingPhases().ends(trainer, uneven, 4) == [2, 3, 4]
    assert TrainingPhases(LENGTHS).ends(trainer, method, 100) == [4, 9, 100]
    with pytest.warns(UserWarning, match=r"take 12 steps together, the training has 8: it ends in phase 2 of 3"):
        assert TrainingPhases(LENGTHS).ends(trainer, method, 8) == [4, 9, 12]


def test_wrong_lengths_end_in_one_message(tmp_path):
    with pytest.raises(SettingsError, match="a positive number of steps for each phase"):
        TrainingPhases([4, 0, 1])
    with pytest.raises(SettingsError, match=r"has 3 phases \(coarse, fine, joint\), but TrainingPhases has 2 lengths"):
        train(tmp_path, lengths=[4, 8])
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, callbacks=[TrainingPhases()],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(SettingsError, match="SimpleBaseline does not train in phases"):
        trainer.fit(SimpleBaseline("lsp14", backbone="resnet18", deconv_channels=(8, 8, 8)), SpotsData())
    endless = L.Trainer(
        accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(SettingsError, match="need a training with an end"):
        endless.fit(CoarseToFine(), SpotsData())


def test_a_second_training_with_the_same_callback_begins_anew(tmp_path):
    phases = TrainingPhases(LENGTHS)
    settings = {
        "accelerator": "cpu", "max_steps": STEPS, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    for _ in range(2):
        method = CoarseToFine()
        L.Trainer(callbacks=[phases], **settings).fit(method, SpotsData())
        assert torch.isfinite(method.mean).all()


def test_rows_come_in_the_order_of_their_ids_and_values():
    ids = torch.tensor([3, 1, 3, 2])
    rows = torch.tensor([[2.0, 0.0], [5.0, 5.0], [1.0, 9.0], [4.0, 4.0]])
    [ordered] = rows_of_all_processes(ids, rows)
    assert ordered.tolist() == [[5, 5], [4, 4], [1, 9], [2, 0]]
    assert rows_of_all_processes(ids[:0], rows[:0])[0].shape == (0, 2)


def test_data_of_strangers_give_statistics_too(tmp_path):
    """A plain DataLoader has no loader for statistics; its training batches are taken."""
    data = SpotsData()
    data.setup("fit")
    batches = list(data.statistics_dataloader())
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    method = CoarseToFine()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(method, loader)
    keypoints = torch.cat([batch["keypoints"] for batch in batches])
    torch.testing.assert_close(method.mean, keypoints.mean(dim=0))
    assert method.phase == 2
