"""DeepPose: what each stage sees, and what it is trained on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_pose_zoo.codecs import RegressionCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.export import export_onnx
from lightning_pose_zoo.geometry import flip_keypoints
from lightning_pose_zoo.methods import DeepPose, deeppose
from lightning_pose_zoo.networks.deeppose import CoordinateRegressor
from lightning_pose_zoo.schedules import WarmupCosine
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

TINY = {"backbone": "test_resnet", "input_size": (32, 32)}
LSP = get_skeleton("lsp14")
LEFT_SHOULDER, RIGHT_HIP = LSP.index("left_shoulder"), LSP.index("right_hip")


def cascade(skeleton="lsp14", spread=0.5, **arguments):
    """Return a small cascade whose stages all say something."""
    torch.manual_seed(0)
    method = DeepPose(skeleton, **{**TINY, **arguments}).eval()
    for module in method.network.modules():
        if isinstance(module, CoordinateRegressor):
            nn.init.normal_(module.head.weight, std=spread)
    for stage in method.network.stages[1:]:
        stage.displacement_std.fill_(0.1)
    return method


def crops(count=3, size=(96, 64), joints=14):
    generator = torch.Generator().manual_seed(3)
    span = torch.tensor([size[1] - 16.0, size[0] - 16.0])
    return {
        "image": torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator),
        "keypoints": torch.rand(count, joints, 2, generator=generator) * span + 8,
        "visibility": torch.full((count, joints), 2, dtype=torch.uint8),
    }


@pytest.fixture
def cuts(monkeypatch):
    """Record every call that cuts squares out: centres, sides and crops."""
    seen, cut = [], deeppose.crop_squares

    def spy(images, centers, sides, output_size):
        seen.append((centers.clone(), sides.clone(), cut(images, centers, sides, output_size)))
        return seen[-1][2]

    monkeypatch.setattr(deeppose, "crop_squares", spy)
    return seen


def distance(keypoints, first, second):
    return (keypoints[:, first] - keypoints[:, second]).norm(dim=-1)


@torch.no_grad()
def test_each_stage_sees_a_square_around_every_joint_that_the_last_one_found(cuts):
    method, batch = cascade(sigma=1.7), crops()
    first, second, third = method.stage_keypoints(batch["image"])
    assert len(cuts) == 2
    for (centers, sides, seen), before in zip(cuts, (first, second), strict=True):
        assert torch.equal(centers, before)
        diameter = distance(before, LEFT_SHOULDER, RIGHT_HIP).clamp(min=9.6)
        torch.testing.assert_close(sides, 1.7 * diameter[:, None].expand(3, 14))
        assert seen.shape == (3, 14, 3, 32, 32)
    # The sides of the third stage follow the second's pose, not the first's.
    assert (cuts[0][1] - cuts[1][1]).abs().max() > 1e-3
    assert torch.equal(method.estimate(batch).keypoints, third)


class Oracle(nn.Module):
    """Says what a perfect stage would."""

    def __init__(self, truth, cuts):
        super().__init__()
        self.truth, self.cuts = truth, cuts

    def forward(self, crops, joints):
        centers, sides, _ = self.cuts[-1]
        return (self.truth - centers) / sides[..., None]


@torch.no_grad()
def test_a_perfect_second_stage_leaves_no_error(cuts, monkeypatch):
    method, batch = cascade(stages=2), crops()
    monkeypatch.setattr(method, "_refinement", lambda _: Oracle(batch["keypoints"], cuts))
    first, second = method.stage_keypoints(batch["image"])
    assert (first - batch["keypoints"]).abs().max() > 1
    torch.testing.assert_close(second, batch["keypoints"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_later_stages_that_find_nothing_change_nothing():
    method = cascade()
    for stage in method.network.stages[1:]:
        nn.init.zeros_(stage.regressors[0].head.weight)
    first, _, third = method.stage_keypoints(crops()["image"])
    assert torch.equal(first, third)


@torch.no_grad()
def test_later_stages_see_what_is_too_small_for_the_first(cuts):
    method = DeepPose("lsp14", backbone="test_resnet", stages=2, input_size=(220, 220)).eval()
    image = torch.zeros(1, 3, 1000, 1000)
    image[:, :, 500, 500] = 1.0
    assert method._shrunk(image).max() < 0.1
    # Heads begin near 0, so the first stage puts every joint into the middle; the least diameter is a tenth.
    method.stage_keypoints(image)
    assert cuts[0][1].tolist() == [[200.0] * 14]
    assert cuts[0][2].amax(dim=(2, 3, 4)).min() > 0.5


def test_displacements_are_those_of_each_joint():
    method = cascade(stages=2)
    stage = method.network.stages[1]
    stage.displacement_mean[3], stage.displacement_std[3] = torch.tensor([0.5, -0.2]), torch.tensor([0.1, 0.3])
    stage.displacement_mean[7], stage.displacement_std[7] = torch.tensor([-1.0, 0.0]), torch.tensor([0.02, 0.05])
    torch.manual_seed(0)
    drawn = method.draw_displacements(1, torch.tensor([3, 7]).expand(100_000, 2))
    for place, joint in enumerate((3, 7)):
        torch.testing.assert_close(drawn[:, place].mean(dim=0), stage.displacement_mean[joint], rtol=0, atol=4e-3)
        torch.testing.assert_close(drawn[:, place].std(dim=0), stage.displacement_std[joint], rtol=0.02, atol=0)


def test_training_looks_beside_the_true_joint(cuts):
    """The target is minus the displacement, in units of the square: -delta / sigma."""
    method, batch = cascade(stages=2, sigma=2.0, crops_per_person=5).train(), crops()
    method.phase = 1
    said = {}
    method.network.stages[1].register_forward_hook(lambda _, given, found: said.update(joints=given[1], found=found))
    torch.manual_seed(1)
    losses = method.losses(batch)
    centers, sides, _ = cuts[0]
    joints = said["joints"]
    assert joints.shape == (3, 5)
    assert all(len(set(row.tolist())) == 5 for row in joints)
    diameter = distance(batch["keypoints"], LEFT_SHOULDER, RIGHT_HIP).clamp(min=9.6)[:, None]
    torch.testing.assert_close(sides, 2 * diameter.expand(3, 5))
    true = batch["keypoints"].gather(1, joints[..., None].expand(-1, -1, 2))
    delta = (centers - true) / diameter[..., None]
    assert 0.02 < delta.std() < 0.3
    expected = (said["found"] + delta / 2).square().sum(dim=-1).mean()
    torch.testing.assert_close(losses, {"stage2": expected})


def test_joints_are_drawn_alike_and_only_labelled_ones_count(cuts):
    method, batch = cascade(stages=2, crops_per_person=3).train(), crops(200)
    method.phase = 1
    batch["visibility"][:, [0, 5]] = 0
    batch["keypoints"][:, [0, 5]] = torch.nan
    batch["visibility"][:100, 2:] = 0  # one labelled joint alone: two crops of each such person do not count
    drawn = torch.zeros(14)

    def count(module, given, found):
        drawn.add_(torch.bincount(given[1][100:].flatten(), minlength=14))

    method.network.stages[1].register_forward_hook(count)
    for _ in range(5):
        [loss] = method.losses(batch).values()
        assert torch.isfinite(loss)
    assert drawn[[0, 5]].sum() == 0
    labelled = drawn[[joint for joint in range(14) if joint not in (0, 5)]]
    assert labelled.sum() == 5 * 100 * 3
    assert (labelled / 125 - 1).abs().max() < 0.4  # five deviations


def shifted(method, shift):
    """Have the first stage err by a shift (N, K, 2) in diameters of the true pose."""

    def found(images, stages):
        keypoints = method.truth
        return [keypoints + shift * distance(keypoints, LEFT_SHOULDER, RIGHT_HIP).clamp(min=9.6)[:, None, None]]

    method.stage_keypoints = found


def test_statistics_are_the_errors_in_diameters_over_labelled_joints():
    method, batch = cascade(stages=2), crops(40)
    shift = torch.randn(40, 14, 2, generator=torch.Generator().manual_seed(1)) * torch.rand(14, 2) + torch.rand(14, 2)
    batch["visibility"][::3, 4] = 0
    batch["visibility"][1:, 6] = 0
    batch["visibility"][:, 7] = 0
    method.truth, method.phase = batch["keypoints"], 1
    shifted(method, shift)
    method.fit_statistics([batch])
    stage = method.network.stages[1]
    often = [joint for joint in range(14) if joint not in (6, 7)]
    for joint in often:
        rows = shift[batch["visibility"][:, joint] > 0, joint]
        torch.testing.assert_close(stage.displacement_mean[joint], rows.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stage.displacement_std[joint], rows.std(dim=0, correction=0), rtol=1e-4, atol=1e-5)
    # What is labelled once, or never, gets the errors of all.
    together = shift[batch["visibility"] > 0]
    for joint in (6, 7):
        torch.testing.assert_close(stage.displacement_mean[joint], together.mean(dim=0), rtol=1e-4, atol=1e-5)
    batch["visibility"].zero_()
    with pytest.raises(DatasetError, match="stage 2 needs the errors of stage 1, but no training crop"):
        method.fit_statistics([batch])
    with pytest.raises(DatasetError, match="no training crop"):
        method.fit_statistics([])


def test_mirrored_people_have_the_mirrored_statistics():
    batch, permutation = crops(10), LSP.flip_permutation
    shift = torch.randn(10, 14, 2, generator=torch.Generator().manual_seed(1))
    mirrored_shift = shift[:, permutation] * torch.tensor([-1.0, 1.0])
    fitted = []
    for keypoints, wrong in (
        (batch["keypoints"], shift),
        (flip_keypoints(batch["keypoints"], 64, permutation), mirrored_shift),
    ):
        method = cascade(stages=2)
        method.phase, method.truth = 1, keypoints
        # The diameter is that of the other diagonal in a mirrored person; here both are the same.
        method._diameter_pairs = ((0, 5),)
        method.stage_keypoints = lambda *_, k=keypoints, w=wrong: [k + w]
        method.fit_statistics([{**batch, "keypoints": keypoints}])
        fitted.append(method.network.stages[1])
    one, other = fitted
    torch.testing.assert_close(other.displacement_std, one.displacement_std[permutation])
    torch.testing.assert_close(
        other.displacement_mean, one.displacement_mean[permutation] * torch.tensor([-1.0, 1.0]), rtol=1e-4, atol=1e-5
    )


def test_diameters():
    method = cascade()
    keypoints = torch.zeros(5, 14, 2)
    visibility = torch.ones(5, 14)
    keypoints[:, LEFT_SHOULDER] = torch.tensor([30.0, 40.0])
    keypoints[:, LSP.index("right_shoulder")] = torch.tensor([0.0, 20.0])
    visibility[1, RIGHT_HIP] = 0  # the other diagonal is taken
    visibility[2, [RIGHT_HIP, LSP.index("left_hip")]] = 0  # neither: a quarter of the longer side
    keypoints[3, LEFT_SHOULDER] = 0  # one point: a tenth of it
    keypoints[4, LEFT_SHOULDER] = torch.tensor([torch.nan, 0.0])
    visibility[4] = 0
    assert method.diameters(keypoints, visibility, (96, 64)).tolist() == pytest.approx([50, 20, 24, 9.6, 24])
    mouse = Skeleton.from_names("mouse", ["nose", "earL", "earR", "tail"])
    animal = cascade(mouse, stages=2)
    assert animal.diameters(torch.rand(2, 4, 2), torch.ones(2, 4), (40, 80)).tolist() == [20.0, 20.0]
    assert animal(torch.zeros(2, 3, 40, 80, dtype=torch.uint8))[0].shape == (2, 4, 2)


@pytest.mark.parametrize("head", ["shared_select", "per_joint", "shared_2out"])
@pytest.mark.parametrize("case", ["nobody labelled", "no torso", "all in one point", "outside of the crop", "NaN"])
def test_bad_people_do_no_harm(head, case):
    method, batch = cascade(stages=2, head=head).train(), crops()
    if case == "nobody labelled":
        batch["visibility"].zero_()
    elif case == "no torso":
        batch["visibility"][:, [RIGHT_HIP, LSP.index("left_hip")]] = 0
    elif case == "all in one point":
        batch["keypoints"][:] = 5.0
    elif case == "outside of the crop":
        batch["keypoints"] += 500.0
    else:
        batch["visibility"][:, ::2] = 0
        batch["keypoints"][:, ::2] = torch.nan
    for phase in (0, 1):
        method.phase = phase
        method.zero_grad()
        [loss] = method.losses(batch).values()
        loss.backward()
        assert (loss.item() == 0) == (case == "nobody labelled")
        # What a phase trains has gradients, all of it, or distributed training would wait for ever.
        for parameter in method.network.stages[phase].parameters():
            assert torch.isfinite(parameter.grad).all()
        assert all(parameter.grad is None for parameter in method.network.stages[1 - phase].parameters())
    method.eval()
    with torch.no_grad():
        assert torch.isfinite(method.estimate(batch).keypoints).all()


def test_bad_settings():
    for arguments in ({"input_size": (0, 32)}, {"sigma": 0.0}, {"crops_per_person": 0}):
        with pytest.raises(SettingsError, match="positive numbers"):
            DeepPose(**{**TINY, **arguments})
    assert DeepPose(**TINY, head="per_joint", stages=1).crops_per_person == 14
    assert DeepPose(**TINY, crops_per_person=99, stages=1).crops_per_person == 14


def test_poses_come_from_the_stages_that_were_trained():
    method, batch = cascade(), crops()
    with torch.no_grad():
        stages = method.stage_keypoints(batch["image"])
        for phase, expected in ((0, 0), (1, 1), (2, 2), (-1, 2)):
            method.phase = phase
            assert torch.equal(method.estimate(batch).keypoints, stages[expected])
            assert f"{expected + 1} of 3 stages" in method.protocol()
        for method.read_stage in (0, 1, 2):
            assert torch.equal(method.estimate(batch).keypoints, stages[method.read_stage])


def test_later_stages_mend_what_the_first_one_leaves():
    """Eight people by heart: the second stage is nearer to them than the first."""
    torch.manual_seed(0)
    people = SyntheticPeople("lsp14", image_size=(64, 64), train_size=8, val_size=1, batch_size=8)
    people.setup("fit")
    [batch] = people.train_dataloader()
    method = DeepPose("lsp14", **TINY, stages=2, sigma=1.2, crops_per_person=7).train()
    for phase, steps in ((0, 40), (1, 100)):
        method.phase = phase
        if phase:
            with torch.no_grad():
                method.eval().fit_statistics([batch])
            method.train()
        parameters = list(method.network.stages[phase].parameters())
        optimizer = torch.optim.AdamW(parameters, lr=5e-3)
        schedule = WarmupCosine(optimizer)
        schedule.begin([steps])
        for _ in range(steps):
            optimizer.zero_grad()
            sum(method.losses(batch).values()).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = method.eval().stage_keypoints(batch["image"])
    first, second = ((keypoints - batch["keypoints"]).norm(dim=-1).mean().item() for keypoints in found)
    assert second < 0.95 * first


def test_mixed_precision_keeps_places_exact():
    method, batch = cascade(channels_last=True), crops()
    method.configure_model()
    with torch.no_grad():
        exact = method.stage_keypoints(batch["image"])[0]
        with torch.autocast("cpu", torch.bfloat16):
            poses = method.estimate(batch)
            near = method.stage_keypoints(batch["image"])[0]
    assert poses.keypoints.dtype == torch.float32
    # No coordinate was rounded to eight bits.
    assert (near.bfloat16() != near).float().mean() > 0.9
    torch.testing.assert_close(near, exact, rtol=0, atol=2.0)


def test_the_whole_cascade_is_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    method = cascade(spread=0.05)
    path = tmp_path / "model.onnx"
    assert export_onnx(method, path, (96, 64)) <= 1e-3
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (3, 3, 12, 8), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    for count in (1, 3):
        batch = images[:count]
        with torch.no_grad():
            expected, scores = method(batch)
        found, found_scores = session.run(None, {"images": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(found_scores), scores)


def test_checkpoints_remember_units(tmp_path):
    method = DeepPose("lsp14", **TINY, stages=1, codec=RegressionCodec("mmpose"))
    checkpoint = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(checkpoint)
    assert checkpoint["parts"]["codec"] == "RegressionCodec(convention=mmpose)"
    images = crops()["image"]
    with torch.no_grad():
        raw = method.eval().network(method._shrunk(method.normalized(images)))
        torch.testing.assert_close(method(images)[0], raw * torch.tensor([64.0, 96.0]))
