"""``StopOnNonFiniteLoss``: a NaN or infinite loss ends training at once, everywhere, and says of which samples."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_pose_zoo.errors import TrainingError

__all__ = ["StopOnNonFiniteLoss"]

_MOST_NAMED = 8
_MAY_BE_NAN = ("head_size", "box_score")  # where a data set has none
_OF_IMAGES = ("image", "to_original")


class StopOnNonFiniteLoss(L.Callback):
    """Stops all processes before the optimizer steps on a loss that is NaN or infinite, and names its samples.

    Without it training would end normally, with weights that are all NaN. The processes agree in every step, so that
    none is left waiting for another. On a GPU every step waits for its backward pass to end before the optimizer is
    queued. Every method brings this callback with it.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._bad: Tensor | None = None  # on this process
        self._anywhere: Tensor | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch until its loss is known to be finite."""
        self._batch = batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Look at a loss; a method with several optimizers has several in one step."""
        bad = (~torch.isfinite(loss.detach())).any().to(torch.uint8)
        self._bad = bad if self._bad is None else torch.maximum(self._bad, bad)
        anywhere = self._bad.clone()
        if trainer.world_size > 1:
            dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        self._anywhere = anywhere

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Stop before the weights are touched.

        Raises:
            TrainingError: Where the loss of any process is not finite.
        """
        self._check(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop also where no optimizer stepped, because gradients are accumulated.

        Raises:
            TrainingError: Where the loss of any process is not finite.
        """
        self._check(trainer, pl_module)
        self._batch = None

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        anywhere, bad = self._anywhere, self._bad
        self._anywhere = self._bad = None
        if anywhere is None or bad is None or not bool(anywhere):
            return
        mine = _describe(self._batch, pl_module) if bool(bad) else None
        reports: list[Any] = [mine]
        if trainer.world_size > 1:
            reports = [None] * trainer.world_size
            dist.all_gather_object(reports, mine)
        lines = [f"  process {rank}: {report}" for rank, report in enumerate(reports) if report]
        raise TrainingError(
            f"the loss is NaN or infinite at step {trainer.global_step} (epoch {trainer.current_epoch}):\n"
            + "\n".join(lines)
            + "\nThe weights were not changed by it, and the last checkpoint is from before. Look at these samples; "
            "where they are right, lower the learning rate, clip gradients (--trainer.gradient_clip_val) or use "
            "--trainer.precision bf16-mixed instead of 16-mixed."
        )


def _describe(batch: Any, pl_module: L.LightningModule) -> str:
    """Name the samples of a batch, and say what else is not finite: some of their values, or the weights."""
    parts = []
    broken = [name for name, value in pl_module.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        parts.append(f"{len(broken)} weights are not finite any more, such as {broken[0]}")
    if not isinstance(batch, dict):
        return "; ".join([*parts, "a batch that is no PoseBatch"])
    found = False
    for key, value in batch.items():
        if key in _MAY_BE_NAN or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        rows = (~torch.isfinite(value)).reshape(len(value), -1).any(dim=1).nonzero().flatten().tolist()
        if rows:
            found = True
            parts.append(f"{key} is not finite of {_names(batch, rows, key in _OF_IMAGES)}")
    if not found:
        of_images = "person_id" not in batch
        parts.append(
            f"samples: {_names(batch, list(range(len(batch['image' if of_images else 'person_id']))), of_images)}"
        )
    return "; ".join(parts)


def _names(batch: dict[str, Any], rows: list[int], of_images: bool) -> str:
    """Name some rows of a batch, of its images or of its persons, by the data set's ids."""
    image_ids, person_ids = batch.get("image_id"), batch.get("person_id")
    names = []
    for row in rows[:_MOST_NAMED]:
        of_person = not of_images or "image_index" not in batch
        image = int(batch["image_index"][row]) if "image_index" in batch and not of_images else row
        parts = [] if image_ids is None else [f"image {int(image_ids[image])}"]
        parts += [] if person_ids is None or not of_person else [f"person {int(person_ids[row])}"]
        names.append(" ".join(parts) or f"row {row}")
    return ", ".join(names) + (f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else "")
