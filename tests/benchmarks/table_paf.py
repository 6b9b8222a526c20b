"""How well persons are put together from perfect maps of real crowds, and how that falls with noise on them.

    python tests/benchmarks/table_paf.py --data FOLDER [--height 736] [--every 1]

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

BAR = 0.97
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
    parser.add_argument("--height", type=int, default=736, help="of the pictures in pixels")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set POSE_ZOO_TEST_DATA")
    torch.set_num_threads(1)
    crowds = read_crowds(Path(arguments.data))[:: arguments.every]
    found = {
        (name, noise): score(crowds, arguments.height, PartGrouping(min_parts=2, **settings), noise)
        for name, settings in GROUPINGS.items()
        for noise in NOISES
    }
    people = found["greedy", 0.0]["people"]
    print(f"{len(crowds)} pictures, {people} people who can be found, {arguments.height} pixels high, stride 8")
    print_table(
        ["grouping", *(f"AP, noise {noise:g}" for noise in NOISES), "AR, noise 0"],
        [
            [name, *(f"{found[name, noise]['AP']:.3f}" for noise in NOISES), f"{found[name, 0.0]['AR']:.3f}"]
            for name in GROUPINGS
        ],
    )
    good = found["greedy", 0.0]["AP"] >= BAR
    print(f"bar without noise: {BAR}: {'reached' if good else 'NOT reached'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
