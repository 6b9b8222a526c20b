"""``FitPoseNMS``: finds the numbers of parametric pose-NMS for the predictions of a validation."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.metrics.pose_nms import ParametricNMSAveragePrecision, fit_parametric_nms

__all__ = ["FitPoseNMS"]


class FitPoseNMS(L.Callback):
    """After ``validate`` writes the numbers of parametric pose-NMS that score these predictions highest.

    The data must be evaluated with it, as in ``--data.pose_nms rmpe``; the search begins at these numbers. Give the
    file to ``--data.pose_nms`` from then on, on other pictures than these: on the searched ones the score is too good.

    Args:
        file: Where the numbers are written, as YAML.
        rounds: How often the search goes through all numbers at most.
    """

    def __init__(self, file: str = "pose_nms.yaml", rounds: int = 5) -> None:
        self.file = file
        self.rounds = rounds

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Search, where the validation is one of its own and not a part of training.

        Raises:
            SettingsError: Where the data are evaluated without parametric pose-NMS.
        """
        if trainer.sanity_checking or trainer.state.fn != "validate":
            return
        metrics = [one for one in pl_module.modules() if isinstance(one, ParametricNMSAveragePrecision)]
        if not metrics:
            raise SettingsError(
                "FitPoseNMS needs data that are evaluated with parametric pose-NMS; give the detector's boxes "
                "(--data.val_boxes FILE) and --data.pose_nms rmpe."
            )
        metric = metrics[0]
        with metric.sync_context():
            truth, poses = metric.unsuppressed()
        settings, score = fit_parametric_nms(poses, truth, metric.sigmas, metric.settings, self.rounds)
        if trainer.is_global_zero:
            settings.save(Path(self.file))
        rank_zero_info(f"pose-NMS with {settings} has an AP of {score:.4f} here; written to {self.file}")
