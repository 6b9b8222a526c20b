"""Which samples a process sees, in which order, and with which random numbers.

All follows from (seed, epoch, index) alone: neither the number of workers nor the history of the process counts, so a
resumed epoch is the epoch that was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

__all__ = ["PoseSampler", "SampleKey", "sample_rng"]


@dataclass(frozen=True)
class SampleKey:
    """What a sampler hands to a data set: enough to make the sample's random numbers in any worker."""

    epoch: int
    index: int


def sample_rng(seed: int, key: SampleKey) -> np.random.Generator:
    """Return the random numbers of one sample in one epoch."""
    return np.random.default_rng((seed, key.epoch, key.index))


class PoseSampler(DistributedSampler[SampleKey]):
    """Deals the samples of a data set to the processes.

    Training deals equally many to each, by repeating a few; evaluation deals every sample exactly once, so ranks may
    get unequally many, or none. Being a ``DistributedSampler``, it is left in place by Lightning, which also tells it
    the epoch.

    Args:
        dataset: What to sample from.
        shuffle: A new order every epoch; else the order of the data set.
        pad: Repeat samples until every process has equally many.
        seed: Of the order.
        rank: Which process this is.
        world_size: How many there are.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool, pad: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(
            cast("Dataset[SampleKey]", dataset), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed
        )
        self.pad = pad
        self.size = len(dataset)

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        """Yield this process's samples of the current epoch."""
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        if self.pad and self.size:
            order = np.resize(order, -(-self.size // self.num_replicas) * self.num_replicas)
        for index in order[self.rank :: self.num_replicas]:
            yield SampleKey(self.epoch, int(index))

    def __len__(self) -> int:
        """Return how many samples this process gets."""
        if self.pad:
            return -(-self.size // self.num_replicas)
        return len(range(self.rank, self.size, self.num_replicas))
