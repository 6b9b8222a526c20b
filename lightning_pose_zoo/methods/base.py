"""``PoseModule``: what all methods share, and nothing that only some of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_pose_zoo.callbacks.exact_resume import ExactResume
from lightning_pose_zoo.callbacks.stop_on_non_finite_loss import StopOnNonFiniteLoss
from lightning_pose_zoo.callbacks.training_phases import finite_steps
from lightning_pose_zoo.checkpoints import verify_checkpoint
from lightning_pose_zoo.methods import remembering, scoring
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.schedules import scheduler_config
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["PoseModule"]


class PoseModule(L.LightningModule, ABC):
    """Base of all methods.

    A method builds ``self.network`` in its constructor and writes ``losses`` and ``estimate``; ``forward`` is what
    ``estimate`` calls and what is exported.

    Args:
        skeleton: What the keypoints are: a name, a YAML file, a definition or a ``Skeleton``.
        optimizer: Called with the parameters.
        lr_scheduler: Called with the optimizer; stepped once an epoch, ``OneCycleLR``, ``CyclicLR`` and
            ``WarmupCosine`` once a batch.
        normalization: What the network's weights expect of pixels; ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: nn.Module
    samples = "persons"  # what batches hold: one person's crops, or whole "pictures"

    def __init__(
        self,
        skeleton: SkeletonLike,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        normalization: Normalization | None,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.skeleton = get_skeleton(skeleton)
        remembering.remember_arguments(self)
        self.normalization = normalization or Normalization()
        self.channels_last = channels_last
        self.evaluation = nn.ModuleList()
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler

    def _start_from(self, weights: str | None) -> None:
        """Fill the network from a file of weights, where one is given; the last line of a method's constructor.

        What was kept, is new and was dropped goes where Lightning's messages go.

        Raises:
            CheckpointError: Where the file is missing, unsafe, damaged, of no known source or does not fit.
        """
        if weights is not None:
            from lightning_pose_zoo.weights import load_weights

            load_weights(self, weights)

    @abstractmethod
    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the parts of the training loss by name; their sum is minimised."""

    @abstractmethod
    def estimate(self, batch: PoseBatch) -> Poses:
        """Find the persons of a batch, in pixels of the original pictures."""

    def normalized(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) pictures as the network wants them."""
        images = self.normalization(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def configure_model(self) -> None:
        """Put the network into the memory format that was asked for."""
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def setup(self, stage: str) -> None:
        """Refuse data that are cut otherwise; take their metrics, or PCK by the box where a stranger's have none."""
        scoring.refuse_other_samples(self)
        if stage != "predict":
            self.evaluation = nn.ModuleList(scoring.data_set_metrics(self))

    def configure_callbacks(self) -> list[Callback]:
        """Bring along what every training needs: exact resuming, and an end where the loss is NaN."""
        there = [type(callback) for callback in self.trainer.callbacks]  # type: ignore[attr-defined]
        return [callback() for callback in (ExactResume, StopOnNonFiniteLoss) if callback not in there]

    def training_step(self, batch: PoseBatch, batch_idx: int) -> Tensor | None:
        """Return the sum of the losses of a batch."""
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        size = batch["image"].shape[0]
        if len(losses) > 1:
            self.log_dict({f"train/loss_{name}": part.detach() for name, part in losses.items()}, batch_size=size)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        return total

    def validation_step(self, batch: PoseBatch, batch_idx: int) -> dict[str, Poses]:
        """Score a batch; the poses go on to the callbacks."""
        if not len(batch["image"]):  # a process without a sample, see data.sampling.PoseLoader
            return {"poses": Poses.empty(self.skeleton.num_keypoints)}
        poses = self.estimate(batch)
        for metric in self.evaluation:
            metric.update_batch(poses, batch)  # type: ignore[operator]
        return {"poses": poses}

    def test_step(self, batch: PoseBatch, batch_idx: int) -> dict[str, Poses]:
        """Score a batch, as in validation."""
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: PoseBatch, batch_idx: int) -> Poses:
        """Return the persons of a batch."""
        found = len(batch["image"]) > 0
        return self.estimate(batch).cpu() if found else Poses.empty(self.skeleton.num_keypoints)

    def on_validation_epoch_end(self) -> None:
        """Log what the data set's metrics say."""
        scoring.log_scores(self, "val")

    def on_test_epoch_end(self) -> None:
        """Log what the data set's metrics say."""
        scoring.log_scores(self, "test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer over all trainable parameters, and its schedule.

        Raises:
            SettingsError: Where a one-cycle schedule ends before the training does.
        """
        optimizer = self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        if self._lr_scheduler is None:
            return optimizer
        config = scheduler_config(
            self._lr_scheduler(optimizer), self.trainer.estimated_stepping_batches, self._phase_ends
        )
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def _phase_ends(self, steps: float) -> list[int]:
        """Return the steps that the phases of a training of so many steps end with; see ``PhasedMethod``."""
        return [finite_steps(steps)]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Build a method from a checkpoint, as Lightning does, after its checksum was verified.

        Args:
            checkpoint_path: The file.
            args: As for Lightning's.
            kwargs: As for Lightning's, ``weights_only`` always True; and arguments of the constructor, such as a codec.

        Raises:
            CheckpointError: Where the file is damaged, or does not fit.
        """
        verify_checkpoint(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs | {"weights_only": True})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the network's output means, and what its weights expect of pixels."""
        checkpoint |= remembering.what_output_means(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the weights expect of pixels, and refuse weights whose output would be misread.

        Raises:
            CheckpointError: Where the keypoints, or a part such as the codec, are not those that the weights were
                trained with.
        """
        remembering.refuse_other_skeleton(self, checkpoint)
        remembering.restore_normalization(self, checkpoint.get("normalization", {}))
        remembering.refuse_other_parts(self, checkpoint.get("parts", {}))
