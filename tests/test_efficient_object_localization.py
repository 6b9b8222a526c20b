"""Efficient Object Localization: losses by hand, phases, places between cells, bad input, export, resuming."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import run_on_ranks
from resume_run import SpotsData

from lightning_pose_zoo.callbacks.training_phases import TrainingPhases
from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.export import export_onnx
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods.efficient_object_localization import EfficientObjectLocalization
from lightning_pose_zoo.schedules import WarmupCosine
from lightning_pose_zoo.skeletons import Skeleton

SMALL = {"backbone": "tompson7_bn", "channels": 4, "window": 3}
COARSE, FINE, JOINT = 0, 1, 2


def build(**arguments):
    torch.manual_seed(0)
    return EfficientObjectLocalization("lsp14", **{**SMALL, **arguments})


def crops(count=2, size=(64, 64)):
    generator = torch.Generator().manual_seed(3)
    span = torch.tensor([size[1] - 16.0, size[0] - 16.0])
    return {
        "image": torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator),
        "keypoints": torch.rand(count, 14, 2, generator=generator) * span + 8,
        "visibility": torch.full((count, 14), 2, dtype=torch.uint8),
    }


def gaussian(place, size, sigma=1.5):
    """A peak at (x, y), drawn cell by cell."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("mask_outside", [False, True])
def test_the_losses_are_those_of_the_paper_by_hand(mask_outside):
    """Half of E1 + 0.1 E2, each the squared errors of all cells over the number of joints."""
    method = build(mask_outside=mask_outside).eval()
    batch = crops()
    batch["visibility"][0, 3] = 0
    maps, cells, fine = method.network(method.normalized(batch["image"]))
    coarse_error = fine_error = outside = 0.0
    for n in range(2):
        for k in range(14):
            if not batch["visibility"][n, k]:
                continue
            place = batch["keypoints"][n, k]
            target = gaussian((place + 0.5) / 8 - 0.5, (8, 8))
            coarse_error += (maps[n, k] - target).square().sum().item()
            # The window of 24 pixels around the middle of the cell.
            inside = place - ((cells[n, k] + 0.5) * 8 - 0.5 - 11.5)
            if ((inside < -4.5 - 1) | (inside >= 24 + 4.5)).any():
                outside += 1
                fine_error += 0 if mask_outside else fine[n, k].square().sum().item()
            else:
                fine_error += (fine[n, k] - gaussian(inside, (24, 24))).square().sum().item()
    assert 3 < outside < 25
    losses = method.losses(batch)
    assert losses["coarse"].item() == pytest.approx(0.5 * coarse_error / (2 * 14), rel=1e-4)
    assert losses["fine"].item() == pytest.approx(0.1 * 0.5 * fine_error / (2 * 14), rel=1e-4)


def test_each_phase_minimises_its_own_losses():
    method = build()
    assert [phase.name for phase in method.phases] == ["coarse", "fine", "joint"]
    assert [dict(phase.loss_weights) for phase in method.phases] == [
        {"coarse": 1.0}, {"fine": 1.0}, {"coarse": 1.0, "fine": 0.1}
    ]  # fmt: skip
    found = []
    for method.phase in (COARSE, FINE, JOINT):
        torch.manual_seed(0)
        found.append({name: value.item() for name, value in method.losses(crops()).items()})
    assert [list(losses) for losses in found] == [["coarse"], ["fine"], ["coarse", "fine"]]
    assert found[2]["coarse"] == pytest.approx(found[0]["coarse"], rel=1e-4)


def test_poses_are_coarse_before_anything_fine_was_trained():
    method = build(loss=HeatmapCrossEntropy(1.5)).eval()
    images = crops()["image"]
    with torch.no_grad():
        maps, cells, _ = method.network(method.normalized(images))
        coarse, _ = method.codec.decode(method.loss.to_heatmaps(maps))
        assert not torch.equal(method(images)[0], coarse)
        fine = method(images)[0]
        method.read_stage = 0
        assert torch.equal(method(images)[0], coarse)
        method.read_stage = -1
        for method.phase, expected in ((COARSE, coarse), (FINE, fine), (JOINT, fine)):
            assert torch.equal(method(images)[0], expected)
        method.phase, method.read_stage = COARSE, 1
        assert torch.equal(method(images)[0], fine)
    # Fine poses are in the windows of the coarse peaks.
    assert ((fine - ((cells + 0.5) * 8 - 0.5)).abs() < 12 + 1).all()


