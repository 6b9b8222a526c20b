"""What methods share that train in phases: coarse before fine, stage after stage, one correction more each time.

``callbacks.TrainingPhases`` switches the phases; a method says what they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_pose_zoo.callbacks.training_phases import TrainingPhases
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["Phase", "PhasedMethod", "rows_of_all_processes"]


@dataclass(frozen=True)
class Phase:
    """One phase of a training.

    Attributes:
        name: As logs and the progress bar say it.
        trains: The submodules that learn, by their paths in the method, as in ``network.fine``; all by default.
        loss_weights: Factor on each part of the loss by name; parts that are not here are not computed.
        needs: Statistics of the training set that are fitted before the phase begins, in words; empty for none.
        share: How long the phase is, in relation to the others, where nobody says how long each is.
    """

    name: str
    trains: tuple[str, ...] = ()
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    needs: str = ""
    share: float = 1.0


class PhasedMethod(PoseModule):
    """Base of methods that train in phases.

    A method writes ``phases`` besides what every method writes, reads ``current_phase`` in ``losses``, and writes
    ``fit_statistics`` where a phase needs some.

    Attributes:
        phase: The number of the phase from 0; the last one where nothing trains. A checkpoint remembers it.
    """

    phase: int = -1

    @property
    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases in their order."""

    @property
    def current_phase(self) -> Phase:
        """The phase that training is in; the last one where nothing trains."""
        return self.phases[self.phase]

    def fit_statistics(self, batches: Iterable[PoseBatch]) -> None:
        """Measure what the current phase needs on the training set, and keep it in buffers.

        Args:
            batches: This process's share of the training crops, varied as in training, each once, on the device;
                ``rows_of_all_processes`` brings together what was measured on them. Gradients are off. A process may
            have no share.
        """

    def configure_callbacks(self) -> list[Callback]:
        """Bring along the callback that switches phases, where a recipe has none."""
        callbacks = super().configure_callbacks()
        there = any(isinstance(callback, TrainingPhases) for callback in self._callbacks())
        return callbacks if there else [*callbacks, TrainingPhases()]

    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    def _phase_ends(self, steps: float) -> list[int]:
        [switch] = (callback for callback in self._callbacks() if isinstance(callback, TrainingPhases))
        return switch.ends(self.trainer, self, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the phase too, since it may decide what the method does with a picture."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["phase"] = self.phase

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the phase."""
        super().on_load_checkpoint(checkpoint)
        self.phase = checkpoint.get("phase", -1)


def rows_of_all_processes(ids: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Bring rows of all processes together, in an order that does not depend on their number.

    What is computed of them is then the same on any number of processes.

    Args:
        ids: (n,) int64 on this process, such as ``person_id``; n may be 0. Rows of one id are ordered by their values.
        columns: (n, ...) each.

    Returns:
        The columns, (m, ...), equal on all processes.
    """
    several = [ids, *columns]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        several = [torch.cat(gather_all_tensors(column.contiguous())) for column in several]
    values = torch.cat([column[:, None].flatten(1).double() for column in several[1:]], dim=1)
    keys = [*values.T.flip(0).cpu().numpy(), several[0].cpu().numpy()]  # the last key counts first
    order = torch.from_numpy(np.lexsort(keys)).to(ids.device)
    return tuple(column[order] for column in several[1:])
