"""A small training with three optimizers, for the tests of what steps them."""

from __future__ import annotations

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


def build(**words) -> AdversarialPoseNet:
    """Build a small method whose critics weigh a lot."""
    settings = {
        "stacks": 1, "channels": 8, "critics": Critics(0.5, 0.5, channels=8, near=2.0, close=0.99, all_stacks=True),
        "flip_test": False, "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        "lr_scheduler": WarmupCosine,
        "critic_optimizer": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
        "critic_lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    }  # fmt: skip
    return AdversarialPoseNet("lsp14", **{**settings, **words})


def plain(**words) -> AdversarialPoseNet:
    """Build one with plain gradient steps, whose weights tell how large the gradients were.

    It has group norm in place of batch norm, so that a sample does not depend on the others of its batch.
    """

    def steps(parameters):
        return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)

    method = build(
        loss=HeatmapMSE("cells"), occlusion_loss=HeatmapMSE("cells"), optimizer=steps, critic_optimizer=steps,
        lr_scheduler=None, critic_lr_scheduler=None, stacks=2, **words,
    )  # fmt: skip
    for module in list(method.network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.GroupNorm(1, child.num_features, affine=child.affine))
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
    # Batches that are kept for later have no loss yet.
    records = [] if "accumulate_grad_batches" in words else [Record(folder / "samples.txt", stop_after)]
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=ResumedCSVLogger(str(folder)), plugins=[AtomicCheckpointIO()],
        callbacks=[checkpoints, *records],
        limit_val_batches=0, strategy="ddp" if devices > 1 else "auto", **{"max_steps": STEPS, **words},
    )  # fmt: skip
    trainer.fit(method, HiddenSpotsData(batch_size), ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer


def train_on_ranks(rank: int, folder: Path) -> None:
    """Train on two processes with half of each batch, so that one process can be compared."""
    L.seed_everything(3, verbose=False)
    method = plain()
    train(folder, method, 2, devices=2, max_steps=5)
    write_checkpoint(method.state_dict(), folder / f"rank_{rank}.pt")
