"""AlphaPose: what is frozen, what moves, and that windows go to where the person is."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.codecs import HeatmapCodec, IntegralCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.losses import SymmetricIntegralLoss
from lightning_pose_zoo.methods import AlphaPose
from lightning_pose_zoo.methods.alphapose import centered_keypoints
from lightning_pose_zoo.weights import load_weights

SMALL = {"backbone": "test_resnet", "channels": (16, 8), "transformer": "test_resnet"}


def people(**more):
    return SyntheticPeople(skeleton="lsp14", image_size=(64, 64), train_size=8, val_size=4, batch_size=4, **more)


def batch_of(data):
    data.setup("fit")
    return data.datasets["train"].__getitems__(range(4))


def test_the_copy_is_frozen_and_the_transformer_is_not():
    torch.manual_seed(0)
    method, batch = AlphaPose("lsp14", **SMALL).train(), batch_of(people())
    method.phase = 1
    method.fit_statistics([])
    before = {key: value.clone() for key, value in method.network.parallel.state_dict().items()}
    assert not any(module.training for module in method.network.parallel.modules())
    losses = method.losses(batch)
    assert set(losses) == {"heatmap", "parallel"}
    # Of the copy's loss alone: it moves the transformer and nothing else.
    torch.nn.init.normal_(method.network.parallel.conv_out.weight, std=0.1)
    before |= {"conv_out.weight": method.network.parallel.conv_out.weight.clone()}
    method.losses(batch)["parallel"].backward()
    moved = {name for name, value in method.network.named_parameters() if value.grad is not None}
    assert moved == {f"transformer.{name}" for name, _ in method.network.transformer.named_parameters()}
    assert method.network.transformer.head.bias.grad.abs().min() > 0
    torch.testing.assert_close(method.network.parallel.state_dict(), before, rtol=0, atol=0)


def test_phases_train_one_network_and_then_both(tmp_path):
    torch.manual_seed(0)
    method, data = AlphaPose("lsp14", **SMALL), people()
    assert [phase.name for phase in method.phases] == ["estimator", "transformer"]
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            network = module.network
            seen.append((module.phase, network.transformer.head.bias.detach().clone(),
                         network.parallel.conv_out.weight.clone(), network.estimator.conv_out.weight.detach().clone(),
                         network.parallel.training))  # fmt: skip

    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[TrainingPhases(), Watch()],
    )  # fmt: skip
    trainer.fit(method, data)
    assert [phase for phase, *_ in seen] == [0, 0, 1, 1]
    assert all(not training for *_, training in seen)
    assert (seen[2][1] == 0).all()  # nothing moved it in the first phase
    assert (method.network.transformer.head.bias != 0).any()
    # The copy is the network as the first phase left it, and stays so.
    assert not torch.equal(seen[2][2], seen[1][2])
    assert torch.equal(seen[2][2], seen[2][3])
    assert torch.equal(method.network.parallel.conv_out.weight, seen[2][3])
    assert not torch.equal(method.network.estimator.conv_out.weight, seen[2][3])


def test_crops_are_seen_whole_in_the_first_phase():
    method, images = AlphaPose("lsp14", **SMALL).eval(), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.nn.init.constant_(method.network.transformer.head.bias, 3.0)
    assert method.windows(images).shape == (2, 2, 3)
    moved = method.heatmaps(images)
    method.phase = 0
    assert method.windows(images) is None
    assert not torch.allclose(method.heatmaps(images), moved)
    torch.testing.assert_close(method.heatmaps(images), method.network.estimator(method.normalized(images)))


def test_without_a_transformer_there_is_one_phase_and_no_copy():
    method = AlphaPose("lsp14", **(SMALL | {"transformer": None}))
    assert [phase.name for phase in method.phases] == ["estimator"]
    assert method.network.parallel is None
    assert set(method.losses(batch_of(people()))) == {"heatmap"}
    assert AlphaPose("lsp14", **SMALL, parallel=False).network.parallel is None


def test_hourglasses_have_a_loss_each():
    method = AlphaPose(
        "lsp14", "stacked_hourglass", stacks=2, channels=(8,), transformer="test_resnet", codec=HeatmapCodec("center")
    )
    method.fit_statistics([])
    assert set(method.losses(batch_of(people()))) == {"stack1", "stack2", "parallel"}


def test_settings_and_batches_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match="there are fastpose"):
        AlphaPose("lsp14", "pose")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="codec's stride"):
        AlphaPose("lsp14", codec=HeatmapCodec("center", stride=8), **SMALL)
    batch = batch_of(people())
    del batch["box"]
    with pytest.raises(DatasetError, match=r"needs 'box'(.|\n)*parallel to false"):
        AlphaPose("lsp14", **SMALL).losses(batch)


class Lamp(torch.nn.Module):
    """A single-person network that finds the middle of what is bright, and is right."""

    stride = 4

    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)


def spots(count, generator, size=64, width=11.0):
    """Bright spots in crops, off the middle by up to a fifth of the side, with boxes and one keypoint."""
    middle = size / 2 - 0.5 + (torch.rand(count, 2, generator=generator) - 0.5) * 0.4 * size
    grid = torch.arange(size, dtype=torch.float32)
    x, y = (torch.exp(-((grid - middle[:, axis, None]) ** 2) / (2 * (width / 2) ** 2)) for axis in (0, 1))
    half = size / (2 * 1.3)  # what fills the window, so that only the place is wrong
    box = torch.cat([middle + 0.5 - half, middle + 0.5 + half], dim=1)
    images = (y[:, None, :, None] * x[:, None, None, :]).expand(-1, 3, -1, -1)
    return {"image": images, "keypoints": middle[:, None], "visibility": torch.full((count, 1), 2), "box": box}


def test_windows_learn_to_follow_the_person():
    """Trained by the copy's loss alone on shifted persons, windows recover the shift to within two pixels."""
    from lightning_pose_zoo.skeletons import Skeleton

    torch.manual_seed(0)
    one = Skeleton(name="spot", names=("spot",), sigmas=(0.05,))
    method = AlphaPose(one, **SMALL, codec=HeatmapCodec("center", sigma=11 / 8)).train()
    method.network.parallel = Lamp()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(method.network.transformer.parameters(), lr=1e-2)
    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 100)
        # The box reaches beyond the crop, and only its place is to count.
        loss = method.losses(spots(16, generator))["parallel"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:5])
    method.eval()
    batch = spots(64, generator)
    with torch.no_grad():
        shift = method.windows(batch["image"])[..., 2] * 32
    wanted = (batch["keypoints"][:, 0] - 31.5).clamp(-32, 32)
    off = (shift - wanted).norm(dim=1)
    assert off.mean() < 2
    assert wanted.norm(dim=1).mean() > 8


