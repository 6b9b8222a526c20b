"""Efficient Object Localization: coarse heatmaps, then a fine network that looks again around each peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_pose_zoo.codecs import HeatmapCodec, HeatmapTargets
from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.losses import HeatmapLoss, HeatmapMSE
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.networks import EfficientObjectLocalizationNetwork
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["EfficientObjectLocalization", "WindowCenters"]

WindowCenters = Literal["pred", "gt_jitter"]

_FINE_WEIGHT = 0.1


class EfficientObjectLocalization(PhasedMethod):
    """Top-down pose estimation, coarse to fine: heatmaps of the crop, then finer ones of a window around each peak.

    The fine network reads the coarse one's own features in the window and never the picture. Training has three phases:
    ``coarse``; ``fine``, with the coarse network as it is; ``joint``, both, with a tenth of the fine loss.

    Paper: J. Tompson, R. Goroshin, A. Jain, Y. LeCun, C. Bregler, "Efficient Object Localization Using Convolutional
    Networks", CVPR 2015, arXiv 1411.4280.

    Differs from the paper: no network was released, so layers are reconstructed from the text; windows are 40 pixels
    wide at a stride of 8 and 36 at 4, where the paper has 36; fine maps are read between their cells, not at them;
    keypoints without a label do not count; half the squared error, as everywhere in this package; no spatial model
    that chooses among several persons by their torsos; the schedule is the recipe's.

    Attributes:
        read_stage: The maps that poses are read from: 0, coarse; 1, fine; -1, the last that was trained, which is
            coarse in the first phase and fine after it. 0 shows what the fine network adds.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        backbone: ``tompson11``, the paper's layers for MPII, or ``tompson7``, those for FLIC; ``tompson11_bn`` and
            ``tompson7_bn``, with batch norm, which learn from random weights in a short time; or any timm model with
            feature maps.
        pretrained: Start a timm backbone from its ImageNet weights, downloaded at first use.
        share_banks: The same weights for all three sizes of the picture; the paper has some for each.
        channels: Of the paper's layers and of the fine network; 128 in the paper.
        window: Width of the fine network's windows in coarse cells, odd; take 9 at a stride of 4 and 3 at 16.
        window_centers: Where windows are in training: ``pred``, at the coarse network's peaks as in use; or
            ``gt_jitter``, at the cell of a point up to a quarter of a window beside the keypoint.
        mask_outside: Leave keypoints outside of their window out of the fine loss; by default the fine map is to be
            zero there.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How keypoints become coarse maps, whose stride is the network's: 4, 8 or 16; by default
            ``HeatmapCodec("center", stride=8, sigma=1.5)``. Fine maps have the same sigma in their own cells.
        loss: On coarse and fine maps; ``HeatmapMSE("cells")``, as published, by default.
            ``HeatmapCrossEntropy(sigma=1.5)`` learns better from random weights.
        optimizer: Called with the parameters; SGD at 0.01 with Nesterov momentum 0.9 by default.
        lr_scheduler: Called with the optimizer; none by default. ``WarmupCosine`` begins anew in each phase.
        normalization: What the weights expect of pixels; ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.

    Raises:
        SettingsError: Where an argument is out of range, or the codec is not of the convention ``center``.
    """

    network: EfficientObjectLocalizationNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        backbone: str = "tompson11",
        pretrained: bool = False,
        share_banks: bool = False,
        channels: int = 128,
        window: int = 5,
        window_centers: WindowCenters = "pred",
        mask_outside: bool = False,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.01, momentum=0.9, nesterov=True
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        self.codec = codec or HeatmapCodec("center", stride=8, sigma=1.5)
        self.loss = loss or HeatmapMSE("cells")
        if self.codec.convention != "center":
            raise SettingsError(
                f"the codec's convention is {self.codec.convention}, but windows lie around the middle of cells; take "
                "HeatmapCodec('center')."
            )
        if window_centers not in ("pred", "gt_jitter"):
            raise SettingsError(f"window_centers is '{window_centers}'; choose pred or gt_jitter.")
        keypoints = self.skeleton.num_keypoints
        try:
            self.network = EfficientObjectLocalizationNetwork(
                keypoints, backbone, pretrained, share_banks, channels, self.codec.stride, window
            )
        except ValueError as error:
            raise SettingsError(str(error)) from error
        self.window_centers = window_centers
        self.mask_outside = mask_outside
        self.fine_codec = HeatmapCodec("center", self.network.fine.stride, self.codec.sigma)
        self.read_stage = -1
        self._start_from(weights)

    @property
    def phases(self) -> Sequence[Phase]:
        """Coarse; fine, the coarse network resting; both."""
        return (
            Phase("coarse", ("network.coarse",), {"coarse": 1.0}),
            Phase("fine", ("network.fine",), {"fine": 1.0}),
            Phase("joint", (), {"coarse": 1.0, "fine": _FINE_WEIGHT}),
        )

    @property
    def window_size(self) -> int:
        """Width and height of the fine network's windows in pixels of the crop."""
        return self.network.fine.window * self.codec.stride

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the losses of the current phase, weighted: ``coarse``, ``fine``."""
        weights = self.current_phase.loss_weights
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        keypoints, visibility = batch["keypoints"], batch["visibility"]
        maps, features = self._coarse(batch["image"])
        found = {}
        if "coarse" in weights:
            found["coarse"] = self.loss(maps, self.codec.encode(keypoints, visibility, size))
        if "fine" in weights:
            if self.window_centers == "pred":
                cells, _ = map_peaks(maps.detach().float())
            else:
                cells = self._jittered_cells(keypoints, size)
            found["fine"] = self.loss(
                self.network.fine(features, cells), self.window_targets(keypoints, visibility, cells)
            )
        return {name: weights[name] * value for name, value in found.items()}

    def window_targets(self, keypoints: Tensor, visibility: Tensor, cells: Tensor) -> HeatmapTargets:
        """Draw what the fine maps should be.

        Args:
            keypoints: (B, K, 2), pixels of the crops.
            visibility: (B, K); keypoints of 0 get weight 0.
            cells: (B, K, 2) int64, the coarse cells in the middle of the windows.

        Returns:
            Heatmaps (B, K, n, n), zeros where the keypoint is outside of its window, and weights (B, K).
        """
        inside = keypoints.float() - self.window_origins(cells)
        heatmaps, weights = self.fine_codec.encode(inside, visibility, (self.window_size, self.window_size))
        labelled = (visibility > 0).float()
        return HeatmapTargets(heatmaps, weights if self.mask_outside else labelled)

    def window_origins(self, cells: Tensor) -> Tensor:
        """Return the first pixel, x and y, of the windows around coarse cells (..., 2), float32 pixels of the crop."""
        return (cells - self.network.fine.window // 2).float() * self.codec.stride

    def _jittered_cells(self, keypoints: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the cells of points up to a quarter of a window beside the keypoints."""
        height, width = self.codec.map_size(size)
        moved = keypoints + (torch.rand_like(keypoints) - 0.5) * (self.window_size / 2)
        cells = self.codec.to_cells(moved, (height, width)).round().long()
        return torch.stack([cells[..., 0].clamp(0, width - 1), cells[..., 1].clamp(0, height - 1)], dim=-1)

    def _coarse(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarse maps (B, K, h, w) and the features that the fine network reads."""
        height, width = int(images.shape[-2]), int(images.shape[-1])
        divisor = self.network.coarse.divisor
        if height % divisor or width % divisor:
            raise DatasetError(
                f"crops of {height}x{width} cannot be halved often enough; give an image_size whose sides are "
                f"multiples of {divisor}."
            )
        maps, features = self.network.coarse(self.normalized(images))
        return maps, features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K): the value of each coarse map's peak,
            which tells whether the keypoint was found; fine maps only tell where.

        Raises:
            DatasetError: Where a side of the crops cannot be halved often enough.
        """
        maps, features = self._coarse(images)
        heatmaps = self.loss.to_heatmaps(maps)
        if self.read_stage == 0 or (self.read_stage == -1 and "fine" not in self._trained):
            keypoints, scores = self.codec.decode(heatmaps)
            return keypoints, scores
        cells, scores = map_peaks(heatmaps)
        fine = self.loss.to_heatmaps(self.network.fine(features, cells))
        inside, certain = self.fine_codec.decode(fine)
        # A map without a positive value says nothing; the coarse cell's middle stays.
        inside = torch.where(certain[..., None] > 0, inside, torch.full_like(inside, (self.window_size - 1) / 2))
        return self.window_origins(cells) + inside, scores

    @property
    def _trained(self) -> set[str]:
        """Names of the losses that any phase so far minimised."""
        last = self.phase % len(self.phases)
        return {name for phase in self.phases[: last + 1] for name in phase.loss_weights}

    def protocol(self) -> str:
        """Say how maps are made and read; see ``methods.top_down.evaluation_protocol``."""
        return f"no flip test, {self.codec}, windows of {self.window_size} pixels, {self.fine_codec}"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        keypoints, scores = self(batch["image"])
        return poses_from_crops(keypoints, scores, batch)
