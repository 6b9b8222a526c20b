"""The renderer of synthetic people: bodies in 3D, clothes, faces, surroundings, and keypoints that are true."""

from lightning_pose_zoo.data.rendering.scene import PeopleRenderer, Scene

__all__ = ["PeopleRenderer", "Scene"]
