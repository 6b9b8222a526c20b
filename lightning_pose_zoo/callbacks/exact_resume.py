"""``ExactResume``: training goes on where a checkpoint was written, with the same samples and random numbers."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pose_zoo.data.sampling import PoseLoader

__all__ = ["ExactResume"]


class ExactResume(L.Callback):
    """Makes a training that was stopped and resumed equal, to the last bit, to one that was not.

    It keeps the random states of Python, numpy and torch, on every process and its GPU, in the checkpoint: Lightning's
    have none, so that dropout, for example, would differ. It sees to it that the training data goes on at the right
    sample (Lightning forgets that where a schedule asked for the number of steps) and the log at the right step
    (Lightning may count one too many). With another number of processes the samples go on and the random states cannot,
    as a warning says. Every method brings this callback with it.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] | None = None
        self._loaders: list[dict[str, Any]] = []
        self._resumed = False
        self._stepped = 0  # batches, or accumulated ones, that the log has a step for

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the states of all processes; like all of Lightning's checkpointing, this runs on each of them."""
        states: list[Any] = [None] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(states, _states(pl_module.device))
        else:
            states = [_states(pl_module.device)]
        checkpoint["random_states"] = states
        checkpoint["logged_steps"] = self._stepped

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember this process's states until training starts; an evaluation needs none of them."""
        if trainer.state.fn != "fit":
            return
        self._resumed = True
        # Checkpoints of older versions do not say.
        self._stepped = checkpoint.get("logged_steps", checkpoint["global_step"])
        self._loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        states = checkpoint.get("random_states")
        if states is None:
            return
        if len(states) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint has the random states of {len(states)} processes, and there are {trainer.world_size}: "
                "training goes on with other random numbers."
            )
            return
        self._states = states[trainer.global_rank]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the states: as late as can be, since building and checking things draws random numbers."""
        loader = trainer.train_dataloader
        if len(self._loaders) == 1 and isinstance(loader, PoseLoader):
            loader.load_state_dict(self._loaders[0])
        if self._states is not None:
            _restore(self._states, pl_module.device)
        self._states, self._loaders = None, []
        if not self._resumed:
            self._stepped = trainer.fit_loop.epoch_loop._batches_that_stepped

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Correct the step that Lightning logs by, before the first batch."""
        if self._resumed:
            steps = trainer.global_step if pl_module.automatic_optimization else self._stepped
            trainer.fit_loop.epoch_loop._batches_that_stepped = steps
        self._resumed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the steps that are logged, before a checkpoint of this batch is written.

        Lightning counts them later, and ``global_step`` is another number where a method steps several optimizers.
        """
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._stepped += 1


def _states(device: torch.device) -> dict[str, Any]:
    """Return the random states as tensors and plain values, which can be read without running code."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore(states: dict[str, Any], device: torch.device) -> None:
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        (numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
