"""AlphaPose (RMPE): a single-person network that first moves its window to where the person is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.geometry import invert_affine
from lightning_pose_zoo.losses import HeatmapLoss, stage_losses
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.networks.alphapose import AlphaPoseNetwork, Estimator, warp_back
from lightning_pose_zoo.networks.spatial_transformer import conjugated, warp, window_to_crop
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["AlphaPose", "centered_keypoints"]

_ENLARGED = 1.3  # how much wider than the person the window is that the frozen copy asks for, as published
_CLOSEST = 0.25  # of the crop's side; nearer a window does not go


class AlphaPose(HeatmapMethod, PhasedMethod):
    """Top-down pose estimation in boxes that are not where they should be.

    A spatial transformer chooses a window of the crop, a single-person network finds the keypoints in the window, and
    the inverse transformer brings its maps back to the crop. Training has two phases: ``estimator``, the single-person
    network on the crops as they are; ``transformer``, both. In the second a frozen copy of the single-person network
    looks through the same windows, and its maps are compared with those of a person in the middle: its loss moves
    windows to the middle of persons. Poses are found without the copy. Without a transformer there is the first phase
    alone, and the method is AlphaPose's later FastPose.

    Paper: H. Fang, S. Xie, Y. Tai, C. Lu, "RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137.

    Differs from the paper: windows are an angle, extents, a shear and a shift, whose extents are limited, so that they
    always can be inverted, where the paper has the six numbers of the matrix; the copy has all of the single-person
    network's stages, and its batch norm is frozen too; outside of the window maps are at their minimum, not 0; where a
    crop shows a part of the person, the copy asks for the middle of that part; the detector is not part of this class.

    Args:
        skeleton: What the keypoints are: a name such as ``coco17``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        estimator: The single-person network: ``fastpose``, of AlphaPose; ``stacked_hourglass``, the paper's;
            ``simple_baseline`` or ``hrnet``.
        backbone: Of the single-person network: a ResNet of timm for ``fastpose`` (``resnet50`` by default), any timm
            model for ``simple_baseline`` (``resnet50``), the variant for ``hrnet`` (``w32``).
        pretrained: Start the backbones from timm's ImageNet weights, downloaded at first use (AlphaPose does).
        stacks: How many hourglasses a ``stacked_hourglass`` has.
        channels: Of each upsampling layer, by default [256, 128] for ``fastpose`` and [256, 256, 256] for
            ``simple_baseline``; or of the hourglasses, by default [256].
        transformer: Backbone of the spatial transformer, any timm model (``resnet18`` in the paper); null for no
            transformer.
        parallel: Train the transformer with the frozen copy too.
        weights: A checkpoint to start from: of this package or of AlphaPose; see docs/weights.md.
        codec: How keypoints become heatmaps and back; ``HeatmapCodec("msra")``, as published, by default.
        loss: ``HeatmapMSE``, as published, by default; ``HeatmapCrossEntropy`` learns better from random weights.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the parameters; Adam at 1e-3 by default.
        lr_scheduler: Called with the optimizer; none by default. ``WarmupCosine`` begins anew in each phase.
        normalization: What the weights expect of pixels; by default AlphaPose's, RGB with the mean of blue, green and
            red, in this order, subtracted.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.

    Raises:
        SettingsError: Where there is no such single-person network, or a setting is none of its own.
    """

    network: AlphaPoseNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        estimator: Estimator = "fastpose",
        backbone: str | None = None,
        pretrained: bool = False,
        stacks: int = 8,
        channels: tuple[int, ...] | None = None,
        transformer: str | None = "resnet18",
        parallel: bool = True,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        flip_test: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            skeleton,
            codec,
            loss,
            flip_test,
            optimizer,
            lr_scheduler,
            normalization or Normalization(mean=(0.406, 0.457, 0.480), std=(1.0, 1.0, 1.0)),
            channels_last,
        )
        keypoints, first = self.skeleton.num_keypoints, pretrained and weights is None
        try:
            network = AlphaPoseNetwork(keypoints, estimator, backbone, first, stacks, channels, transformer, parallel)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        self._use(network, network.stride)
        self._start_from(weights)

    @property
    def phases(self) -> Sequence[Phase]:
        """The single-person network on crops as they are; with a transformer, both through its windows."""
        first = Phase("estimator", ("network.estimator",))
        if self.network.transformer is None:
            return (first,)
        copied = "the frozen copy of the single-person network" if self.network.parallel is not None else ""
        return (first, Phase("transformer", ("network.estimator", "network.transformer"), needs=copied))

    def fit_statistics(self, batches: Iterable[PoseBatch]) -> None:
        """Copy the single-person network, as the first phase left it; nothing is measured."""
        if self.network.parallel is not None:
            self.network.parallel.load_state_dict(self.network.estimator.state_dict())

    def windows(self, images: Tensor, mirrored: bool = False) -> Tensor | None:
        """Return the windows (B, 2, 3) of crops that the single-person network looks through; None for whole crops.

        They are whole before the second phase of a training.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
            mirrored: Take the mean with those of the mirrored crops.
        """
        transformer = self.network.transformer
        if transformer is None or self.current_phase.name != "transformer":
            return None
        crops = self.normalized(images)
        numbers = transformer.numbers(crops)
        if mirrored:
            numbers = (numbers + transformer.mirrored(transformer.numbers(crops.flip(-1)))) / 2
        return transformer.windows(numbers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K).
        """
        return self._found(images, mirrored=False)

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        keypoints, scores = self._found(batch["image"], self.flip_test)
        return poses_from_crops(keypoints, scores, batch)

    def _found(self, images: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Return keypoints and scores, of the mirrored crops too where asked.

        Keypoints are read in the window, where maps are finer, and carried to the crop exactly; their scores are those
        of the maps in the crop, so that a window's size does not matter.
        """
        windows = self.windows(images, mirrored)
        crops = self.normalized(images)
        seen = crops if windows is None else warp(crops, windows)
        views = [self._in_window(seen)]
        if mirrored:
            views.append(self.codec.unflip(self._in_window(seen.flip(-1)), self.skeleton.flip_permutation))
        keypoints, scores = self.codec.decode(_mean([self.loss.to_heatmaps(maps) for maps in views]))
        if windows is None:
            return keypoints, scores
        size = (int(images.shape[-2]), int(images.shape[-1]))
        back = [self.loss.to_heatmaps(self._to_crop(maps, windows, size)) for maps in views]
        return window_to_crop(keypoints, windows, size), map_peaks(_mean(back))[1]

    def _in_window(self, seen: Tensor) -> Tensor:
        maps = self._fitting(self.network.estimator(seen), seen)
        return maps[:, -1] if maps.ndim == 5 else maps

    def _to_crop(self, maps: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring maps (B, ..., K, h, w) of windows of crops of a height and width back to the crops."""
        return warp_back(maps, conjugated(invert_affine(windows), *self._units(maps, size)))

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss of the maps, ``heatmap``, or ``stack1``, ... of hourglasses; and ``parallel``, the copy's.

        Raises:
            DatasetError: Where the copy needs the persons' boxes and the batch has none.
        """
        images, size = batch["image"], (batch["image"].shape[-2], batch["image"].shape[-1])
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        crops, windows = self.normalized(images), self.windows(images)
        seen = crops if windows is None else warp(crops, windows)
        stages = self._stages(seen, windows)
        found = stage_losses(self.loss, stages, [targets] * len(stages), "stack")
        if len(stages) == 1:
            found = {"heatmap": found["stack1"]}
        if windows is not None and self.network.parallel is not None:
            if "box" not in batch:
                raise DatasetError(
                    "the frozen copy needs 'box' in the batches, which tells where the persons are; add it, or set "
                    "parallel to false."
                )
            centered = centered_keypoints(batch["keypoints"], batch["box"], size)
            targets = self.codec.encode(centered, batch["visibility"], size)
            maps = self.network.parallel(seen)
            several = maps.unbind(dim=1) if maps.ndim == 5 else [maps]
            found["parallel"] = torch.stack([self.loss(one, targets) for one in several]).sum()
        return found

    def _maps(self, images: Tensor) -> Tensor:
        windows = self.windows(images)
        crops = self.normalized(images)
        return self._stages(crops if windows is None else warp(crops, windows), windows)[-1]

    def _stages(self, seen: Tensor, windows: Tensor | None) -> Sequence[Tensor]:
        """Return the maps (B, K, h, w) of each stage in the crop, of what is seen of it, (B, 3, H, W) normalised."""
        maps = self._fitting(self.network.estimator(seen), seen)
        if windows is not None:
            maps = self._to_crop(maps, windows, (int(seen.shape[-2]), int(seen.shape[-1])))
        return maps.unbind(dim=1) if maps.ndim == 5 else (maps,)

    def _units(self, maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return scale and shift (2,) from units of half a crop to those of half a map, as the codec lays its cells."""
        height, width = int(maps.shape[-2]), int(maps.shape[-1])
        corners = maps.new_tensor([[0.0, 0.0], [size[1], size[0]]], dtype=torch.float32)
        crop = (2 * corners + 1) / corners[1] - 1
        cells = self.codec.to_cells(corners, (height, width))
        there = (2 * cells + 1) / cells.new_tensor([width, height]) - 1
        scale = (there[1] - there[0]) / (crop[1] - crop[0])
        return scale, there[0] - scale * crop[0]


def _mean(several: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(several)).mean(dim=0)


def centered_keypoints(keypoints: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move keypoints to where they are in a window around the person: as high as the box, enlarged, and in its middle.

    Of a person who is only partly in the crop the part counts, and no window is larger than the crop: more cannot be
    seen.

    Args:
        keypoints: (N, K, 2), pixels of the crop.
        boxes: (N, 4) x0, y0, x1, y1 of the persons, pixels of the crop.
        size: Height and width of the crop in pixels.

    Returns:
        (N, K, 2), pixels of the window, which has the size of the crop.
    """
    sides = boxes.new_tensor([size[1], size[0]])
    corners = boxes.unflatten(-1, (2, 2)).clamp(min=0).minimum(sides)
    extent = ((corners[:, 1] - corners[:, 0]) / sides).amax(dim=-1)  # of the side that fills the window
    zoom = 1 / (extent * _ENLARGED).clamp(_CLOSEST, 1.0)
    middle = corners.mean(dim=1)
    centered: Tensor = (keypoints + 0.5 - middle[:, None]) * zoom[:, None, None] + sides / 2 - 0.5
    return centered
