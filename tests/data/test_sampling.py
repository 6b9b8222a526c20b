"""Who is dealt which samples, and that random numbers belong to the sample."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.data.sampling import PoseSampler, SampleKey, sample_rng


def deal(size, world_size, epoch=0, **options):
    ranks = []
    for rank in range(world_size):
        sampler = PoseSampler(range(size), rank=rank, world_size=world_size, **options)
        sampler.set_epoch(epoch)
        ranks.append([key.index for key in sampler])
        assert len(ranks[-1]) == len(sampler)
    return ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64])
def test_evaluation_deals_each_sample_once(size, world_size):
    ranks = deal(size, world_size, shuffle=False, pad=False)
    assert sorted(index for rank in ranks for index in rank) == list(range(size))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_training_deals_equally_many(size, world_size):
    ranks = deal(size, world_size, shuffle=True, pad=True)
    assert len({len(rank) for rank in ranks}) == 1
    assert {index for rank in ranks for index in rank} == set(range(size))


def test_order_follows_from_seed_and_epoch_alone():
    assert deal(50, 1, epoch=3, shuffle=True, pad=True) == deal(50, 1, epoch=3, shuffle=True, pad=True)
    assert deal(50, 1, epoch=3, shuffle=True, pad=True) != deal(50, 1, epoch=4, shuffle=True, pad=True)
    assert deal(50, 1, shuffle=True, pad=True, seed=1) != deal(50, 1, shuffle=True, pad=True, seed=2)


def test_processes_share_one_order():
    (whole,) = deal(50, 1, shuffle=True, pad=True)
    first, second = deal(50, 2, shuffle=True, pad=True)
    assert [index for pair in zip(first, second, strict=True) for index in pair] == whole


def test_random_numbers_of_a_sample():
    def draw(seed, epoch, index):
        return sample_rng(seed, SampleKey(epoch, index)).random(4).tolist()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({tuple(draw(*key)) for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]}) == 5


def epochs(small_coco, workers, count=2):
    data = small_coco.module(num_workers=workers, batch_size=2)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        batches.append(list(loader))
    return batches


def test_samples_do_not_depend_on_the_number_of_workers(small_coco):
    expected = epochs(small_coco, 0)
    assert not torch.equal(expected[0][0]["image"], expected[1][0]["image"])
    torch.manual_seed(1234)
    for workers in (1, 2):
        for batches, others in zip(epochs(small_coco, workers), expected, strict=True):
            for batch, other in zip(batches, others, strict=True):
                assert batch.keys() == other.keys()
                assert all(torch.equal(batch[name].nan_to_num(), other[name].nan_to_num()) for name in batch)


def test_every_epoch_varies_a_sample_anew(small_coco):
    first, second = epochs(small_coco, 0)
    by_person = [
        {int(person): batch["keypoints"][row] for batch in batches for row, person in enumerate(batch["person_id"])}
        for batches in (first, second)
    ]
    assert by_person[0].keys() == by_person[1].keys() == set(range(100, 106))
    assert not any(torch.equal(by_person[0][person], by_person[1][person]) for person in by_person[0])


def test_loaders_leave_the_global_random_numbers_alone(small_coco):
    data = small_coco.module()
    data.setup("fit")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(data.train_dataloader())
    assert torch.equal(torch.rand(3), expected)
