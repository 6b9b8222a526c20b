"""A training that can be stopped anywhere, for the tests of resuming.

It writes ``last.ckpt``, appends the samples of each step to ``samples.txt`` and ends with ``end.ckpt`` and
``end.json``.
"""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_pose_zoo.checkpoints import AtomicCheckpointIO
from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.data.crops import CropDataset, Person
from lightning_pose_zoo.loggers import ResumedCSVLogger
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import SimpleBaseline
from lightning_pose_zoo.metrics import EPE
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

SIZE = 22
EPOCHS = 4
STEPS = EPOCHS * (SIZE // 4)


class Spots(CropDataset):
    """Pictures of noise with keypoints anywhere; what is in them does not matter here."""

    size = SIZE

    def __len__(self) -> int:
        return self.size

    def load(self, key) -> Person:
        rng = np.random.default_rng(key.index)
        return Person(
            image=rng.integers(0, 255, (48, 48, 3), dtype=np.uint8),
            keypoints=rng.uniform(0, 48, (14, 2)).astype(np.float32),
            visibility=np.full(14, 2, dtype=np.uint8),
            box=np.array([0, 0, 48, 48], dtype=np.float32),
            area=2000.0,
            head_size=10.0,
            image_id=key.index,
            person_id=key.index,
        )


class SpotsData(PoseDataModule):
    """Shuffled, varied crops."""

    def __init__(self, workers: int = 0, batch_size: int = 4, size: int = SIZE) -> None:
        super().__init__((32, 32), batch_size, workers, 1.0, "center", CropAugmentation(), None, None, 0)
        self.size = size

    @property
    def skeleton(self) -> Skeleton:
        return get_skeleton("lsp14")

    def dataset(self, split) -> CropDataset:
        augmentation = self.augmentation if split == "train" else None
        spots = Spots(self.skeleton, self.settings, augmentation, self.seed)
        spots.size = SIZE if split == "train" else self.size
        return spots

    def metrics(self):
        return [EPE(self.skeleton)]


class Dropping(SimpleBaseline):
    """A network whose training draws random numbers in every step."""

    def __init__(self) -> None:
        super().__init__(
            "lsp14", backbone="resnet18", deconv_channels=(8, 8, 8), pretrained=False, flip_test=False,
            loss=HeatmapCrossEntropy(), optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS),
        )  # fmt: skip
        self.network = nn.Sequential(nn.Dropout(0.2), self.network)


class Record(L.Callback):
    """Writes down which samples a step was trained on, once it is done."""

    def __init__(self, path: Path, stop_after: int | None = None) -> None:
        self.path, self.stop_after = path, stop_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        line = json.dumps([trainer.global_step, batch["image_id"].tolist(), float(outputs["loss"])])
        with self.path.with_suffix(f".{trainer.global_rank}.txt" if trainer.global_rank else ".txt").open("a") as file:
            file.write(line + "\n")
        if trainer.global_step == self.stop_after:
            raise InterruptedError("stopped by the test")


def train(
    folder: Path,
    workers: int,
    resume: bool,
    mode: str,
    every: int,
    stop_after: int | None = None,
    devices: int = 1,
    rank: int = 0,
) -> None:
    """Train to the end, or to where the test wants it to stop."""
    L.seed_everything(3 + rank, verbose=False)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    last = folder / "last.ckpt"
    on_steps = {"every_n_train_steps": every} if every else {}
    checkpoints = ModelCheckpoint(folder, filename="last", enable_version_counter=False, **on_steps)
    checkpoints.CHECKPOINT_EQUALS_CHAR = "-"
    length = {"max_epochs": EPOCHS} if mode == "epochs" else {"max_steps": STEPS}
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, deterministic=True, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, plugins=[AtomicCheckpointIO()],
        logger=ResumedCSVLogger(str(folder)), callbacks=[checkpoints, Record(folder / "samples.txt", stop_after)],
        num_sanity_val_steps=2, strategy="ddp" if devices > 1 else "auto", **length,
    )  # fmt: skip
    model = Dropping()
    trainer.fit(model, SpotsData(workers), ckpt_path=last if resume and last.exists() else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if rank == 0:
        (folder / "end.json").write_text(json.dumps(metrics))


def train_on_ranks(rank: int, folder: Path, resume: bool, stop_after: int | None) -> None:
    """Train on two processes; each draws other random numbers."""
    with suppress(InterruptedError):
        train(folder, 0, resume, "epochs", 3, stop_after, devices=2, rank=rank)
