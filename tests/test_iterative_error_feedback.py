"""Iterative Error Feedback as a method: its start pose, fixed paths, phases, resuming, processes and export."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import run_on_ranks
from resume_run import SpotsData

from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.checkpoints import AtomicCheckpointIO, read_checkpoint
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.methods import IterativeErrorFeedback
from lightning_pose_zoo.methods import iterative_error_feedback as module_of_method
from lightning_pose_zoo.networks.iterative_error_feedback import bounded_target

SMALL = {"skeleton": "lsp14", "backbone": "test_resnet"}
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def small(**arguments):
    torch.manual_seed(0)
    settings = {"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), **SMALL, **arguments}
    return IterativeErrorFeedback(**settings)


def crops(count=4, keypoints=14, size=(64, 48)):
    generator = torch.Generator().manual_seed(3)
    squares = torch.randint(0, 256, (count, 3, size[0] // 8, size[1] // 8), dtype=torch.uint8, generator=generator)
    return {
        "image": squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3),
        "keypoints": torch.rand(count, keypoints, 2, generator=generator) * torch.tensor([size[1], size[0]]),
        "visibility": torch.full((count, keypoints), 2, dtype=torch.uint8),
        "person_id": torch.arange(count),
    }


def test_the_start_pose_is_the_median_of_the_labels():
    batch = crops(9)
    batch["visibility"][:2, 3] = 0
    batch["keypoints"][:2, 3] = 0
    batch["keypoints"][0, 5] = torch.tensor([4000.0, -4000.0])  # one wild label does not move a median
    method = small()
    parts = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 4), slice(4, 9))]
    method.fit_statistics(parts)
    for keypoint in range(14):
        rows = range(2, 9) if keypoint == 3 else range(9)
        labels = np.array([batch["keypoints"][row, keypoint].numpy() for row in rows])
        expected = (np.median(labels, axis=0) + 0.5) / (48, 64)
        np.testing.assert_allclose(method.network.start_pose[keypoint].numpy(), expected, rtol=1e-6)
    pose = method.network.start_keypoints(2, (128, 96))
    torch.testing.assert_close(pose[1], method.network.start_pose * torch.tensor([96, 128]) - 0.5)


def test_keypoints_that_are_labelled_nowhere_start_in_the_middle():
    batch = crops()
    batch["visibility"][:, 6] = 0
    method = small()
    with pytest.warns(UserWarning, match=f"No training crop has a label of {method.skeleton.names[6]}:"):
        method.fit_statistics([batch])
    assert method.network.start_pose[6].tolist() == [0.5, 0.5]
    assert torch.isfinite(method.losses(batch)["correction"])


def test_without_a_start_pose_the_method_says_so():
    with pytest.raises(SettingsError, match=r"no start pose.*fit_statistics"):
        small()(crops()["image"])


def loss_and_shown(method, batch, monkeypatch):
    """Return the loss where no correction is predicted, and the poses that the network was shown."""
    shown = []

    def correction(images, keypoints):
        shown.append(keypoints)
        return torch.zeros_like(keypoints)

    monkeypatch.setattr(method.network, "correction", correction)
    return method.losses(batch)["correction"], torch.stack(shown)


@pytest.mark.parametrize("phase", [0, 1, 2, 3, -1])
def test_training_stands_on_the_fixed_paths_of_its_phase(phase, monkeypatch):
    batch = crops(64)
    batch["visibility"][5, 2] = 0
    method = small()
    method.fit_statistics([batch])
    method.phase = phase
    longest = 20 * 64 / 224
    start = method.network.start_pose * torch.tensor([48, 64]) - 0.5
    paths = [start.expand(64, -1, -1)]
    for _ in range((phase + 1 or 4) - 1):
        paths.append(paths[-1] + bounded_target(batch["keypoints"] - paths[-1], longest))
    paths = torch.stack(paths)
    loss, shown = loss_and_shown(method, batch, monkeypatch)
    assert not shown.requires_grad
    labelled = (batch["visibility"] > 0)[None, ..., None]
    torch.testing.assert_close(shown * labelled, paths * labelled, rtol=0, atol=1e-3)
    assert torch.equal(shown[:, 5, 2], start[2].expand(len(paths), 2))  # what has no label stays where it started
    errors = bounded_target(batch["keypoints"] - shown, longest).div(longest).square().sum(dim=-1)
    torch.testing.assert_close(loss, errors[:, labelled[0, ..., 0]].mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bound", ["none", "clip"])
def test_predicted_paths_are_the_networks_own(monkeypatch, bound):
    batch = crops(32)
    method = small(path="predicted", bound=bound)
    method.fit_statistics([batch])
    torch.nn.init.normal_(method.network.final_layer.weight)
    method.eval()
    own = method.trajectory(batch["image"])[0].detach()
    original, shown = method.network.correction, []

    def correction(images, keypoints):
        shown.append(keypoints)
        return original(images, keypoints)

    monkeypatch.setattr(method.network, "correction", correction)
    method.losses(batch)["correction"].backward()
    shown = torch.stack(shown, dim=1)
    assert not shown.requires_grad
    torch.testing.assert_close(shown, own[:, :4], rtol=0, atol=1e-3)
    assert all(parameter.grad is not None for parameter in method.parameters())


class Paths(L.Callback):
    """Writes down how far crops go on their paths, and that weights go over from phase to phase."""

    def __init__(self, monkeypatch):
        self.steps, self.before, self.phases = [], None, []
        original = module_of_method.walked_towards

        def spy(start, end, steps, longest):
            self.steps.append(int(steps))
            return original(start, end, steps, longest)

        monkeypatch.setattr(module_of_method, "walked_towards", spy)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        weights = torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()])
        assert self.before is None or torch.equal(weights, self.before)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.phases.append(pl_module.phase)
        self.before = torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()])


def test_each_phase_adds_a_step_and_keeps_the_weights(monkeypatch, tmp_path):
    paths = Paths(monkeypatch)
    trainer = L.Trainer(default_root_dir=tmp_path, max_steps=12, callbacks=[paths], enable_checkpointing=False,
                        limit_val_batches=0, **QUIET)  # fmt: skip
    trainer.fit(small(), SpotsData(batch_size=20))
    assert paths.phases == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert paths.steps == [step for phase in paths.phases for step in range(1, phase + 2)]


def fit(folder: Path, devices: int = 1, stop_after: int | None = None, resume: bool = False) -> IterativeErrorFeedback:
    """Train two phases of four steps; stopped after some steps where that is asked for."""
    warnings.simplefilter("ignore")
    L.seed_everything(1, verbose=False)

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            assert all(p.grad is not None for p in pl_module.parameters())
            if trainer.global_step == stop_after:
                raise InterruptedError("stopped by the test")

    checkpoints = ModelCheckpoint(folder, filename="last", every_n_train_steps=3, enable_version_counter=False)
    trainer = L.Trainer(
        default_root_dir=folder, max_steps=8, devices=devices, strategy="ddp" if devices > 1 else "auto",
        plugins=[AtomicCheckpointIO()], callbacks=[checkpoints, Stop(), TrainingPhases([4, 4])], **QUIET,
    )  # fmt: skip
    method = small(steps=2)
    trainer.fit(method, SpotsData(batch_size=4), ckpt_path=folder / "last.ckpt" if resume else None)
    return method


def test_a_training_resumed_in_the_second_phase_ends_as_one_that_was_not_stopped(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fit(tmp_path / "parts", stop_after=7)
    stopped = read_checkpoint(tmp_path / "parts" / "last.ckpt")
    assert (stopped["global_step"], stopped["phase"]) == (6, 1)
    resumed = fit(tmp_path / "parts", resume=True)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert whole.network.started


def fit_on_rank(rank: int, folder: Path) -> None:
    method = fit(folder, devices=2)
    torch.save(method.state_dict(), folder / f"rank{rank}.pt")
    # A process that gets no sample knows the start pose as well.
    batch = crops(5)
    part = [batch] if rank == 1 else []
    method.fit_statistics(part)
    (folder / f"rank{rank}.json").write_text(json.dumps(method.network.start_pose.tolist()))


def test_two_processes_train_one_network_from_the_same_start(tmp_path):
    run_on_ranks(fit_on_rank, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in first.items():
        if "running_" not in key:  # batch norm's are each process's own
            assert torch.equal(value, second[key]), key
    alone = fit(tmp_path / "alone")
    assert torch.equal(first["network.start_pose"], alone.network.start_pose)
    method = small()
    method.fit_statistics([crops(5)])
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == method.network.start_pose.tolist()


def without_labels(batch):
    batch["visibility"][:] = 0
    batch["keypoints"][:] = 0


def with_one_person_unlabelled(batch):
    batch["visibility"][1] = 0


def without_torso(batch):
    batch["visibility"][:, [2, 3, 8, 9]] = 0


def far_outside(batch):
    batch["keypoints"][:, 3] = torch.tensor([-300.0, 900.0])


def at_the_border(batch):
    batch["keypoints"][:, ::2] = 0


def at_the_start_already(batch):
    batch["keypoints"][:] = torch.tensor([23.5, 31.5])


@pytest.mark.parametrize("path", ["fixed", "predicted"])
@pytest.mark.parametrize(
    "spoil",
    [without_labels, with_one_person_unlabelled, without_torso, far_outside, at_the_border, at_the_start_already],
)
def test_losses_stay_finite(spoil, path):
    batch = crops()
    spoil(batch)
    method = small(path=path, bound="tanh_radial")
    loss = method.losses(batch)["correction"]
    loss.backward()
    assert torch.isfinite(loss)
    assert (loss == 0) == (spoil is without_labels)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method.fit_statistics([batch])
    assert torch.isfinite(method.estimate(batch).keypoints).all()


@torch.no_grad()
def test_any_step_can_be_read_and_scores_say_who_rests():
    batch = crops(3)
    method = small().eval()
    method.fit_statistics([batch])
    torch.nn.init.normal_(method.network.final_layer.weight, std=0.3)
    poses, scores = method.trajectory(batch["image"])
    for step in (0, 2, 4, -1):
        method.read_step = step
        assert torch.equal(method.estimate(batch).keypoints, poses[:, step])
    moved = (poses[:, 4] - poses[:, 3]).norm(dim=-1) / (20 * 64 / 224)
    assert ((moved > 0) & (moved < 1)).any()
    torch.testing.assert_close(scores, (1 - moved).clamp(min=0), rtol=0, atol=1e-4)
    assert "no flip test, 4 steps of 20/224 of the crop, bound none" in method.protocol()


def trained_on_four(steps, max_step):
    method, batch = small(steps=steps, max_step=max_step).train(), crops(4)
    method.fit_statistics([batch])
    optimizer = torch.optim.Adam(method.parameters(), lr=4e-3)
    for _ in range(120):
        optimizer.zero_grad()
        method.losses(batch)["correction"].backward()
        optimizer.step()
    method.eval()
    with torch.no_grad():
        poses, _ = method.trajectory(batch["image"])
    return (poses - batch["keypoints"][:, None]).norm(dim=-1).mean(dim=(0, 2))


def test_four_pictures_are_learnt_step_by_step():
    """Joints here are up to 40 pixels from the start; one step of L reaches 5.7, four reach 23."""
    errors = trained_on_four(4, 20.0)
    assert (errors.diff() < 0).all()
    assert errors[4] < 0.35 * errors[0]
    assert errors[4] < 0.7 * trained_on_four(1, 20.0)[1]


def test_onnx_says_the_same(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra 'export' is not installed")
    import onnxruntime

    from lightning_pose_zoo.export import export_onnx

    batch = crops(5)
    method = small(bound="clip", steps=2).eval()
    method.fit_statistics([batch])
    torch.nn.init.normal_(method.network.final_layer.weight, std=0.2)
    assert export_onnx(method, tmp_path / "model.onnx", (64, 48)) <= 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for images in (batch["image"][:1], batch["image"]):
        with torch.no_grad():
            keypoints, scores = method(images)
        found, found_scores = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, keypoints.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found_scores, scores.numpy(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_mixed_precision_leaves_coordinates_alone():
    batch = crops(3, size=(224, 160))
    method = small().eval()
    method.fit_statistics([batch])
    images = method.normalized(batch["image"])
    seen = []
    method.network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        poses, _ = method.network(images)
    method.network(images)
    assert poses.dtype == seen[0].dtype == torch.float32
    torch.testing.assert_close(poses[:, 0], method.network.start_keypoints(3, (224, 160)), rtol=0, atol=0)
    torch.testing.assert_close(seen[0], seen[4], rtol=0, atol=0)


def test_weights_go_over_to_other_keypoints_by_name(tmp_path):
    theirs, mine = small(), small(skeleton="mpii16")
    theirs.fit_statistics([crops()])
    torch.nn.init.normal_(theirs.network.final_layer.weight)
    trainer = L.Trainer(default_root_dir=tmp_path, **QUIET)
    trainer.strategy.connect(theirs)
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    own = {key: value.clone() for key, value in mine.network.state_dict().items()}
    mine = small(skeleton="mpii16", weights=str(tmp_path / "theirs.ckpt"))
    there, here = theirs.network, mine.network
    assert here.started
    old, new = (next(iter(net.backbone.parameters())) for net in (there, here))
    assert torch.equal(new[:, [0, 1, 2, -1]], old[:, [0, 1, 2, -1]])
    for index, name in enumerate(mine.skeleton.names):
        name = {"upper_neck": "neck"}.get(name, name)
        if name not in theirs.skeleton.names:
            assert torch.equal(here.start_pose[index], own["start_pose"][index])
            continue
        other = theirs.skeleton.names.index(name)
        assert torch.equal(here.start_pose[index], there.start_pose[other])
        assert torch.equal(new[:, 3 + index], old[:, 3 + other])
        rows = there.final_layer.weight.unflatten(0, (-1, 2))[other]
        assert torch.equal(here.final_layer.weight.unflatten(0, (-1, 2))[index], rows)


def test_the_default_network_expects_pixels_from_minus_one_to_one():
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert IterativeErrorFeedback().normalized(image)[0, :, 0].tolist() == [[-1.0, 1.0]] * 3
    assert "mean=[0.485" in repr(small().normalization)


def test_wrong_paths_are_named():
    with pytest.raises(ValueError, match="choose fixed or predicted"):
        small(path="straight")
