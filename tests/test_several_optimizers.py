"""Several optimizers by hand behave as one: accumulation, clipping, schedules, steps, processes and resuming."""

from __future__ import annotations

import copy
import csv

import lightning as L
import pytest
import torch
from adversarial_run import STEPS, HiddenSpotsData, build, plain, train, train_on_ranks
from processes import run_on_ranks
from test_resume import assert_equal, assert_same_end

from lightning_pose_zoo.callbacks import ExactResume
from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.errors import SettingsError


@pytest.fixture(autouse=True)
def _seeded():
    L.seed_everything(3, verbose=False)


def differences(one, other):
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one if one[key].numel())


def trained(folder, start, batch_size, **words):
    method = copy.deepcopy(start)
    trainer = train(folder, method, batch_size, **words)
    return trainer, method.state_dict()


@pytest.mark.parametrize("twice", [True, False])
def test_two_accumulated_batches_are_one_twice_as_large(tmp_path, twice):
    start = plain(supervised_step=twice)
    trainer, large = trained(tmp_path / "large", start, 4, max_steps=5)
    again, small = trained(tmp_path / "small", start, 2, max_steps=5, accumulate_grad_batches=2)
    assert trainer.global_step == again.global_step == 5
    assert again.accumulate_grad_batches == 2
    assert differences(large, small) < 1e-5
    before = start.state_dict()
    assert differences(before, {key: large[key] for key in before}) > 1e-3


def test_the_last_batches_of_an_epoch_make_a_step_of_their_own(tmp_path):
    """11 batches of two, two at a time: as Lightning has it."""
    trainer, _ = trained(tmp_path, plain(), 2, max_epochs=1, max_steps=-1, accumulate_grad_batches=2)
    assert (trainer.num_training_batches, trainer.global_step) == (11, 6)


def test_two_processes_are_one_with_batches_twice_as_large(tmp_path):
    run_on_ranks(train_on_ranks, 2, tmp_path / "two")
    ranks = [read_checkpoint(tmp_path / "two" / f"rank_{rank}.pt") for rank in (0, 1)]
    assert_equal(ranks[0], ranks[1])
    L.seed_everything(3, verbose=False)
    method = plain()
    train(tmp_path / "one", method, 4, max_steps=5)
    assert method.state_dict().keys() == ranks[0].keys()
    assert any(key.startswith("critics.networks.confidence.") for key in ranks[0])
    assert differences(method.state_dict(), ranks[0]) < 1e-5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    L.seed_everything(3, verbose=False)
    train(folder, build(), every=3)
    (folder / "end.json").write_text("0")
    return folder


@pytest.mark.parametrize(("every", "stop"), [(3, 8), (5, 7)])
def test_resumed_training_is_bit_equal(tmp_path, whole, every, stop):
    """From the middle of the second epoch, and from the end of the first."""
    with pytest.raises(InterruptedError):
        train(tmp_path, build(), stop_after=stop, every=every)
    L.seed_everything(4, verbose=False)
    train(tmp_path, build(), resume=True, every=every)
    (tmp_path / "end.json").write_text("0")
    assert_same_end(whole, tmp_path)
    content = read_checkpoint(tmp_path / "end.ckpt")
    assert len(content["optimizer_states"]) == len(content["lr_schedulers"]) == 3
    assert content["global_step"] == content["logged_steps"] == STEPS
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == (whole / "metrics.csv").read_text().splitlines()
    assert len(rows) == STEPS + 1


def test_each_optimizer_has_its_schedule(tmp_path):
    rates = []

    class Rates(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    method = build()
    L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Rates()],
    ).fit(method, HiddenSpotsData())  # fmt: skip
    generator, pose, confidence = zip(*rates, strict=True)
    assert max(generator) == pytest.approx(1e-3, rel=0.01)  # once a step: up and down again
    assert generator.index(max(generator)) in (0, 1)
    assert generator[-1] < 0.1 * max(generator)
    assert list(generator[1:]) == sorted(generator[1:], reverse=True)
    # Once an epoch of five batches.
    assert list(pose) == list(confidence) == [1e-3] * 4 + [5e-4] * 5 + [2.5e-4]


def test_a_schedule_may_follow_a_score(tmp_path):
    def never_better(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1, threshold=0.9999)

    method = build(critic_lr_scheduler=never_better)
    trainer = train(tmp_path, method, max_epochs=2, max_steps=-1)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers[1:]] == pytest.approx([1e-4, 1e-4])


def test_gradients_are_clipped_as_the_trainer_says(tmp_path):
    class Norms(L.Callback):
        def __init__(self):
            self.values = []

        def on_train_start(self, trainer, method):
            for optimizer in trainer.optimizers:
                optimizer.register_step_post_hook(self.note)

        def note(self, optimizer, *_):
            gradients = [value.grad for group in optimizer.param_groups for value in group["params"]]
            self.values.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    def norms(**words):
        watch = Norms()
        L.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=[watch], **words,
        ).fit(build(), HiddenSpotsData())  # fmt: skip
        return watch.values

    free, clipped = norms(), norms(gradient_clip_val=0.05)
    assert len(free) == len(clipped) == 8  # the generator twice and each critic, in each of two steps
    assert min(free) > 0.05
    assert clipped == pytest.approx([0.05] * 8, rel=1e-3)


def test_a_strategy_with_gradients_of_its_own_is_refused(tmp_path, monkeypatch):
    method = build()
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, max_steps=1)
    method.trainer = trainer
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(SettingsError, match=r"--trainer.strategy ddp alone, not SingleDeviceStrategy"):
        method.setup("fit")


def test_steps_are_logged_right_for_a_stranger_who_steps_by_hand(tmp_path):
    """Two optimizers' steps count in ``global_step``, and one row of the log is written for each batch."""

    class Two(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.one, self.two = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.one, self.two)]

        def training_step(self, batch, batch_idx):
            for part, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(part(batch).mean())
                optimizer.step()
            self.log("train/step", float(self.trainer.global_step))

    def fit(steps, path=None):
        logger = L.pytorch.loggers.CSVLogger(str(tmp_path), name="", version=str(steps))
        trainer = L.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_steps=steps, logger=logger, callbacks=[ExactResume()],
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(Two(), torch.utils.data.DataLoader(torch.rand(20, 1), batch_size=1), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        logger.save()
        with (tmp_path / str(steps) / "metrics.csv").open() as file:
            return [(int(row["step"]), float(row["train/step"])) for row in csv.DictReader(file)]

    assert fit(8) == [(0, 2), (1, 4), (2, 6), (3, 8)]
    assert fit(14, tmp_path / "8.ckpt") == [(4, 10), (5, 12), (6, 14)]
