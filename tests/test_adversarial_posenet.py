"""Adversarial PoseNet: its losses, the labels of its critics, who learns from what, and what is left after training."""

from __future__ import annotations

import copy
import math

import lightning as L
import pytest
import torch
from adversarial_run import HiddenSpotsData, build

from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.codecs import HeatmapCodec, occlusion_targets
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.export import export_program, method_from_checkpoint
from lightning_pose_zoo.losses import HeatmapMSE
from lightning_pose_zoo.methods import AdversarialPoseNet, Critics
from lightning_pose_zoo.methods.critics import Judged, confidence_labels, place_labels, sizes_in_crops

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip
CODEC = HeatmapCodec("center", stride=4, sigma=1.0)


@pytest.fixture(autouse=True)
def _seeded():
    L.seed_everything(3, verbose=False)


def some_batch(count=4):
    data = HiddenSpotsData(count)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def people(count=8, keypoints=5):
    """Keypoints inside crops of 64 pixels, all labelled, some hidden."""
    places = 8 + torch.rand(count, keypoints, 2) * 48
    return places, torch.randint(1, 3, (count, keypoints)).byte()


def test_hidden_keypoints_have_a_gaussian_and_seen_ones_zeros():
    places, _ = people(1, 3)
    visibility = torch.tensor([[0, 1, 2]], dtype=torch.uint8)
    pose = CODEC.encode(places, visibility, (64, 64))
    hidden = occlusion_targets(pose, visibility)
    assert pose.weights.tolist() == hidden.weights.tolist() == [[0, 1, 1]]
    assert torch.equal(hidden.heatmaps[0, 1], pose.heatmaps[0, 1])
    assert pose.heatmaps[0, 2].max() > 0.5
    assert hidden.heatmaps[0, [0, 2]].abs().sum() == 0


def test_the_loss_is_the_papers_sum():
    """1 / (2 M N) times the sum over pictures, stacks, both kinds of maps, keypoints and cells."""
    method = build(critics=Critics())
    method.eval()
    batch = some_batch()
    with torch.no_grad():
        parts = method.losses(batch)
        maps = method.network(method.normalized(batch["image"])).double()
    assert isinstance(method.loss, HeatmapMSE)
    total, (pictures, stacks) = 0.0, maps.shape[:2]
    for person in range(pictures):
        for keypoint, flag in enumerate(batch["visibility"][person].tolist()):
            cell = (batch["keypoints"][person, keypoint].double() + 0.5) / 4 - 0.5
            grid = torch.arange(16, dtype=torch.float64)
            bell = torch.exp(-((grid - cell[1]) ** 2)[:, None] / 2 - ((grid - cell[0]) ** 2)[None] / 2)
            reaches = all(-4 <= value < 19 for value in cell.tolist())
            if flag == 0 or not reaches:
                continue
            for stack in range(stacks):
                total += (maps[person, stack, 0, keypoint] - bell).square().sum().item()
                total += (maps[person, stack, 1, keypoint] - bell * (flag == 1)).square().sum().item()
    assert sum(parts.values()).item() == pytest.approx(total / (2 * pictures * stacks), rel=1e-4)


def test_labels_of_places():
    places, _ = people()
    sizes = torch.full((8,), 10.0)
    assert place_labels(places, places, sizes, 0.5).eq(1).all()
    moved = places.clone()
    moved[2, 3, 0] += 5.01
    moved[4, 1, 1] -= 4.99
    labels = place_labels(moved, places, sizes, 0.5)
    assert labels[2, 3] == 0
    assert labels.sum() == labels.numel() - 1


def test_labels_of_confidence_and_place_differ_on_a_blurred_map():
    places, visibility = people()
    targets = CODEC.encode(places, visibility, (64, 64)).heatmaps
    blurred = HeatmapCodec("center", stride=4, sigma=3.0).encode(places, visibility, (64, 64)).heatmaps
    maps = targets.clone()
    maps[1, 2] = blurred[1, 2]
    confident = confidence_labels(maps, targets, 0.5)
    assert confident[1, 2] == 0
    assert confident.sum() == confident.numel() - 1
    found, _ = CODEC.decode(maps)
    assert place_labels(found, places, torch.full((8,), 6.4), 0.5).eq(1).all()
    # The norm of a whole Gaussian is the square root of pi times sigma.
    assert targets.flatten(2).norm(dim=-1).median().item() == pytest.approx(math.sqrt(math.pi), rel=0.01)


