"""``Critics``: networks that judge the maps of a pose while it trains, keypoint by keypoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.networks import MapCritic
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["Critics", "Judged", "confidence_labels", "place_labels", "sizes_in_crops"]

_SHARE_OF_CROP = 0.1  # what distances are divided by where a head's size is unknown


@dataclass(frozen=True)
class Judged:
    """Maps that critics look at. N persons, K keypoints; maps of unlabelled keypoints are zeros.

    Attributes:
        picture: (N, 3, h, w), normalised, as small as the maps.
        maps: (N, 2, K, h, w), of all keypoints and of the hidden ones.
        weights: (N, K), 1 where a keypoint is labelled.
    """

    picture: Tensor
    maps: Tensor
    weights: Tensor

    def inputs(self, with_picture: bool) -> Tensor:
        """Return what a critic sees, (N, 2 K, h, w) or with the picture (N, 3 + 2 K, h, w)."""
        maps = (self.maps * self.weights[:, None, :, None, None]).flatten(1, 2)
        return torch.cat([self.picture.to(maps.dtype), maps], dim=1) if with_picture else maps


class Critics(nn.Module):
    """Two networks that learn to tell true maps from predicted ones, and so tell the generator what looks wrong.

    The pose critic sees the picture and the maps, the confidence critic the maps alone. Each says for every keypoint
    whether its map looks true. A predicted one counts as true for the pose critic where its highest cell is near the
    keypoint, and for the confidence critic where the whole map is close to the Gaussian that it should be. The networks
    exist only while training; a checkpoint's generator is used without them.

    Args:
        pose_weight: What the pose critic's opinion weighs in the generator's loss; 1/180 in the paper (beta), beside
            the loss ``HeatmapMSE("sum")``. 0 leaves that critic out.
        confidence_weight: The same of the confidence critic; 1/220 in the paper (alpha).
        channels: Of the critics' features.
        near: A keypoint counts as found within so many head sizes; where the head's size is unknown, within this share
            of a tenth of the crop.
        close: A map counts as confident where its distance from the Gaussian is below this share of the Gaussian's
            norm.
        all_stacks: Judge the maps of every stack, not of the last one alone.
        start: Step from which the critics weigh in the generator's loss; until then they only learn.

    Raises:
        SettingsError: Where an argument is out of range.
    """

    def __init__(
        self,
        pose_weight: float = 1 / 180,
        confidence_weight: float = 1 / 220,
        channels: int = 128,
        near: float = 0.5,
        close: float = 0.5,
        all_stacks: bool = False,
        start: int = 0,
    ) -> None:
        super().__init__()
        if pose_weight < 0 or confidence_weight < 0 or start < 0:
            raise SettingsError(
                f"pose_weight is {pose_weight}, confidence_weight {confidence_weight} and start {start}; none can be "
                "below 0."
            )
        if near <= 0 or close <= 0 or channels < 2 or channels % 2:
            raise SettingsError(
                f"near is {near}, close {close} and channels {channels}; give positive numbers and even channels."
            )
        self.weights = {
            name: weight for name, weight in (("pose", pose_weight), ("confidence", confidence_weight)) if weight
        }
        self.channels = channels
        self.near = near
        self.close = close
        self.all_stacks = all_stacks
        self.start = start
        self.networks = nn.ModuleDict()

    def build(self, num_keypoints: int) -> None:
        """Build the networks, where they are not there yet, without disturbing other random numbers."""
        if self.networks or not self.weights:
            return
        inputs = {"pose": 3 + 2 * num_keypoints, "confidence": 2 * num_keypoints}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed())
            for name in self.weights:
                self.networks[name] = MapCritic(inputs[name], num_keypoints, self.channels)

    def logits(self, name: str, *judged: Judged) -> list[Tensor]:
        """Return one critic's opinion of each map, (N, K) float32 of each; above 0 where it is taken for true.

        All are looked at in one pass; what a critic thinks of a sample does not depend on the others.
        """
        inputs = [one.inputs(with_picture=name == "pose") for one in judged]
        opinions: Tensor = self.networks[name](torch.cat(inputs)).float()
        return list(opinions.split([len(one) for one in inputs]))

    def critic_loss(
        self, name: str, true: Judged, predicted: Judged, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what one critic minimises: cross-entropy on true maps, and on predicted ones with their labels.

        Args:
            name: ``pose`` or ``confidence``.
            true: Maps as the codec draws them.
            predicted: Maps of the generator, without its graph.
            labels: (N, K), which of these count as true.

        Returns:
            The loss, summed over keypoints and averaged over persons each, and by name the shares of keypoints that it
            judges rightly, of true and of predicted maps, and of predicted ones that count as true.
        """
        of_true, of_predicted = self.logits(name, true, predicted)
        loss = _cross_entropy(of_true, torch.ones_like(of_true), true.weights)
        loss = loss + _cross_entropy(of_predicted, labels, predicted.weights)
        shares = {
            f"{name}_right_of_true": _share(of_true > 0, true.weights),
            f"{name}_right_of_predicted": _share((of_predicted > 0) == (labels > 0.5), predicted.weights),
            f"{name}_good": _share(labels > 0.5, predicted.weights),
        }
        return loss, shares

    def generator_losses(self, predicted: Judged) -> dict[str, Tensor]:
        """Return what the generator minimises, weighted: the cross-entropy of its maps with being true, by critic."""
        losses = {}
        for name, weight in self.weights.items():
            [logits] = self.logits(name, predicted)
            losses[f"{name}_critic"] = weight * _cross_entropy(logits, torch.ones_like(logits), predicted.weights)
        return losses


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the binary cross-entropy, summed over the labelled keypoints and averaged over persons."""
    errors = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (errors * weights).sum() / max(len(logits), 1)


def _share(right: Tensor, weights: Tensor) -> Tensor:
    return (right * weights).sum() / weights.sum().clamp(min=1)


def sizes_in_crops(batch: PoseBatch) -> Tensor:
    """Return what the distances of each person are divided by, (N,) float32 pixels of the crop.

    It is the head's size, or a tenth of the crop's longer side where that is unknown.
    """
    images = batch["image"]
    fallback = torch.full((len(images),), _SHARE_OF_CROP * max(images.shape[-2:]), device=images.device)
    if "head_size" not in batch or "to_original" not in batch:
        return fallback
    scale = batch["to_original"][:, :, 0].float().norm(dim=-1)  # pixels of the picture for one of the crop
    sizes = batch["head_size"].float() / scale.clamp(min=1e-6)
    return torch.where(torch.isfinite(sizes) & (sizes > 0), sizes, fallback)


def place_labels(found: Tensor, keypoints: Tensor, sizes: Tensor, near: float) -> Tensor:
    """Return which keypoints were found, (N, K) float32.

    Args:
        found: (N, K, 2), pixels of the crops.
        keypoints: (N, K, 2), the true places.
        sizes: (N,) pixels, what distances are divided by.
        near: Distance, in these sizes, below which a keypoint counts as found.
    """
    distances: Tensor = (found - keypoints).norm(dim=-1)
    return (distances < near * sizes[:, None]).float()


def confidence_labels(maps: Tensor, targets: Tensor, close: float) -> Tensor:
    """Return which maps are nearly what they should be, (N, K) float32.

    Args:
        maps: (N, K, h, w) predicted.
        targets: (N, K, h, w).
        close: Share of the target's norm that the difference must stay below.
    """
    differences: Tensor = (maps.float() - targets).flatten(2).norm(dim=-1)
    norms: Tensor = targets.flatten(2).norm(dim=-1)
    return (differences < close * norms).float()