def test_a_silent_fine_map_leaves_the_middle_of_the_coarse_cell():
    method = build().eval()
    torch.nn.init.zeros_(method.network.fine.head.weight)
    torch.nn.init.constant_(method.network.fine.head.bias, -1.0)
    images = crops()["image"]
    with torch.no_grad():
        cells = method.network(method.normalized(images)).cells
        torch.testing.assert_close(method(images)[0], (cells + 0.5) * 8 - 0.5)


def dots(count, size=64):
    """Pictures with a red and a blue dot anywhere, and where they are."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(count, 2, 2, generator=generator) * (size - 17) + 8
    grid = torch.arange(float(size))
    profile = torch.exp(-((grid - places[..., None]) ** 2) / (2 * 1.5**2))  # picture, dot, axis, cell
    spots = profile[:, :, 1, :, None] * profile[:, :, 0, None, :]
    image = torch.stack([spots[:, 0], torch.zeros_like(spots[:, 0]), spots[:, 1]], dim=1)
    return {
        "image": (255 * image).to(torch.uint8),
        "keypoints": places,
        "visibility": torch.full((count, 2), 2, dtype=torch.uint8),
    }


def test_the_fine_network_finds_what_lies_between_the_coarse_cells():
    """Coarse cells of 8 pixels are 8 / sqrt(12) off along each axis; the fine maps less than a pixel in all."""
    torch.manual_seed(0)
    skeleton = Skeleton("dots", ("red", "blue"))
    method = EfficientObjectLocalization(skeleton, **SMALL | {"channels": 8}, loss=HeatmapCrossEntropy(1.5)).train()
    batch = dots(20)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 60)
        optimizer.zero_grad()
        sum(method.losses(batch).values()).backward()
        optimizer.step()
    method.eval()
    with torch.no_grad():
        cells = method.network(method.normalized(batch["image"])).cells
        fine, _ = method(batch["image"])
    coarse_error = (method.codec.to_pixels(cells.float(), (8, 8)) - batch["keypoints"]).abs()
    assert coarse_error.max() < 8
    assert coarse_error.square().mean().sqrt().item() == pytest.approx(8 / 12**0.5, rel=0.25)
    assert (fine - batch["keypoints"]).norm(dim=-1).square().mean().sqrt() < 1


@pytest.mark.parametrize("window_centers", ["pred", "gt_jitter"])
def test_losses_stay_finite_whatever_the_labels(window_centers):
    method = build(window_centers=window_centers)
    batch = crops(3)
    batch["keypoints"][0, 0] = torch.tensor([-500.0, 1e6])  # far outside
    batch["keypoints"][0, 1] = torch.tensor([0.0, 0.0])  # in the corner
    batch["keypoints"][0, 2] = torch.tensor([63.4, 63.4])
    batch["visibility"][1] = 0
    sum(method.losses(batch).values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())
    nobody = {**batch, "visibility": torch.zeros_like(batch["visibility"])}
    assert [value.item() for value in method.losses(nobody).values()] == [0, 0]
    # A batch without labels is enough to find people.
    assert torch.isfinite(method.eval().estimate({"image": batch["image"]}).keypoints).all()


def test_windows_can_lie_around_the_labels():
    method = build(window_centers="gt_jitter", window=5)
    keypoints = torch.rand(200, 14, 2) * 64 - 0.5
    cells = method._jittered_cells(keypoints, (64, 64))
    assert cells.min() == 0
    assert cells.max() == 7
    inside = keypoints - method.window_origins(cells)
    assert ((inside > 0) & (inside < 40)).all()
    distance = (keypoints - ((cells + 0.5) * 8 - 0.5)).abs()
    assert 8 < distance.max() < 10 + 4
    targets = method.window_targets(keypoints, torch.full((200, 14), 2), cells)
    assert (targets.weights == 1).all()
    assert targets.heatmaps.flatten(2).amax(dim=-1).min() > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codec": HeatmapCodec("msra", 8)}, "convention is msra.*HeatmapCodec"),
        ({"codec": HeatmapCodec("center", 32)}, "choose 4, 8 or 16"),
        ({"window": 2}, "odd number"),
        ({"window_centers": "gt"}, "choose pred or gt_jitter"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        build(**arguments)


def test_sizes_that_cannot_be_halved_are_named():
    with pytest.raises(DatasetError, match=r"80x64 .* multiples of 32"):
        build()(torch.zeros(1, 3, 80, 64, dtype=torch.uint8))


def test_the_exported_file_says_the_same(tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    method = build(loss=HeatmapCrossEntropy(1.5)).train()
    squares = torch.randint(0, 256, (3, 3, 8, 4), dtype=torch.uint8)
    images = squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    batch = {**crops(3, (64, 32)), "image": images}
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        sum(method.losses(batch).values()).backward()
        optimizer.step()
    method.eval()
    assert export_onnx(method, tmp_path / "model.onnx", (64, 32)) <= 1e-3
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for images in (batch["image"][:1], batch["image"]):
        found = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            for one, other in zip(method(images), found, strict=True):
                torch.testing.assert_close(torch.from_numpy(other), one, rtol=0, atol=1e-4)


class Watch(L.Callback):
    """Notes for each step the phase, and which parts had gradients and moved; stops where the test wants it to."""

    def __init__(self, stop_after=None):
        self.stop_after, self.seen, self.before = stop_after, [], {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {name: value.clone() for name, value in pl_module.network.state_dict().items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        moved = {
            name.partition(".")[0]
            for name, value in pl_module.network.state_dict().items()
            if not torch.equal(value, self.before[name])
        }
        without = [name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]
        self.seen.append((pl_module.phase, sorted(moved), without))
        if trainer.global_step == self.stop_after:
            raise InterruptedError("stopped by the test")


def train(folder, stop_after=None, resume=False, devices=1):
    """Train three steps in each phase on pictures of noise, and return what was watched."""
    L.seed_everything(3, verbose=False)
    warnings.simplefilter("ignore")
    checkpoints = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    watch = Watch(stop_after)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        max_steps=9, deterministic=True, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[checkpoints, TrainingPhases([3, 3, 3]), watch], num_sanity_val_steps=1,
    )  # fmt: skip
    method = build(
        loss=HeatmapCrossEntropy(1.5), lr_scheduler=WarmupCosine,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    )  # fmt: skip
    trainer.fit(method, SpotsData(batch_size=4), ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "end.ckpt")
    return watch.seen


def same_weights(one: Path, other: Path) -> bool:
    states = [read_checkpoint(folder / "end.ckpt")["state_dict"] for folder in (one, other)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_each_phase_trains_its_own_part_and_resuming_in_the_fine_phase_changes_nothing(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    seen = train(whole)
    assert [phase for phase, *_ in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [moved for _, moved, _ in seen] == [["coarse"]] * 3 + [["fine"]] * 3 + [["coarse", "fine"]] * 3
    assert all(without == [] for *_, without in seen)
    with pytest.raises(InterruptedError):
        train(parts, stop_after=5)
    assert read_checkpoint(parts / "last.ckpt")["phase"] == FINE
    train(parts, resume=True)
    assert same_weights(whole, parts)
    loaded = EfficientObjectLocalization.load_from_checkpoint(parts / "last.ckpt", loss=HeatmapCrossEntropy(1.5))
    assert loaded.phase == JOINT


def train_on_two(rank, folder, stop_after, resume):
    with suppress(InterruptedError):
        seen = train(folder, stop_after, resume, devices=2)
        assert all(without == [] for *_, without in seen)


def test_two_processes_go_through_the_phases_and_resume(tmp_path):
    """Parameters that are not used would end a distributed training."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_on_ranks(train_on_two, 2, whole, None, False)
    run_on_ranks(train_on_two, 2, parts, 5, False)
    assert not (parts / "end.ckpt").exists()
    run_on_ranks(train_on_two, 2, parts, None, True)
    assert same_weights(whole, parts)
