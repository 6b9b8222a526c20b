"""Convolutional Pose Machines in miniature: the later stage, shown where its person is, is better than the first.

    python tests/benchmarks/claim_convolutional_pose_machine.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, two or three in each picture, with a loss on each stage (the first
is to find everybody), and prints what each finds. Exits with 1
where PCK@0.2 is below the bar, or where the last stage is not better than the first by the margin.
"""

from __future__ import annotations

import sys

from claims import Claim, prove

CLAIM = Claim("convolutional_pose_machine/convolutional_pose_machine_synthetic.yaml", stage="stage", margin=0.01)

if __name__ == "__main__":
    sys.exit(prove(CLAIM, __doc__))
