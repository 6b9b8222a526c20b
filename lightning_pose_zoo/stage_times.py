"""How long the stages of a prediction take, also where worker processes do some of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

__all__ = ["STAGES", "StageTimes", "timed"]

STAGES = ("detect", "read", "crop", "network", "decode", "write")
"""Finding people; reading and decoding pictures; cutting people out; the network; keypoints out of what it gives, in
pixels of the picture; suppression, files and drawings."""


class StageTimes:
    """Adds up the seconds of each stage, those of worker processes too.

    Args:
        workers: Worker processes that will hold a copy of this; they report through shared memory.

    Attributes:
        clock: What tells the time, in seconds; ``time.thread_time`` counts the processor's alone.
    """

    clock = staticmethod(time.perf_counter)

    def __init__(self, workers: int = 0) -> None:
        self.began = self.clock()
        self.workers = workers
        # A row for each process, so that nobody has to wait for a lock.
        self._seconds = torch.zeros(workers + 1, len(STAGES), dtype=torch.float64)
        if workers:
            self._seconds.share_memory_()

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage, in whatever process this is."""
        worker = get_worker_info()
        self._seconds[0 if worker is None else worker.id + 1, STAGES.index(stage)] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = self.clock()
        try:
            yield
        finally:
            self.add(name, self.clock() - start)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, all processes together."""
        return dict(zip(STAGES, self._seconds.sum(dim=0).tolist(), strict=True))

    def report(self, persons: int, pictures: int) -> str:
        """Write the times down, one stage a line.

        Args:
            persons: How many were found.
            pictures: How many were looked at.
        """
        total, seconds = self.clock() - self.began, self.seconds()
        rate = persons / total if total > 0 else 0.0
        lines = [f"{persons} persons in {pictures} pictures took {total:.2f} s, {rate:.1f} persons/s; by stage"]
        lines += [f"  {name:<8}{spent:9.2f} s" for name, spent in seconds.items()]
        if self.workers:
            lines.append(f"  read and crop ran in {self.workers} processes, beside the others")
        else:
            lines.append(f"  {'rest':<8}{max(total - sum(seconds.values()), 0.0):9.2f} s")
        return "\n".join(lines)


@contextmanager
def timed(times: StageTimes | None, stage: str) -> Iterator[None]:
    """Add the time of a block to a stage, where somebody asked for it."""
    if times is None:
        yield
    else:
        with times.stage(stage):
            yield
