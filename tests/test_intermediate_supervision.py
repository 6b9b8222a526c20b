"""Methods with a loss on every stage: what each stage is trained on, what is logged, and what is read."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec, HeatmapTargets
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.losses import HeatmapCrossEntropy, HeatmapMSE, stage_losses
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.hrnet import HRNet
from lightning_pose_zoo.methods.simple_baseline import SimpleBaseline
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass

HOURGLASS = {"stacks": 3, "channels": 16}
MACHINE = {"variant": "original_bn", "stages": 3, "channels": 8}
STAGED = [("stack", StackedHourglass, HOURGLASS), ("stage", ConvolutionalPoseMachine, MACHINE)]
staged = pytest.mark.parametrize(("name", "method", "arguments"), STAGED, ids=["hourglass", "machine"])


def crops(count=2, keypoints=14, size=(96, 64)):
    generator = torch.Generator().manual_seed(3)
    span = torch.tensor([size[1] - 16.0, size[0] - 16.0])
    return {
        "image": torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator),
        "keypoints": torch.rand(count, keypoints, 2, generator=generator) * span + 8,
        "visibility": torch.full((count, keypoints), 2, dtype=torch.uint8),
        "box": torch.tensor([[8.0, 8.0, size[1] - 8.0, size[0] - 8.0]]).expand(count, 4),
    }


@staged
def test_every_stage_has_a_loss_and_the_training_loss_is_their_sum(name, method, arguments, tmp_path):
    people = SyntheticPeople(skeleton="lsp14", image_size=(64, 64), train_size=4, val_size=2, batch_size=4)
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method(skeleton="lsp14", **arguments), people)
    logged = trainer.callback_metrics
    parts = [logged[f"train/loss_{name}{number}"] for number in (1, 2, 3)]
    assert f"train/loss_{name}4" not in logged
    torch.testing.assert_close(logged["train/loss"], sum(parts))


def test_stage_losses_compare_each_stage_with_its_own_targets():
    stages = [torch.full((2, 3, 4, 4), float(value)) for value in (1, 2)]
    targets = [HeatmapTargets(torch.full((2, 3, 4, 4), float(value)), torch.ones(2, 3)) for value in (1, 5)]
    losses = stage_losses(HeatmapMSE(), stages, targets, "part")
    assert {key: value.item() for key, value in losses.items()} == {"part1": 0.0, "part2": 4.5}
    with pytest.raises(ValueError, match="shorter"):
        stage_losses(HeatmapMSE(), stages, targets[:1], "part")


def test_sum_over_keypoints_and_cells_is_caffes_euclidean_loss():
    torch.manual_seed(0)
    outputs, weights = torch.randn(3, 4, 6, 5), torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    targets = HeatmapTargets(torch.rand(3, 4, 6, 5) * weights[..., None, None], weights)
    by_hand = sum(
        (outputs[n, k, y, x].item() - targets.heatmaps[n, k, y, x].item()) ** 2
        for n in range(3) for k in range(4) for y in range(6) for x in range(5) if weights[n, k]
    ) / (2 * 3)  # fmt: skip
    assert HeatmapMSE("sum")(outputs, targets).item() == pytest.approx(by_hand, rel=1e-5)
    # Of the published maps, 15 of 46x46, it is 15,870 times the plain mean of squares (half of it here).
    outputs, targets = torch.randn(1, 15, 46, 46), HeatmapTargets(torch.zeros(1, 15, 46, 46), torch.ones(1, 15))
    assert HeatmapMSE("sum")(outputs, targets) / outputs.square().mean() == pytest.approx(15_870, rel=1e-5)
    with pytest.raises(ValueError, match="mean or sum"):
        HeatmapMSE("median")


@pytest.mark.parametrize(("stride", "sigma"), [(4, 1.0), (8, 0.875), (4, 2.0)])
def test_scores_of_certain_maps_are_near_one_for_every_sigma(stride, sigma):
    targets = HeatmapCodec("center", stride, sigma).encode(torch.full((1, 1, 2), 47.5), torch.ones(1, 1), (96, 96))
    loss = HeatmapCrossEntropy(sigma)
    assert loss.to_heatmaps(targets.heatmaps.clamp(min=1e-12).log()).amax().item() == pytest.approx(1.0, abs=0.3)
    assert repr(HeatmapCrossEntropy()) == "HeatmapCrossEntropy()"
    with pytest.raises(ValueError, match="positive"):
        HeatmapCrossEntropy(0.0)


@pytest.mark.parametrize(("stride", "sigma"), [(4, 1.0), (8, 0.875)])
def test_the_default_codecs_find_what_they_drew(stride, sigma):
    codec = HeatmapCodec("center", stride, sigma)
    torch.manual_seed(0)
    keypoints = torch.rand(8, 14, 2) * 200 + 28
    targets = codec.encode(keypoints, torch.ones(8, 14), (256, 256))
    found, _ = codec.decode(targets.heatmaps)
    assert (found - keypoints).norm(dim=-1).max() < 0.1 * stride
    assert codec.to_pixels(torch.zeros(2), (32, 32)).tolist() == [stride / 2 - 0.5] * 2


@staged
def test_any_stage_can_be_read(name, method, arguments):
    torch.manual_seed(0)
    module = method(skeleton="lsp14", flip_test=False, **arguments).eval()
    batch = crops()
    del batch["box"]
    with torch.no_grad():
        stages = module.stage_maps(batch["image"])[:, :, :14]
        assert stages.shape[1] == 3
        for stage in (0, 1, 2, -1):
            module.read_stage = stage
            expected, _ = module.codec.decode(stages[:, stage])
            assert torch.equal(module.estimate(batch).keypoints, expected)
    assert method(skeleton="lsp14", **arguments).read_stage == -1


def test_every_parameter_of_every_method_gets_a_gradient():
    """Parameters without one break distributed training; the sizes that are published, on the meta device."""
    cases = [
        (HRNet, {"variant": "w18_small"}),
        (SimpleBaseline, {"backbone": "resnet18"}),
        (SimpleBaseline, {"backbone": "resnet18", "backbone_stride": 16, "deconv_channels": (32, 32)}),
        (StackedHourglass, {"stacks": 1}),
        (StackedHourglass, {"stacks": 2, "stem": "bearpaw", "blocks": 2}),
        *((ConvolutionalPoseMachine, {"variant": variant, "stages": 3})
          for variant in ("original", "original_bn", "vgg", "vgg_bn", "mmpose")),
        (ConvolutionalPoseMachine, {"stages": 1}),
        (ConvolutionalPoseMachine, {"stages": 2, "center_map": False}),
    ]  # fmt: skip
    for method, arguments in cases:
        with torch.device("meta"):
            module = method(skeleton="lsp14", **arguments)
        batch = {key: value.to("meta") for key, value in crops(2, 14, (128, 128)).items()}
        sum(module.losses(batch).values()).backward()
        unused = [key for key, parameter in module.named_parameters() if parameter.grad is None]
        assert unused == [], (method, arguments)


def test_losses_on_every_stage_keep_early_layers_learning():
    """The paper's reason for them: with the last loss alone, gradients fade on the way back to the first layers."""
    torch.manual_seed(0)
    machine = ConvolutionalPoseMachine("lsp14", "original", stages=6, channels=32).train()
    norms = []
    for parts in (slice(None), slice(-1, None)):
        machine.zero_grad()
        sum(list(machine.losses(crops()).values())[parts]).backward()
        norms.append(machine.network.trunk[0].conv.weight.grad.norm())
    assert norms[0] > 10 * norms[1]


