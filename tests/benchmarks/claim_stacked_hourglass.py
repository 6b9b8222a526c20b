"""Stacked Hourglass in miniature: the second hourglass finds people better than the first, which it sees.

    python tests/benchmarks/claim_stacked_hourglass.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, with a loss on each hourglass, and prints what each finds. Exits with
1 where PCK@0.2 is below the bar, or where the last hourglass is not better than the first by the margin.
"""

from __future__ import annotations

import sys

from claims import Claim, prove

CLAIM = Claim("stacked_hourglass/stacked_hourglass_synthetic.yaml", stage="hourglass", margin=0.005)

if __name__ == "__main__":
    sys.exit(prove(CLAIM, __doc__))
