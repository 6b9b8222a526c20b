"""``TrainingPhases``: switches what a method trains, and fits what a phase needs before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.structures import PoseBatch

if TYPE_CHECKING:
    from lightning_pose_zoo.methods.phased import Phase, PhasedMethod

__all__ = ["TrainingPhases", "finite_steps"]


def finite_steps(steps: float) -> int:
    """Return a training's number of steps.

    Raises:
        SettingsError: Where it has no end.
    """
    if steps == float("inf"):
        raise SettingsError("phases and their schedules need a training with an end; set --trainer.max_steps.")
    return int(steps)


class TrainingPhases(L.Callback):
    """Leads a method through its phases, such as coarse, fine and both.

    Only what a phase trains has gradients and moves; the rest stays as it is, batch norm included. Before a phase that
    needs statistics of the training set they are fitted, on all processes together. Where training stands is part of
    the checkpoint, so that a resumed training is in the right phase and fits nothing twice. The log's ``train/phase``
    counts from 1. Methods that train in phases bring this callback with them; a recipe lists it to set the lengths.

    Args:
        lengths: How long each phase is, in ``unit``; by default the parts of the training that the method finds fit,
            mostly equal ones.
        unit: ``steps`` of the optimizer or ``epochs``.
        statistics_samples: How many training crops statistics are fitted on, spread over the training set; all by
            default.

    Raises:
        SettingsError: Where a length is not positive, or when training starts with other phases than lengths.
    """

    def __init__(
        self,
        lengths: list[int] | None = None,
        unit: Literal["steps", "epochs"] = "steps",
        statistics_samples: int | None = None,
    ) -> None:
        if lengths is not None and (not lengths or min(lengths) < 1):
            raise SettingsError(f"lengths is {lengths}; give a positive number of {unit} for each phase.")
        if statistics_samples is not None and statistics_samples < 1:
            raise SettingsError(f"statistics_samples is {statistics_samples}; give at least 1, or null for all.")
        self.lengths = lengths
        self.unit = unit
        self.statistics_samples = statistics_samples
        self._phase = 0
        self._resumed = False
        self._fitted = -1
        self._ends: list[int] = []
        self._frozen: list[torch.nn.Module] = []

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands."""
        return {"phase": self._phase, "fitted": self._fitted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where training stood."""
        self._phase, self._fitted, self._resumed = state_dict["phase"], state_dict["fitted"], True

    def ends(self, trainer: L.Trainer, method: PhasedMethod, steps: float) -> list[int]:
        """Return the step that each phase ends with, the last one with the training.

        Args:
            trainer: Of the method.
            method: What is trained.
            steps: Optimizer steps of the whole training.

        Raises:
            SettingsError: Where there are not as many lengths as phases, or the training has no end.
        """
        steps = finite_steps(steps)
        count = len(method.phases)
        if self.lengths is None:
            done = list(accumulate(phase.share for phase in method.phases))
            # At least one step for each, where there are so many.
            return [
                min(max(int(steps * share / done[-1]), number), max(steps - count + number, 1))
                for number, share in enumerate(done, start=1)
            ]
        if len(self.lengths) != count:
            names = ", ".join(phase.name for phase in method.phases)
            raise SettingsError(
                f"{type(method).__name__} has {count} phases ({names}), but TrainingPhases has "
                f"{len(self.lengths)} lengths."
            )
        per_unit = 1
        if self.unit == "epochs":
            per_unit = max(finite_steps(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        ends = list(accumulate(length * per_unit for length in self.lengths))
        if ends[-1] > steps:
            reached = sum(end < steps for end in ends) + 1
            rank_zero_warn(
                f"The phases take {ends[-1]} steps together, the training has {steps}: it ends in phase {reached} of "
                f"{count}. Set --trainer.max_steps={ends[-1]} for all of them."
            )
        return [*ends[:-1], max(ends[-1], steps)]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the phase that training is in, so that a first validation has the statistics that it needs.

        Raises:
            SettingsError: Where the method does not train in phases.
        """
        if not hasattr(pl_module, "phases"):
            raise SettingsError(
                f"{type(pl_module).__name__} does not train in phases; take TrainingPhases out of trainer.callbacks."
            )
        method = cast("PhasedMethod", pl_module)
        if not self._resumed and trainer.global_step == 0:
            self._phase, self._fitted = 0, -1
        self._resumed = False
        self._ends = self.ends(trainer, method, trainer.estimated_stepping_batches)
        self._enter(trainer, method, self._phase)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the next phase where its time has come, and keep what does not learn in evaluation mode."""
        method = cast("PhasedMethod", pl_module)
        phase = sum(end <= trainer.global_step for end in self._ends[:-1])
        if phase != self._phase:
            self._enter(trainer, method, phase)
        for module in self._frozen:
            if module.training:
                module.eval()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the phase."""
        pl_module.log("train/phase", float(self._phase + 1), prog_bar=True)

    def _enter(self, trainer: L.Trainer, method: PhasedMethod, number: int) -> None:
        phases = method.phases
        for earlier in range(self._fitted + 1, number + 1):
            if phases[earlier].needs:
                method.phase = earlier
                self._fit_statistics(trainer, method, phases[earlier])
        self._phase, self._fitted = number, max(self._fitted, number)
        method.phase = number
        changed = self._freeze(method, phases[number])
        strategy = trainer.strategy
        if changed and isinstance(strategy, DDPStrategy):
            # It waits for the gradients of what had any when it was built.
            strategy.model = method
            strategy.configure_ddp()
        rank_zero_info(self._description(phases, number))

    def _freeze(self, method: PhasedMethod, phase: Phase) -> bool:
        """Let only what a phase trains have gradients; return whether anything changed."""
        trained = {
            f"{path}.{name}" if name else path
            for path in phase.trains
            for name, _ in method.get_submodule(path).named_parameters()
        }
        changed = False
        for name, parameter in method.named_parameters():
            learns = not phase.trains or name in trained
            changed |= parameter.requires_grad != learns
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None
        inside = tuple(f"{path}." for path in phase.trains)
        self._frozen = [
            module
            for name, module in method.network.named_modules(prefix="network")
            if phase.trains
            and not f"{name}.".startswith(inside)
            and not any(path.startswith(f"{name}.") for path in phase.trains)
        ]
        if changed:
            method.network.train(method.training)
        return changed

    def _fit_statistics(self, trainer: L.Trainer, method: PhasedMethod, phase: Phase) -> None:
        rank_zero_info(f"{phase.name}: fitting {phase.needs}")
        was_training = method.training
        method.eval()
        # With random numbers of their own, so that training goes on as if nothing had been fitted.
        with isolate_rng(include_cuda=torch.cuda.is_available()), torch.no_grad():
            torch.manual_seed(0)
            with trainer.precision_plugin.forward_context():
                method.fit_statistics(self._batches(trainer, method))
        method.train(was_training)

    def _batches(self, trainer: L.Trainer, method: PhasedMethod) -> Iterator[PoseBatch]:
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "statistics_dataloader"):
            loader = data.statistics_dataloader(self.statistics_samples)
        else:
            loader = trainer.fit_loop._data_source.dataloader()
        for batch in loader:
            if len(batch["image"]):
                yield trainer.strategy.batch_to_device(batch, method.device)

    def _description(self, phases: Sequence[Phase], number: int) -> str:
        phase = phases[number]
        weights = ", ".join(f"{name} x {weight:g}" for name, weight in phase.loss_weights.items())
        first = self._ends[number - 1] if number else 0
        return (
            f"phase {number + 1} of {len(phases)}, {phase.name}: trains {', '.join(phase.trains) or 'everything'}"
            f"{f'; loss {weights}' if weights else ''}; steps {first} to {self._ends[number]}"
        )