def seen_targets(machine, batch):
    """Return the targets that each stage's loss is given."""
    given = []

    class Spy(HeatmapMSE):
        def forward(self, outputs, targets):
            given.append(targets)
            return super().forward(outputs, targets)

    machine.loss = Spy()
    machine.losses(batch)
    return given


def test_the_first_stage_is_trained_on_everybody_and_the_later_ones_on_the_person():
    machine = ConvolutionalPoseMachine("lsp14", **MACHINE)
    batch = crops()
    alone = seen_targets(machine, batch)
    assert len(alone) == 3
    assert all(torch.equal(targets.heatmaps, alone[0].heatmaps) for targets in alone)

    # Keypoint 4 of one more person is labelled in the first crop, at the middle of cell (3, 2); the rest is padding.
    batch["others_keypoints"] = torch.zeros(2, 2, 14, 2)
    batch["others_keypoints"][0, 1, 4] = torch.tensor([3 * 8 + 3.5, 2 * 8 + 3.5])
    batch["others_visibility"] = torch.zeros(2, 2, 14, dtype=torch.uint8)
    batch["others_visibility"][0, 1, 4] = 1
    together = seen_targets(machine, batch)
    for stage in (1, 2):
        assert torch.equal(together[stage].heatmaps, alone[stage].heatmaps)
    difference = together[0].heatmaps - alone[0].heatmaps
    assert together[0].heatmaps[0, 4, 2, 3].item() == pytest.approx(1, abs=1e-6)
    assert difference[0, 4, 2, 3] > 0.5
    assert (difference[0, :14].flatten(1).abs().amax(dim=1) > 0).tolist() == [index == 4 for index in range(14)]
    assert (difference[1] == 0).all()
    assert together[0].heatmaps.max() <= 1
    assert torch.equal(together[0].weights, alone[0].weights)

    batch["others_keypoints"], batch["others_visibility"] = torch.zeros(2, 0, 14, 2), torch.zeros(2, 0, 14)
    assert torch.equal(seen_targets(machine, batch)[0].heatmaps, alone[0].heatmaps)


