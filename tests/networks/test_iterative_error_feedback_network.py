"""The network of Iterative Error Feedback: bounded steps, the drawn pose, the widened stem and the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.networks import IterativeErrorFeedbackNetwork
from lightning_pose_zoo.networks.iterative_error_feedback import bounded_target, keypoint_maps, walked_towards

SMALL = "test_resnet"


def network(keypoints=5, **arguments):
    torch.manual_seed(0)
    return IterativeErrorFeedbackNetwork(keypoints, SMALL, **arguments).eval()


def test_parameters_are_those_of_the_paper():
    """torchvision's GoogLeNet without its side branches and classifier, 20 channels in, 32 numbers out."""
    with torch.device("meta"):
        googlenet = IterativeErrorFeedbackNetwork(16)
    assert googlenet.backbone.conv1.conv.weight.shape == (64, 20, 7, 7)
    features = 6_624_904 - (1024 * 1000 + 1000)
    assert sum(p.numel() for p in googlenet.parameters()) == features + 64 * 17 * 49 + 1024 * 32 + 32 == 5_686_016


def test_a_target_is_at_most_one_step():
    torch.manual_seed(0)
    differences = torch.cat([torch.randn(500, 2) * 30, torch.randn(500, 2) * 3, torch.zeros(1, 2)])
    targets = bounded_target(differences, 20.0)
    for u, e in zip(differences.double().numpy(), targets.double().numpy(), strict=True):
        length = np.hypot(*u)
        expected = u if length <= 20 else u * 20 / length
        np.testing.assert_allclose(e, expected, rtol=1e-5, atol=1e-5)
        assert np.hypot(*e) <= 20 + 1e-5
    short = differences.norm(dim=-1) < 20
    assert short.any()
    assert not short.all()
    assert torch.equal(targets[short], differences[short])


def test_the_closed_form_is_the_iterated_path():
    torch.manual_seed(0)
    start, end = torch.rand(200, 3, 2) * 224, torch.rand(200, 3, 2) * 224
    end[0] = start[0]
    current = start.clone()
    for done in range(12):
        closed = walked_towards(start, end, torch.full((200, 1, 1), done), 20.0)
        torch.testing.assert_close(closed, current, rtol=0, atol=1e-3)
        current = current + bounded_target(end - current, 20.0)
        arrived = torch.ceil((end - start).norm(dim=-1) / 20) <= done
        assert torch.equal((closed - end).norm(dim=-1) < 1e-3, arrived)


def test_no_way_to_go_has_finite_gradients():
    difference = torch.zeros(3, 2, requires_grad=True)
    bounded_target(difference, 1.0).sum().backward()
    assert torch.isfinite(difference.grad).all()


def test_maps_are_drawn_as_released_in_the_range_of_pixels():
    keypoints = torch.tensor([[[30.0, 20.0], [50.25, 3.5], [-500.0, 40.0]]])
    maps = keypoint_maps(keypoints, (60, 80), 22.36)
    # The released layer: 100 exp(-0.001 d^2) - 50.
    for index, (x, y) in enumerate(keypoints[0].tolist()):
        for row in range(0, 60, 7):
            for column in range(0, 80, 9):
                released = 100 * np.exp(-0.001 * ((column - x) ** 2 + (row - y) ** 2)) - 50
                assert maps[0, index, row, column].item() == pytest.approx(released / 50, abs=2e-4)
    assert maps[0, 0, 20, 30] == 1
    assert maps[0, 2].unique().tolist() == [-1]
    one_sigma = keypoint_maps(torch.zeros(1, 1, 2), (1, 224), 22.36)[0, 0, 0, 22]
    assert one_sigma.item() == pytest.approx(2 * np.exp(-0.5 * (22 / 22.36) ** 2) - 1, abs=1e-5)


