"""Reading weights that other projects trained.

What a file is, is found out by the names of its entries; the names of every source are in one file beside this one.
"""

from lightning_pose_zoo.errors import UnsafeCheckpointError
from lightning_pose_zoo.weights.loading import LoadReport, load_weights

__all__ = ["LoadReport", "UnsafeCheckpointError", "load_weights"]
