"""Iterative Error Feedback: a start pose that one network corrects again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod, rows_of_all_processes
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.networks import CorrectionBound, IterativeErrorFeedbackNetwork
from lightning_pose_zoo.networks.iterative_error_feedback import bounded_target, walked_towards
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["IterativeErrorFeedback"]


class IterativeErrorFeedback(PhasedMethod):
    """Top-down pose estimation by correcting a pose: the picture and the pose so far go in, a bounded change comes out.

    The start is the median pose of the training crops, measured before training. Training goes along fixed paths: from
    the start straight to the label in steps of at most L. Each phase adds the next step of the paths
    (``callbacks.TrainingPhases``).

    Paper: J. Carreira, P. Agrawal, K. Fragkiadaki, J. Malik, "Human Pose Estimation with Iterative Error Feedback",
    CVPR 2016, arXiv 1507.06550.

    Differs from the paper: GoogLeNet is torchvision's, with batch norm; maps are in the range of normalised pixels and
    drawn where the keypoints are, not at whole pixels; the person's box gives the scale, where the paper has a second
    network choose it; keypoints without a label stay at the start in the maps.

    Attributes:
        read_step: The step that poses are read after, 0 for the start pose; -1, after all, as published. Another one
            shows what the later ones add.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        backbone: ``googlenet`` (the paper's; torchvision's, with batch norm), or any timm model that begins with a
            convolution.
        pretrained: Start from ImageNet weights, downloaded at first use.
        steps: How often the pose is corrected, and how many phases training has; 4 in the paper.
        max_step: L, the longest correction, in pixels of a crop of 224: it grows with the crop's longer side. Joints
            farther than ``steps`` times this from the start cannot be reached.
        sigma: Deviation of the maps' Gaussians, in the same pixels; the released code's by default.
        bound: Whether predicted corrections are kept below L: ``none``, as published, where they only learn it;
            ``clip``, cut off when poses are read; ``tanh_radial``, squashed, in training too.
        path: What training corrects: ``fixed``, poses on the straight way to the label, as published; ``predicted``,
            the network's own.
        weights: A checkpoint to start from: of this package; see docs/weights.md.
        optimizer: Called with the parameters; SGD at 1e-3 with momentum 0.9 by default.
        lr_scheduler: Called with the optimizer; none by default.
        normalization: What the weights expect of pixels; -1..1 for ``googlenet``, else ImageNet's mean and deviation.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: IterativeErrorFeedbackNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        backbone: str = "googlenet",
        pretrained: bool = False,
        steps: int = 4,
        max_step: float = 20.0,
        sigma: float = 22.36,
        bound: CorrectionBound = "none",
        path: Literal["fixed", "predicted"] = "fixed",
        weights: str | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        if normalization is None and backbone == "googlenet":
            normalization = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        if path not in ("fixed", "predicted"):
            raise ValueError(f"unknown path '{path}'; choose fixed or predicted.")
        self.network = IterativeErrorFeedbackNetwork(
            self.skeleton.num_keypoints, backbone, pretrained, steps, max_step, sigma, bound
        )
        self.path = path
        self.read_step = -1
        self._start_from(weights)

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase per step; each trains all steps so far."""
        names = ["step 1", *(f"steps 1 to {step}" for step in range(2, self.network.steps + 1))]
        return tuple(
            Phase(name, loss_weights={"correction": 1.0}, needs="" if number else "the median pose")
            for number, name in enumerate(names)
        )

    def fit_statistics(self, batches: Iterable[PoseBatch]) -> None:
        """Measure the start pose: the median place of each keypoint in the crops, over those that are labelled.

        x and y are taken apart, as shares of the crop's width and height; of an even number of labels the lower one of
        the two in the middle counts. A keypoint that is labelled nowhere starts in the middle of the crop.
        """
        keypoints = self.network.start_pose.shape[0]
        ids = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        places = [torch.zeros(0, keypoints, 2, device=self.device)]
        for batch in batches:
            height, width = batch["image"].shape[-2:]
            shares = (batch["keypoints"].float() + 0.5) / batch["keypoints"].new_tensor([width, height]).float()
            places.append(torch.where((batch["visibility"] > 0)[..., None], shares, torch.nan))
            ids.append(batch.get("person_id", torch.zeros(len(shares), dtype=torch.int64, device=self.device)))
        [found] = rows_of_all_processes(torch.cat(ids), torch.cat(places))
        if not len(found):
            return
        median = found.nanmedian(dim=0).values
        missing = median.isnan().any(dim=-1)
        if missing.any():
            names = ", ".join(name for name, lacks in zip(self.skeleton.names, missing.tolist(), strict=True) if lacks)
            rank_zero_warn(f"No training crop has a label of {names}: in the start pose it is the crop's middle.")
        self.network.start_from(median.nan_to_num(0.5))

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the squared error of the corrections, in units of L, mean over labelled keypoints and steps so far."""
        images = self.normalized(batch["image"])
        size = (int(images.shape[-2]), int(images.shape[-1]))
        longest = self.network.longest_step(size)
        labelled = (batch["visibility"] > 0).float()
        start = self.network.start_keypoints(len(images), size)
        goal = torch.where(labelled[..., None] > 0, batch["keypoints"].float(), start)
        steps = self.phase % len(self.phases) + 1
        shown, errors = start, []
        for step in range(1, steps + 1):
            change = self.network.correction(images, shown)
            target = bounded_target(goal - shown, longest) / longest
            errors.append(((change - target).square().sum(dim=-1) * labelled).sum())
            if self.path == "predicted":
                shown, _ = self.network.moved(shown, change.detach(), size)
            else:
                shown = walked_towards(start, goal, torch.tensor(step, device=start.device), longest)
        loss = torch.stack(errors).mean() / labelled.sum().clamp(min=1)
        return {"correction": loss * self.current_phase.loss_weights["correction"]}

    def trajectory(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the poses after 0, 1, ..., T steps (B, T + 1, K, 2), and the scores of the last one (B, K).

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        poses, change = self.network(self.normalized(images))
        # A keypoint at rest is one that the picture and the whole pose agree on.
        scores = (1 - change.square().sum(dim=-1).sqrt()).clamp(min=0)
        return cast("Tensor", poses), scores

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K): 1 where the last step moved a keypoint
            no more, 0 where it moved it by L or more.

        Raises:
            SettingsError: Where the start pose was not measured.
        """
        poses, scores = self.trajectory(images)
        return poses[:, self.read_step], scores

    def protocol(self) -> str:
        """Say how poses are found; see ``methods.top_down.evaluation_protocol``."""
        network = self.network
        return f"no flip test, {network.steps} steps of {network.max_step:g}/224 of the crop, bound {network.bound}"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        keypoints, scores = self(batch["image"])
        return poses_from_crops(keypoints, scores, batch)
