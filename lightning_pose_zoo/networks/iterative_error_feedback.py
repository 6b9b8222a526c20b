"""Iterative Error Feedback: a pose is drawn beside the picture, and one network corrects it, again and again.

Paper: J. Carreira, P. Agrawal, K. Fragkiadaki, J. Malik, "Human Pose Estimation with Iterative Error Feedback",
CVPR 2016, arXiv 1507.06550.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.networks.timm_models import pooled_backbone

__all__ = ["CorrectionBound", "IterativeErrorFeedbackNetwork", "bounded_target", "keypoint_maps", "walked_towards"]

CorrectionBound = Literal["none", "clip", "tanh_radial"]

_PAPER_SIDE = 224.0
_TINY = 1e-6
# Of the new filters, in deviations of the old ones: pretrained features are hardly disturbed at first.
_NEW_FILTERS = 0.1


def keypoint_maps(keypoints: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Draw one map per keypoint: -1 + 2 exp(-d^2 / (2 sigma^2)), d the distance to the keypoint.

    The paper's maps go from -50 to 50 grey values, which is about -1 to 1 where pixels are divided by ImageNet's
    deviation. Differentiable; always float32, so that mixed precision does not move a keypoint.

    Args:
        keypoints: (B, K, 2), pixels of the crop; those outside leave a map of about -1, as far as they are away.
        size: Height and width of the crop in pixels.
        sigma: Deviation of the Gaussian in pixels.

    Returns:
        (B, K, H, W).
    """
    profiles = []
    for axis, length in ((1, size[0]), (0, size[1])):
        grid = torch.arange(length, device=keypoints.device, dtype=torch.float32)
        distance = grid - keypoints.float()[..., axis, None]
        profiles.append(torch.exp(-(distance**2) / (2 * sigma**2)))
    return 2 * profiles[0][..., :, None] * profiles[1][..., None, :] - 1


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths of (..., 2) vectors, (..., 1); a tiny one where they are 0, so that gradients are finite."""
    return (vectors.square().sum(dim=-1, keepdim=True) + _TINY**2).sqrt()


def bounded_target(difference: Tensor, longest: float) -> Tensor:
    """Return e = u min(1, L / |u|): the whole way where it is short, else a step of L in its direction.

    Args:
        difference: u, (..., 2), from where a keypoint is thought to be to where it is, in pixels.
        longest: L in pixels.

    Returns:
        (..., 2), 0 where u is.
    """
    return difference * (longest / _length(difference)).clamp(max=1.0)


def walked_towards(start: Tensor, end: Tensor, steps: Tensor, longest: float) -> Tensor:
    """Return where a keypoint is after some bounded steps on the straight way: what applying them one by one gives.

    Args:
        start: (..., 2), pixels.
        end: (..., 2), pixels.
        steps: How many steps, of a shape that goes with (..., 1).
        longest: L, the length of a step, in pixels.

    Returns:
        (..., 2), ``end`` where it is reached.
    """
    way = end - start
    return start + way * (steps * longest / _length(way)).clamp(max=1.0)


def _googlenet(pretrained: bool) -> nn.Module:
    """Build torchvision's GoogLeNet without its side branches."""
    from torchvision.models import GoogLeNet, GoogLeNet_Weights

    backbone: nn.Module = GoogLeNet(aux_logits=False, transform_input=False, init_weights=False)
    if pretrained:
        state = GoogLeNet_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith("aux")})
    return backbone


def _classifier(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    """Build a classification network that gives its pooled features, and return how many beside it."""
    if name == "googlenet":
        backbone = _googlenet(pretrained)
        channels = int(backbone.fc.in_features)  # type: ignore[union-attr, arg-type]
        backbone.fc = nn.Identity()
        return backbone, channels
    return pooled_backbone(name, pretrained, own=("googlenet",))


def _widen(backbone: nn.Module, name: str, channels: int) -> None:
    """Let the first convolution read more channels behind the picture's three, whose filters stay as they are.

    The new filters are drawn from a narrow normal distribution. Some backbones begin with several in parallel.

    Raises:
        ValueError: Where the backbone does not begin with a plain convolution of a picture.
    """
    first = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3]
    if not first or any(layer.groups != 1 for layer in first):
        raise ValueError(
            f"the backbone '{name}' does not begin with a convolution of the picture, so keypoints cannot be shown to "
            "it; choose another, such as googlenet, resnet50 or mobilenetv3_large_100."
        )
    for layer in first:
        old = layer.weight.detach()
        new = torch.randn(old.shape[0], channels, *old.shape[2:]) * (_NEW_FILTERS * old.std())
        layer.weight = nn.Parameter(torch.cat([old, new.to(old)], dim=1))
        layer.in_channels += channels


