"""Learning-rate schedules that know how long a training, or a phase of it, takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from lightning_pose_zoo.errors import SettingsError

__all__ = ["WarmupCosine", "scheduler_config"]


class WarmupCosine(LRScheduler):
    """Warms up linearly and cools down along a cosine, once in every phase of a training; stepped once a batch.

    How many steps there are is told by the method when training starts, so a recipe says it in one place only. A method
    that trains in phases (``callbacks.TrainingPhases``) begins anew in each of them.

    Args:
        optimizer: Whose rates are set; theirs are the highest.
        warmup: Share of a phase until the highest rate is reached.
        start: Factor on the rate at a phase's first step.
        end: Factor on the rate at a phase's last step.
        phase_factors: Factors on the highest rate of each phase; 1 for all by default.

    Raises:
        SettingsError: Where a share or factor is out of range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup: float = 0.1,
        start: float = 0.04,
        end: float = 0.001,
        phase_factors: Sequence[float] | None = None,
    ) -> None:
        if not (0 <= warmup < 1 and 0 < start <= 1 and 0 <= end <= 1):
            raise SettingsError(
                f"warmup is {warmup}, start {start} and end {end}; give a share below 1 and factors of at most 1."
            )
        self.warmup = warmup
        self.start = start
        self.end = end
        self.phase_factors = None if phase_factors is None else list(phase_factors)
        self._ends: list[int] = []
        super().__init__(optimizer)

    def begin(self, ends: Sequence[int]) -> None:
        """Take in when each phase ends, counted in steps from the training's beginning, and set the first rates.

        Raises:
            SettingsError: Where ``phase_factors`` are for another number of phases.
        """
        if self.phase_factors is not None and len(self.phase_factors) != len(ends):
            raise SettingsError(
                f"phase_factors has {len(self.phase_factors)} entries, but the training has {len(ends)} phases."
            )
        self._ends = [int(end) for end in ends]
        self._last_lr = list(self.get_lr())
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each parameter group at the current step."""
        factor = self._factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]

    def _factor(self, step: int) -> float:
        if not self._ends:
            return self.start
        phase = next((number for number, end in enumerate(self._ends) if step < end), len(self._ends) - 1)
        first = self._ends[phase - 1] if phase else 0
        highest = 1.0 if self.phase_factors is None else self.phase_factors[phase]
        # The last step itself has the lowest rate.
        done = min((step - first) / max(self._ends[phase] - first - 1, 1), 1.0)
        if done < self.warmup:
            return highest * (self.start + (1 - self.start) * done / self.warmup)
        cooled = (done - self.warmup) / (1 - self.warmup)
        return highest * (self.end + (1 - self.end) * (1 + math.cos(math.pi * cooled)) / 2)

    def state_dict(self) -> dict[str, Any]:
        """Return the step alone: shape and length come from the recipe, which may make a resumed training longer."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a step."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = list(self.get_lr())


_PER_STEP_SCHEDULERS = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR, WarmupCosine)


def scheduler_config(scheduler: Any, steps: float, phase_ends: Callable[[float], list[int]]) -> dict[str, Any]:
    """Tell a schedule how long the training is, and say, as Lightning takes it, when it is stepped.

    Args:
        scheduler: Of an optimizer.
        steps: Of the whole training; infinite where it has no end.
        phase_ends: From these steps to those that each phase ends with.

    Returns:
        ``scheduler``, ``interval`` (``step`` or ``epoch``) and, where it follows a score, ``monitor``.

    Raises:
        SettingsError: Where a one-cycle schedule ends before the training does.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR) and scheduler.total_steps < steps < float("inf"):
        raise SettingsError(
            f"the training has {steps:.0f} steps, but OneCycleLR ends after {scheduler.total_steps}; set its "
            f"total_steps to {steps:.0f} (--model.lr_scheduler.total_steps), or the trainer's max_steps."
        )
    if isinstance(scheduler, WarmupCosine):
        scheduler.begin(phase_ends(steps))
    interval = "step" if isinstance(scheduler, _PER_STEP_SCHEDULERS) else "epoch"
    config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        config["monitor"] = getattr(scheduler, "monitor", "train/loss")
    return config
