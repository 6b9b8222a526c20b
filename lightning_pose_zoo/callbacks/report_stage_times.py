"""How long the stages of a prediction took."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_pose_zoo.callbacks.compile_network import callable_parts
from lightning_pose_zoo.stage_times import StageTimes
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["ReportStageTimes"]


class ReportStageTimes(L.Callback):
    """Prints at the end of ``predict`` how long finding people, reading, cutting, the network and the rest took.

    The command line adds it by itself. Data modules of this package tell of their stages; of others the network and
    the decoding are timed alone. On several processes it is the first one's time.
    """

    def __init__(self) -> None:
        self._times = StageTimes()
        self._hooks: list[RemovableHandle] = []
        self._in_network = 0.0
        self._began: list[float] = []
        self._step_began = 0.0
        self._persons = 0
        self._pictures: set[int] = set()
        self._finished = False

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch the network."""
        given = getattr(getattr(trainer, "datamodule", None), "stage_times", None)
        self._times = given if isinstance(given, StageTimes) else StageTimes()
        self._persons, self._pictures, self._finished = 0, set(), False
        network = getattr(pl_module, "network", None)
        if isinstance(network, nn.Module):
            for part in callable_parts(network):
                self._hooks.append(part.register_forward_pre_hook(lambda *_: self._began.append(self._times.clock())))
                self._hooks.append(part.register_forward_hook(lambda *_: self._left(pl_module.device)))

    def _left(self, device: torch.device) -> None:
        began = self._began.pop()
        if not self._began:  # a part that was called by itself, not by the network
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self._in_network += self._times.clock() - began

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to watch a step."""
        self._in_network, self._began = 0.0, []
        self._step_began = self._times.clock()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PoseBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up a step: what is not the network's is the decoding's."""
        self._times.add("network", self._in_network)
        self._times.add("decode", max(self._times.clock() - self._step_began - self._in_network, 0.0))
        self._persons += len(outputs) if isinstance(outputs, Poses) else 0
        if "image_id" in batch:
            self._pictures.update(batch["image_id"].tolist())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop watching."""
        self._stop()
        self._finished = True

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._stop()

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the times, when everything is written."""
        if stage == "predict" and self._finished:
            self._finished = False
            rank_zero_info(self._times.report(self._persons, len(self._pictures)))
