"""``PoseCLI``: LightningCLI with our methods, our data and the skeleton linked from one to the other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

# Bare class names work in recipes for classes that are imported, and only for those.
from lightning_pose_zoo import callbacks, data, methods  # noqa: F401
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.methods.base import PoseModule

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

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as the recipe and the command line say.

        Lightning would put a checkpoint's hyper-parameters over both, explicit flags included.
        """

    def before_instantiate_classes(self) -> None:
        """Keep the recipe that a model was trained with: only ``fit`` writes it down."""
        if self.subcommand != "fit":
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with a place for its results and TensorBoard and CSV logs there."""
        config = self._get(self.config_init, "trainer")
        folder = config["default_root_dir"] or str(Path("runs") / self._recipe_name())
        kwargs.setdefault("default_root_dir", folder)
        if config["logger"] is None:
            place: dict[str, Any] = {"save_dir": folder, "name": "", "version": ""}
            logs = self.subcommand in (None, "fit") and not config["fast_dev_run"]
            kwargs.setdefault("logger", [TensorBoardLogger(**place), CSVLogger(**place)] if logs else False)
        return super().instantiate_trainer(**kwargs)

    def _recipe_name(self) -> str:
        """Return the name of the first recipe on the command line, and of the method where there is none."""
        recipes = self._get(self.config, "config") or []
        return Path(str(recipes[0])).stem if recipes else type(self.model).__name__
