"""What methods share that train with several optimizers, each for a part of its own.

Lightning lets such methods optimise by hand, and then refuses to accumulate or clip gradients, steps no schedule and
counts every optimizer's step. Here all of that is as in other methods: ``trainer.accumulate_grad_batches``,
``trainer.gradient_clip_val`` and ``trainer.max_steps`` mean what they always mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["SeveralOptimizers", "average_gradients"]

_Sample = TypeVar("_Sample")
_BUCKET = 2**24  # elements that processes exchange at once


class SeveralOptimizers(L.LightningModule):
    """Mixin of methods that train with several optimizers; it stands before ``PoseModule`` among a method's bases.

    A method writes ``optimize``, which calls ``take_step`` for one optimizer after the other, the counted one once.

    - A step of training, ``trainer.global_step``, is one call of ``optimize``, however many optimizers step in it.
    - With ``trainer.accumulate_grad_batches`` batches are kept until all of them are there, and each optimizer's
      gradient is taken over all of them. So a step is that of a batch as large as all together, also where the second
      optimizer's gradient depends on the first one's step.
    - ``trainer.gradient_clip_val`` bounds the gradient of each optimizer by itself.
    - Under DDP gradients are averaged over the processes before each optimizer's step, since a backward pass of one
      part has no gradients for the others.
    """

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        self.automatic_optimization = False
        self._kept: list[PoseBatch] = []
        self._intervals: list[dict[str, Any]] = []
        self._set_aside: tuple[int, float | None] | None = None

    @abstractmethod
    def optimize(self, batches: Sequence[PoseBatch]) -> Tensor:
        """Take one step of training on some batches together, and return the loss to show."""

    def configure_callbacks(self) -> list[Callback]:
        """Take the trainer's settings of gradients aside, which Lightning is about to refuse."""
        trainer = self.trainer
        if self._set_aside is None:
            self._set_aside = (trainer.accumulate_grad_batches, trainer.gradient_clip_val)  # type: ignore[assignment]
        trainer.accumulate_grad_batches, trainer.gradient_clip_val = 1, None
        return cast("list[Callback]", super().configure_callbacks())

    def setup(self, stage: str) -> None:
        """Put the trainer's settings back.

        Raises:
            SettingsError: Where the strategy averages gradients in a way of its own.
        """
        trainer = self.trainer
        if self._set_aside is not None:
            trainer.accumulate_grad_batches, trainer.gradient_clip_val = self._set_aside
            self._set_aside = None
        if stage == "fit" and trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise SettingsError(
                f"{type(self).__name__} has several optimizers and trains on several processes with --trainer.strategy "
                f"ddp alone, not {type(trainer.strategy).__name__}."
            )
        super().setup(stage)

    def on_train_start(self) -> None:
        """Begin without batches of an earlier training."""
        self._kept = []
        super().on_train_start()

    def training_step(self, batch: PoseBatch, batch_idx: int) -> Tensor | None:
        """Keep a batch, and take a step where enough are there."""
        self._kept.append(batch)
        last = self.trainer.is_last_batch or batch_idx + 1 == self.trainer.num_training_batches
        if not last and (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return None
        batches, self._kept = self._kept, []
        loss = self.optimize(batches)
        self._step_schedules("step")
        if last:
            self._step_schedules("epoch")
        return loss

    def take_step(
        self,
        optimizer: LightningOptimizer,
        samples: Sequence[_Sample],
        loss_of: Callable[[_Sample], Tensor],
        counted: bool = False,
    ) -> None:
        """Step one optimizer on the mean loss of some samples; nothing but its parameters gets gradients.

        Args:
            optimizer: One of ``self.optimizers()``.
            samples: What ``loss_of`` takes; a batch each.
            loss_of: Returns a loss with its graph.
            counted: Whether this is the step that ``trainer.global_step`` counts.
        """
        strategy = self.trainer.strategy
        self.toggle_optimizer(optimizer)
        for sample in samples:
            if isinstance(strategy, DDPStrategy):
                with strategy.block_backward_sync():
                    self.manual_backward(loss_of(sample) / len(samples))
                # The next step begins with the buffers of the first process again.
                strategy.model.require_forward_param_sync = True  # type: ignore[union-attr, assignment]
            else:
                self.manual_backward(loss_of(sample) / len(samples))
        average_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]])
        if counted:
            optimizer.step()
        else:
            strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient of each optimizer where the trainer says so, after mixed precision has unscaled it."""
        if self.trainer.gradient_clip_val:
            self.clip_gradients(optimizer)

    def on_train_epoch_end(self) -> None:
        """Step the schedules that follow a score.

        Raises:
            SettingsError: Where there is no such score.
        """
        super().on_train_epoch_end()
        for config in self._intervals:
            if isinstance(config["scheduler"], ReduceLROnPlateau):
                value = self.trainer.callback_metrics.get(config["monitor"])
                if value is None:
                    known = ", ".join(sorted(self.trainer.callback_metrics))
                    raise SettingsError(f"a schedule follows {config['monitor']}, which is not logged; {known} are.")
                config["scheduler"].step(value)

    def _step_schedules(self, interval: str) -> None:
        for config in self._intervals:
            if config["interval"] == interval and not isinstance(config["scheduler"], ReduceLROnPlateau):
                config["scheduler"].step()

    def scheduled(self, pairs: Sequence[tuple[Optimizer, dict[str, Any] | None]]) -> tuple[list[Optimizer], list[Any]]:
        """Return optimizers and schedules as Lightning takes them, and remember when each schedule is stepped.

        Args:
            pairs: Each optimizer, with what ``schedules.scheduler_config`` says and a ``name`` for logs, or None.
        """
        self._intervals = [config for _, config in pairs if config is not None]
        schedules = [{"scheduler": config["scheduler"], "name": config["name"]} for config in self._intervals]
        return [optimizer for optimizer, _ in pairs], schedules


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average gradients over all processes, some at once; those of parameters that have none stay None."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (
            sum(one.numel() for one in bucket) + gradient.numel() > _BUCKET or bucket[0].dtype != gradient.dtype
        ):
            _exchange(bucket)
            bucket = []
        bucket.append(gradient)
    if bucket:
        _exchange(bucket)


@torch.no_grad()
def _exchange(gradients: Sequence[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, values in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(values.view_as(gradient))
