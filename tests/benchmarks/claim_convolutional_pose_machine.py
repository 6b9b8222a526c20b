"""Convolutional Pose Machines in miniature: each stage refines what the one before found.

    python tests/benchmarks/claim_convolutional_pose_machine.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, with a loss on each stage, and prints what each finds. Exits with 1
where PCK@0.2 is below the bar, or where the last stage is not better than the first by the margin.
"""

from __future__ import annotations

import sys

from claims import Claim, prove

CLAIM = Claim("convolutional_pose_machine/convolutional_pose_machine_synthetic.yaml", stage="stage", margin=0.005)

if __name__ == "__main__":
    sys.exit(prove(CLAIM, __doc__))
