"""The diagnosis of mistakes as a torchmetrics class, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lightning_pose_zoo.metrics.average_precision import OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.functional.average_precision import GroundTruth
from lightning_pose_zoo.metrics.functional.error_diagnosis import KINDS, Diagnosis, diagnose
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["ErrorDiagnosis", "draw_diagnosis"]

_COLORS = {
    "good": "#d9d9d9", "miss": "#b2182b", "swap": "#ef8a62", "inversion": "#f0c040", "jitter": "#8c6bb1",
    "score": "#4393c3", "background": "#1a6b54", "missed_person": "#7fbf7b",
}  # fmt: skip
_LABELS = {
    "miss": "miss: far from any place", "swap": "swap: on another person", "inversion": "inversion: left is right",
    "jitter": "jitter: near, not close", "score": "score: wrong order", "background": "background: nobody is there",
    "missed_person": "missed persons",
}  # fmt: skip
_PARTS = ("good", "jitter", "inversion", "swap", "miss")


class ErrorDiagnosis(OKSMeanAveragePrecision):
    """What kinds of mistakes cost how much of COCO's average precision.

    ``compute`` gives flat numbers: ``diagnosis/AP``, ``diagnosis/AP_gain/<kind>`` for what AP would win if this kind
    alone were corrected, ``diagnosis/AP_after/<kind>`` with this kind and all before it corrected,
    ``diagnosis/keypoints/<good, jitter, inversion, swap or miss>`` as parts of the labelled keypoints of the persons
    who were found, and ``diagnosis/count/<...>``. The kinds, in their order: miss, swap, inversion, jitter, score,
    background and missed_person; ``metrics.functional.diagnose`` defines them. ``diagnosis`` holds more, such as counts
    for each keypoint, and ``plot`` draws it.

    Source: Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``. Without flip
            pairs there are no inversions.
        sigmas: Fall-off of each keypoint; by default the skeleton's.
        annotations: The persons of the whole data set; see ``OKSMeanAveragePrecision``.

    Raises:
        MetricError: Where sigmas or annotations have another number of keypoints than the skeleton.

    Example:
        >>> import torch
        >>> metric = ErrorDiagnosis("coco17")
        >>> person = torch.rand(1, 17, 3) * 100 + 1
        >>> metric.update([{"keypoints": person + 500, "scores": torch.ones(1)}],
        ...               [{"keypoints": person, "area": torch.tensor([5000.0])}])
        >>> float(metric.compute()["diagnosis/count/background"])
        1.0
    """

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        sigmas: Sequence[float] | None = None,
        annotations: GroundTruth | None = None,
    ) -> None:
        super().__init__(skeleton, sigmas, annotations)
        self._diagnosis: Diagnosis | None = None

    @property
    def diagnosis(self) -> Diagnosis:
        """The whole diagnosis of what was given so far, from all processes."""
        self.compute()  # kept by torchmetrics where nothing has changed
        assert self._diagnosis is not None
        return self._diagnosis

    def compute(self) -> dict[str, Tensor]:
        """Return the numbers above; NaN where nobody is annotated."""
        self._diagnosis = diagnose(*self.gathered(), self.skeleton, self.sigmas)
        return self.results({f"diagnosis/{name}": value for name, value in self._diagnosis.numbers().items()})

    def plot(self, val: Diagnosis | None = None, ax: Any = None) -> Any:
        """Draw a diagnosis, by default the current one; see ``draw_diagnosis``.

        Args:
            val: What to draw; None: of all that was given so far.
            ax: Axes for the bars of the gains alone; None: a new figure with all panels.

        Returns:
            The figure and its axes.
        """
        diagnosis = self.diagnosis if val is None else val
        if ax is None:
            return draw_diagnosis(diagnosis)
        _draw_gains(ax, diagnosis)
        return ax.get_figure(), ax


def draw_diagnosis(diagnosis: Diagnosis, threshold: float = 0.75) -> Any:
    """Draw what each kind of mistake costs, the areas under precision and recall, and the state of each keypoint.

    Args:
        diagnosis: What to draw.
        threshold: OKS threshold of the panel of precision and recall.

    Returns:
        The matplotlib figure and its three axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(diagnosis.skeleton.names)
    figure = Figure(figsize=(13.5, max(5.2, 2.2 + 0.22 * rows)), layout="constrained")
    FigureCanvasAgg(figure)  # draws to files; pyplot would keep the figure in memory
    axes = figure.subplots(1, 3, width_ratios=(1.0, 1.25, 1.1))
    _draw_gains(axes[0], diagnosis)
    _draw_areas(axes[1], diagnosis, threshold)
    _draw_keypoints(axes[2], diagnosis)
    return figure, axes


def _draw_gains(ax: Any, diagnosis: Diagnosis) -> None:
    gains = [100 * diagnosis.gain(kind) for kind in KINDS]
    places = np.arange(len(KINDS))
    bars = ax.barh(places, np.nan_to_num(gains), color=[_COLORS[kind] for kind in KINDS])
    ax.bar_label(bars, [f"{gain:+.1f}" for gain in gains], padding=3, fontsize=9)
    ax.set_yticks(places, [kind.replace("_", " ") for kind in KINDS])
    ax.invert_yaxis()
    ax.set_xlim(min(0.0, *np.nan_to_num(gains)), max(1.0, *np.nan_to_num(gains)) * 1.22)
    ax.set_xlabel("AP points won if this kind alone were corrected")
    ax.set_title(f"AP {100 * diagnosis.average_precision():.1f}: what costs most", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_areas(ax: Any, diagnosis: Diagnosis, threshold: float) -> None:
    row = round((threshold - 0.5) / 0.05)
    recall = np.linspace(0.0, 1.0, diagnosis.precision.shape[1])
    below = np.nan_to_num(diagnosis.precision[row])
    start = diagnosis.average_precision(threshold)
    ax.fill_between(recall, 0, below, color=_COLORS["good"], linewidth=0, label=f"as predicted: {100 * start:.1f}")
    for kind in KINDS:
        above = np.maximum(below, np.nan_to_num(diagnosis.together[kind][row]))
        after = 100 * diagnosis.after(kind, threshold)
        ax.fill_between(recall, below, above, color=_COLORS[kind], linewidth=0, label=f"{_LABELS[kind]}: {after:.1f}")
        below = above
    ax.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="recall", ylabel="precision")
    ax.set_title(f"Corrected one after the other, at OKS {threshold:g}", fontsize=11)
    ax.legend(
        title="AP when corrected, with all above", loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2,
        fontsize=8, title_fontsize=8, frameon=False,
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)


def _draw_keypoints(ax: Any, diagnosis: Diagnosis) -> None:
    counts = np.stack([diagnosis.keypoints[kind] for kind in _PARTS]).astype(float)
    labelled = counts.sum(axis=0)
    parts = 100 * counts / np.maximum(labelled, 1)
    places = np.arange(len(labelled))
    left = np.zeros(len(labelled))
    for kind, part in zip(_PARTS, parts, strict=True):
        ax.barh(places, part, left=left, color=_COLORS[kind], label=kind, height=0.85)
        left += part
    ax.set_yticks(places, [name.replace("_", " ") for name in diagnosis.skeleton.names], fontsize=9)
    ax.set_ylim(len(labelled) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel("% of the labelled keypoints of found persons")
    ax.set_title("The state of each keypoint", fontsize=11)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=5, fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
