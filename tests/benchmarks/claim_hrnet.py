"""HRNet in miniature: a network that keeps its resolution finds people from random weights.

    python tests/benchmarks/claim_hrnet.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, prints a table, and exits with 1 where PCK@0.2 is below the bar.
"""

from __future__ import annotations

import sys

from claims import Claim, prove

CLAIM = Claim("hrnet/hrnet_synthetic.yaml")

if __name__ == "__main__":
    sys.exit(prove(CLAIM, __doc__))
