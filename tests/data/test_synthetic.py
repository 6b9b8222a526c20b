"""The data module of rendered people: fresh in training, fixed in evaluation, everybody once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_pose_zoo.data import CropAugmentation, SyntheticPeople
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.errors import DatasetError, SkeletonError
from lightning_pose_zoo.geometry import apply_affine


def people(stage="fit", **arguments):
    settings = {"skeleton": "coco17", "image_size": (64, 48), "train_size": 12, "val_size": 6, "batch_size": 4}
    module = SyntheticPeople(**{**settings, **arguments})
    module.setup(stage)
    return module


def test_training_shows_other_people_every_epoch_and_evaluation_the_same():
    module = people()
    train, val = module.datasets["train"], module.datasets["val"]
    assert not torch.equal(train[SampleKey(0, 3)]["image"], train[SampleKey(1, 3)]["image"])
    assert torch.equal(val[SampleKey(0, 3)]["image"], val[SampleKey(1, 3)]["image"])
    again = people().datasets
    for split, dataset in module.datasets.items():
        for key, value in dataset[SampleKey(2, 5)].items():
            assert torch.equal(again[split][SampleKey(2, 5)][key], value), (split, key)


def test_nobody_is_in_two_splits():
    module = people()
    module.setup("test")
    pictures = [module.datasets[split][0]["image"] for split in ("train", "val", "test")]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[i + 1 :])
    assert not torch.equal(pictures[0], people(seed=1).datasets["train"][0]["image"])


def test_everybody_in_a_scene_is_evaluated_once_and_no_id_repeats():
    module = people("validate", people=(1, 4), val_size=8)
    dataset = module.datasets["val"]
    scenes = [dataset.scene(index) for index in range(8)]
    assert sum(len(scene.keypoints) for scene in scenes) == len(dataset)
    batches = list(module.val_dataloader())
    ids = torch.cat([batch["person_id"] for batch in batches])
    assert len(ids.unique()) == len(ids) == len(dataset)
    found = {int(i): batch["original_keypoints"][n] for batch in batches for n, i in enumerate(batch["person_id"])}
    for index, scene in enumerate(scenes):
        for place, keypoints in enumerate(scene.keypoints):
            np.testing.assert_array_equal(found[index * 1000 + place].numpy(), keypoints)


def test_crops_and_originals_agree():
    batch = people("validate").datasets["val"].__getitems__(range(6))
    labelled = batch["visibility"] > 0
    back = apply_affine(batch["keypoints"], batch["to_original"])
    torch.testing.assert_close(back[labelled], batch["original_keypoints"][labelled], atol=1e-3, rtol=0)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    inside = (batch["keypoints"] > -0.5) & (batch["keypoints"] < torch.tensor([47.5, 63.5]))
    assert inside[labelled].float().mean() > 0.99


def test_training_may_cut_several_crops_out_of_one_picture():
    module = people(crops_per_picture=3, people=(2, 2))
    train = module.datasets["train"]
    assert len(train) == 12
    batch = next(iter(module.train_dataloader()))
    assert batch["image_id"].tolist() == [0, 0, 0, 1]
    assert batch["person_id"].tolist() == [0, 1, 0, 1001]
    assert len(people(crops_per_picture=3, people=(2, 2)).datasets["val"]) == 12
    with pytest.raises(DatasetError, match="multiple of crops_per_picture"):
        people(crops_per_picture=5)


def test_workers_make_the_same_people():
    alone, helped = people(), people(num_workers=2)
    augmented = CropAugmentation(scale=0.2, rotation=30.0)
    for module in (alone, helped):
        module.datasets["train"].augmentation = augmented
    for one, two in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("skeleton", ["mpii16", "lsp14", "h36m17"])
def test_other_skeletons(skeleton):
    module = people(skeleton=skeleton)
    batch = next(iter(module.train_dataloader()))
    assert batch["keypoints"].shape[1] == module.skeleton.num_keypoints
    [metric] = module.metrics()
    assert metric.skeleton == module.skeleton


def test_what_cannot_be_is_refused():
    with pytest.raises(SkeletonError, match="beak"):
        people(skeleton={"names": ["nose", "beak"]})
    with pytest.raises(DatasetError, match="people is"):
        people(people=(0, 2))
    with pytest.raises(DatasetError, match="image_size"):
        people(image_size=(64,))
    with pytest.raises(DatasetError, match="empty"):
        people(train_size=0)
