"""The seconds of each stage, counted by a clock that the test moves."""

from __future__ import annotations

import logging

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pose_zoo.callbacks import ReportStageTimes
from lightning_pose_zoo.stage_times import STAGES, StageTimes, timed
from lightning_pose_zoo.structures import Poses


class Clock:
    """Stands still until it is told how long something took."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(StageTimes, "clock", staticmethod(clock))
    return clock


class Part(nn.Module):
    """Takes two seconds."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock = clock

    def forward(self, images):
        self.clock.now += 2
        return images * self.weight


class Whole(nn.Module):
    """Calls its part, and takes a second besides."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.part = Part(clock)
        self.clock = clock

    def forward(self, images):
        self.clock.now += 1
        return self.part(images)


class Slow(L.LightningModule):
    def __init__(self, clock: Clock, parts_alone: bool) -> None:
        super().__init__()
        self.network = Whole(clock)
        self.clock = clock
        self.parts_alone = parts_alone

    def predict_step(self, batch, batch_idx):
        (self.network.part if self.parts_alone else self.network)(batch["image"])
        self.clock.now += 0.5
        count = len(batch["image"])
        return Poses(torch.zeros(count, 2, 2), torch.ones(count, 2), torch.ones(count), torch.zeros(count, 4),
                     batch["image_id"])  # fmt: skip


class Data(L.LightningDataModule):
    """Two batches of two people in three pictures; finding them took seven seconds."""

    def setup(self, stage):
        self.stage_times = StageTimes()
        self.stage_times.add("detect", 7.0)

    def predict_dataloader(self):
        people = [{"image": torch.zeros(3, 4, 4), "image_id": torch.tensor(n)} for n in (5, 5, 6, 7)]
        return DataLoader(people, batch_size=2)


@pytest.mark.parametrize(("parts_alone", "network"), [(False, 6.0), (True, 4.0)])
def test_network_and_decoding_are_told_apart(tmp_path, clock, caplog, monkeypatch, parts_alone, network):
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    data, module = Data(), Slow(clock, parts_alone)
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ReportStageTimes()],
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        trainer.predict(module, data, return_predictions=False)
    expected = dict.fromkeys(STAGES, 0.0) | {"detect": 7.0, "network": network, "decode": 1.0}
    assert data.stage_times.seconds() == expected
    assert f"4 persons in 3 pictures took {network + 1:.2f} s" in caplog.text
    for part in (module.network, module.network.part):
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_times_of_blocks_add_up_also_where_they_fail(clock):
    times = StageTimes()
    for seconds in (1.0, 2.5):
        with timed(times, "read"):
            clock.now += seconds

    def fail():
        clock.now += 4
        raise KeyError

    with pytest.raises(KeyError), times.stage("crop"):
        fail()
    assert times.seconds() == dict.fromkeys(STAGES, 0.0) | {"read": 3.5, "crop": 4.0}
    clock.now += 2.5
    report = times.report(20, 3)
    assert report.splitlines()[0] == "20 persons in 3 pictures took 10.00 s, 2.0 persons/s; by stage"
    assert "rest         2.50 s" in report
    with timed(None, "read"):
        clock.now += 1


def test_workers_report_their_seconds(clock):
    times = StageTimes(workers=2)
    process = torch.multiprocessing.get_context("fork").Process(target=times.add, args=("read", 3.0))
    process.start()
    process.join(60)
    times.add("read", 1.0)
    assert times.seconds()["read"] == 4.0
    assert "ran in 2 processes" in times.report(1, 1)
