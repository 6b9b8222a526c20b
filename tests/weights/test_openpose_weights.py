"""OpenPose's public weights through ``load_weights``."""

from __future__ import annotations

import numpy as np
import torch

from lightning_pose_zoo.codecs import PartAffinityCodec
from lightning_pose_zoo.methods import OpenPose
from lightning_pose_zoo.weights import load_weights


def test_public_weights_give_public_outputs(reference):
    public = reference("pytorch_openpose_body")
    assert len(public.state) == 184
    method = OpenPose("coco17", "v1", codec=PartAffinityCodec("openpose")).eval()
    report = load_weights(method, public.state)
    assert report.source == "OpenPose, first version"
    assert (len(report.kept), len(report.new), len(report.dropped)) == (184, 0, 0)
    assert report.keypoints is None
    assert report.advice == ()
    with torch.no_grad():
        fields, maps = method.network(public.images)
    # The public program clips the last maps at 0 by mistake.
    for ours, theirs in zip((fields[:, -1], maps[:, -1].clamp(min=0)), public.outputs, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-4 * theirs.std()
    # Its pixels: blue first, x / 256 - 0.5.
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(method.normalized(images), images.flip(1) / 256 - 0.5)


def test_the_codec_that_the_weights_need_is_named(reference):
    small = OpenPose("coco17", "v1")
    [advice] = load_weights(
        small, {f"model0.{k}": v for k, v in reference("pytorch_openpose_body").state.items()}
    ).advice
    assert "PartAffinityCodec('openpose', ...)" in advice
