"""Pictures of what a method finds during validation and testing, beside the truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_pose_zoo.data.results import picture_rows
from lightning_pose_zoo.errors import PoseZooError, SkeletonError
from lightning_pose_zoo.geometry import apply_affine, invert_affine
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses, person_images
from lightning_pose_zoo.visualization import (
    Picture,
    contact_sheet,
    draw_comparison,
    enlarge,
    legend,
    save_picture,
    to_picture,
)

__all__ = ["DrawPredictions", "skeleton_of"]


def skeleton_of(pl_module: L.LightningModule, callback: str) -> Skeleton:
    """Return the skeleton of a module.

    Raises:
        SkeletonError: Where the module has none.
    """
    skeleton = getattr(pl_module, "skeleton", None)
    if skeleton is None:
        raise SkeletonError(
            f"{callback} needs to know the keypoints, but {type(pl_module).__name__} has no attribute 'skeleton'; "
            "set it to a Skeleton or to the name of one, as in self.skeleton = 'coco17'."
        )
    return get_skeleton(skeleton)


class DrawPredictions(L.Callback):
    """Draws the first pictures of every validation and test run: truth in green, predictions in the skeleton's colours.

    The sheets are ``val_epoch_007.png`` while fitting, ``val.png`` and ``test.png`` otherwise; they also go to the
    loggers that take pictures (TensorBoard, Weights & Biases). ``validation_step`` and ``test_step`` must return a
    mapping with the predicted ``poses``.

    Args:
        every_n_epochs: Draw at every n-th epoch of a fit.
        pictures: How many pictures a sheet holds.
        folder: Where the sheets are written; ``pictures`` in the trainer's ``default_root_dir`` where not given.
        min_score: Keypoints that score this or less are not drawn.
    """

    def __init__(
        self, every_n_epochs: int = 1, pictures: int = 16, folder: str | None = None, min_score: float = 0.0
    ) -> None:
        if every_n_epochs < 1 or pictures < 1:
            raise ValueError(f"every_n_epochs and pictures count from 1; given are {every_n_epochs} and {pictures}.")
        self.every_n_epochs = every_n_epochs
        self.pictures = pictures
        self.folder = folder
        self.min_score = min_score
        self._tiles: list[Picture] = []
        self._skeleton: Skeleton | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse modules without a skeleton before anything runs."""
        self._skeleton = skeleton_of(pl_module, type(self).__name__)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget what an interrupted run has left."""
        self._tiles = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget what an interrupted run has left."""
        self._tiles = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw this batch's pictures until there are enough."""
        due = trainer.state.fn != TrainerFn.FITTING or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and not trainer.sanity_checking:
            self._collect(trainer, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw this batch's pictures until there are enough."""
        self._collect(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the sheet."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        self._write(trainer, "val", f"val_epoch_{trainer.current_epoch:03d}" if fitting else "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the sheet."""
        self._write(trainer, "test", "test")

    def _collect(self, trainer: L.Trainer, outputs: Any, batch: PoseBatch) -> None:
        missing = self.pictures - len(self._tiles)
        if not trainer.is_global_zero or missing <= 0:
            return
        if not isinstance(outputs, dict) or not isinstance(outputs.get("poses"), Poses):
            raise PoseZooError(
                "DrawPredictions needs validation_step and test_step to return {'poses': Poses}; "
                f"this one returned {type(outputs).__name__}."
            )
        assert self._skeleton is not None
        self._tiles += _draw_batch(batch, outputs["poses"], self._skeleton, missing, self.min_score)

    def _write(self, trainer: L.Trainer, split: str, name: str) -> None:
        if not self._tiles:
            return
        assert self._skeleton is not None
        sheet = contact_sheet(self._tiles, columns=math.ceil(math.sqrt(len(self._tiles))))
        sheet = np.concatenate([sheet, legend(self._skeleton, sheet.shape[1])])
        folder = Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "pictures"
        save_picture(folder / f"{name}.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{split}/predictions", sheet, trainer.global_step, dataformats="HWC")
            elif hasattr(logger, "log_image"):
                logger.log_image(key=f"{split}/predictions", images=[sheet])


def _draw_batch(batch: PoseBatch, poses: Poses, skeleton: Skeleton, most: int, min_score: float) -> list[Picture]:
    """Draw the first pictures of a batch, each with the truth and the predictions in it."""
    owners, found = person_images(batch).cpu().numpy(), picture_rows(batch, poses).cpu().numpy()
    poses = poses.cpu()
    predicted = poses.keypoints.float()
    if "to_original" in batch:
        to_crop = invert_affine(batch["to_original"].detach().cpu().double())
        predicted = apply_affine(predicted.double(), to_crop[torch.from_numpy(found)]).float()
    truth, visibility = batch["keypoints"].detach().cpu().float().numpy(), batch["visibility"].cpu().numpy()
    tiles = []
    for row in range(min(most, len(batch["image"]))):
        image = to_picture(batch["image"][row])
        bigger, points = enlarge(image, truth[owners == row])
        _, guesses = enlarge(image, predicted.numpy()[found == row])
        scores = poses.keypoint_scores.float().numpy()[found == row]
        tiles.append(draw_comparison(bigger, skeleton, points, visibility[owners == row], guesses, scores, min_score))
    return tiles