def test_distances_are_measured_in_heads_of_the_crop():
    to_original = torch.tensor([[[0.0, -2.0, 5.0], [2.0, 0.0, 1.0]]]).repeat(2, 1, 1)  # turned, twice as large
    batch = {
        "image": torch.zeros(2, 3, 64, 96), "head_size": torch.tensor([30.0, torch.nan]), "to_original": to_original,
    }  # fmt: skip
    assert sizes_in_crops(batch).tolist() == pytest.approx([15.0, 9.6])
    del batch["head_size"]
    assert sizes_in_crops(batch).tolist() == pytest.approx([9.6, 9.6])


def judged(places, visibility, picture):
    pose = CODEC.encode(places, visibility, (64, 64))
    return Judged(
        picture, torch.stack([pose.heatmaps, occlusion_targets(pose, visibility).heatmaps], dim=1), pose.weights
    )


def test_the_pose_critic_sees_the_picture_and_the_confidence_critic_does_not():
    critics = Critics(1, 1, channels=8)
    critics.build(5)
    places, visibility = people()
    maps = judged(places, visibility, torch.rand(8, 3, 16, 16))
    others = judged(places, visibility, torch.rand(8, 3, 16, 16))
    with torch.no_grad():
        assert not torch.allclose(critics.logits("pose", maps)[0], critics.logits("pose", others)[0], atol=1e-3)
        assert torch.equal(critics.logits("confidence", maps)[0], critics.logits("confidence", others)[0])


def test_unlabelled_keypoints_count_nowhere():
    critics = Critics(1, 1, channels=8)
    critics.build(5)
    places, visibility = people()
    visibility[:, 2] = 0
    picture = torch.rand(8, 3, 16, 16)
    true = judged(places, visibility, picture)
    labels = torch.ones(8, 5)
    values = []
    for height in (0.0, 7.0):
        predicted = Judged(picture, true.maps.clone(), true.weights)
        predicted.maps[:, :, 2] += height
        labels[:, 2] = float(height > 0)
        for name in ("pose", "confidence"):
            loss, shares = critics.critic_loss(name, true, predicted, labels)
            values.append([loss.item(), *(share.item() for share in shares.values())])
        values.append([part.item() for part in critics.generator_losses(predicted).values()])
    assert values[:3] == values[3:]


