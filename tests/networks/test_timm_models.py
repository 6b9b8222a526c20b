"""Backbones are timm's own, by name; nothing is fetched from a hub, and a wrong name ends in one message."""

from __future__ import annotations

import socket

import pytest
import timm

from lightning_pose_zoo.networks import HRNetNetwork, SimpleBaselineNetwork
from lightning_pose_zoo.networks.timm_models import pooled_backbone, stage_strides, timm_model, timm_stage


@pytest.mark.parametrize(
    "name", ["hf-hub:somebody/model", "hf_hub:somebody/model", "local-dir:weights", "timm/resnet18"]
)
def test_names_that_lead_elsewhere_are_refused(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for build in (
        lambda: timm_model(name),
        lambda: pooled_backbone(name, pretrained=True),
        lambda: SimpleBaselineNetwork(17, name, pretrained=True),
    ):
        with pytest.raises(ValueError, match="timm has no backbone"):
            build()


def test_similar_names_are_told():
    with pytest.raises(ValueError, match=r"no backbone 'resnet19'; similar names: alexnet, resnet"):
        pooled_backbone("resnet19", pretrained=False, own=("alexnet",))
    with pytest.raises(ValueError, match="no backbone 'hrnet_w19'"):
        HRNetNetwork(17, "w19")
    with pytest.raises(ValueError, match=r"has stages of stride \[2, 4, 8, 16, 32\], none of 3\."):
        stage_strides("resnet18", 3)


def test_stages_end_where_they_are_wanted():
    stage, channels = timm_stage("resnet18", pretrained=False, stride=16)
    assert channels == 256
    assert stage.feature_info.reduction() == [16]
    assert timm.is_model("resnet18.a1_in1k")  # with the tag of its weights
    assert pooled_backbone("resnet18.a1_in1k", pretrained=False)[1] == 512
