"""Object keypoint similarity: the one function behind average precision, non-maximum suppression and tracking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pose_zoo.geometry import ArrayOrTensor

__all__ = ["oks"]

_TINY = float(np.spacing(1.0))  # keeps an area of 0 from dividing by 0, as in COCO's own evaluation


def oks(
    keypoints: ArrayOrTensor,
    reference: ArrayOrTensor,
    areas: ArrayOrTensor,
    sigmas: Sequence[float] | ArrayOrTensor,
    labelled: npt.NDArray[np.bool_] | Tensor | None = None,
) -> ArrayOrTensor:
    """Compare poses by object keypoint similarity, for numpy arrays and tensors.

    The mean over the labelled keypoints of ``exp(-d^2 / (2 * area * (2 * sigma)^2))``, as on
    cocodataset.org/#keypoints-eval. Leading dimensions broadcast: ``(n, K, 2)`` with ``(n, K, 2)`` compares pair by
    pair, ``(P, 1, K, 2)`` with ``(1, G, K, 2)`` all with all, ``(K, 2)`` with ``(n, K, 2)`` one with many.

    Args:
        keypoints: (..., K, 2), pixels.
        reference: (..., K, 2), pixels of the same picture; only labelled keypoints need to be finite.
        areas: (...,) square pixels of the reference. For two predictions, the mean of their areas.
        sigmas: (K,) fall-off of each keypoint (``Skeleton.sigmas``).
        labelled: (..., K) bool, which keypoints of the reference count; None for all.

    Returns:
        (...,) between 0 and 1, and 0 where nothing is labelled; float64 for arrays, at least float32 for tensors.
    """
    xp: Any = torch if isinstance(keypoints, Tensor) else np
    points, others, area, spread = _as_floats(keypoints, reference, areas, sigmas)
    offset = points - others
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
    # Divided in COCO's order, so that not even the last bit differs.
    similarity = xp.exp(-(squared / (spread * 2) ** 2 / (area[..., None] + _TINY) / 2))
    if labelled is None:
        return similarity.mean(-1)  # type: ignore[no-any-return]
    counted: Any = labelled
    return xp.where(counted, similarity, 0.0).sum(-1) / counted.sum(-1).clip(1)  # type: ignore[no-any-return]


def _as_floats(keypoints: Any, *others: Any) -> list[Any]:
    """Bring all to one type that is wide enough: half precision moves a keypoint by pixels."""
    if isinstance(keypoints, Tensor):
        dtype = keypoints.dtype if keypoints.dtype in (torch.float32, torch.float64) else torch.float32
        return [torch.as_tensor(value, dtype=dtype, device=keypoints.device) for value in (keypoints, *others)]
    return [np.asarray(value, dtype=np.float64) for value in (keypoints, *others)]
