"""Whether an exported file says what its method says, on random pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pose_zoo.errors import PoseZooError, SettingsError

if TYPE_CHECKING:
    from lightning_pose_zoo.methods.base import PoseModule
    from lightning_pose_zoo.methods.exported_pictures import PictureGraph

__all__ = ["Check", "CropCheck", "PictureCheck", "Run"]

_MOST_PIXELS = 1e-3
_MOST_VALUE = 1e-3  # of the highest value
# Deviations of the pixels. Keypoints move by this about thirty times as far as by rounding, in trained networks.
_NOISE = 1e-4
_STEADY = 0.005  # pixels
# What lies on a threshold may fall to either side of it by rounding.
_BY_ROUNDING = 0.01

Run = Callable[[Tensor], tuple[Tensor, ...]]


class Check(ABC):
    """Random pictures, what a method says about them, and how it is compared with a file.

    Attributes:
        images: (B, 3, H, W) uint8.
    """

    images: Tensor

    @abstractmethod
    def distance(self, run: Run, count: int, path: Path) -> float:
        """Return by how much a file differs from its method on the first pictures, in pixels.

        Raises:
            SettingsError: Where that is too much.
        """


class CropCheck(Check):
    """Compares keypoints and their scores.

    Args:
        method: On the CPU and in evaluation.
        image_size: Height and width of the crops in pixels.

    Raises:
        SettingsError: Where the method cannot take crops of that size, or has no peaks yet.
    """

    def __init__(self, method: PoseModule, image_size: tuple[int, int]) -> None:
        self.images = random_pictures(image_size)
        self.keypoints, self.scores = _said(method, method, self.images)
        pixels, random = method.normalized(self.images), torch.Generator().manual_seed(1)
        # On flat maps a keypoint does not stay in its place when the pixels change a little: the order of a sum
        # decides where it is.
        self.steady = torch.ones_like(self.scores, dtype=torch.bool)
        for _ in range(2):
            moved, _ = method(pixels + _NOISE * torch.randn(pixels.shape, generator=random))
            self.steady &= (moved - self.keypoints).norm(dim=-1) < _STEADY
        if not self.steady.any():
            raise SettingsError(
                f"on random crops the maps of this {type(method).__name__} are so flat that rounding decides where its "
                "keypoints are, so that an exported file could not be checked; train it first."
            )

    def distance(self, run: Run, count: int, path: Path) -> float:
        """Return by how much keypoints differ that stay in their place when the pixels change a little."""
        keypoints, scores, steady = self.keypoints[:count], self.scores[:count], self.steady[:count]
        found, found_scores = run(self.images[:count])
        pixels = torch.where(steady, (found - keypoints).norm(dim=-1), 0.0).max().item()
        score = (found_scores - scores).abs().max().item() / max(scores.abs().max().item(), 1e-12)
        if not (pixels <= _MOST_PIXELS and score <= _MOST_VALUE):  # written so that NaN is refused too
            raise _differs(path, count, f"{pixels:.2g} pixels and {score:.2g} of the highest score")
        return pixels


class PictureCheck(Check):
    """Compares maps, and what the file reads off its own maps with what the method reads off them.

    Args:
        graph: What is exported, on the CPU and in evaluation.
        image_size: Height and width of the pictures in pixels.

    Raises:
        SettingsError: Where the method cannot take pictures of that size.
    """

    def __init__(self, graph: PictureGraph, image_size: tuple[int, int]) -> None:
        self.graph = graph
        self.images = random_pictures(image_size)
        method: PoseModule = graph.method  # type: ignore[assignment]
        self.maps = _said(method, method, self.images)

    def distance(self, run: Run, count: int, path: Path) -> float:
        """Return by how much candidates differ; 0 where the random pictures have none."""
        outputs = run(self.images[:count])
        maps, (places, scores, table) = outputs[: self.graph.maps], outputs[self.graph.maps :]
        pairs = zip((part[:count] for part in self.maps), maps, strict=True)
        parts = [(theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-12) for ours, theirs in pairs]
        off = torch.stack(parts).max().item()
        if not off <= _MOST_VALUE:  # NaN too
            raise _differs(path, count, f"{off:.2g} of the highest value of its maps")
        own_places, own_scores, own_table = self.graph.decoded(*maps)
        there, here = scores > 0, own_scores > 0
        apart = (own_places[..., :, None, :] - places[..., None, :, :]).norm(dim=-1)
        apart = apart.masked_fill(~there[..., None, :], torch.inf)
        nearest, partner = apart.min(dim=-1)
        same = (nearest <= _MOST_PIXELS) & ((scores.gather(-1, partner) - own_scores).abs() <= _MOST_VALUE)
        wrong = int((here & ~same).sum()) + abs(int(there.sum()) - int(here.sum()))
        if wrong > max(2, _BY_ROUNDING * int(here.sum())):
            raise _differs(path, count, f"{wrong} of {int(here.sum())} candidates")
        ordered = self._by_partner(table, partner, here)
        different = int(((ordered - own_table).abs() > _MOST_VALUE * own_table.abs().max().clamp(min=1)).sum())
        if different > max(2, _BY_ROUNDING * int((own_table != 0).sum())):
            raise _differs(path, count, f"{different} of {int((own_table != 0).sum())} pairs of candidates")
        return float(nearest[here & same].max()) if (here & same).any() else 0.0

    def _by_partner(self, table: Tensor, partner: Tensor, here: Tensor) -> Tensor:
        """Bring a file's table of pairs into the order of the method's candidates, 0 where there are none."""
        most = partner.shape[-1]
        if table.ndim == 4:  # by limb
            first, second = torch.tensor(self.graph.association()["limbs"]).unbind(dim=1)
            rows, columns, there = partner[:, first], partner[:, second], (here[:, first], here[:, second])
        else:
            rows = columns = (partner + torch.arange(partner.shape[1])[:, None] * most).flatten(1)
            there = here.flatten(1), here.flatten(1)
        ordered = table.gather(-2, rows[..., None].expand_as(table))
        ordered = ordered.gather(-1, columns[..., None, :].expand_as(table))
        return ordered * (there[0][..., None] & there[1][..., None, :])


def random_pictures(image_size: tuple[int, int], count: int = 5) -> Tensor:
    """Make pictures of squares of 8 pixels, uint8: what is finer blurs to grey in a network.

    Raises:
        SettingsError: Where the size is none.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise SettingsError(f"image_size is {tuple(image_size)}; give height and width in pixels, as in 256 192.")
    height, width = image_size
    squares = torch.rand(count, 3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(0))
    return (F.interpolate(squares, scale_factor=8)[..., :height, :width] * 255).to(torch.uint8)


def _said(method: PoseModule, call: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor) -> tuple[Tensor, ...]:
    """Return what a method says of pictures."""
    try:
        return call(images)
    except PoseZooError:
        raise
    except (RuntimeError, ValueError) as error:
        reason, (height, width) = str(error).splitlines()[0], images.shape[-2:]
        raise SettingsError(
            f"{type(method).__name__} cannot take crops of {height}x{width}: {reason}; give an image_size whose sides "
            "are multiples of 32."
        ) from error


def _differs(path: Path, count: int, by: str) -> SettingsError:
    return SettingsError(
        f"'{path}' was not written: on {count} random crops it differs from the method by {by}; {_MOST_PIXELS} of each "
        "is allowed. Update torch, onnxscript and onnxruntime, or export the other format."
    )