def test_a_person_in_the_middle_and_one_that_is_not():
    keypoints, size = torch.tensor([[[31.5, 31.5], [41.5, 31.5]]]), (64, 64)
    side = 64 / 1.3
    middle = torch.tensor([[32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2]])
    torch.testing.assert_close(centered_keypoints(keypoints, middle, size), keypoints, rtol=0, atol=1e-4)
    # Half as large and beside: twice the distance, around the middle.
    small = torch.tensor([[40 - side / 4, 30 - side / 4, 40 + side / 4, 30 + side / 4]])
    moved = centered_keypoints(torch.tensor([[[39.5, 29.5], [44.5, 29.5]]]), small, size)
    torch.testing.assert_close(moved, torch.tensor([[[31.5, 31.5], [41.5, 31.5]]]), rtol=0, atol=1e-4)
    # A part that fills the crop stays as it is: there is nothing to see around it.
    part = torch.tensor([[-50.0, -60.0, 90.0, 80.0]])
    torch.testing.assert_close(centered_keypoints(keypoints, part, size), keypoints)
    # A crop that is no square: the box is as high as 1 / 1.3 of the crop, whatever its width.
    tall = torch.tensor([[10.0, 48 - 96 / 2.6, 30.0, 48 + 96 / 2.6]])
    [[point]] = centered_keypoints(torch.tensor([[[19.5, 47.5]]]), tall, (96, 64))
    torch.testing.assert_close(point, torch.tensor([31.5, 47.5]))


def test_the_published_file_fills_all_but_the_transformer():
    theirs, method = AlphaPose("coco17", **(SMALL | {"transformer": None})), AlphaPose("coco17", **SMALL)
    state = {
        key.removeprefix("estimator.").replace("backbone.", "preact."): value
        for key, value in theirs.network.state_dict().items()
    }
    report = load_weights(method, state)
    assert report.source == "AlphaPose repository, FastPose"
    assert not report.dropped
    assert {key.split(".")[0] for key in report.new} == {"transformer", "parallel"}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(method.eval().heatmaps(images), theirs.eval().heatmaps(images), rtol=0, atol=1e-5)
    # Pixels of the repository: three numbers of B, G and R taken from R, G and B.
    pixels = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert method.normalized(pixels).flatten().tolist() == pytest.approx([1 - 0.406, 1 - 0.457, 1 - 0.480])


def test_integral_regression_fits_in():
    method = AlphaPose("lsp14", **SMALL, parallel=False, codec=IntegralCodec(), loss=SymmetricIntegralLoss())
    batch = batch_of(people())
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = sum(method.losses(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert torch.isfinite(method.estimate(batch).keypoints).all()
