"""DeepPose's training: one stage after the other, on any number of processes, with a stop or without."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import run_on_ranks
from resume_run import Record, SpotsData
from torch import nn

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.checkpoints import read_checkpoint, write_checkpoint
from lightning_pose_zoo.methods import DeepPose
from lightning_pose_zoo.networks.deeppose import CoordinateRegressor
from lightning_pose_zoo.schedules import WarmupCosine

TINY = {"backbone": "test_resnet", "input_size": (32, 32)}
LENGTHS = [3, 4, 3]


class Snapshots(L.Callback):
    """Keeps the state at the end of each phase."""

    def __init__(self) -> None:
        self.states = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step in (3, 7):
            self.states[trainer.global_step] = {key: value.clone() for key, value in pl_module.state_dict().items()}


def train(folder: Path, resume=False, stop_after=None, devices=1, rank=0, head="shared_select", stages=3, more=()):
    """Train a cascade on spots, to the end or to where the test wants it to stop."""
    L.seed_everything(3 + rank, verbose=False)
    torch.manual_seed(1)
    folder.mkdir(exist_ok=True)
    checkpoints = ModelCheckpoint(folder, "last", every_n_train_steps=2, enable_version_counter=False)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, max_steps=sum(LENGTHS[:stages]), logger=False,
        enable_progress_bar=False, enable_model_summary=False, strategy="ddp" if devices > 1 else "auto",
        callbacks=[TrainingPhases(LENGTHS[:stages]), checkpoints, Record(folder / "samples.txt", stop_after), *more],
    )  # fmt: skip
    method = DeepPose(
        "lsp14", **TINY, stages=stages, head=head, crops_per_person=2, lr_scheduler=WarmupCosine,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )  # fmt: skip
    for module in method.modules():
        if isinstance(module, CoordinateRegressor):
            module.head = nn.Sequential(nn.Dropout(0.2), module.head)
    trainer.fit(method, SpotsData(batch_size=4 // devices), ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    return method


def train_on_ranks(rank: int, folder: Path, head: str) -> None:
    """Train on two processes, each with random numbers of its own."""
    method = train(folder, devices=2, rank=rank, head=head, stages=2)
    write_checkpoint(method.state_dict(), folder / f"rank_{rank}.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, snapshots = tmp_path_factory.mktemp("whole"), Snapshots()
    train(folder, more=[snapshots])
    return {**read_checkpoint(folder / "end.ckpt"), **snapshots.states}


def test_each_phase_moves_its_stage_alone(whole):
    """Bit by bit, statistics of batch norm included."""
    first, second, third = whole[3], whole[7], whole["state_dict"]
    moved = {1: [], 2: []}  # by the number of the phase, the stages that it changed
    for key, value in third.items():
        stage, of_errors = int(key.split(".")[2]), "displacement" in key
        for phase, (before, after) in enumerate(((first, second), (second, third)), start=1):
            if not torch.equal(before[key], after[key]):
                moved[phase].append(stage)
                assert value.is_floating_point() or "num_batches" in key
        if of_errors:
            # They are fitted once, when their phase begins.
            assert torch.equal(whole[7][key], value) == (stage == 1), key
    assert {phase: set(stages) for phase, stages in moved.items()} == {1: {1}, 2: {2}}
    assert all((third[f"network.stages.{stage}.displacement_std"] > 0).all() for stage in (1, 2))


@pytest.mark.parametrize("stop", [3, 5, 7])  # from step 2, before a phase; 4, in the second; 6, in it too
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path, whole, stop):
    with pytest.raises(InterruptedError):
        train(tmp_path, stop_after=stop)
    train(tmp_path, resume=True)
    resumed = read_checkpoint(tmp_path / "end.ckpt")
    assert resumed["phase"] == 2
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)


@pytest.mark.parametrize("head", ["shared_select", "per_joint"])
def test_two_processes_train_every_phase_alike(tmp_path, head):
    run_on_ranks(train_on_ranks, 2, tmp_path / "two", head)
    ranks = [read_checkpoint(tmp_path / "two" / f"rank_{rank}.pt") for rank in (0, 1)]
    parameters = [key for key in ranks[0] if "running_" not in key and "num_batches" not in key]
    for key in parameters:
        assert torch.equal(ranks[0][key], ranks[1][key]), key
    assert (ranks[0]["network.stages.1.displacement_std"] > 0).all()


def fit_on_ranks(rank: int, folder: Path, devices: int) -> None:
    """Fit the statistics of the second stage, of a network that is the same everywhere."""
    torch.manual_seed(0)
    method = DeepPose("lsp14", **TINY, stages=2)
    nn.init.normal_(method.network.stages[0].head.weight, std=0.5)

    class Fits(L.Callback):
        def on_train_start(self, trainer, pl_module):
            write_checkpoint(pl_module.state_dict(), folder / f"{devices}_{rank}.pt")
            raise InterruptedError

    phases = TrainingPhases([1, 5])
    phases.load_state_dict({"phase": 1, "fitted": 0})
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, max_steps=6, logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, callbacks=[phases, Fits()],
        strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    with suppress(InterruptedError):
        trainer.fit(method, SpotsData(batch_size=4))


def test_statistics_of_two_processes_are_those_of_one(tmp_path):
    fit_on_ranks(0, tmp_path, 1)
    run_on_ranks(fit_on_ranks, 2, tmp_path, 2)
    one, *two = (read_checkpoint(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    for key in ("network.stages.1.displacement_mean", "network.stages.1.displacement_std"):
        assert (one[key] != 0).all()
        assert torch.equal(two[0][key], two[1][key])
        torch.testing.assert_close(two[0][key], one[key], rtol=1e-5, atol=1e-6)
