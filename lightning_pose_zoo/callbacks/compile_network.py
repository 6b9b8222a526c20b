"""``CompileNetwork``: runs a method's network through ``torch.compile``."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import lightning as L
from torch import nn

from lightning_pose_zoo.errors import SettingsError

__all__ = ["CompileNetwork", "callable_parts"]


class CompileNetwork(L.Callback):
    """Compiles a method's network while the Trainer runs, for training, evaluation and prediction.

    The network stays the module that it is: a checkpoint has the same entries with this callback and without it, and
    each loads, resumes and exports the other's. When the Trainer is done the network is as before. The first batches
    take long, those of training and of evaluation each; see docs/speed.md for when it pays.

    Args:
        mode: ``torch.compile``'s: ``default``; ``reduce-overhead``, CUDA graphs for small batches; ``max-autotune``,
            which compiles longer.
        dynamic: Compile for crops and batches of any size at once, true, or for each size by itself, false; by default
            for the first size and, when another one comes, for any.
        backend: ``inductor``; or one of ``torch.compile``'s others, such as ``eager`` to look for errors.

    Raises:
        SettingsError: When the Trainer starts, where the module has no network, or nothing is there to compile with.
    """

    def __init__(
        self,
        mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
        dynamic: bool | None = None,
        backend: str = "inductor",
    ) -> None:
        self.mode = mode
        self.dynamic = dynamic
        self.backend = backend
        self._compiled: list[nn.Module] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have the network compiled when it is called first.

        Raises:
            SettingsError: Where the module has no network, or nothing is there to compile with.
        """
        network = getattr(pl_module, "network", None)
        if not isinstance(network, nn.Module):
            raise SettingsError(
                f"{type(pl_module).__name__} has no network that is a module; take CompileNetwork out of "
                "trainer.callbacks."
            )
        if self.backend == "inductor":
            _refuse_missing_tools(trainer.strategy.root_device.type)
        self._restore()
        self._compiled = list(callable_parts(network))
        for part in self._compiled:
            part.compile(mode=self.mode, dynamic=self.dynamic, backend=self.backend)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the network as it was."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the network as it was."""
        self._restore()

    def _restore(self) -> None:
        for part in self._compiled:
            part._compiled_call_impl = None
        self._compiled = []


def callable_parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a network and its parts, since some methods call these by themselves.

    Parts that the network calls are compiled as one with it.
    """
    yield network
    for part in network.children():
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            yield from part.children()
        else:
            yield part


def _refuse_missing_tools(device: str) -> None:
    """Find what inductor compiles its code with: C++ for the CPU, C for what starts Triton's kernels.

    Raises:
        SettingsError: Where it is not there; says how to get it.
    """
    if sys.platform == "win32":
        return  # finding Visual Studio is inductor's own affair
    variable, usual = ("CXX", ("g++", "clang++")) if device == "cpu" else ("CC", ("gcc", "clang"))
    named = os.environ.get(variable, "").split()[:1]
    without = "or do without it: take CompileNetwork out of trainer.callbacks."
    if not any(shutil.which(name) for name in named or usual):
        raise SettingsError(
            f"torch.compile needs a compiler, and {' and '.join(named or usual)} cannot be found; install one (apt "
            f"install g++), name it in the environment variable {variable}, {without}"
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise SettingsError(
            f"torch.compile needs Python's headers, and there is no {sysconfig.get_path('include')}/Python.h; install "
            f"them (apt install python3-dev), {without}"
        )
