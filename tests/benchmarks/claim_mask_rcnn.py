"""Mask R-CNN in miniature: the boxes of rendered people are found, and their keypoints in them, from random weights.

    python tests/benchmarks/claim_mask_rcnn.py --seed S [--minutes M]

Trains the recipe on rendered crowds of one to four people of that seed, and scores it on pictures that it has not seen.
Exits with 1 where AP (OKS, hidden keypoints counted) is below the bar.
"""

from __future__ import annotations

import sys

from claims import print_table, score, train_as_asked

RECIPE = "mask_rcnn/mask_rcnn_synthetic.yaml"
BAR = 0.3
LEAST_SCORES = (0.05, 0.3)


def main() -> int:
    """Train, and print a table."""
    cli, seconds = train_as_asked(RECIPE, __doc__)
    found = {}
    for least in LEAST_SCORES:
        cli.model.network.roi_heads.score_thresh = least
        found[least] = score(cli, cli.datamodule)
    print_table(
        ["persons above", "AP", "AP50", "AR"],
        [[f"{name:g}", *(f"{scores[key]:.3f}" for key in ("AP", "AP50", "AR"))] for name, scores in found.items()],
    )
    value = found[LEAST_SCORES[0]]["AP"]
    print(f"AP on unseen crowds after {seconds:.0f} s: {value:.3f}, bar {BAR}")
    print("the claim holds" if value >= BAR else "the claim does NOT hold")
    return 0 if value >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
