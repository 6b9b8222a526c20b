"""A small method that trains in three phases, for the tests of what switches them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_run import Record, SpotsData
from torch import nn

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.checkpoints import write_checkpoint
from lightning_pose_zoo.loggers import ResumedCSVLogger
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod, rows_of_all_processes
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.schedules import WarmupCosine

LENGTHS = [4, 5, 3]
STEPS = sum(LENGTHS)


class Parts(nn.Module):
    """Two parts with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 64, 28)
        )
        self.fine = nn.Sequential(nn.Linear(28, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 28))


class CoarseToFine(PhasedMethod):
    """Regresses coordinates, then corrects them, measured from the mean pose of the training set."""

    def __init__(self) -> None:
        super().__init__("lsp14", lambda parameters: torch.optim.AdamW(parameters, lr=1e-2), WarmupCosine, None, False)
        self.network = Parts()
        self.register_buffer("mean", torch.full((14, 2), torch.nan))
        self.register_buffer("spread", torch.full((14, 2), torch.nan))

    @property
    def phases(self):
        return (
            Phase("coarse", ("network.coarse",), {"coarse": 1.0}, needs="the mean pose"),
            Phase("fine", ("network.fine",), {"fine": 1.0}, needs="errors of the coarse pose"),
            Phase("joint", (), {"coarse": 0.5, "fine": 1.0}),
        )

    def fit_statistics(self, batches):
        rows = [torch.zeros(0, 14, 2)]
        ids = [torch.zeros(0, dtype=torch.int64)]
        for batch in batches:
            coarse = self._coarse(batch["image"]) if self.phase else 0
            rows.append(batch["keypoints"] - coarse)
            ids.append(batch["person_id"])
        [rows] = rows_of_all_processes(torch.cat(ids), torch.cat(rows))
        self.get_buffer("spread" if self.phase else "mean").copy_(rows.std(dim=0) if self.phase else rows.mean(dim=0))

    def _coarse(self, images):
        return self.mean + self.network.coarse(self.normalized(images)).unflatten(1, (14, 2))

    def forward(self, images):
        keypoints = self._coarse(images)
        if self.phase:
            keypoints = keypoints + self.network.fine((keypoints / 32).flatten(1)).unflatten(1, (14, 2))
        return keypoints, torch.ones(keypoints.shape[:2])

    def losses(self, batch):
        weights = self.current_phase.loss_weights
        coarse = self._coarse(batch["image"])
        fine = coarse.detach() + self.network.fine((coarse / 32).flatten(1)).unflatten(1, (14, 2))
        error = {"coarse": coarse, "fine": fine}
        return {name: weight * (error[name] - batch["keypoints"]).square().mean() for name, weight in weights.items()}

    def estimate(self, batch):
        return poses_from_crops(*self(batch["image"]), batch)


def train(
    folder: Path,
    resume: bool = False,
    stop_after: int | None = None,
    devices: int = 1,
    rank: int = 0,
    every: int = 3,
    **words,
):
    """Train to the end, or to where the test wants it to stop, with a checkpoint now and then."""
    L.seed_everything(3 + rank, verbose=False)
    torch.manual_seed(1)
    folder.mkdir(exist_ok=True)
    checkpoints = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    phases = TrainingPhases(**{"lengths": LENGTHS, **words})
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, max_steps=STEPS, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, logger=ResumedCSVLogger(str(folder)),
        callbacks=[phases, checkpoints, Record(folder / "samples.txt", stop_after)],
        strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    method = CoarseToFine()
    trainer.fit(method, SpotsData(batch_size=4 // devices), ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer, method


def train_on_ranks(rank: int, folder: Path, resume: bool, stop_after: int | None) -> None:
    """Train on two processes."""
    with suppress(InterruptedError):
        _, method = train(folder, resume, stop_after, devices=2, rank=rank)
        write_checkpoint(method.state_dict(), folder / f"rank_{rank}.pt")
