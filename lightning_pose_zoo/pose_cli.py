"""``PoseCLI``: LightningCLI with our methods, our data and the skeleton linked from one to the other."""

from __future__ import annotations

import itertools
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

# Bare class names work in recipes for classes that are imported, and only for those.
from lightning_pose_zoo import callbacks, data, methods  # noqa: F401
from lightning_pose_zoo.checkpoint_settings import (
    checkpoint_differences,
    checkpoint_settings,
    with_checkpoint_settings,
)
from lightning_pose_zoo.checkpoints import AtomicCheckpointIO, verify_checkpoint
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.loggers import ResumedCSVLogger
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.precision import computes_bfloat16_slowly

__all__ = ["PoseCLI"]


class PoseCLI(LightningCLI):
    """LightningCLI in subclass mode for ``PoseModule`` and ``PoseDataModule``.

    The skeleton goes from the data to the model, so that no recipe states a number of keypoints. Without a logger in
    the recipe, TensorBoard and CSV logs go to ``trainer.default_root_dir``.

    Args:
        args: The command line.
        run: Run the sub-command.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        # Tests and scripts call the command line with their own words, and a run replaces the one before in its folder.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        super().__init__(
            PoseModule,
            PoseDataModule,
            args=args,
            run=run,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the skeleton from data to model."""
        parser.link_arguments("data.skeleton_definition", "model.init_args.skeleton", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, on top of the settings of the checkpoint that it names.

        Raises:
            CheckpointError: Where the checkpoint is damaged, or of another method.
        """
        words = sys.argv[1:] if args is None else args
        self._trained: dict[str, Any] | None = None
        self._precision_is_a_flag = isinstance(words, list) and any(
            str(word).partition("=")[0] == "--trainer.precision" for word in words
        )
        if isinstance(words, list):
            path = _checkpoint_of(words)
            self._trained = checkpoint_settings(path) if path else None
            if self._trained:
                words = with_checkpoint_settings(words, self._trained)
        super().parse_arguments(parser, words)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: Lightning would put the checkpoint over recipes and flags."""

    def before_instantiate_classes(self) -> None:
        """Say where the settings differ from the checkpoint's, and let only ``fit`` write a recipe down."""
        if self._trained:
            if self._get(self.config, "model.init_args.weights"):
                # What a training started from has no effect beside a checkpoint, and may be gone.
                self._get(self.config, "model")["init_args"]["weights"] = None
            model = self._get(self.config, "model").as_dict()
            resuming = self.subcommand == "fit"
            for line in checkpoint_differences(self._trained, model["class_path"], model["init_args"], resuming):
                rank_zero_info(f"model.{line}")
        if self.subcommand != "fit":
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with a place for its results, logs while it trains, and files of what it predicts."""
        config = self._get(self.config_init, "trainer")
        folder = config["default_root_dir"] or str(Path("runs") / self._recipe_name())
        kwargs.setdefault("default_root_dir", folder)
        if config["logger"] is None:
            place: dict[str, Any] = {"save_dir": folder, "name": "", "version": ""}
            logs = self.subcommand in (None, "fit") and not config["fast_dev_run"]
            table = ResumedCSVLogger if logs and self._get(self.config_init, "ckpt_path") else CSVLogger
            kwargs.setdefault("logger", [TensorBoardLogger(**place), table(**place)] if logs else False)
        if "plugins" not in kwargs and not _has_its_own_checkpoints(config):
            plugins = config["plugins"] or []
            plugins = plugins if isinstance(plugins, list) else [plugins]
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        if self._falls_back_to_float32(config):
            kwargs["precision"] = "32-true"
        given = config["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        if self.subcommand == "predict":
            written = any(isinstance(one, BasePredictionWriter) for one in given)
            timed = any(isinstance(one, callbacks.ReportStageTimes) for one in given)
            added = [
                *([] if written else [callbacks.WritePredictions()]),
                *([] if timed else [callbacks.ReportStageTimes()]),
            ]
            kwargs.setdefault("callbacks", [*given, *added])
        return super().instantiate_trainer(**kwargs)

    def _falls_back_to_float32(self, config: Any) -> bool:
        """Tell whether a recipe's bfloat16 would be slower than float32 on this machine; a flag is obeyed."""
        if str(config["precision"]) not in ("bf16-mixed", "bf16") or self._precision_is_a_flag:
            return False
        slow = computes_bfloat16_slowly(config["accelerator"])
        if slow:
            rank_zero_info(
                "The recipe asks for bf16-mixed, which this processor computes in software, many times slower than "
                "float32: the precision is 32-true. --trainer.precision bf16-mixed insists on it."
            )
        return slow

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a command; one that was told to stop ends with 143, as a shell has it, not with 0 as if it were done.

        Raises:
            SystemExit: Where a SIGTERM came.
        """
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException as stopped:
            raise SystemExit(128 + signal.SIGTERM) from stopped

    def _recipe_name(self) -> str:
        """Return the name of the first recipe on the command line, and of the method where there is none."""
        recipes = self._get(self.config, "config") or []
        return Path(str(recipes[0])).stem if recipes else type(self.model).__name__


def _checkpoint_of(words: list[str]) -> Path | None:
    """Return the checkpoint file that a command line names; None where it names none, or a word such as ``last``.

    Raises:
        CheckpointError: Where there is no such file.
    """
    name = None
    for word, following in itertools.zip_longest(words, words[1:]):
        if word == "--ckpt_path":
            name = following
        elif str(word).startswith("--ckpt_path="):
            name = str(word).partition("=")[2]
    # What Lightning finds by itself: words, a place in a registry, an address.
    if not name or name in ("null", "best", "last", "hpc") or name.startswith("registry") or "://" in name:
        return None
    verify_checkpoint(name)
    return Path(name)


def _has_its_own_checkpoints(config: Any) -> bool:
    """Tell whether a strategy writes its checkpoints itself, in parts."""
    strategy = config["strategy"]
    name = strategy if isinstance(strategy, str) else strategy.get("class_path", "") if strategy else ""
    return any(own in str(name).lower() for own in ("fsdp", "deepspeed", "modelparallel"))
