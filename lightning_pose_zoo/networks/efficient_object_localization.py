"""Efficient Object Localization: coarse heatmaps, and a fine network that reads the coarse one's features around peaks.

Paper: J. Tompson, R. Goroshin, A. Jain, Y. LeCun, C. Bregler, "Efficient Object Localization Using Convolutional
Networks", CVPR 2015, arXiv 1411.4280. The authors released no network; layers and sizes are a reconstruction from the
paper, see ``CoarseNetwork``.

All maps are aligned by ``center``: cell g of stride s lies at pixel (g + 0.5) s - 0.5. Every step keeps to that: the
pyramid's filter has an even number of taps, convolutions keep the size, pooling and enlarging are by whole cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.networks.initialization import initialize_head
from lightning_pose_zoo.networks.timm_models import stage_strides, timm_model

__all__ = [
    "CoarseNetwork",
    "EfficientObjectLocalizationNetwork",
    "FineNetwork",
    "LocalizationMaps",
    "contrast_normalized",
    "crop_windows",
    "gaussian_pyramid",
]

_LEVELS = 3
_PATHS = 4
_DROPOUT = 0.5
# Convolutions in each of the four stages of the paper's networks.
_PAPER_STAGES = {"tompson7": 1, "tompson7_bn": 1, "tompson11": 2, "tompson11_bn": 2}
# exp(-x^2 / (2 sigma^2)) at 0..4, sigma 2.25: a kernel of nine pixels, as Torch's normalisation layers have it.
_CONTRAST_TAPS = (1.0, 0.905955, 0.673638, 0.411112, 0.205924)


class LocalizationMaps(NamedTuple):
    """What the whole network finds.

    Attributes:
        coarse: (B, K, h, w) maps of the whole crop.
        cells: (B, K, 2) int64, x and y of the coarse cell that each window lies around.
        fine: (B, K, n, n) maps of the windows.
    """

    coarse: Tensor
    cells: Tensor
    fine: Tensor


def gaussian_pyramid(images: Tensor) -> list[Tensor]:
    """Return pictures (B, C, H, W) in full, half and quarter size, smoothed by 1 3 3 1 before each halving.

    Cell g of a halved picture lies at 2 g + 0.5 of the larger one; the usual filter of five taps would put it at 2 g.
    Edges are repeated.

    Args:
        images: (B, C, H, W), H and W multiples of 4.
    """
    levels = [images]
    for _ in range(_LEVELS - 1):
        smoothed = F.pad(levels[-1], (1, 1, 1, 1), mode="replicate")
        # 1 3 3 1 is three times 1 1. Pooling stays in float32 under mixed precision, a convolution would not.
        levels.append(F.avg_pool2d(F.avg_pool2d(F.avg_pool2d(smoothed, 2, 1), 2, 1), 2, 2))
    return levels


def _smoothed(maps: Tensor) -> Tensor:
    """Blur (B, 1, H, W) by the Gaussian of the contrast normalisation; edges are repeated."""
    reach = len(_CONTRAST_TAPS) - 1
    total = 2 * sum(_CONTRAST_TAPS) - 1
    for axis, pad in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        length = maps.shape[axis]
        padded = F.pad(maps, pad, mode="replicate")
        parts = [
            padded.narrow(axis, reach + step, length) * (_CONTRAST_TAPS[abs(step)] / total)
            for step in range(-reach, reach + 1)
        ]
        maps = torch.stack(parts).sum(dim=0)
    return maps


def contrast_normalized(images: Tensor) -> Tensor:
    """Take the local mean off pictures (B, C, H, W) and divide by the local deviation.

    Both are over all channels and a Gaussian of nine pixels; deviations below the picture's mean one count as that
    (Jarrett et al., "What Is the Best Multi-Stage Architecture for Object Recognition?", ICCV 2009).
    """
    centered = images - _smoothed(images.mean(dim=1, keepdim=True))
    variance = _smoothed(centered.square().mean(dim=1, keepdim=True))
    deviation = variance.clamp(min=1e-8).sqrt()
    return centered / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))


def crop_windows(features: Tensor, cells: Tensor, ratio: int, window: int) -> Tensor:
    """Cut a window around coarse cells out of finer feature maps; outside of the maps there are zeros.

    A window covers ``window`` coarse cells in both directions, the given one in the middle. As that is an odd number,
    windows begin between cells of every finer map: nothing is interpolated. Gradients of overlapping windows add up.

    Args:
        features: (B, C, ratio h, ratio w).
        cells: (B, K, 2) int64, x and y of cells of the coarse maps (h, w).
        ratio: Cells of the features per coarse cell, in one direction.
        window: Odd number of coarse cells.

    Returns:
        (B K, C, n, n) with n = ratio * window, in channels-last order.
    """
    margin = (window // 2) * ratio
    length = window * ratio
    rows = F.pad(features.permute(0, 2, 3, 1), (0, 0, margin, margin, margin, margin))
    count, height, width, channels = rows.shape
    steps = torch.arange(length, device=cells.device)
    x = cells[..., 0, None] * ratio + steps
    y = cells[..., 1, None] * ratio + steps
    first = torch.arange(count, device=cells.device)[:, None, None] * height
    index = ((first + y)[..., :, None] * width + x[..., None, :]).flatten()
    # An expanded index is what torch gathers fastest, and adds up fastest on the way back.
    found = rows.reshape(-1, channels).gather(0, index[:, None].expand(-1, channels))
    return found.reshape(-1, length, length, channels).permute(0, 3, 1, 2)


def _conv(inputs: int, outputs: int, kernel: int, batch_norm: bool) -> nn.Sequential:
    """Build a convolution that keeps the size, and a ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    nn.init.kaiming_normal_(layers[0].weight, nonlinearity="relu")  # type: ignore[arg-type]
    if not batch_norm:
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _enlarged(maps: Tensor, factor: int) -> Tensor:
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="nearest")


