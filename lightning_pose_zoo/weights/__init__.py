"""Reading weights that other projects trained.

What a file is, is found out by the names of its entries; every source is one file beside this one.
"""

from lightning_pose_zoo.weights.loading import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