def test_maps_are_differentiable_and_keep_float32():
    keypoints = torch.tensor([[[10.3, 12.7]]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        maps = keypoint_maps(keypoints, (32, 32), 5.0)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, keypoint_maps(keypoints, (32, 32), 5.0), rtol=0, atol=0)
    # Brighter at pixel (15, 12) when the keypoint comes nearer to it.
    maps[0, 0, 12, 15].backward()
    assert keypoints.grad[0, 0, 0] > 0
    assert keypoints.grad[0, 0, 1] < 0


def seen_by(net, images, keypoints):
    seen = []
    handle = net.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    changes = net.correction(images, keypoints)
    handle.remove()
    return seen[0], changes


@torch.no_grad()
def test_the_pose_is_shown_beside_the_picture():
    net, images = network(), torch.randn(2, 3, 64, 48)
    nn.init.normal_(net.final_layer.weight)
    keypoints = torch.rand(2, 5, 2) * 48
    seen, changes = seen_by(net, images, keypoints)
    assert seen.shape == (2, 3 + 5 + 1, 64, 48)
    assert torch.equal(seen[:, :3], images)
    moved = keypoints.clone()
    moved[:, 2] += 6
    seen_again, changes_again = seen_by(net, images, moved)
    differs = (seen != seen_again).flatten(2).any(dim=-1).all(dim=0)
    assert differs.nonzero().flatten().tolist() == [3 + 2]
    assert (changes - changes_again).abs().max() > 1e-3
    # The marking point stays in the middle of the crop: between the four pixels there.
    middle = seen[0, -1]
    assert torch.equal(middle, seen_again[0, -1])
    assert (middle[31:33, 23:25] == middle.max()).all()


@torch.no_grad()
@pytest.mark.parametrize("name", [SMALL, "googlenet"])
def test_a_widened_stem_keeps_the_pretrained_filters(name, monkeypatch):
    """With zeros in the new filters the features are those of the network that reads pictures alone."""
    import timm
    from torchvision.models import GoogLeNet, _api

    torch.manual_seed(0)
    plain = GoogLeNet(init_weights=False) if name == "googlenet" else timm.create_model(name)
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    original = timm.create_model

    def pretrained_model(*args, pretrained, **settings):
        assert pretrained
        model = original(*args, **settings)
        model.load_state_dict(state, strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", pretrained_model)
    net = IterativeErrorFeedbackNetwork(4, name, pretrained=True).eval()
    first = next(layer for layer in net.backbone.modules() if isinstance(layer, nn.Conv2d))
    old = next(layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)).weight
    assert torch.equal(first.weight[:, :3], old)
    assert 0 < first.weight[:, 3:].std() < 0.2 * old.std()
    first.weight[:, 3:] = 0
    images = torch.randn(2, 3, 64, 64)
    keypoints = torch.rand(2, 4, 2) * 64
    seen = torch.cat([images, torch.randn(2, 5, 64, 64)], dim=1)
    plain.eval()
    if name == "googlenet":
        plain.fc, plain.dropout = nn.Identity(), nn.Identity()
        expected = plain(images)
    else:
        expected = plain.forward_head(plain.forward_features(images), pre_logits=True)
    torch.testing.assert_close(net.backbone(seen), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net.correction(images, keypoints), net.correction(images, keypoints + 9))


class Oracle(IterativeErrorFeedbackNetwork):
    """Knows where the keypoints are."""

    goal: torch.Tensor

    def correction(self, images, keypoints):
        longest = self.longest_step(images.shape[-2:])
        return bounded_target(self.goal - keypoints, longest) / longest


@torch.no_grad()
def test_what_knows_the_corrections_arrives_as_far_as_it_can_reach():
    torch.manual_seed(0)
    oracle = Oracle(6, SMALL)
    oracle.start_from(torch.rand(6, 2))
    images = torch.zeros(40, 3, 112, 112)
    oracle.goal = torch.rand(40, 6, 2) * 112
    poses, last = oracle(images)
    assert poses.shape == (40, 5, 6, 2)
    errors = (poses - oracle.goal[:, None]).norm(dim=-1)
    assert (errors.diff(dim=1) <= 1e-4).all()
    reached = errors[:, 0] <= 4 * 10.0
    assert reached.any()
    assert not reached.all()
    assert (errors[:, 4][reached] < 1e-3).all()
    torch.testing.assert_close(errors[:, 4][~reached], (errors[:, 0] - 40)[~reached], rtol=0, atol=1e-3)
    assert ((last.norm(dim=-1) < 1e-3) == (errors[:, 3] < 1e-2)).all()


@torch.no_grad()
def test_one_set_of_weights_is_run_once_for_each_step():
    net = network(steps=3)
    nn.init.normal_(net.final_layer.weight)
    net.start_from(torch.rand(5, 2))
    calls = []
    net.backbone.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 64, 64)
    poses, _ = net(images)
    assert len(calls) == 3
    expected = net.start_pose * 64 - 0.5
    torch.testing.assert_close(poses[0, 0], expected)
    for step in range(3):
        following = poses[:, step] + 20 * 64 / 224 * net.correction(images, poses[:, step])
        torch.testing.assert_close(poses[:, step + 1], following)


