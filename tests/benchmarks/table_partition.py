"""How well DeepCut's programme puts persons together from perfect fields of real crowds, and how that falls with noise.

    python tests/benchmarks/table_partition.py --data FOLDER [--side 736] [--every 8] [--limit 2]

FOLDER is what POSE_ZOO_TEST_DATA names. Fields are drawn for the people of COCO's annotations (no picture is needed) at
stride 8; white noise is added to all that the network says, in the units in which it learns it: to the scores, to the
offsets in the codec's unit, to the displacements in deviations of the training set's. The regressions are fitted to
fields with the same noise of other pictures. AP is over everybody; who is annotated twice is taken once. Exits with 1
where AP without noise is below the bar.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "association"))

from claims import print_table
from perfect_fields import perfect_fields, picture
from real_crowds import read_crowds

from lightning_pose_zoo.methods import DeepCut
from lightning_pose_zoo.metrics import OKSMeanAveragePrecision

BAR = 0.97
NOISES = (0.0, 0.05, 0.1, 0.15, 0.2)
WAYS = ("exact", "greedy")
FITTED_ON = 30


class Noisy(DeepCut):
    """Sees what is labelled in ``batch``, with noise."""

    noise = 0.0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fields of the batch, whatever the images are."""
        random = torch.Generator().manual_seed(int(self.batch["image_id"]))
        scores, offsets, toward = perfect_fields(self.codec, self.batch)
        units = (
            torch.ones(1),
            torch.tensor(self.codec.offset_scale),
            self.network.pairs.pair_std[None, ..., None, None],
        )
        noisy = [
            field + self.noise * unit * torch.randn(field.shape, generator=random)
            for field, unit in zip((scores, offsets, toward), units, strict=True)
        ]
        return noisy[0].clamp(0, 1), noisy[1], noisy[2]

    def showing(self, batches: list) -> object:
        """Yield batches, each seen while it is asked about."""
        for self.batch in batches:
            yield self.batch


def fitted(noise: float, batches: list, limit: float) -> Noisy:
    """Return a method whose statistics and regressions were fitted on some batches."""
    torch.manual_seed(0)
    method = Noisy("coco17", backbone="resnet10t", time_limit=limit).eval()
    for method.phase in (0, 1):
        method.fit_statistics(method.showing(batches))
        method.noise = noise  # of the regressions' fit and afterwards
    return method


@torch.no_grad()
def score(method: Noisy, crowds: list, batches: list) -> tuple[float, float]:
    """Return AP, and the share of pictures whose programme was solved to the optimum."""
    metric, optimal = OKSMeanAveragePrecision("coco17"), 0
    for (_, people), method.batch in zip(crowds, batches, strict=True):
        found = method.estimate(method.batch)
        optimal += method.partitions[0].status == "optimal"
        boxes = torch.tensor([person["bbox"] for person in people])
        boxes[:, 2:] += boxes[:, :2]
        image = int(method.batch["image_id"])
        metric.update(
            [{"keypoints": found.keypoints, "scores": found.scores, "image_id": image}],
            [{"keypoints": torch.tensor([person["keypoints"] for person in people]).float().view(-1, 17, 3),
              "area": torch.tensor([person["area"] for person in people]), "boxes": boxes, "image_id": image}],
        )  # fmt: skip
    return float(metric.compute()["AP"]), optimal / len(batches)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("POSE_ZOO_TEST_DATA"))
    parser.add_argument("--side", type=int, default=736, help="the longer side of the pictures in pixels")
    parser.add_argument("--every", type=int, default=8, help="take every n-th picture only")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds for the programme of one picture")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set POSE_ZOO_TEST_DATA")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    everybody = read_crowds(Path(arguments.data))
    batches = [picture(number, size, people, arguments.side) for number, (size, people) in enumerate(everybody)]
    shown = slice(0, None, arguments.every)
    others = [batch for number, batch in enumerate(batches) if number % arguments.every][:FITTED_ON] or batches
    crowds, batches = everybody[shown], batches[shown]
    print(
        f"{len(crowds)} pictures, {sum(len(people) for _, people in crowds)} people, {arguments.side} pixels, stride 8"
    )
    rows: dict[str, list[str]] = {way: [way] for way in (*WAYS, "solved to the optimum")}
    found = {}
    for noise in NOISES:
        method = fitted(noise, others, arguments.limit)
        found[noise], share = score(method, crowds, batches)
        method.time_limit = 0.0
        greedy, _ = score(method, crowds, batches)
        for way, text in zip(rows, (f"{found[noise]:.3f}", f"{greedy:.3f}", f"{share:.0%}"), strict=True):
            rows[way].append(text)
        print(f"noise {noise:g}: {rows['exact'][-1]} {rows['greedy'][-1]}", file=sys.stderr, flush=True)
    print_table(["partition", *(f"AP, noise {noise:g}" for noise in NOISES)], list(rows.values()))
    good = found[0.0] >= BAR
    print(f"bar without noise: {BAR}: {'reached' if good else 'NOT reached'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
