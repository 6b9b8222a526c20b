"""Which samples a process sees, in which order, with which random numbers, and from where an interrupted epoch goes on.

All follows from (seed, epoch, index) alone: neither the number of workers nor the history of the process counts, so a
resumed epoch is the epoch that was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from lightning_pose_zoo.structures import PoseBatch

__all__ = ["PoseLoader", "PoseSampler", "SampleKey", "sample_rng"]


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
        self.start = 0  # how many samples, of all processes together, are behind us in this epoch
        self._every: npt.NDArray[np.int64] | None = None

    def keep(self, samples: int) -> None:
        """Deal only so many samples, spread evenly over the data set."""
        if samples < self.size:
            self._every = np.arange(samples) * self.size // samples
            self.size = samples

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        """Yield this process's samples of the current epoch."""
        epoch, start = self.epoch, self.start
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        if self._every is not None:
            order = self._every[order]
        if self.pad and self.size:
            left = -(-(self.size - start) // self.num_replicas) * self.num_replicas
            order = np.resize(order, start + max(left, 0))
        for index in order[start + self.rank :: self.num_replicas]:
            yield SampleKey(epoch, int(index))

    def __len__(self) -> int:
        """Return how many samples this process gets in a whole epoch."""
        if self.pad:
            return -(-self.size // self.num_replicas)
        return len(range(self.rank, self.size, self.num_replicas))


class PoseLoader(DataLoader[PoseBatch]):
    """A DataLoader over a ``PoseSampler`` that goes on in the middle of an epoch, and never leaves a process out.

    Lightning keeps its state in checkpoints: the epoch, and how many samples of it were trained on. A process that has
    no sample to evaluate (there are more processes than samples) gets one batch of nobody, because Lightning skips
    whole evaluations without a batch and the other processes would wait for this one.

    Attributes:
        batches_done: Tells how many batches of this epoch are behind us; set by the data module.
    """

    batches_done: Callable[[], int] | None = None
    _epoch: int | None = None  # which is being read
    _resume_at: tuple[int, int] | None = None
    _resumed = False

    def __iter__(self) -> Iterator[PoseBatch]:  # type: ignore[override]
        """Yield the batches of this epoch that are still to come."""
        # A generator, so that nothing is sampled before the first batch is wanted: when training is resumed, Lightning
        # asks for the iterator first and tells the epoch afterwards, and workers would start on the wrong one.
        if not super().__len__():
            # Where Lightning notes which samples each batch of predictions has.
            getattr(iter(cast("Any", self.batch_sampler)), "seen_batch_indices", []).append([])
            yield cast("Any", self.dataset).nobody()
            return
        if isinstance(self.sampler, PoseSampler):  # Lightning puts another in its place to overfit
            self._place(self.sampler)
        yield from super().__iter__()

    def _place(self, sampler: PoseSampler) -> None:
        """Tell the sampler where to start."""
        if self._resume_at:
            sampler.epoch, sampler.start = self._resume_at
            self._resume_at = None
        else:
            sampler.start = 0
            if self._resumed and self._epoch is not None:
                # Resumed in a training of so many steps, Lightning counts epochs otherwise than without a stop.
                sampler.epoch = self._epoch + 1
        self._epoch = sampler.epoch

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return max(super().__len__(), 1)

    def _samples_in_step(self) -> int:
        return (self.batch_size or 1) * getattr(self.sampler, "num_replicas", 1)

    def state_dict(self) -> dict[str, int]:
        """Return where training stands: the epoch, and the samples of it that are behind us."""
        done, step = self.batches_done() if self.batches_done else 0, self._samples_in_step()
        epoch, samples = self._resume_at or (self._epoch or 0, done * step)
        if samples >= len(self) * step:
            epoch, samples = epoch + 1, 0
        return {"epoch": epoch, "samples": samples, "samples_in_step": step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where training stood."""
        self._resume_at, self._resumed = (state_dict["epoch"], state_dict["samples"]), True
        if state_dict["samples"] and state_dict["samples_in_step"] != self._samples_in_step():
            rank_zero_warn(
                f"The checkpoint was written in the middle of an epoch of {state_dict['samples_in_step']} samples a "
                f"step; now there are {self._samples_in_step()}. The rest of that epoch follows in its order, but it "
                "may end early, since Lightning goes on counting its batches."
            )
