"""DeepCut: part candidates that an integer programme labels and parts into persons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lightning_pose_zoo.association import Partition, partition_exactly, partition_greedily
from lightning_pose_zoo.association.part_pairs import fit_regressions, partition_problem, sampled_pairs
from lightning_pose_zoo.codecs.part_fields import PartCandidates, PartFieldCodec, PartFieldTargets
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.methods.bottom_up import poses_from_pictures
from lightning_pose_zoo.methods.exported_pictures import DeepCutGraph
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.phased import Phase, PhasedMethod, rows_of_all_processes
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.networks.deepcut import DeepCutNetwork, PartFields
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses, person_images

__all__ = ["DeepCut"]

_SMALL = 0.05  # the published weight of the regressed fields
_LEAST_SPREAD = 1.0  # pixels


class DeepCut(PhasedMethod):
    """Bottom-up pose estimation: the most likely partition of part candidates into persons, found exactly.

    A network gives part candidates, with their places refined, and says for each where it expects the other parts of
    its person. Logistic regressions make costs of that: of each candidate, and of each two in one person. An integer
    programme chooses candidates and puts them into persons, as many as there are, so that the sum is the least
    (``association.partition``).

    Training has two phases (``callbacks.TrainingPhases``): ``parts`` trains the network; ``pairwise`` fits the
    regressions to what the trained network finds in the training set, before its first step, to the optimum, on all
    processes together. Its steps only follow up, so that a few are enough.

    Paper: L. Pishchulin et al., "DeepCut: Joint Subset Partition and Labeling for Multi Person Pose Estimation", CVPR
    2016, arXiv 1511.06645; E. Insafutdinov et al., "DeeperCut: A Deeper, Stronger, and Faster Multi-Person Pose
    Estimation Model", ECCV 2016, arXiv 1605.03170, whose network and pairwise terms these are.

    Differs from the papers: each candidate has the class of the map that it comes from, as in DeeperCut's released
    code, so that the programme selects and partitions, and labels by choosing (``association.partition`` solves the
    form with several classes too); candidates are kept apart by their refined places, not by their cells; the
    programme is solved at once, not in three stages of parts; regressions weigh pairs of one person and of two the
    same; the distance in them counts in cells; losses are means over what counts.

    Attributes:
        partitions: Of the pictures of the last batch that was estimated: cost, bound and gap of each.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        backbone: A ResNet of timm; ``resnet152`` in the paper.
        pretrained: Start from timm's ImageNet weights, downloaded at first use; batch norm then keeps their statistics.
        intermediate_supervision: Take a loss on scores of the third stage too.
        single_person: There is one person in each picture, or crop: all that is chosen is that person, and parts that
            are not found are read where their map is highest.
        same_part_distance: Pixels at which two candidates of one part are as likely one person's as not; 37.5 in the
            released code, for people of about 340 pixels.
        time_limit: Seconds for the programme of one picture. Where they are over, the best solution so far counts.
            0 takes the heuristic's solution.
        weights: A checkpoint to start from: of this package; see docs/weights.md.
        codec: How keypoints become part fields and those become candidates; the paper's by default.
        optimizer: Called with the parameters; SGD at 0.005 with momentum 0.9 by default.
        lr_scheduler: Called with the optimizer; none by default.
        normalization: What the weights expect of pixels; ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: DeepCutNetwork
    samples = "pictures"

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        backbone: str = "resnet152",
        pretrained: bool = False,
        intermediate_supervision: bool = True,
        single_person: bool = False,
        same_part_distance: float = 37.5,
        time_limit: float = 10.0,
        weights: str | None = None,
        codec: PartFieldCodec | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.005, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        if same_part_distance <= 0 or time_limit < 0:
            raise SettingsError(
                f"same_part_distance is {same_part_distance} and time_limit {time_limit}; give a positive distance and "
                "a time of at least 0."
            )
        self.codec = codec or PartFieldCodec()
        self.network = DeepCutNetwork(self.skeleton.num_keypoints, backbone, pretrained, intermediate_supervision)
        if self.codec.stride != self.network.stride:
            raise SettingsError(
                f"the network's fields have one cell for {self.network.stride} pixels, the codec's one for "
                f"{self.codec.stride}; set the codec's stride to {self.network.stride}."
            )
        self.single_person = single_person
        self.same_part_distance = same_part_distance
        self.time_limit = time_limit
        self.partitions: list[Partition] = []
        self._gap, self._optimal = MeanMetric(), MeanMetric()
        self._start_from(weights)

    @property
    def phases(self) -> Sequence[Phase]:
        """The network, then the regressions over pairs."""
        parts = {"scores": 1.0, "offsets": _SMALL, "toward": _SMALL}
        layers = ["backbone", *parts]
        if self.network.early_scores is not None:
            parts["early_scores"] = 1.0
            layers.append("early_scores")
        return (
            Phase("parts", tuple(f"network.{name}" for name in layers), parts, "the displacements between parts", 99.0),
            Phase("pairwise", ("network.pairs",), {"pairs": 1.0}, "the regressions over pairs of parts", 1.0),
        )

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[PoseBatch]) -> None:
        """Measure mean and deviation of the displacements between parts, or fit the regressions."""
        if self.phase % 2:
            self._fit_regressions(batches)
        else:
            self._fit_displacements(batches)

    def _fit_displacements(self, batches: Iterable[PoseBatch]) -> None:
        joints = self.skeleton.num_keypoints
        ids = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        places = [torch.zeros(0, joints, 2, device=self.device)]
        for batch in batches:
            labelled = (batch["visibility"] > 0)[..., None]
            places.append(torch.where(labelled, batch["keypoints"].float(), torch.nan))
            ids.append(batch.get("person_id", torch.zeros(len(labelled), dtype=torch.int64, device=self.device)))
        [found] = rows_of_all_processes(torch.cat(ids), torch.cat(places))
        for part in range(joints):
            displacements = found.double() - found[:, part, None].double()
            mean = displacements.nanmean(dim=0).nan_to_num(0.0)
            spread = (displacements - mean).square().nanmean(dim=0).sqrt().nan_to_num(_LEAST_SPREAD)
            self.network.pairs.pair_mean[part] = mean.float()
            self.network.pairs.pair_std[part] = spread.float().clamp(min=_LEAST_SPREAD)

    def _fit_regressions(self, batches: Iterable[PoseBatch]) -> None:
        joints, pairs = self.skeleton.num_keypoints, self.network.pairs
        columns: list[tuple[Tensor, ...]] = [
            (
                torch.zeros(0, dtype=torch.int64, device=self.device),
                torch.zeros(0, 8, device=self.device),
                torch.zeros(0, 2, dtype=torch.int64, device=self.device),
                torch.zeros(0, dtype=torch.bool, device=self.device),
            )
        ]
        for batch in batches:
            rows, features, parts, together = self._labelled_pairs(batch)
            image_ids = batch.get("image_id", torch.arange(len(batch["image"]), device=self.device))
            columns.append((image_ids[rows], features.flatten(1), parts, together))
        features, parts, right = rows_of_all_processes(*(torch.cat(column) for column in zip(*columns, strict=True)))
        if not right.any() or right.all():
            rank_zero_warn(
                "The network finds no two parts of one person in the training set, or none that do not belong "
                "together: the pairwise regressions stay as they are. Train the parts longer."
            )
            return
        both = features.unflatten(1, (2, 4))
        pairs.low.copy_(both.amin(dim=(0, 1)))
        pairs.high.copy_(both.amax(dim=(0, 1)))
        scaled = pairs.scaled(both).double()
        table = torch.cat([scaled[:, 0, :4], scaled[:, 1]], dim=1).cpu().numpy()
        groups = (parts[:, 0] * joints + parts[:, 1]).cpu().numpy()
        fitted = fit_regressions(table, groups, right.cpu().numpy(), joints * joints)
        weights = torch.from_numpy(fitted).to(pairs.weights).unflatten(0, (joints, joints))
        share = weights[..., 8:] / 2
        upper = torch.ones(joints, joints, dtype=torch.bool, device=weights.device).triu()[..., None]
        there = torch.cat([weights[..., :4], share], dim=-1)
        back = torch.cat([weights[..., 4:8], share], dim=-1).transpose(0, 1)
        pairs.weights.copy_(torch.where(upper, there, back))

    def _labelled_pairs(self, batch: PoseBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        candidates = self.codec.candidates(*self(batch["image"]))
        return sampled_pairs(candidates, batch, person_images(batch), self.codec.radius, self.codec.stride)

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the losses of the phase: over scores and fields of the network, or of the regressions."""
        weights = self.current_phase.loss_weights
        if "pairs" in weights:
            return {"pairs": weights["pairs"] * self._pair_loss(batch)}
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        rows = person_images(batch)
        targets = self.codec.encode(
            batch["keypoints"], batch["visibility"], rows, len(batch["image"]), size, batch.get("ignore")
        )
        # Where a person has no label at all, nobody knows what there is to find.
        unknown = rows[(batch["visibility"] == 0).all(dim=1)]
        counted = targets.weights.index_fill(0, unknown, 0.0)
        fields: PartFields = self.network(self.normalized(batch["image"]))
        parts = {
            "scores": _score_loss(fields.scores, targets.scores, counted),
            "offsets": _huber(self._at_cells(fields.offsets, targets), targets.offsets / self.codec.offset_scale),
            "toward": self._toward_loss(fields.toward, targets),
        }
        if fields.early_scores is not None:
            parts["early_scores"] = _score_loss(fields.early_scores, targets.scores, counted)
        return {name: weight * parts[name] for name, weight in weights.items()}

    @staticmethod
    def _at_cells(fields: Tensor, targets: PartFieldTargets) -> Tensor:
        return fields[targets.rows, targets.parts, ..., targets.cells[:, 1], targets.cells[:, 0]]

    def _toward_loss(self, fields: Tensor, targets: PartFieldTargets) -> Tensor:
        pairs = self.network.pairs
        expected = (targets.toward - pairs.pair_mean[targets.parts]) / pairs.pair_std[targets.parts]
        known = targets.known
        return _huber(self._at_cells(fields, targets)[known], expected[known])

    def _pair_loss(self, batch: PoseBatch) -> Tensor:
        """Return the regressions' loss on what the network finds; both kinds of pairs weigh the same."""
        with torch.no_grad():
            _, features, parts, together = self._labelled_pairs(batch)
        odds, target = self.network.pairs(features, parts), together.float()
        errors = F.binary_cross_entropy_with_logits(odds, target, reduction="none")
        right, wrong = target.sum().clamp(min=1), (1 - target).sum().clamp(min=1)
        # Connected to the weights where a batch has no pairs.
        return 0.5 * (errors * torch.where(together, 1 / right, 1 / wrong)).sum() + 0 * self.network.pairs.weights.sum()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the part fields of pictures.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already; of any size.

        Returns:
            Probabilities (B, K, h, w) that a part is in a cell; offsets (B, K, 2, h, w) from the cell's middle to it;
            and displacements (B, K, K, 2, h, w) from the middle of a cell of the first part to each other part of the
            same person, both in pixels of the pictures.
        """
        fields: PartFields = self.network(self.normalized(images))
        mean, spread = self.network.pairs.pair_mean, self.network.pairs.pair_std
        toward = fields.toward.float() * spread[None, ..., None, None] + mean[None, ..., None, None]
        return fields.scores.float().sigmoid(), fields.offsets.float() * self.codec.offset_scale, toward

    def graph(self) -> DeepCutGraph:
        """Return what is exported."""
        return DeepCutGraph(self)

    def protocol(self) -> str:
        """Say how persons are found; see ``methods.top_down.evaluation_protocol``."""
        how = f"exact partition within {self.time_limit:g} s per picture" if self.time_limit else "greedy partition"
        return f"no flip test, one scale, {how}, {self.codec}"

    @torch.no_grad()
    def estimate(self, batch: PoseBatch) -> Poses:
        """Find everybody in each picture of a batch, or one person in each where ``single_person`` is set."""
        return self.poses_from_fields(self(batch["image"]), batch)

    def poses_from_fields(self, fields: tuple[Tensor, Tensor, Tensor], batch: PoseBatch) -> Poses:
        """Find the persons that part fields show.

        Args:
            fields: Scores, offsets and displacements, as ``forward`` gives them.
            batch: The batch that the pictures came in.

        Raises:
            PoseZooError: Where a field is NaN or infinite.
        """
        scores, offsets, toward = fields
        candidates = self.codec.candidates(scores, offsets, toward)
        regression, self.partitions = self.network.pairs, []
        keypoints, found, rows = [], [], []
        for row in range(len(scores)):
            here = candidates.of(candidates.rows == row)
            problem = partition_problem(
                here, regression, self.codec.stride, self.same_part_distance, self.single_person
            )
            solved = partition_exactly(problem, self.time_limit) if self.time_limit else partition_greedily(problem)
            self.partitions.append(solved)
            places, values = _persons(here.cpu(), solved, scores.shape[1], self.single_person)
            keypoints.append(places)
            found.append(values)
            rows += [row] * len(places)
        places, values = torch.cat(keypoints).to(scores.device), torch.cat(found).to(scores.device)
        if self.single_person:
            highest, value = self._highest(scores, offsets)
            missing = values == 0
            places, values = torch.where(missing[..., None], highest, places), torch.where(missing, value, values)
            return poses_from_crops(places, values, batch)
        return poses_from_pictures(
            places, values, values.mean(dim=1), torch.tensor(rows, dtype=torch.int64, device=scores.device), batch
        )

    def _highest(self, scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return place (B, K, 2) and value (B, K) of the highest cell of each map, refined."""
        values, index = scores.flatten(2).max(dim=-1)
        width = scores.shape[-1]
        cells = torch.stack([index % width, index // width], dim=-1).float()
        refined = offsets.flatten(3).gather(-1, index[..., None, None].expand(*index.shape, 2, 1))[..., 0]
        return self.codec.centers(cells) + refined, values

    def validation_step(self, batch: PoseBatch, batch_idx: int) -> dict[str, Poses]:
        """Score a batch; log how far the partitions may be from the best (``gap``), and how many are the best."""
        self.partitions = []
        result = super().validation_step(batch, batch_idx)
        stage = "test" if self.trainer.testing else "val"
        for solved in self.partitions:
            self._gap.update(solved.gap)
            self._optimal.update(float(solved.status == "optimal"))
        self.log(f"{stage}/gap", self._gap, on_epoch=True, batch_size=len(batch["image"]))
        self.log(f"{stage}/optimal", self._optimal, on_epoch=True, batch_size=len(batch["image"]))
        return result


def _score_loss(outputs: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Return the cross-entropy of log-odds (B, K, h, w), mean over the cells whose weight (B, 1, h, w) is 1."""
    errors = F.binary_cross_entropy_with_logits(outputs.float(), expected, reduction="none")
    return (errors * weights).sum() / (weights.sum() * outputs.shape[1]).clamp(min=1)


def _huber(outputs: Tensor, expected: Tensor) -> Tensor:
    """Return Huber's loss, mean over the coordinates; 0 but connected to the outputs where there are none."""
    return F.smooth_l1_loss(outputs.float(), expected, reduction="sum") / max(outputs.numel(), 1)


def _persons(candidates: PartCandidates, partition: Partition, joints: int, one_person: bool) -> tuple[Tensor, Tensor]:
    """Make persons of clusters: several candidates of one part are averaged by their scores.

    Returns:
        Keypoints (P, K, 2), pixels of the picture, and scores (P, K): the highest candidate's, 0 where there is none.
    """
    clusters = torch.from_numpy(partition.clusters)
    count = 1 if one_person else int(clusters.max()) + 1 if len(clusters) else 0
    chosen = clusters >= 0
    place = clusters[chosen] * joints + candidates.parts[chosen]
    scores = candidates.scores[chosen]
    weight = torch.zeros(count * joints).index_add_(0, place, scores)
    total = torch.zeros(count * joints, 2).index_add_(0, place, candidates.positions[chosen] * scores[:, None])
    highest = torch.zeros(count * joints).scatter_reduce_(0, place, scores, "amax")
    points = total / weight.clamp(min=1e-9)[:, None]
    return points.view(count, joints, 2), highest.view(count, joints)
