"""Scoring a method by its data set's own protocol, and saying which that was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.methods.top_down import evaluation_protocol
from lightning_pose_zoo.metrics.rows import PoseMetric

if TYPE_CHECKING:
    from lightning_pose_zoo.methods.base import PoseModule

__all__ = ["data_set_metrics", "log_scores", "refuse_other_samples"]


def refuse_other_samples(method: PoseModule) -> None:
    """Refuse data that are cut otherwise than a method needs them.

    Raises:
        SettingsError: Where the data module's ``samples`` are not the method's.
    """
    given = getattr(getattr(method.trainer, "datamodule", None), "samples", method.samples)
    if given != method.samples:
        raise SettingsError(
            f"{type(method).__name__} takes {method.samples}, but the data's samples are {given}; set "
            f"--data.samples={method.samples}."
        )


def data_set_metrics(method: PoseModule) -> Iterable[PoseMetric]:
    """Return fresh metrics of the data module, or PCK by the box where a stranger's has none."""
    datamodule: Any = getattr(method.trainer, "datamodule", None)
    if hasattr(datamodule, "metrics"):
        metrics: Iterable[PoseMetric] = datamodule.metrics()
        return metrics
    from lightning_pose_zoo.metrics import PCK

    return [PCK(method.skeleton, thresholds=(0.2,), normalize_by="box")]


def log_scores(method: PoseModule, stage: str) -> None:
    """Log what the metrics say at the end of an epoch, and begin them anew.

    Where nothing but an evaluation runs, the protocol is printed, and kept as a hyperparameter of the loggers.

    Args:
        method: What was evaluated.
        stage: ``val`` or ``test``, the first part of the log's names.
    """
    trainer = method.trainer
    for metric in method.evaluation:
        # The values are those of all processes already, so nothing is left for Lightning to reduce.
        values = {f"{stage}/{name}": value.float() for name, value in metric.compute().items()}  # type: ignore[operator]
        for name, value in values.items():
            method.log(name, value, prog_bar=stage == "val" and name.count("/") == 1, rank_zero_only=False)
        metric.reset()  # type: ignore[operator]
    if trainer.state.fn in ("validate", "test"):
        protocol = evaluation_protocol(getattr(trainer, "datamodule", None), method, *method.evaluation)
        rank_zero_info(f"{stage}: {protocol}")
        for logger in trainer.loggers:
            logger.log_hyperparams({f"{stage}_protocol": protocol})