@pytest.mark.parametrize("name", ["pose", "confidence"])
def test_a_critic_tells_poses_that_were_made_wrong_from_right_ones(name):
    """Half of the keypoints are moved, for the pose critic, or blurred, for the confidence critic."""
    critics = Critics(1, 1, channels=16)
    critics.build(5)
    places, visibility = people()
    wrong = torch.rand(8, 5) < 0.5
    moved = torch.where(wrong[..., None], (places + 24) % 64, places)
    true = judged(places, visibility, torch.rand(8, 3, 16, 16))
    predicted = judged(moved, visibility, true.picture)
    if name == "confidence":
        blurred = HeatmapCodec("center", stride=4, sigma=3.0).encode(places, visibility, (64, 64)).heatmaps
        predicted = Judged(true.picture, true.maps.clone(), true.weights)
        predicted.maps[:, 0][wrong] = blurred[wrong]
    labels = (~wrong).float()
    optimizer = torch.optim.Adam(critics.networks[name].parameters(), lr=5e-3)
    for _ in range(100):
        loss, shares = critics.critic_loss(name, true, predicted, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if min(shares[f"{name}_right_of_true"], shares[f"{name}_right_of_predicted"]) > 0.99:
            break
    assert shares[f"{name}_right_of_true"] > 0.95
    assert shares[f"{name}_right_of_predicted"] > 0.95
    assert shares[f"{name}_good"].item() == pytest.approx(labels.mean().item())


class Watch(L.Callback):
    """Writes down who has gradients, and who moves, whenever an optimizer steps."""

    def __init__(self):
        self.gradients, self.before = [], None
        self.moved = []

    def on_before_optimizer_step(self, trainer, method, optimizer):
        self._compare(method)
        self.gradients.append({name for name, value in method.named_parameters() if value.grad is not None})

    def on_train_batch_end(self, trainer, method, outputs, batch, batch_idx):
        self._compare(method)
        self.before = None
        assert all(value.grad is None for value in method.parameters())
        assert all(value.requires_grad for value in method.parameters())

    def _compare(self, method):
        now = {name: value.detach().clone() for name, value in method.named_parameters()}
        if self.before is not None:
            self.moved.append({name for name in now if not torch.equal(now[name], self.before[name])})
        self.before = now


def parts(names):
    return {".".join(name.split(".")[:3]) if name.startswith("critics") else "network" for name in names}


@pytest.mark.parametrize("twice", [True, False])
def test_each_loss_moves_the_parts_that_it_should_and_no_others(tmp_path, twice):
    watch = Watch()
    method = build(supervised_step=twice)
    trainer = L.Trainer(default_root_dir=tmp_path, max_steps=1, callbacks=[watch], **QUIET)
    trainer.fit(method, HiddenSpotsData())
    order = [{"network"}, {"critics.networks.pose"}, {"critics.networks.confidence"}, {"network"}]
    order = order if twice else order[:3]
    assert [parts(names) for names in watch.gradients] == order
    assert [parts(names) for names in watch.moved] == order
    every = {name for name, _ in method.named_parameters()}
    assert set.union(*watch.gradients) == every
    assert trainer.global_step == 1


def test_what_the_critics_think_moves_the_generator():
    """A step on their opinion alone makes the generator's maps look truer to them."""
    method = build()
    method.critics.build(14)
    sample = method._sample(some_batch())

    def opinion():
        method._supervised(sample)
        return torch.stack(list(method.critics.generator_losses(method._judged(sample)).values())).sum()

    before = opinion()
    before.backward()
    gradients = [value.grad for value in method.network.parameters()]
    steepness = sum(gradient.square().sum() for gradient in gradients if gradient is not None)
    with torch.no_grad():
        for value in method.network.parameters():
            if value.grad is not None:
                value -= 1e-3 * before / steepness * value.grad  # a thousandth less, were it a plane
        after = opinion()
    assert 0.998 < after / before < 0.9998


def test_without_critics_it_is_plain_training_to_the_last_bit(tmp_path):
    def steps(parameters):
        return torch.optim.AdamW(parameters, lr=1e-3)

    method = build(critics=Critics(0, 0), optimizer=steps, lr_scheduler=None)
    by_hand = copy.deepcopy(method)
    L.Trainer(default_root_dir=tmp_path, max_steps=4, **QUIET).fit(method, HiddenSpotsData())
    assert not method.critics.networks
    data = HiddenSpotsData()
    data.setup("fit")
    optimizer = steps(by_hand.parameters())
    for _, batch in zip(range(4), data.train_dataloader(), strict=False):
        torch.stack(list(by_hand.train().losses(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for key, value in by_hand.state_dict().items():
        assert torch.equal(value, method.state_dict()[key]), key


def test_critics_that_do_not_weigh_yet_change_nothing_of_the_generator(tmp_path):
    """Before ``start`` they learn only; their first values disturb no other random numbers."""
    states = []
    for critics in (Critics(0, 0), Critics(0.5, 0.5, channels=8, start=99)):
        L.seed_everything(3, verbose=False)
        method = build(critics=critics)
        trainer = L.Trainer(default_root_dir=tmp_path, max_steps=3, **QUIET)
        trainer.fit(method, HiddenSpotsData())
        states.append(method.network.state_dict())
        assert "train/loss_pose_critic" not in trainer.callback_metrics
    assert "train/critic_pose" in trainer.callback_metrics
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    L.seed_everything(3, verbose=False)
    folder = tmp_path_factory.mktemp("trained")
    method = build(critics=Critics(0.5, 0.5, channels=8), codec=None)
    trainer = L.Trainer(default_root_dir=folder, max_steps=1, **QUIET)
    trainer.fit(method, HiddenSpotsData())
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt", method


def test_a_checkpoint_has_the_critics_and_whoever_uses_it_only_the_generator(checkpoint, tmp_path):
    path, trained = checkpoint
    assert any(key.startswith("critics.networks.") for key in read_checkpoint(path)["state_dict"])
    loaded = AdversarialPoseNet.load_from_checkpoint(path)
    assert set(loaded.state_dict()) == {f"network.{key}" for key in trained.network.state_dict()} | {
        key for key in trained.state_dict() if key.startswith("normalization.")
    }
    for key, value in trained.network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[key])
    # A training that goes on, or a test of the method that was trained, has its critics.
    L.Trainer(default_root_dir=tmp_path, **QUIET).test(trained, HiddenSpotsData(), ckpt_path=path, verbose=False)
    other = build(critics=Critics(0.5, 0.5, channels=8))
    L.Trainer(default_root_dir=tmp_path, max_steps=2, **QUIET).fit(other, HiddenSpotsData(), ckpt_path=path)
    # Other weights of the critics, or none, are no reason to refuse a generator.
    L.Trainer(default_root_dir=tmp_path, **QUIET).test(
        build(critics=Critics(0, 0)), HiddenSpotsData(), ckpt_path=path, verbose=False
    )


def test_what_is_exported_is_the_generator(checkpoint, tmp_path):
    path, trained = checkpoint
    method, size = method_from_checkpoint(path)
    assert size == (64, 64)
    with torch.no_grad():  # the first values give flat maps, which no export can be checked on
        head = method.network.stacks[-1].pose_head[-1]
        head.weight.mul_(200)
    export_program(method, tmp_path / "model.pt2", (64, 64))
    program = torch.export.load(tmp_path / "model.pt2")
    count = sum(value.numel() for value in program.parameters())
    assert count == sum(value.numel() for value in trained.network.parameters())


def test_a_training_starts_from_a_generator_with_critics_beside_it(checkpoint):
    path, trained = checkpoint
    method = build(weights=str(path))
    for key, value in trained.network.state_dict().items():
        assert torch.equal(value, method.network.state_dict()[key])


def test_maps_of_hidden_keypoints_can_be_looked_at(checkpoint):
    _, method = checkpoint
    images = some_batch()["image"]
    with torch.no_grad():
        assert method.eval().occlusion_maps(images).shape == (4, 14, 16, 16)
        assert method.stage_maps(images).shape == (4, 1, 14, 16, 16)


def test_the_maps_of_all_stacks_can_be_judged():
    method = build(stacks=2, critics=Critics(1, 1, channels=8, all_stacks=True)).eval()
    method.critics.build(14)
    batch = some_batch()
    sample = method._sample(batch)
    with torch.no_grad():
        method._supervised(sample)
        both = method._judged(sample)
        method.critics.all_stacks = False
        last = method._judged(sample)
    assert both.maps.shape == (8, 2, 14, 16, 16)
    assert torch.equal(both.maps[4:], last.maps)
    assert torch.equal(both.maps[:4], sample.maps[:, 0])
    assert torch.equal(both.weights, sample.pose.weights.repeat(2, 1))
    assert torch.equal(both.picture[:4], both.picture[4:])


def test_wrong_settings_are_refused():
    with pytest.raises(SettingsError, match="pose_weight is -1"):
        Critics(pose_weight=-1)
    with pytest.raises(SettingsError, match="near is 0"):
        Critics(near=0)
    with pytest.raises(SettingsError, match="stacks is 0; give 1 to 8"):
        AdversarialPoseNet("lsp14", stacks=0, channels=8)
    with pytest.raises(SettingsError, match="set the codec's stride to 4"):
        AdversarialPoseNet("lsp14", stacks=1, channels=8, codec=HeatmapCodec(stride=8))