def test_the_background_is_what_no_keypoint_covers():
    machine = ConvolutionalPoseMachine("lsp14", **MACHINE)
    batch = crops()
    batch["visibility"][1] = 0
    targets = seen_targets(machine, batch)[1]
    assert targets.heatmaps.shape == (2, 15, 12, 8)
    torch.testing.assert_close(targets.heatmaps[0, 14], 1 - targets.heatmaps[0, :14].max(dim=0).values)
    assert (targets.heatmaps[1] == 0).all()
    assert targets.weights.tolist() == [[1.0] * 15, [0.0] * 15]
    mmpose = ConvolutionalPoseMachine("lsp14", "mmpose", stages=2, channels=8, center_map=False)
    assert seen_targets(mmpose, batch)[0].heatmaps.shape == (2, 14, 12, 8)


def test_the_person_is_looked_for_in_the_middle_of_its_box():
    torch.manual_seed(0)
    machine = ConvolutionalPoseMachine("lsp14", flip_test=False, **MACHINE).eval()
    for layer in machine.network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    batch = crops()
    without = {key: value for key, value in batch.items() if key != "box"}
    left = {**batch, "box": torch.tensor([[0.0, 8.0, 16.0, 88.0]]).expand(2, 4)}
    with torch.no_grad():
        middle, absent, beside = (machine.estimate(which) for which in (batch, without, left))
    torch.testing.assert_close(middle.keypoints, absent.keypoints)
    torch.testing.assert_close(middle.boxes, absent.boxes)
    assert not torch.allclose(middle.keypoints, beside.keypoints, atol=1.0)
    # The maps of random weights need not have a positive value, and then say nothing; probabilities do.
    machine.flip_test, machine.loss = True, HeatmapCrossEntropy(0.875)
    # Boxes count from the edge of the first pixel, a mirrored crop from the centre of the last.
    mirrored = {**left, "image": left["image"].flip(-1), "box": torch.tensor([[47.0, 8.0, 63.0, 88.0]]).expand(2, 4)}
    with torch.no_grad():
        here, there = machine.estimate(left).keypoints, machine.estimate(mirrored).keypoints
    back = there[:, machine.skeleton.flip_permutation]
    torch.testing.assert_close(torch.stack([63 - back[..., 0], back[..., 1]], dim=-1), here, rtol=0, atol=0.01)


def test_pixels_are_what_the_released_networks_expect():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[:, 0] = 255
    machine = ConvolutionalPoseMachine("lsp14", stages=2, channels=8)
    torch.testing.assert_close(machine.normalized(image)[0, :, 0, 0], torch.tensor([-128.0, -128, 127]) / 256)
    hourglass = StackedHourglass("lsp14", **HOURGLASS)
    assert hourglass.normalized(image)[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    mmpose = ConvolutionalPoseMachine("lsp14", "mmpose", stages=2, channels=8, center_map=False)
    assert mmpose.normalization.channel_order == "rgb"
