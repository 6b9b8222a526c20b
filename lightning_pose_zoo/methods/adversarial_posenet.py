"""Adversarial PoseNet: a generator of pose maps trained against critics that know what poses look like."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.codecs import HeatmapCodec, HeatmapTargets, occlusion_targets
from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.losses import HeatmapLoss, HeatmapMSE
from lightning_pose_zoo.methods.critics import Critics, Judged, confidence_labels, place_labels, sizes_in_crops
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.several_optimizers import SeveralOptimizers
from lightning_pose_zoo.networks import AdversarialPoseNetNetwork
from lightning_pose_zoo.schedules import scheduler_config
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["AdversarialPoseNet"]


@dataclass
class _Sample:
    """A batch on its way through one step: what it is trained on, and the maps that the generator gave for it."""

    batch: PoseBatch
    pose: HeatmapTargets
    occlusion: HeatmapTargets
    picture: Tensor
    maps: Tensor | None = None


class AdversarialPoseNet(SeveralOptimizers, HeatmapMethod):
    """Top-down pose estimation with maps of hidden keypoints beside those of all, trained against two critics.

    The generator is a row of stacks of two hourglasses. Each step of training goes as in the paper's algorithm: the
    generator steps on its supervised loss; each critic steps on the true maps and on the generator's; the generator
    steps on its supervised loss and what the critics think of its maps. Only the generator is used afterwards.

    Paper: Y. Chen, C. Shen, X.-S. Wei, L. Liu, J. Yang, "Adversarial PoseNet: A Structure-aware Convolutional Network
    for Human Pose Estimation", ICCV 2017, arXiv 1705.00389.

    Differs from the paper: no code was released, so what the text leaves open is reconstructed: the critics' layers and
    the two thresholds of their labels. The critics' losses are cross-entropies with those labels, and the generator
    is asked to have all keypoints judged as true: the printed formulas reward the opposite. Targets are drawn
    where the keypoints are, peaks are read by Taylor expansion, keypoints without a label count nowhere; the schedule
    is the recipe's.

    Attributes:
        read_stage: The stack that poses are read from, counted from 0; -1, the last one.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        stacks: How many stacks of two hourglasses, 1 to 8; 4 in the paper.
        channels: Of the generator's features; 512 in the paper.
        critics: Who judges the maps, and how much that weighs; by default ``Critics()``, as in the paper.
            ``Critics(pose_weight=0, confidence_weight=0)`` trains without.
        supervised_step: Let the generator step on its supervised loss alone first, as in the paper, so that it steps
            twice in each step of training. Without it training takes half the time.
        weights: A checkpoint to start from; see docs/weights.md.
        codec: How keypoints become heatmaps and back; ``HeatmapCodec("center", sigma=1)`` by default.
        loss: On the maps of all keypoints; ``HeatmapMSE("sum")``, as published, by default, which the critics' weights
            are made for. ``HeatmapCrossEntropy(sigma=1)`` learns better from random weights in a short time.
        occlusion_loss: On the maps of the hidden keypoints, most of which are zeros; ``HeatmapMSE("sum")`` by default.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the generator's parameters; RMSprop at 2.5e-4 by default.
        lr_scheduler: Called with the generator's optimizer; none by default.
        critic_optimizer: Called with each critic's parameters; RMSprop at 2.5e-4 by default.
        critic_lr_scheduler: Called with each critic's optimizer; none by default.
        normalization: What the weights expect of pixels; RGB in 0..1, nothing subtracted, by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: AdversarialPoseNetNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        stacks: int = 4,
        channels: int = 512,
        critics: Critics | None = None,
        supervised_step: bool = True,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        occlusion_loss: HeatmapMSE | None = None,
        flip_test: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.RMSprop(parameters, lr=2.5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        critic_optimizer: OptimizerCallable = lambda parameters: torch.optim.RMSprop(parameters, lr=2.5e-4),
        critic_lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            skeleton,
            codec or HeatmapCodec("center", sigma=1.0),
            loss or HeatmapMSE("sum"),
            flip_test,
            optimizer,
            lr_scheduler,
            normalization or Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            channels_last,
        )
        self.occlusion_loss = occlusion_loss or HeatmapMSE("sum")
        # A copy, because it is filled with networks where this method trains.
        self.critics = Critics() if critics is None else copy.deepcopy(critics)
        self.supervised_step = supervised_step
        self._critic_optimizer = critic_optimizer
        self._critic_lr_scheduler = critic_lr_scheduler
        try:
            network = AdversarialPoseNetNetwork(self.skeleton.num_keypoints, stacks, channels)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        self._use(network, network.stride)
        self.read_stage = -1
        self._start_from(weights)

    def stage_maps(self, images: Tensor) -> Tensor:
        """Return the maps of all keypoints of each stack, (B, S, K, h, w), as the loss sees them.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        return self._outputs(images)[:, :, 0]

    def occlusion_maps(self, images: Tensor) -> Tensor:
        """Return the maps (B, K, h, w) of the keypoints that are hidden; near zero where one is seen.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        return self._outputs(images)[:, self.read_stage, 1].float()

    def _outputs(self, images: Tensor) -> Tensor:
        return super()._maps(images)

    def _maps(self, images: Tensor) -> Tensor:
        return self.stage_maps(images)[:, self.read_stage]

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the generator's supervised losses, ``pose`` and ``occlusion``, each the mean over the stacks."""
        return self._supervised(self._sample(batch))

    def _sample(self, batch: PoseBatch) -> _Sample:
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        pose = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        cells = (pose.heatmaps.shape[-2], pose.heatmaps.shape[-1])
        picture = F.adaptive_avg_pool2d(self.normalized(batch["image"]), cells)
        return _Sample(batch, pose, occlusion_targets(pose, batch["visibility"]), picture)

    def _supervised(self, sample: _Sample) -> dict[str, Tensor]:
        """Run the generator; keep its maps for the critics, and return the losses on them."""
        sample.maps = self._outputs(sample.batch["image"])
        stages = sample.maps.unbind(dim=1)
        return {
            "pose": torch.stack([self.loss(maps[:, 0], sample.pose) for maps in stages]).mean(),
            "occlusion": torch.stack([self.occlusion_loss(maps[:, 1], sample.occlusion) for maps in stages]).mean(),
        }

    def setup(self, stage: str) -> None:
        """Have critics where something is to be trained."""
        super().setup(stage)
        if stage == "fit":
            self.critics.build(self.skeleton.num_keypoints)
            # Lightning wants a checkpoint from before the step, which would not go on where it stopped.
            warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer of the generator and those of the critics, each with its schedule."""
        pairs: list[tuple[str, nn.Module, OptimizerCallable, LRSchedulerCallable | None]]
        pairs = [("generator", self.network, self._optimizer, self._lr_scheduler)]
        for name, critic in self.critics.networks.items():
            pairs.append((name, critic, self._critic_optimizer, self._critic_lr_scheduler))
        built: list[tuple[Any, dict[str, Any] | None]] = []
        for name, part, optimizer_of, scheduler_of in pairs:
            optimizer, config = optimizer_of(list(part.parameters())), None
            if scheduler_of is not None:
                config = scheduler_config(
                    scheduler_of(optimizer), self.trainer.estimated_stepping_batches, self._phase_ends
                )
                config["name"] = f"lr-{name}"
            built.append((optimizer, config))
        return self.scheduled(built)

    def optimize(self, batches: Sequence[PoseBatch]) -> Tensor:
        """Step the generator, the critics and, in the paper's order, the generator again; return its loss."""
        optimizers = self.optimizers()
        generator, *critics = optimizers if isinstance(optimizers, list) else [optimizers]
        samples = [self._sample(batch) for batch in batches]
        logged: dict[str, Tensor] = {}
        weighs = bool(critics) and self.trainer.global_step >= self.critics.start

        def note(values: dict[str, Tensor]) -> None:
            for name, value in values.items():
                logged[name] = logged.get(name, 0) + value.detach() / len(samples)

        def supervised(sample: _Sample) -> Tensor:
            return torch.stack(list(self._supervised(sample).values())).sum()

        def whole(sample: _Sample) -> Tensor:
            parts = self._supervised(sample)
            if weighs:
                parts |= self.critics.generator_losses(self._judged(sample))
            total = torch.stack(list(parts.values())).sum()
            note({"loss": total} | {f"loss_{name}": part for name, part in parts.items()})
            return total

        twice = weighs and self.supervised_step
        self.take_step(generator, samples, supervised if twice else whole, counted=not twice)
        for sample in samples:
            assert sample.maps is not None
            sample.maps = sample.maps.detach()
        for name, critic in zip(self.critics.networks, critics, strict=True):

            def criticised(sample: _Sample, name: str = name) -> Tensor:
                loss, shares = self._critic_loss(name, sample)
                note({f"critic_{name}": loss} | {f"critic_{share}": value for share, value in shares.items()})
                return loss

            self.take_step(critic, samples, criticised)
        if twice:
            self.take_step(generator, samples, whole, counted=True)
        size = sum(batch["image"].shape[0] for batch in batches)
        loss = logged.pop("loss")
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, batch_size=size)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        return loss

    def _judged_stages(self, values: Tensor) -> Tensor:
        """Repeat what belongs to persons for each stack that is judged, (S N, ...), stack after stack."""
        stages = len(self.network.stacks) if self.critics.all_stacks else 1
        return values.repeat(stages, *(1 for _ in values.shape[1:]))

    def _judged(self, sample: _Sample) -> Judged:
        """Return the generator's maps as the critics see them."""
        assert sample.maps is not None
        stages = sample.maps if self.critics.all_stacks else sample.maps[:, -1:]
        maps = stages.transpose(0, 1).flatten(0, 1)
        both = torch.stack([self.loss.to_heatmaps(maps[:, 0]), maps[:, 1].float()], dim=1)
        return Judged(self._judged_stages(sample.picture), both, self._judged_stages(sample.pose.weights))

    def _critic_loss(self, name: str, sample: _Sample) -> tuple[Tensor, dict[str, Tensor]]:
        predicted = self._judged(sample)
        both = torch.stack([sample.pose.heatmaps, sample.occlusion.heatmaps], dim=1)
        true = Judged(sample.picture, both, sample.pose.weights)
        maps = predicted.maps[:, 0]
        if name == "pose":
            cells, _ = map_peaks(maps)
            found = self.codec.to_pixels(cells.float(), (maps.shape[-2], maps.shape[-1]))
            keypoints = self._judged_stages(sample.batch["keypoints"].float())
            sizes = self._judged_stages(sizes_in_crops(sample.batch))
            labels = place_labels(found, keypoints, sizes, self.critics.near)
        else:
            labels = confidence_labels(maps, self._judged_stages(sample.pose.heatmaps), self.critics.close)
        return self.critics.critic_loss(name, true, predicted, labels)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the critics of a training out where none are needed."""
        super().on_load_checkpoint(checkpoint)
        if not self.critics.networks:
            state = checkpoint["state_dict"]
            for key in [key for key in state if key.startswith("critics.")]:
                del state[key]
