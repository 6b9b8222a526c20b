"""OpenPose in miniature: crowds of rendered people are found and told apart, from random weights.

    python tests/benchmarks/claim_openpose.py --seed S [--minutes M]

Trains the recipe on rendered crowds of one to four people of that seed, and scores it on pictures that it has not seen.
Exits with 1 where AP (OKS, hidden keypoints counted) is below the bar.
"""

from __future__ import annotations

import sys

from claims import print_table, score, train_as_asked

RECIPE = "openpose/openpose_synthetic.yaml"
BAR = 0.5
MATCHINGS = ("greedy", "optimal")


def main() -> int:
    """Train, and print a table."""
    cli, seconds = train_as_asked(RECIPE, __doc__)
    found = {}
    for matching in MATCHINGS:
        cli.model.grouping.matching = matching
        found[matching] = score(cli, cli.datamodule)
    print_table(
        ["matching", "AP", "AP50", "AR"],
        [[name, *(f"{scores[key]:.3f}" for key in ("AP", "AP50", "AR"))] for name, scores in found.items()],
    )
    value = found["greedy"]["AP"]
    print(f"AP on unseen crowds after {seconds:.0f} s: {value:.3f}, bar {BAR}")
    print("the claim holds" if value >= BAR else "the claim does NOT hold")
    return 0 if value >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
