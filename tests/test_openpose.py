"""OpenPose as a method: trained on whole pictures, scored, saved, loaded and exported."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.codecs import PartAffinityCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import CheckpointError, PoseZooError
from lightning_pose_zoo.methods import OpenPose
from lightning_pose_zoo.skeletons import SKELETON_NAMES, get_skeleton
from lightning_pose_zoo.structures import Poses

SMALL = {"variant": "v2_bn", "stages": (1, 1), "channels": 16, "backbone": "resnet10t"}


@pytest.fixture
def people():
    return SyntheticPeople(
        samples="pictures", image_size=(96, 128), train_size=8, val_size=5, people=(1, 3), batch_size=4
    )


@pytest.fixture
def trainer(tmp_path):
    return L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def crowd(size=(96, 128), skeleton="coco17"):
    """A batch by hand: three pictures, the second of nobody."""
    random = torch.Generator().manual_seed(0)
    count = get_skeleton(skeleton).num_keypoints
    places = torch.rand(4, count, 2, generator=random) * torch.tensor([size[1], size[0]], dtype=torch.float32)
    return {
        "image": torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8, generator=random),
        "keypoints": places,
        "visibility": torch.full((4, count), 2, dtype=torch.uint8),
        "image_index": torch.tensor([0, 0, 2, 2]),
        "image_id": torch.tensor([70, 71, 72]),
        "to_original": torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 7.0]]).expand(3, 2, 3),
    }


def perfect(module, batch):
    """Let a method see what it was to predict."""
    size = tuple(-(-side // module.codec.stride) * module.codec.stride for side in batch["image"].shape[-2:])
    parts, seen = module.parts.from_keypoints(batch["keypoints"], batch["visibility"])
    pictures = len(batch["image"])
    fields, maps = module.codec.encode(parts, seen, batch["image_index"], module.limbs, pictures, size)
    module.forward = lambda _: (maps, fields)
    return module


def test_fit_test_predict_save_and_load(people, trainer, tmp_path):
    module = OpenPose(people.skeleton, **SMALL)
    trainer.fit(module, people)
    [scores] = trainer.test(module, people, verbose=False)
    assert 0 <= scores["test/AP"] <= 1
    predicted = Poses.cat(trainer.predict(module, people))
    assert predicted.keypoints.shape[1:] == (17, 2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    # How persons are put together is no property of the weights; what maps mean is.
    loaded = OpenPose.load_from_checkpoint(tmp_path / "model.ckpt", grouping=PartGrouping(hidden=2.0), **SMALL)
    torch.testing.assert_close(loaded.network.state_dict(), module.network.state_dict())
    with pytest.raises(CheckpointError, match="codec: trained with PartAffinityCodec"):
        OpenPose.load_from_checkpoint(tmp_path / "model.ckpt", codec=PartAffinityCodec("openpose"), **SMALL)


@pytest.mark.parametrize("variant", ["v1_bn", "v2_bn"])
def test_the_loss_falls_and_everything_learns(variant):
    torch.manual_seed(0)
    module = OpenPose("coco17", **{**SMALL, "variant": variant, "stages": (2, 2), "channels": 8})
    batch, first = crowd(), 0.0
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(12):
        losses = module.losses(batch)
        assert set(losses) == {"fields1", "fields2", "maps1", "maps2"}
        optimizer.zero_grad()
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        first = first or total.item()
    assert total.item() < 0.8 * first
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_what_is_ignored_costs_nothing():
    module = OpenPose("coco17", **SMALL).eval()
    batch = crowd()
    batch["ignore"] = torch.zeros(3, 96, 128, dtype=torch.bool)
    half = batch | {"ignore": batch["ignore"].clone()}
    half["ignore"][:, :, :64] = True
    everywhere = batch | {"ignore": torch.ones_like(batch["ignore"])}
    total, some, nothing = (sum(module.losses(b).values()) for b in (batch, half, everywhere))
    assert 0 < some < total
    assert nothing == 0
    nothing.backward()
    assert all(value.grad is None or not value.grad.any() for value in module.parameters())
    # What is left is the squared error of the other half: the maps have 16 columns.
    fields, maps = module.stage_maps(batch["image"])
    parts, seen = module.parts.from_keypoints(batch["keypoints"], batch["visibility"])
    aims = module.codec.encode(parts, seen, batch["image_index"], module.limbs, 3, (96, 128))
    errors = [(maps[:, 0] - aims.heatmaps)[..., 8:], (fields[:, 0] - aims.fields)[..., 8:]]
    assert some.item() == pytest.approx(sum(error.square().sum().item() for error in errors) / 6, rel=1e-5)


def test_the_loss_is_half_the_squared_error_summed_over_cells():
    module = OpenPose("coco17", **SMALL).eval()
    batch = crowd()
    with torch.no_grad():
        fields, maps = module.stage_maps(batch["image"])
        found = module.losses(batch)
    parts, seen = module.parts.from_keypoints(batch["keypoints"], batch["visibility"])
    targets = module.codec.encode(parts, seen, batch["image_index"], module.limbs, 3, (96, 128))
    assert found["fields1"].item() == pytest.approx(((fields[:, 0] - targets.fields) ** 2).sum().item() / 6, rel=1e-5)
    assert found["maps1"].item() == pytest.approx(((maps[:, 0] - targets.heatmaps) ** 2).sum().item() / 6, rel=1e-5)


@pytest.mark.parametrize("skeleton", ["coco17", "lsp14", "body25"])
def test_persons_come_back_in_the_original_pictures(skeleton):
    module = OpenPose(skeleton, **SMALL)
    batch = crowd((376, 520), skeleton)
    # Nobody's limbs are longer than half of the picture's height.
    batch["keypoints"] = 0.45 * batch["keypoints"] + torch.tensor([0.0, 200.0, 0.0, 200.0])[:, None, None]
    poses = perfect(module, batch).estimate(batch)
    assert poses.image_ids.tolist() == [70, 70, 72, 72]
    expected = 2 * batch["keypoints"] + torch.tensor([5.0, 7.0])
    near = ((poses.keypoints[:, None] - expected[None]).norm(dim=-1) < 8) & (poses.keypoint_scores > 0)[:, None]
    assert near.float().mean(dim=-1).max(dim=0).values.min() > 0.7
    found = poses.keypoint_scores > 0
    assert (poses.keypoints[~found] == 0).all()
    inside = (poses.keypoints >= poses.boxes[:, None, :2]) & (poses.keypoints <= poses.boxes[:, None, 2:])
    assert inside[found].all()


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (40, 200)])
def test_pictures_of_any_size_and_of_nobody(size):
    module = OpenPose("coco17", flip_test=True, **SMALL).eval()
    batch = crowd(size)
    assert torch.isfinite(sum(module.losses(batch).values()))
    with torch.no_grad():
        maps, fields = module(batch["image"])
        cells = tuple(-(-side // 8) for side in size)
        assert (maps.shape[-2:], fields.shape[-2:]) == (cells, cells)
        nobody = perfect(module, batch | {"visibility": torch.zeros(4, 17)}).estimate(batch)
    assert len(nobody) == 0
    assert nobody.keypoints.shape == (0, 17, 2)


def standing(count, size):
    """A batch of one picture with people side by side, as COCO has keypoints, and the fields that they make."""
    body = torch.tensor(
        [[0, .05], [.03, .03], [-.03, .03], [.07, .05], [-.07, .05], [.12, .2], [-.12, .2], [.17, .36], [-.17, .36],
         [.2, .5], [-.2, .5], [.08, .52], [-.08, .52], [.1, .75], [-.1, .75], [.1, .97], [-.1, .97]]
    )  # fmt: skip
    corner = torch.tensor([[45.0 + 66 * (n % 12), 6.0 + 122 * (n // 12)] for n in range(count)]).view(-1, 1, 2)
    return crowd(size) | {
        "image": torch.zeros(1, 3, *size, dtype=torch.uint8), "keypoints": corner + 110 * body,
        "visibility": torch.full((count, 17), 2), "image_index": torch.zeros(count, dtype=torch.int64),
        "image_id": torch.tensor([7]), "to_original": torch.eye(2, 3)[None],
    }  # fmt: skip


@pytest.mark.parametrize("matching", ["greedy", "optimal"])
@pytest.mark.parametrize(("count", "size"), [(0, (61, 83)), (1, (131, 99)), (60, (619, 853))])
def test_crowds_of_any_number_in_odd_pictures(count, size, matching):
    module = OpenPose("coco17", grouping=PartGrouping(matching=matching), **SMALL)
    batch = standing(count, size)
    found = perfect(module, batch).estimate(batch)
    assert len(found) == count
    for keypoints in batch["keypoints"]:
        assert (found.keypoints - keypoints).norm(dim=-1).amax(dim=1).min() < 2


@pytest.mark.parametrize("matching", ["greedy", "optimal"])
def test_one_joint_all_in_a_point_and_what_is_not_finite(matching):
    module = OpenPose("coco17", grouping=PartGrouping(matching=matching, min_parts=1), **SMALL)
    batch = standing(1, (131, 99))
    batch["visibility"] = torch.zeros(1, 17)
    batch["visibility"][0, 9] = 1
    alone = perfect(module, batch).estimate(batch)
    assert (alone.keypoint_scores > 0).nonzero().tolist() == [[0, 9]]
    torch.testing.assert_close(alone.keypoints[0, 9], batch["keypoints"][0, 9], atol=0.1, rtol=0)
    torch.testing.assert_close(alone.boxes[0], batch["keypoints"][0, 9].repeat(2), atol=0.1, rtol=0)
    heap = batch | {"keypoints": torch.full((1, 17, 2), 60.0), "visibility": torch.full((1, 17), 2)}
    found = perfect(module, heap).estimate(heap)
    assert len(found) == 1
    torch.testing.assert_close(found.keypoints, heap["keypoints"], atol=0.1, rtol=0)
    maps, _ = module.forward(None)
    maps[0, 2, 3, 3] = torch.nan
    with pytest.raises(PoseZooError, match=r"confidence maps of pictures \[0\] of the batch .* not finite"):
        module.estimate(heap)
    # Training says so too, at once.
    damaged = OpenPose("coco17", **SMALL)
    with torch.no_grad():
        damaged.network.maps[-1].head.bias[0] = torch.nan
    assert torch.isnan(sum(damaged.losses(crowd()).values()))
    with pytest.raises(PoseZooError, match="not finite"):
        damaged.eval().estimate(crowd())


def test_the_flip_test_is_symmetric():
    torch.manual_seed(0)
    module = OpenPose("coco17", flip_test=True, **SMALL).eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        one = torch.cat(module(images), dim=1)
        other = torch.cat(module(images.flip(-1)), dim=1)
        averaged = one + module._unflip(other)
        mirrored = other + module._unflip(one)
    torch.testing.assert_close(module._unflip(mirrored), averaged, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(module._unflip(other), one, atol=1e-3)


@pytest.mark.parametrize("skeleton", SKELETON_NAMES)
def test_every_skeleton_has_a_network(skeleton):
    with torch.device("meta"):
        module = OpenPose(skeleton, "v2_bn", (1, 1), 8)
    assert [module.parts.skeleton.names[part] for part in module.parts.order] == list(module.skeleton.names)
    assert module.network.maps[0].head.out_channels == module.parts.skeleton.num_keypoints + 1


def test_the_graph_gives_maps_and_fields():
    module = OpenPose("coco17", **SMALL).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = module(images)
        found = torch.export.export(module, (images,)).module()(images)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
