"""DeepPose: a cascade of networks, each of which regresses where the joints are, closer to them than the one before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F

from lightning_pose_zoo.codecs import RegressionCodec, RegressionTargets
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.geometry import crop_squares
from lightning_pose_zoo.losses import coordinate_loss
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod, rows_of_all_processes
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.metrics.functional.pck import diameter_pairs, pair_distance
from lightning_pose_zoo.networks.deeppose import DeepPoseHead, DeepPoseNetwork, DeepPoseRefinement
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["DeepPose"]

# Of the crop's longer side: the diameter of a pose without a torso, and the least that any pose has.
_USUAL_DIAMETER = 0.25
_LEAST_DIAMETER = 0.1


class DeepPose(PhasedMethod):
    """Single-person pose estimation by regression, refined around each joint.

    The first stage sees the whole crop, small, and regresses all joints. Each later one looks at every joint again: at
    a square around where the stage before put it, ``sigma`` diameters of the pose wide and cut out of the crop at full
    resolution, in which it regresses the joint's displacement. Give crops (``image_size`` of the data) that are larger
    than ``input_size``, or the later stages see nothing new.

    Stages are trained one after the other (``callbacks.TrainingPhases``). A later stage is trained on squares that are
    displaced at random, as the stage before errs on the training set.

    Paper: A. Toshev, C. Szegedy, "DeepPose: Human Pose Estimation via Deep Neural Networks", CVPR 2014,
    arXiv 1312.4659.

    Differs from the paper: the errors are measured in diameters of the pose, not in pixels; a fresh displacement is
    drawn for each crop of a batch, where the paper draws 40 for each joint beforehand; the input has 227 pixels, which
    give the 55 cells that it describes, not 220; the first stage always sees the data's crop, as it was padded and
    varied; the loss is the mean over labelled joints, not the sum.

    Attributes:
        read_stage: The stage that poses are read from, counted from 0; -1, the last one that has been trained, as
            published. Another one shows what the later ones add.

    Args:
        skeleton: What the keypoints are: a name such as ``lsp14``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        stages: How many; 3 in the paper.
        backbone: Of each stage: ``alexnet``, the paper's, or any timm model that takes pictures of any size.
        head: Of the later stages: ``shared_select``, one network for all joints that has outputs for each;
            ``per_joint``, a network for each joint; ``shared_2out``, one network that is not told the joint.
        input_size: Height and width in pixels of what a stage sees; 227 each in the paper.
        sigma: How wide the later stages see around a joint, in diameters of the pose (from the left shoulder to the
            right hip): 2.0 on LSP and 1.0 on FLIC in the paper.
        crops_per_person: How many joints of each person a batch shows a later stage; 1, as the paper draws them. With
            ``per_joint`` all of them.
        pretrained: Start each stage from timm's ImageNet weights, downloaded at first use; the paper does not.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: In which units the first stage finds joints; ``RegressionCodec("center")``, the paper's, by default.
        optimizer: Called with the parameters; Adagrad at 5e-4 by default.
        lr_scheduler: Called with the optimizer; none by default.
        normalization: What the weights expect of pixels; ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: DeepPoseNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "lsp14",
        stages: int = 3,
        backbone: str = "alexnet",
        head: DeepPoseHead = "shared_select",
        input_size: tuple[int, int] = (227, 227),
        sigma: float = 2.0,
        crops_per_person: int = 1,
        pretrained: bool = False,
        weights: str | None = None,
        codec: RegressionCodec | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adagrad(parameters, lr=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        if len(input_size) != 2 or min(input_size) < 1 or not sigma > 0 or crops_per_person < 1:
            raise SettingsError(
                f"input_size is {tuple(input_size)}, sigma {sigma} and crops_per_person {crops_per_person}; give "
                "height and width in pixels, and positive numbers."
            )
        self.codec = codec or RegressionCodec()
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.sigma = sigma
        joints = self.skeleton.num_keypoints
        self.crops_per_person = joints if head == "per_joint" else min(crops_per_person, joints)
        self.network = DeepPoseNetwork(joints, stages, backbone, head, pretrained and weights is None)
        self.read_stage = -1
        self._diameter_pairs = diameter_pairs(self.skeleton)
        self._start_from(weights)

    @property
    def phases(self) -> Sequence[Phase]:
        """One for each stage."""
        return [
            Phase(
                f"stage {number}",
                trains=(f"network.stages.{number - 1}",),
                loss_weights={f"stage{number}": 1.0},
                needs=f"errors of stage {number - 1}" if number > 1 else "",
            )
            for number in range(1, len(self.network.stages) + 1)
        ]

    def diameters(self, keypoints: Tensor, visibility: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the size of each pose: the distance of left shoulder and right hip, or else of the other two.

        Without either it is a quarter of the crop's longer side, and never less than a tenth.

        Args:
            keypoints: (N, K, 2), pixels of the crops.
            visibility: (N, K); above 0 where labelled.
            size: Height and width of the crops in pixels.

        Returns:
            (N,) float32, pixels.
        """
        diameters = pair_distance(keypoints, visibility, self._diameter_pairs).float()
        diameters = torch.where(diameters.isnan(), _USUAL_DIAMETER * max(size), diameters)
        return diameters.clamp(min=_LEAST_DIAMETER * max(size))

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss of the stage that the current phase trains: ``stage1``, ``stage2``, ..."""
        number = self.phase % len(self.network.stages)
        [(name, weight)] = self.current_phase.loss_weights.items()
        outputs, targets = self._first_stage(batch) if number == 0 else self._later_stage(batch, number)
        return {name: weight * coordinate_loss(outputs, targets)}

    def _first_stage(self, batch: PoseBatch) -> tuple[Tensor, RegressionTargets]:
        """Return what the first stage finds, and should find, in a batch."""
        images = batch["image"]
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], _size(images))
        return self.network(self._shrunk(self.normalized(images))), targets

    def _later_stage(self, batch: PoseBatch, number: int) -> tuple[Tensor, RegressionTargets]:
        """Return what a later stage finds, and should find, around misplaced joints of a batch."""
        images, visibility = batch["image"], batch["visibility"]
        keypoints = torch.where(visibility[..., None] > 0, batch["keypoints"], 0.0)
        diameters = self.diameters(keypoints, visibility, _size(images))[:, None]
        # Labelled joints first, each with the same chance.
        chances = torch.rand(visibility.shape, device=images.device) + (visibility > 0)
        joints = chances.topk(self.crops_per_person, dim=1).indices.sort(dim=1).values
        keypoints = keypoints.gather(1, joints[..., None].expand(-1, -1, 2))
        centers = keypoints + diameters[..., None] * self.draw_displacements(number, joints)
        sides = self.sigma * diameters.expand(joints.shape)
        targets = self.codec.encode_displacement(keypoints, visibility.gather(1, joints), centers, sides)
        return self._refined(self.normalized(images), number, joints, centers, sides), targets

    def draw_displacements(self, number: int, joints: Tensor) -> Tensor:
        """Draw where the stage before might have put joints.

        Args:
            number: Of the stage that is to correct it, counted from 0; at least 1.
            joints: (...) int64.

        Returns:
            (..., 2), from the joints' true places, in diameters of the pose.
        """
        stage = self._refinement(number)
        noise = torch.randn(*joints.shape, 2, device=joints.device)
        return stage.displacement_mean[joints] + stage.displacement_std[joints] * noise

    def _refinement(self, number: int) -> DeepPoseRefinement:
        stage = self.network.stages[number]
        assert isinstance(stage, DeepPoseRefinement)
        return stage

    def fit_statistics(self, batches: Iterable[PoseBatch]) -> None:
        """Measure how far the stage before puts each joint from its place, in diameters of the pose.

        Raises:
            DatasetError: Where no training crop has a labelled keypoint.
        """
        stage, joints = self._refinement(self.phase), self.skeleton.num_keypoints
        empty = torch.zeros(0, joints, 2, device=self.device)
        rows = [(torch.zeros(0, dtype=torch.int64, device=self.device), empty, empty[..., 0])]
        for batch in batches:
            images, labelled = batch["image"], batch["visibility"] > 0
            keypoints = torch.where(labelled[..., None], batch["keypoints"], 0.0)
            found = self.stage_keypoints(images, self.phase)[-1]
            errors = (found - keypoints) / self.diameters(keypoints, labelled, _size(images))[:, None, None]
            ids = batch.get("person_id", torch.zeros(len(images), dtype=torch.int64, device=self.device))
            rows.append((ids, torch.where(labelled[..., None], errors, 0.0), labelled.float()))
        ids, errors, weights = (torch.cat(column) for column in zip(*rows, strict=True))
        errors, weights = (part.double() for part in rows_of_all_processes(ids, errors, weights))
        if not weights.any():
            raise DatasetError(
                f"{self.current_phase.name} needs the {self.current_phase.needs}, but no training crop has a labelled "
                "keypoint; look at the annotations, or at statistics_samples of TrainingPhases."
            )
        mean, deviation = _mean_and_deviation(errors, weights)
        stage.displacement_mean.copy_(mean)
        stage.displacement_std.copy_(deviation)

    def stage_keypoints(self, images: Tensor, stages: int | None = None) -> list[Tensor]:
        """Return what each stage finds, (B, K, 2) float32 in pixels of the crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
            stages: How many are run; all by default.
        """
        images, size = self.normalized(images), _size(images)
        keypoints, _ = self.codec.decode(self.network(self._shrunk(images)), size)
        found = [keypoints]
        everywhere = torch.ones_like(keypoints[..., 0])
        joints = torch.arange(keypoints.shape[1], device=keypoints.device).expand(keypoints.shape[0], -1)
        for number in range(1, len(self.network.stages) if stages is None else stages):
            sides = self.sigma * self.diameters(keypoints, everywhere, size)[:, None].expand(joints.shape)
            outputs = self._refined(images, number, joints, keypoints, sides)
            keypoints = keypoints + self.codec.decode_displacement(outputs, sides)
            found.append(keypoints)
        return found

    def _shrunk(self, images: Tensor) -> Tensor:
        """Bring whole crops to the size of the networks' input."""
        if _size(images) == self.input_size:
            return images
        return F.interpolate(images, self.input_size, mode="bilinear", align_corners=False, antialias=True)

    def _refined(self, images: Tensor, number: int, joints: Tensor, centers: Tensor, sides: Tensor) -> Tensor:
        """Return a later stage's displacements (B, J, 2) in units of squares of normalised crops."""
        crops = crop_squares(images, centers, sides, self.input_size)
        displacements: Tensor = self._refinement(number)(crops, joints)
        return displacements

    @property
    def _stages_read(self) -> int:
        """How many stages are run to find a pose."""
        trained = len(self.network.stages) if self.phase < 0 else self.phase + 1
        return trained if self.read_stage < 0 else self.read_stage + 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K): 1 inside of the crop, else 0.
        """
        keypoints = self.stage_keypoints(images, self._stages_read)[-1]
        return keypoints, self.codec.scores(keypoints, _size(images))

    def protocol(self) -> str:
        """Say how poses are read; see ``methods.top_down.evaluation_protocol``."""
        height, width = self.input_size
        return (
            f"no flip test, {self._stages_read} of {len(self.network.stages)} stages at {height}x{width}, "
            f"sigma={self.sigma:g}, {self.codec}"
        )

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        keypoints, scores = self(batch["image"])
        return poses_from_crops(keypoints, scores, batch)


def _size(images: Tensor) -> tuple[int, int]:
    """Return the height and width of pictures (B, 3, H, W)."""
    return int(images.shape[-2]), int(images.shape[-1])


def _mean_and_deviation(errors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (K, 2) of errors (n, K, 2) of the weight 1 out of weights (n, K).

    Joints that are labelled less than twice have those of all joints together.
    """
    own = _moments(errors, weights)
    pooled = _moments(errors.flatten(0, 1)[:, None], weights.flatten()[:, None])
    often = (weights.sum(dim=0) >= 2)[:, None]
    return torch.where(often, own[0], pooled[0]), torch.where(often, own[1], pooled[1])


def _moments(errors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (K, 2) of errors (n, K, 2) by weights (n, K)."""
    counts = weights.sum(dim=0).clamp(min=1)[:, None]
    mean = (errors * weights[..., None]).sum(dim=0) / counts
    return mean, (((errors - mean).square() * weights[..., None]).sum(dim=0) / counts).sqrt()
