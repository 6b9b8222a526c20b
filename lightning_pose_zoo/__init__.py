"""Pose estimation for PyTorch Lightning: twelve methods, pose data modules and exact keypoint metrics.

Nothing heavy is imported here, so that ``import lightning_pose_zoo`` is instant; take what you need from
``lightning_pose_zoo.methods``, ``lightning_pose_zoo.data`` and ``lightning_pose_zoo.metrics``.
"""

__version__ = "0.1.0"
