"""How well persons are put together from perfect maps of real crowds, and how that falls with noise on them.

    python tests/benchmarks/table_paf.py --data FOLDER [--height 736] [--every 1] [--noise 0 0.1] [--grouping greedy]

FOLDER is what POSE_ZOO_TEST_DATA names. Maps and fields are drawn for the people of COCO's annotations (no picture is
needed) at stride 8, and white noise is added to every cell. AP is over the people who can be found at all, see
tests/association/real_crowds.py. Exits with 1 where AP without noise is below the bar.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "association"))

from claims import print_table
from real_crowds import read_crowds, score

from lightning_pose_zoo.association.paf import PartGrouping

BAR, HEIGHT = 0.97, 736
NOISES = (0.0, 0.02, 0.05, 0.1, 0.2)
GROUPINGS = {
    "greedy": {},
    "greedy, no hidden peaks": {"hidden": 2.0},
    "optimal": {"matching": "optimal"},
}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("POSE_ZOO_TEST_DATA"))
    parser.add_argument("--height", type=int, default=HEIGHT, help="of the pictures in pixels; the bar is for 736")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument("--noise", type=float, nargs="+", default=NOISES, help="deviations")
    parser.add_argument("--grouping", nargs="+", choices=GROUPINGS, default=list(GROUPINGS))
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set POSE_ZOO_TEST_DATA")
    torch.set_num_threads(1)
    crowds = read_crowds(Path(arguments.data))[:: arguments.every]
    found = {
        (name, noise): score(crowds, arguments.height, PartGrouping(min_parts=2, **GROUPINGS[name]), noise)
        for name in arguments.grouping
        for noise in arguments.noise
    }
    people = next(iter(found.values()))["people"]
    print(f"{len(crowds)} pictures, {people} people who can be found, {arguments.height} pixels high, stride 8")
    print_table(
        ["grouping", *(f"{what}, noise {noise:g}" for what in ("AP", "AR") for noise in arguments.noise)],
        [
            [name, *(f"{found[name, noise][what]:.3f}" for what in ("AP", "AR") for noise in arguments.noise)]
            for name in arguments.grouping
        ],
    )
    if arguments.height != HEIGHT:
        return 0
    good = all(values["AP"] >= BAR for (_, noise), values in found.items() if not noise)
    print(f"bar without noise: {BAR}: {'reached' if good else 'NOT reached'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