@torch.no_grad()
@pytest.mark.parametrize(("bound", "longest"), [("none", None), ("clip", 1.0), ("tanh_radial", 1.0)])
def test_predicted_corrections_are_bounded_where_that_is_asked_for(bound, longest):
    net = network(bound=bound)
    nn.init.normal_(net.final_layer.weight, std=3)
    images, keypoints = torch.randn(4, 3, 64, 64), torch.rand(4, 5, 2) * 64
    raw = network(bound="none")
    raw.load_state_dict(net.state_dict())
    raw = raw.correction(images, keypoints)
    assert (raw.norm(dim=-1) > 1.5).any()
    moved, change = net.corrected(images, keypoints)
    torch.testing.assert_close(moved - keypoints, change * 20 * 64 / 224, rtol=1e-4, atol=1e-4)
    if longest is None:
        assert torch.equal(change, raw)
    else:
        assert change.norm(dim=-1).max() <= longest + 1e-5
        # In the same direction.
        assert torch.cosine_similarity(change, raw, dim=-1).min() > 0.999
    if bound == "tanh_radial":
        torch.testing.assert_close(change.norm(dim=-1), raw.norm(dim=-1).tanh())


@torch.no_grad()
def test_backbones_that_begin_with_convolutions_in_parallel_see_the_pose():
    torch.manual_seed(0)
    net = IterativeErrorFeedbackNetwork(2, "repvgg_a0").eval()
    nn.init.normal_(net.final_layer.weight)
    images, keypoints = torch.randn(1, 3, 32, 32), torch.rand(1, 2, 2) * 32
    assert not torch.equal(net.correction(images, keypoints), net.correction(images, keypoints + 5))


def test_lengths_grow_with_the_longer_side():
    net = network()
    assert net.longest_step((224, 224)) == pytest.approx(20)
    assert net.longest_step((112, 84)) == net.longest_step((84, 112)) == pytest.approx(10)


def test_without_a_start_pose_nothing_is_predicted():
    net = network()
    with pytest.raises(SettingsError, match="no start pose"):
        net(torch.zeros(1, 3, 64, 64))
    net.start_from(torch.full((5, 2), 0.25))
    other = network()
    other.load_state_dict(net.state_dict())
    assert other(torch.zeros(1, 3, 64, 64))[0].shape == (1, 5, 5, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet99"}, "timm has no backbone 'resnet99'.*resnet"),
        ({"bound": "hard"}, "choose none, clip or tanh_radial"),
        ({"steps": 0}, "at least one step"),
        ({"max_step": -1.0}, "positive lengths"),
        ({"sigma": 0.0}, "positive lengths"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        IterativeErrorFeedbackNetwork(3, **arguments)


def test_backbones_without_a_first_convolution_are_refused(monkeypatch):
    import timm

    class Flat(nn.Module):
        num_features = 4

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Flat())
    with pytest.raises(ValueError, match="'resnet18' does not begin with a convolution"):
        IterativeErrorFeedbackNetwork(3, "resnet18")