class _PaperTrunk(nn.Module):
    """Four stages of 5x5 convolutions, the first ones pooled by two until the stride is reached."""

    def __init__(self, convs: int, channels: int, batch_norm: bool, stride: int) -> None:
        super().__init__()
        self.pools = stride.bit_length() - 1
        self.strides = [2 ** min(index, self.pools) for index in range(_PATHS)]
        self.channels = [channels] * _PATHS
        widths = [3] + [channels] * (convs * _PATHS)
        layers = [_conv(inputs, outputs, 5, batch_norm) for inputs, outputs in itertools.pairwise(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[index * convs : (index + 1) * convs]) for index in range(_PATHS)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return what each stage finds before its pooling, and what goes on from the last one."""
        features, maps = [], images
        for index, stage in enumerate(self.stages):
            maps = stage(maps)
            features.append(maps)
            if index < self.pools:
                maps = F.max_pool2d(maps, 2)
        return [*features, maps]


class _TimmTrunk(nn.Module):
    """The stages of a timm model, down to a stride."""

    def __init__(self, name: str, pretrained: bool, stride: int) -> None:
        super().__init__()
        strides = stage_strides(name, stride, own=tuple(_PAPER_STAGES))
        used = [index for index, reached in enumerate(strides) if reached <= stride]
        self.model = timm_model(name, pretrained=pretrained, features_only=True, out_indices=used)
        self.strides = [strides[index] for index in used][:_PATHS]
        *_, self.outputs = channels = self.model.feature_info.channels()
        self.channels = channels[:_PATHS]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the finest feature maps, and what goes on from the last stage."""
        features: list[Tensor] = self.model(images)
        return [*features[:_PATHS], features[-1]]


class _Bank(nn.Module):
    """One resolution's layers: the trunk, and a 9x9 convolution that sees much around each cell."""

    def __init__(self, backbone: str, pretrained: bool, channels: int, stride: int) -> None:
        super().__init__()
        batch_norm = _has_batch_norm(backbone)
        self.trunk: _PaperTrunk | _TimmTrunk
        if backbone in _PAPER_STAGES:
            self.trunk = _PaperTrunk(_PAPER_STAGES[backbone], channels, batch_norm, stride)
            inputs = channels
        else:
            self.trunk = _TimmTrunk(backbone, pretrained, stride)
            inputs = self.trunk.outputs
        self.wide = _conv(inputs, 4 * channels, 9, batch_norm)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        *features, last = self.trunk(images)
        return self.wide(last), features


def _has_batch_norm(backbone: str) -> bool:
    return backbone not in ("tompson7", "tompson11")


class CoarseNetwork(nn.Module):
    """Three banks of layers for three sizes of the picture, added up and made into one map per keypoint.

    ``tompson11`` is the MPII network of eleven layers: twice 5x5 and a pooling, three times; twice 5x5; 9x9; after the
    sum of the banks two of 1x1. ``tompson7``, for FLIC, has one 5x5 where the other has two. With a stride of 4 one
    pooling is left out, with 16 there is one more. Strides, layers' numbers, 5x5 and the sum are the paper's; 128 and
    512 channels and the 9x9 convolution are those of the authors' earlier network (NIPS 2014, arXiv 1406.2984).

    Attributes:
        stride: Pixels of the input per cell of the maps.
        strides: Of the feature maps that come with the maps.
        channels: Of these feature maps.
        divisor: What height and width of the pictures must be multiples of.

    Args:
        num_keypoints: K.
        backbone: ``tompson11``, ``tompson7``, the same with batch norm as ``tompson11_bn`` and ``tompson7_bn``, or any
            timm model with feature maps.
        pretrained: Start a timm backbone from its ImageNet weights.
        share_banks: One bank for all three sizes.
        channels: Of the trunk; the 9x9 layer has four times, the first 1x1 layer twice as many.
        stride: 4, 8 or 16, or one that the timm backbone has.

    Raises:
        ValueError: Where the backbone or its stride does not exist.
    """

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "tompson11",
        pretrained: bool = False,
        share_banks: bool = False,
        channels: int = 128,
        stride: int = 8,
    ) -> None:
        super().__init__()
        if backbone in _PAPER_STAGES and stride not in (4, 8, 16):
            raise ValueError(f"the stride of {backbone} is {stride}; choose 4, 8 or 16 (the codec's stride).")
        self.stride = stride
        self.divisor = stride * 2 ** (_LEVELS - 1)
        self.normalize_contrast = backbone in _PAPER_STAGES
        banks = [_Bank(backbone, pretrained, channels, stride) for _ in range(1 if share_banks else _LEVELS)]
        self.banks = nn.ModuleList(banks)
        self.strides: list[int] = banks[0].trunk.strides
        self.channels: list[int] = banks[0].trunk.channels
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.hidden = _conv(4 * channels, 2 * channels, 1, _has_batch_norm(backbone))
        self.head = nn.Conv2d(2 * channels, num_keypoints, 1)
        initialize_head(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Predict one map per keypoint.

        Args:
            images: (B, 3, H, W), normalised, H and W multiples of ``divisor``.

        Returns:
            Maps (B, K, H / stride, W / stride), and the feature maps of the full-size bank, finest first, from before
            the dropout.
        """
        pyramid = gaussian_pyramid(images)
        if self.normalize_contrast:
            pyramid = [contrast_normalized(pictures) for pictures in pyramid]
        total, features = self.banks[0](pyramid[0])
        for level, pictures in enumerate(pyramid[1:], start=1):
            found, _ = self.banks[level % len(self.banks)](pictures)
            total = total + _enlarged(found, 2**level)
        return self.head(self.hidden(self.dropout(total))), features


class FineNetwork(nn.Module):
    """Finer maps of small windows, out of the coarse network's features there; it never sees the picture.

    Each feature level has a path: a 5x5 convolution of the window. The paths are enlarged to the finest one's size and
    added up, then one 1x1 convolution per keypoint follows. All keypoints share the paths.

    Attributes:
        stride: Pixels of the crop per cell of the maps.

    Args:
        num_keypoints: K.
        strides: Pixels per cell of each feature level, finest first.
        inputs: Channels of each feature level.
        channels: Of each path.
        coarse_stride: Pixels per coarse cell.
        window: Width of a window in coarse cells, odd.
        batch_norm: After each 5x5 convolution.

    Raises:
        ValueError: Where the window has no middle cell.
    """

    def __init__(
        self,
        num_keypoints: int,
        strides: Sequence[int],
        inputs: Sequence[int],
        channels: int,
        coarse_stride: int,
        window: int,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window is {window}; give an odd number of coarse cells, such as 5.")
        self.stride = strides[0]
        self.strides = list(strides)
        self.coarse_stride = coarse_stride
        self.window = window
        self.paths = nn.ModuleList(_conv(width, channels, 5, batch_norm) for width in inputs)
        self.head = nn.Conv2d(channels, num_keypoints, 1)
        initialize_head(self.head)

    def forward(self, features: Sequence[Tensor], cells: Tensor) -> Tensor:
        """Predict each keypoint's map of its own window.

        Args:
            features: (B, C, H / s, W / s) of each level, as ``CoarseNetwork`` gives them.
            cells: (B, K, 2) int64, x and y of the coarse cell in the middle of each window.

        Returns:
            (B, K, n, n), n = window * coarse_stride / stride.
        """
        found = []
        for level, path, stride in zip(features, self.paths, self.strides, strict=True):
            windows = crop_windows(level, cells, self.coarse_stride // stride, self.window)
            found.append(_enlarged(path(windows), stride // self.stride))
        total = sum(found[1:], found[0])
        keypoints, size = cells.shape[1], total.shape[-1]
        own = total.unflatten(0, (-1, keypoints)).flatten(3)
        # The K maps of the 1x1 convolution, each for its own keypoint's windows only.
        weight, bias = self.head.weight[:, :, 0, 0], self.head.bias
        assert bias is not None
        maps: Tensor = weight[:, None] @ own + bias[:, None, None]
        return maps.reshape(-1, keypoints, size, size)


class EfficientObjectLocalizationNetwork(nn.Module):
    """The coarse and the fine network, one behind the other.

    Args:
        num_keypoints: K.
        backbone: Of the coarse network, as ``pretrained``, ``share_banks`` and ``stride`` are.
        pretrained: See ``CoarseNetwork``.
        share_banks: See ``CoarseNetwork``.
        channels: Of the coarse network's trunk and of the fine network.
        stride: Pixels per cell of the coarse maps.
        window: Width of the fine network's windows in coarse cells, odd.

    Raises:
        ValueError: Where an argument is out of range.
    """

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "tompson11",
        pretrained: bool = False,
        share_banks: bool = False,
        channels: int = 128,
        stride: int = 8,
        window: int = 5,
    ) -> None:
        super().__init__()
        self.coarse = CoarseNetwork(num_keypoints, backbone, pretrained, share_banks, channels, stride)
        strides, inputs = self.coarse.strides, self.coarse.channels
        self.fine = FineNetwork(num_keypoints, strides, inputs, channels, stride, window, _has_batch_norm(backbone))

    def forward(self, images: Tensor) -> LocalizationMaps:
        """Predict coarse maps, and fine ones around their peaks; no gradient goes through the peaks' places.

        Args:
            images: (B, 3, H, W), normalised, H and W multiples of ``coarse.divisor``.
        """
        coarse, features = self.coarse(images)
        cells, _ = map_peaks(coarse.detach().float())
        return LocalizationMaps(coarse, cells, self.fine(features, cells))
