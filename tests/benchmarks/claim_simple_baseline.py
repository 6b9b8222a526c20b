"""Simple Baselines in miniature: a plain backbone and transposed convolutions find people from random weights.

    python tests/benchmarks/claim_simple_baseline.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, prints a table, and exits with 1 where PCK@0.2 is below the bar.
"""

from __future__ import annotations

import sys

from claims import Claim, prove

CLAIM = Claim("simple_baseline/simple_baseline_synthetic.yaml")

if __name__ == "__main__":
    sys.exit(prove(CLAIM, __doc__))
