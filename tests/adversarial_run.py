"""A small training with three optimizers, for the tests of what steps them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_run import SIZE, Record, Spots, SpotsData

from lightning_pose_zoo.checkpoints import AtomicCheckpointIO, write_checkpoint
from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.loggers import ResumedCSVLogger
from lightning_pose_zoo.losses import HeatmapMSE
from lightning_pose_zoo.methods import AdversarialPoseNet, Critics
from lightning_pose_zoo.schedules import WarmupCosine

STEPS = 10  # two epochs of batches of four


class HiddenSpots(Spots):
    """Spots of which some are hidden and some not labelled."""

    def load(self, key):
        person = super().load(key)
        person.visibility = np.random.default_rng(key.index).choice([0, 1, 2, 2], 14).astype(np.uint8)
        return person


class HiddenSpotsData(SpotsData):
    """Crops large enough for an hourglass."""

    def __init__(self, batch_size: int = 4, workers: int = 0) -> None:
        PoseDataModule.__init__(self, (64, 64), batch_size, workers, 1.0, "center", CropAugmentation(), None, None, 0)
        self.size = SIZE

    def dataset(self, split):
        spots = HiddenSpots(self.skeleton, self.settings, self.augmentation if split == "train" else None, self.seed)
        spots.size = SIZE
        return spots


class Still(AdversarialPoseNet):
    """Its batch norms stay in evaluation mode, so that a batch's size decides nothing."""

    def on_train_batch_start(self, batch, batch_idx):
        for module in self.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def build(kind: type[AdversarialPoseNet] = AdversarialPoseNet, **words) -> AdversarialPoseNet:
    """Build a small method whose critics weigh a lot."""
    settings = {
        "stacks": 2, "channels": 8, "critics": Critics(0.5, 0.5, channels=8, near=2.0, close=0.99, all_stacks=True),
        "flip_test": False, "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        "lr_scheduler": WarmupCosine,
        "critic_optimizer": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
        "critic_lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    }  # fmt: skip
    return kind("lsp14", **{**settings, **words})


def plain(**words) -> Still:
    """Build one with plain gradient steps, whose weights tell how large the gradients were."""

    def steps(parameters):
        return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)

    method = build(
        Still, loss=HeatmapMSE("cells"), occlusion_loss=HeatmapMSE("cells"), optimizer=steps, critic_optimizer=steps,
        lr_scheduler=None, critic_lr_scheduler=None, **words,
    )  # fmt: skip
    # Batch norms that stand still need something to normalise by.
    for module in method.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        method.network.train()(torch.rand(8, 3, 64, 64))
    return method


def train(
    folder: Path,
    method: AdversarialPoseNet,
    batch_size: int = 4,
    resume: bool = False,
    stop_after: int | None = None,
    devices: int = 1,
    every: int = 3,
    **words,
) -> L.Trainer:
    """Train to the end, or to where the test wants it to stop, with a checkpoint now and then."""
    folder.mkdir(exist_ok=True)
    checkpoints = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=ResumedCSVLogger(str(folder)), plugins=[AtomicCheckpointIO()],
        callbacks=[checkpoints, Record(folder / "samples.txt", stop_after)],
        limit_val_batches=0, strategy="ddp" if devices > 1 else "auto", **{"max_steps": STEPS, **words},
    )  # fmt: skip
    trainer.fit(method, HiddenSpotsData(batch_size), ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer


def train_on_ranks(rank: int, folder: Path, resume: bool, stop_after: int | None, steady: bool) -> None:
    """Train on two processes; with ``steady`` so that one process can be compared."""
    L.seed_everything(3 + (0 if steady else rank), verbose=False)
    method = plain() if steady else build()
    with suppress(InterruptedError):
        train(folder, method, 2, resume, stop_after, devices=2)
        write_checkpoint(method.state_dict(), folder / f"rank_{rank}.pt")
