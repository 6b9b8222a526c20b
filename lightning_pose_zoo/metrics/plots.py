"""Pictures of what metrics say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plot_bars", "plot_curve", "plot_steps"]

_INCHES_PER_BAR = 0.24


def plot_curve(thresholds: Sequence[float], fractions: Sequence[float], label: str, unit: str, ax: Any = None) -> Any:
    """Draw PCK over its threshold.

    Args:
        thresholds: (T,) of the curve.
        fractions: (T,) PCK at each, 0..1.
        label: What the legend says.
        unit: Of the thresholds.
        ax: matplotlib's axes to draw on; None: new ones.

    Returns:
        The figure and its axes.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots() if ax is None else (ax.get_figure(), ax)
    axes.plot(thresholds, fractions, marker=".", label=label)
    axes.set_xlabel(f"threshold in {unit}")
    axes.set_ylabel("fraction of right keypoints")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure, axes


def plot_bars(values: Mapping[str, Any], upper: float | None = None, ax: Any = None) -> Any:
    """Draw one bar for each value of a metric, with its name and number; none where it is NaN or infinite.

    Args:
        values: What ``compute`` returned.
        upper: The largest value that there can be; None: whatever there is.
        ax: matplotlib's axes to draw on; None: new ones.

    Returns:
        The figure and its axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        figure, axes = plt.subplots(figsize=(7, 1.2 + _INCHES_PER_BAR * len(values)), layout="constrained")
    else:
        figure, axes = ax.get_figure(), ax
    numbers = [float(value) for value in values.values()]
    bars = axes.barh(list(values), [number if math.isfinite(number) else 0.0 for number in numbers])
    axes.bar_label(bars, [f"{number:.3f}" for number in numbers], padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    if upper is not None:
        axes.set_xlim(0, 1.12 * upper)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def plot_steps(results: Sequence[Mapping[str, Any]], ax: Any = None) -> Any:
    """Draw several results of a metric over their steps: means as lines with a name, their parts thin and grey.

    Args:
        results: What ``compute`` returned at each step.
        ax: matplotlib's axes to draw on; None: new ones.

    Returns:
        The figure and its axes.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(layout="constrained") if ax is None else (ax.get_figure(), ax)
    for name in sorted(results[0], key=lambda name: "/" not in name):  # means last, on top
        is_mean = "/" not in name
        style: dict[str, Any] = {"label": name, "marker": "."} if is_mean else {"color": "0.8", "linewidth": 0.8}
        axes.plot(range(len(results)), [float(result[name]) for result in results], **style)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    return figure, axes