class IterativeErrorFeedbackNetwork(nn.Module):
    """A classification backbone that sees a picture and a pose, and a linear layer that says how to correct the pose.

    One set of weights does all steps. The pose is shown as one map per keypoint, and one more for the marking point,
    the middle of the crop, where the person is (``keypoint_maps``).

    Attributes:
        start_pose: (K, 2), where every pose begins, x and y as shares of the crop's width and height; the middle of the
            crop until it was measured (``start_from``).
        started: Whether it was measured.
        keypoint_inputs_at: The channel at which maps begin in the first layer's input.

    Args:
        num_keypoints: K.
        backbone: ``googlenet`` (torchvision's, with batch norm), or any timm model that begins with a convolution.
        pretrained: Start from ImageNet weights, downloaded at first use.
        steps: How often the pose is corrected; 4 in the paper.
        max_step: L, the longest correction, in pixels of a crop of 224: it grows with the crop's longer side.
        sigma: Deviation of the maps' Gaussians in the same pixels; 22.36 in the released code.
        bound: Whether predicted corrections are kept below L too: ``none``, as published, where they only learn it;
            ``clip``, cut off at L when poses are read; ``tanh_radial``, lengths go through L tanh(length / L), in
            training too.

    Raises:
        ValueError: Where an argument is out of range, or there is no such backbone.
    """

    start_pose: Tensor
    started: Tensor
    keypoint_inputs_at = 3

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "googlenet",
        pretrained: bool = False,
        steps: int = 4,
        max_step: float = 20.0,
        sigma: float = 22.36,
        bound: CorrectionBound = "none",
    ) -> None:
        super().__init__()
        if bound not in ("none", "clip", "tanh_radial"):
            raise ValueError(f"unknown bound '{bound}'; choose none, clip or tanh_radial.")
        if steps < 1 or max_step <= 0 or sigma <= 0:
            raise ValueError(
                f"steps is {steps}, max_step {max_step} and sigma {sigma}; give at least one step and positive lengths."
            )
        self.steps = steps
        self.max_step = max_step
        self.sigma = sigma
        self.bound = bound
        self.backbone, channels = _classifier(backbone, pretrained)
        _widen(self.backbone, backbone, num_keypoints + 1)
        self.final_layer = nn.Linear(channels, 2 * num_keypoints)
        nn.init.normal_(self.final_layer.weight, std=0.001)
        nn.init.zeros_(self.final_layer.bias)
        self.register_buffer("start_pose", torch.full((num_keypoints, 2), 0.5))
        self.register_buffer("started", torch.tensor(False))

    def start_from(self, pose: Tensor) -> None:
        """Let every pose begin at (K, 2), shares of the crop's width and height."""
        self.start_pose.copy_(pose)
        self.started.fill_(True)

    def longest_step(self, size: tuple[int, int]) -> float:
        """Return L in pixels of crops of the given height and width."""
        return self.max_step * max(size) / _PAPER_SIDE

    def start_keypoints(self, count: int, size: tuple[int, int]) -> Tensor:
        """Return the start pose (B, K, 2) in pixels of ``count`` crops of the given height and width."""
        height, width = size
        shares = self.start_pose.float()
        pose = torch.stack([shares[:, 0] * width, shares[:, 1] * height], dim=-1) - 0.5
        return pose.expand(count, -1, -1)

    def correction(self, images: Tensor, keypoints: Tensor) -> Tensor:
        """Say how a pose should be corrected.

        Args:
            images: (B, 3, H, W), normalised.
            keypoints: (B, K, 2), pixels of the crops.

        Returns:
            (B, K, 2) float32, in units of L.
        """
        size = (int(images.shape[-2]), int(images.shape[-1]))
        middle = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], device=images.device)
        shown = torch.cat([keypoints.float(), middle.expand(keypoints.shape[0], 1, 2)], dim=1)
        maps = keypoint_maps(shown, size, self.sigma * max(size) / _PAPER_SIDE)
        seen = torch.cat([images, maps.to(images.dtype)], dim=1)
        raw: Tensor = self.final_layer(self.backbone(seen)).float().unflatten(1, (-1, 2))
        if self.bound != "tanh_radial":
            return raw
        length = _length(raw)
        return raw * (length.tanh() / length)

    def corrected(self, images: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            images: (B, 3, H, W), normalised.
            keypoints: (B, K, 2), pixels of the crops.

        Returns:
            The corrected keypoints (B, K, 2), and by how much they were corrected (B, K, 2), in units of L.
        """
        change = self.correction(images, keypoints)
        return self.moved(keypoints, change, (int(images.shape[-2]), int(images.shape[-1])))

    def moved(self, keypoints: Tensor, change: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Apply a correction.

        Args:
            keypoints: (B, K, 2), pixels of the crops.
            change: (B, K, 2), in units of L, as ``correction`` gives it.
            size: Height and width of the crops.

        Returns:
            As ``corrected``.
        """
        if self.bound == "clip":
            change = bounded_target(change, 1.0)
        return keypoints + self.longest_step(size) * change, change

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Correct the start pose step by step.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            The poses after 0, 1, ..., T steps, (B, T + 1, K, 2), pixels of the crops; and the last correction
            (B, K, 2), in units of L.

        Raises:
            SettingsError: Where the start pose was not measured.
        """
        if not torch.compiler.is_compiling() and not self.started:
            raise SettingsError(
                "this network has no start pose; train it, load trained weights, or measure the pose on training "
                "crops: IterativeErrorFeedback.fit_statistics(batches)."
            )
        keypoints = self.start_keypoints(images.shape[0], (int(images.shape[-2]), int(images.shape[-1])))
        poses = [keypoints]
        for _ in range(self.steps):
            keypoints, change = self.corrected(images, keypoints)
            poses.append(keypoints)
        return torch.stack(poses, dim=1), change
