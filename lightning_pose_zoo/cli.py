"""The command line: ``pose-zoo fit|validate|test|predict|detect|export|evaluate|weights|proposals``.

But for the last four it is LightningCLI with all methods and data modules imported, so that they go by their bare
names.
``--help`` and ``--version`` are answered before anything heavy is imported.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from lightning_pose_zoo import __version__

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType, LightningCLI

__all__ = ["build_cli", "main"]

_HELP = f"""pose-zoo {__version__}: pose estimation with PyTorch Lightning

usage: pose-zoo COMMAND [--config RECIPE.yaml] [--model NAME] [--data NAME] [options]

commands
  fit        train a method on a data set, scoring it as it goes
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the test split
  predict    find keypoints in pictures; writes COCO results and drawn pictures
  detect     find persons in pictures; writes a COCO file of boxes
  export     write a checkpoint as ONNX or as a program of torch.export
  evaluate   score a file of COCO results, from any tool, and say what is wrong with it
  weights    say what a file of weights is, what it fits, and with which recipe
  proposals  learn how a detector's boxes lie beside the true ones, for training

examples
  pose-zoo fit --config recipes/quickstart.yaml
  pose-zoo fit --config recipes/quickstart.yaml --trainer.max_epochs 1
  pose-zoo predict --config recipes/quickstart.yaml --ckpt_path runs/quickstart/checkpoints/last.ckpt \\
      --data.predict_images my/photos

more help
  pose-zoo COMMAND --help            options of a command
  pose-zoo fit --model.help HRNet    arguments of a method
  pose-zoo fit --data.help LSP       arguments of a data set
  pose-zoo fit --config RECIPE.yaml --print_config
"""


def build_cli(args: ArgsType = None, run: bool = True) -> LightningCLI:
    """Parse the command line and, with ``run``, do what it says.

    Args:
        args: Arguments as a list of words or a nested dict; the command line's by default.
        run: Run the sub-command; otherwise only build model, data and trainer.

    Returns:
        The LightningCLI, with ``model``, ``datamodule`` and ``trainer``.
    """
    from lightning_pose_zoo.pose_cli import PoseCLI

    return PoseCLI(args=args, run=run)


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Its words; ``sys.argv`` by default.

    Raises:
        SystemExit: With 1 and one clear message where the input is wrong, with 2 where the command line is.
    """
    words: list[Any] = sys.argv[1:] if args is None else args
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return
    if words[0] in ("-V", "--version", "version"):
        print(f"pose-zoo {__version__}")
        return
    # albumentations asks its package index for a newer version at import, unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from lightning_pose_zoo.errors import PoseZooError

    try:
        if words[0] == "evaluate":
            from lightning_pose_zoo.evaluate import main as evaluate

            evaluate(words[1:])
        elif words[0] == "detect":
            from lightning_pose_zoo.detect_command import main as detect

            detect(words[1:])
        elif words[0] == "export":
            from lightning_pose_zoo.export import main as export

            export(words[1:])
        elif words[0] == "weights":
            from lightning_pose_zoo.weights_command import main as weights

            weights(words[1:])
        elif words[0] == "proposals":
            from lightning_pose_zoo.proposals_command import main as proposals

            proposals(words[1:])
        else:
            build_cli(args)
    except Exception as error:
        # What a constructor raises comes wrapped in what the argument parser says of it.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PoseZooError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        print(f"\n{type(cause).__name__}: {cause}", file=sys.stderr)
        raise SystemExit(1) from error
