"""PCK, PDJ and PCKh as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.pck import (
    Average,
    PCKhConvention,
    diameter_pairs,
    fraction_within,
    pckh_keypoints,
)
from lightning_pose_zoo.metrics.normalized import NormalizeBy, NormalizedMetric, head_sizes
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["PCK", "PDJ", "PCKh"]


class PCK(NormalizedMetric):
    """Percentage of correct keypoints: within a fraction of the person's size, as a fraction in 0..1.

    A keypoint is right where |prediction - truth| <= threshold * size. All keypoints with a visibility above 0 count,
    hidden ones as well. ``PCK@0.2`` is the mean; ``PCK@0.2/left_wrist`` and so on are the keypoints' own fractions.

    Which mean is meant differs between projects: ``micro``, ours, is over all labelled keypoints, so that a keypoint
    that is labelled more often weighs more; ``macro`` is the plain mean over those keypoints that are ever labelled.
    mmpose reports ``average="macro", strict=True``. Boxes are measured by their longer side, as Yang & Ramanan do;
    mmpose 1.x takes the larger coordinate of the box's lower right corner for it, so that its figures are higher.

    Persons whose size is unknown (no pair of the torso is labelled) are left out, and counted in a warning.

    Source: Yang & Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", TPAMI 2013.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of the size within which a keypoint is right; pixels with ``normalize_by`` pixel.
        normalize_by: The person's size: ``torso``, from a shoulder to the opposite hip (the first labelled pair of
            ``Skeleton.torso``); ``box``, the longer side of the true box; ``head``, as in PCKh; ``pixel``, none: the
            thresholds are pixels. Any other size is given to ``update`` as ``normalizer``.
        strict: Whether a distance of exactly the threshold is wrong.
        average: ``micro`` or ``macro``, see above.

    Raises:
        MetricError: Where ``normalize_by`` is unknown or the skeleton has no torso to normalise by.

    Example:
        >>> import torch
        >>> metric = PCK(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target + 1, target, torch.ones(8, 14), torch.full((8,), 50.0))
        >>> float(metric.compute()["PCK@0.2"])
        1.0
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        thresholds: Sequence[float] = (0.2,),
        normalize_by: NormalizeBy = "torso",
        strict: bool = False,
        average: Average = "micro",
    ) -> None:
        super().__init__(skeleton, normalize_by)
        self.thresholds = tuple(thresholds)
        self.strict = strict
        self.average: Average = average

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCK@<threshold>`` and ``PCK@<threshold>/<keypoint>``; NaN where nothing counts."""
        return _fractions(self, "PCK", self.thresholds, self.strict, self.average)


class PDJ(NormalizedMetric):
    """Percentage of detected joints: within a fraction of the torso's diameter, as a fraction in 0..1.

    A joint is detected where |prediction - truth| <= threshold * diameter, and the diameter is the distance of left
    shoulder and right hip in the true pose; of right shoulder and left hip where those are not labelled. ``PDJ@0.2``
    is over all labelled joints, ``PDJ@0.2/left_wrist`` and so on are the joints' own fractions. The evaluation code of
    LSP calls the same PCK.

    Persons without a labelled torso are left out, and counted in a warning.

    Source: Toshev & Szegedy, "DeepPose: Human Pose Estimation via Deep Neural Networks", CVPR 2014; Sapp & Taskar,
    "MODEC: Multimodal Decomposable Models for Human Pose Estimation", CVPR 2013.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of the diameter within which a joint is detected.

    Raises:
        MetricError: Where the skeleton has no torso.

    Example:
        >>> import torch
        >>> metric = PDJ(skeleton="lsp14")
        >>> target = torch.zeros(1, 14, 2)
        >>> target[0, 9], target[0, 2] = torch.tensor([0.0, 0.0]), torch.tensor([30.0, 40.0])  # a diameter of 50 pixels
        >>> metric.update(target + torch.tensor([6.0, 0.0]), target, torch.ones(1, 14))
        >>> {name: float(value) for name, value in metric.compute().items() if "/" not in name}
        {'PDJ@0.2': 1.0, 'PDJ@0.1': 0.0}
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(self, skeleton: SkeletonLike = "lsp14", thresholds: Sequence[float] = (0.2, 0.1)) -> None:
        super().__init__(skeleton, "torso", size_name="diameter")
        self.thresholds = tuple(thresholds)
        self.size_pairs = diameter_pairs(self.skeleton)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PDJ@<threshold>`` and ``PDJ@<threshold>/<keypoint>``; NaN where nothing counts."""
        return _fractions(self, "PDJ", self.thresholds, strict=False, average="micro")


class PCKh(KeypointMetric):
    """Percentage of correct keypoints by the size of the head, the score of MPII, as a fraction in 0..1.

    ``PCKh@0.5`` is the mean, ``PCKh@0.5/<keypoint>`` the keypoints' own fractions, and ``PCKh@0.5/Head``, Shoulder,
    Elbow, Wrist, Hip, Knee and Ankle the columns of the published tables: the plain means of left and right.

    Two means are in public use, both without pelvis and thorax. ``hrnet``, of the HRNet and Simple Baselines
    repositories, is over all labelled keypoints, and right means ``<=``; ``bearpaw``, of the pytorch-pose repository,
    is the plain mean of the keypoints, and right means ``<``. They differ by half a point to one. The HRNet
    repository's ``Mean@0.1`` is taken at 0.11 by mistake: give 0.11 among the thresholds to compare with it.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of the head's size within which a keypoint is right.
        convention: ``hrnet`` or ``bearpaw``, see above.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        thresholds: Sequence[float] = (0.5, 0.1),
        convention: PCKhConvention = "hrnet",
    ) -> None:
        if convention not in ("hrnet", "bearpaw"):
            raise MetricError(f"convention is '{convention}'; PCKh knows hrnet and bearpaw.")
        super().__init__(skeleton, "head")
        self.thresholds = tuple(thresholds)
        self.convention: PCKhConvention = convention

    def update(
        self,
        keypoints: Tensor,
        target: Tensor,
        visibility: Tensor,
        head_size: Tensor,
        ids: Tensor | None = None,
    ) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true, pixels.
            visibility: (N, K); keypoints above 0 count.
            head_size: (N,) pixels; for MPII 0.6 times the diagonal of the head's box.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        self.add(keypoints, target, visibility, head_size, ids)

    def sizes(self, truth: Truth) -> Tensor:
        """Return the size of each head, (N,) pixels: as annotated, else from the skeleton's ``head`` pairs."""
        return head_sizes(self, truth)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCKh@<threshold>``, its keypoints and its groups; NaN where nothing counts."""
        errors, in_mean = self.errors(), pckh_keypoints(self.skeleton)
        strict = self.convention == "bearpaw"
        average: Average = "macro" if strict else "micro"
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            name = f"PCKh@{threshold:g}"
            values[name] = float(fraction_within(errors[:, in_mean], threshold, strict, average))
            single = fraction_within(errors, threshold, strict, average=None).tolist()
            values |= {f"{name}/{part}": value for part, value in zip(self.skeleton.names, single, strict=True)}
            for group, members in self._groups().items():
                values[f"{name}/{group}"] = sum(single[index] for index in members) / len(members)
        return self.results(values)

    def _groups(self) -> dict[str, list[int]]:
        names = self.skeleton.names
        head = "head_top" if "head_top" in names else "head"
        groups = {"Head": [index for index, name in enumerate(names) if name == head]}
        for part in ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
            groups[part] = [index for index, name in enumerate(names) if name.endswith(f"_{part.lower()}")]
        return {group: members for group, members in groups.items() if members}


def _fractions(
    metric: KeypointMetric, name: str, thresholds: Sequence[float], strict: bool, average: Average
) -> dict[str, Tensor]:
    errors, parts = metric.errors(), metric.skeleton.names
    values: dict[str, float] = {}
    for threshold in thresholds:
        key = f"{name}@{threshold:g}"
        values[key] = float(fraction_within(errors, threshold, strict, average))
        single = fraction_within(errors, threshold, strict, average=None).tolist()
        values |= {f"{key}/{part}": value for part, value in zip(parts, single, strict=True)}
    return metric.results(values)
