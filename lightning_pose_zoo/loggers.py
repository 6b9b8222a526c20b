"""``ResumedCSVLogger``: a table of metrics that an interrupted training goes on with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

__all__ = ["ResumedCSVLogger"]


class ResumedCSVLogger(CSVLogger):
    """A ``CSVLogger`` for a training that was resumed in the folder of the one that was stopped.

    Lightning's own starts an empty table. This one keeps the rows that were there, up to the step that is logged first:
    what was logged between the checkpoint and the stop is logged again.

    Args:
        save_dir: Folder of the logs.
        name: Folder in it, as for ``CSVLogger``.
        version: Folder in that.
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "") -> None:
        self._earlier: list[dict[str, str]] | None = None
        super().__init__(save_dir, name=name, version=version)
        path = Path(self.log_dir) / "metrics.csv"
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self._earlier = list(csv.DictReader(file))

    @rank_zero_only
    def log_metrics(  # type: ignore[override]
        self, metrics: dict[str, Tensor | float], step: int | None = None
    ) -> None:
        """Log a row, after those of the training that was stopped."""
        if self._earlier is not None and step is not None:
            kept: list[dict[str, Any]] = [row for row in self._earlier if int(float(row["step"])) < step]
            self._earlier = None
            self.experiment.metrics = kept + self.experiment.metrics
        super().log_metrics(metrics, step)
