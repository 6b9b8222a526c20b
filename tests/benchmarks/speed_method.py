"""What a method costs around its network, and what bf16 with channels-last gains.

    python tests/benchmarks/speed_method.py [--models hrnet_w32,simple_baseline_r50] [--pairs 12] [--threads 1]
        [--compile]

Forward: ``method(images)``, raw uint8 crops in and keypoints out, against the bare network on normalised crops.
Training: a step of ``Trainer.fit``, from the loader to the callbacks, against a bare loop of the same network, loss and
optimizer on normalised crops and ready targets. Both sides take turns, in one run, and always in the same precision and
memory format. Then bf16-mixed with channels-last against float32 in the usual order, both ours.

Crops are 256x192, 17 keypoints. Time is the processor's with one thread, the clock's with more. Other work on a machine
only ever makes a step slower, so that the quickest step of each side is what is compared; medians stand beside it.
Prints a table and exits with 1 where a method costs more than 5 %, or bf16 with channels-last is less than 2.5 times
(forward) or 2 times (training) as fast.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from itertools import repeat
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_pose_zoo.methods import HRNet, SimpleBaseline
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.structures import PoseBatch

MOST_OVERHEAD = 0.05
LEAST_FORWARD, LEAST_TRAINING = 2.5, 2.0
SIZE = (256, 192)
COMPILED = "bf16, channels last, compiled"
BLOCK = 4  # measured steps of a training before the other precision's turn
MODELS: dict[str, Callable[[bool], HeatmapMethod]] = {
    "hrnet_w32": lambda channels_last: HRNet("coco17", "w32", channels_last=channels_last),
    "simple_baseline_r50": lambda channels_last: SimpleBaseline("coco17", "resnet50", channels_last=channels_last),
}
Times = dict[str, list[float]]


def crops(count: int, channels_last: bool) -> PoseBatch:
    """Make a batch as loaders do: uint8, ours in channels-last order."""
    images = torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)
    return {
        "image": images.contiguous(memory_format=torch.channels_last) if channels_last else images,
        "keypoints": torch.rand(count, 17, 2) * torch.tensor([192.0, 256.0]),
        "visibility": torch.full((count, 17), 2, dtype=torch.uint8),
        "box": torch.tensor([[0.0, 0.0, 192.0, 256.0]]).repeat(count, 1),
    }


def seconds() -> float:
    """Return the time, which other work on the machine does not count in where that can be told."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(step: Callable[[], object]) -> float:
    """Return the seconds that a step takes."""
    start = seconds()
    step()
    return seconds() - start


class Bf16:
    """One of the two precisions that are compared."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.name = "bf16, channels last" if on else "float32"
        self.precision = "bf16-mixed" if on else "32-true"

    def context(self) -> AbstractContextManager:
        """Return what Lightning puts around a step."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.on)


def measure_forward(build: Callable[[bool], HeatmapMethod], count: int, pairs: int, compiles: bool = False) -> Times:
    """Return the seconds of each side, in turns."""
    sides: dict[str, Callable[[], object]] = {}
    for kind, is_compiled in [(Bf16(False), False), (Bf16(True), False)] + [(Bf16(True), True)] * compiles:
        method, batch = build(kind.on).eval(), crops(count, kind.on)
        method.configure_model()
        if is_compiled:
            method.network.compile()  # as CompileNetwork does
        normalized = method.normalized(batch["image"])

        def plain(method: HeatmapMethod = method, images: Tensor = normalized, kind: Bf16 = kind) -> Tensor:
            with kind.context():
                return method.network(images)

        def ours(
            method: HeatmapMethod = method, images: Tensor = batch["image"], kind: Bf16 = kind
        ) -> tuple[Tensor, Tensor]:
            with kind.context():
                return method(images)

        sides |= {COMPILED: ours} if is_compiled else {f"{kind.name}, network": plain, f"{kind.name}, method": ours}
    times: Times = {name: [] for name in sides}
    with torch.no_grad():
        for turn in range(pairs + 2):
            for name, step in list(sides.items())[:: 1 if turn % 2 else -1]:
                spent = timed(step)
                if turn >= 2:
                    times[name].append(spent)
    return times


class Endless(IterableDataset):
    """The same batch again and again."""

    def __init__(self, batch: PoseBatch) -> None:
        self.batch = batch

    def __iter__(self) -> repeat:
        return repeat(self.batch)


class TakeTurns(L.Callback):
    """Runs a step of the bare loop after each of the Trainer's, and takes the time of both.

    The Trainer's runs from the end of one of these hooks to the beginning of the next one.
    """

    def __init__(self, plain: Callable[[], object], spent: list[float], spent_plain: list[float]) -> None:
        self.plain, self.spent, self.spent_plain = plain, spent, spent_plain
        self.start: float | None = None

    def on_train_batch_end(self, *args: object) -> None:
        """Take the time; the first step of a training sets up its optimizer and does not count."""
        now = seconds()
        counts, before = self.start is not None, self.start or now
        spent = timed(self.plain)
        if counts:
            self.spent.append(now - before)
            self.spent_plain.append(spent)
        self.start = seconds()


def bare_loop(method: HeatmapMethod, batch: PoseBatch, kind: Bf16) -> Callable[[], object]:
    """Return a training step of a method's network with nothing around it."""
    network = deepcopy(method.network).train()
    images = method.normalized(batch["image"])
    targets = method.codec.encode(batch["keypoints"], batch["visibility"], SIZE)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        with kind.context():
            loss = method.loss(network(images), targets)
        # After the forward pass, where the Trainer has it too: what memory is free then makes a difference.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure_training(build: Callable[[bool], HeatmapMethod], count: int, pairs: int, folder: Path) -> Times:
    """Return the seconds of each side, in turns."""
    times: Times = {}
    runs: list[tuple[HeatmapMethod, PoseBatch, TakeTurns, Bf16]] = []
    for kind in (Bf16(False), Bf16(True)):
        method, batch = build(kind.on), crops(count, kind.on)
        method.configure_model()
        ours, plain = times.setdefault(f"{kind.name}, method", []), times.setdefault(f"{kind.name}, network", [])
        step = bare_loop(method, batch, kind)
        step()
        runs.append((method, batch, TakeTurns(step, ours, plain), kind))
    for _ in range(-(-pairs // BLOCK)):
        for method, batch, turns, kind in runs:
            turns.start = None
            trainer = L.Trainer(
                default_root_dir=folder, accelerator="cpu", devices=1, precision=kind.precision, max_steps=BLOCK + 1,
                callbacks=[turns], enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                log_every_n_steps=1,
            )  # fmt: skip
            trainer.fit(method, DataLoader(Endless(batch), batch_size=None))
    return times


def report(what: str, times: Times, count: int, least: float) -> bool:
    """Print what was measured and return whether it is above the bars."""
    quickest = {name: min(spent) for name, spent in times.items()}
    good = True
    print(f"{what}, batches of {count}\n  {'':30} {'quickest ms':>12} {'median ms':>10} {'crops/s':>8}")
    for name, spent in times.items():
        middle = statistics.median(spent)
        print(f"  {name:30} {1e3 * quickest[name]:12.1f} {1e3 * middle:10.1f} {count / quickest[name]:8.1f}")
    for kind in (Bf16(False), Bf16(True)):
        ours, plain = times[f"{kind.name}, method"], times[f"{kind.name}, network"]
        overhead = min(ours) / min(plain) - 1
        paired = statistics.median(mine / theirs for mine, theirs in zip(ours, plain, strict=True)) - 1
        good &= overhead <= MOST_OVERHEAD
        print(
            f"  {kind.name}: the method costs {overhead:+.1%} (median of pairs {paired:+.1%}); bar {MOST_OVERHEAD:.0%}"
        )
    gain = quickest["float32, method"] / quickest["bf16, channels last, method"]
    print(f"  bf16 with channels-last: {gain:.2f} times; bar {least}")
    if COMPILED in times:
        print(f"  compiled: {quickest['float32, method'] / quickest[COMPILED]:.2f} times")
    return good and gain >= least


def main() -> int:
    """Measure, print the tables, and return 1 where something is below its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--pairs", type=int, default=12, help="how often each side is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also measure a compiled network; takes minutes more")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(f"{given.threads} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    good = True
    for name in given.models.split(","):
        times = measure_forward(MODELS[name], 8, given.pairs, given.compile)
        good &= report(f"{name}, forward", times, 8, LEAST_FORWARD)
        with tempfile.TemporaryDirectory() as folder:
            times = measure_training(MODELS[name], 4, given.pairs, Path(folder))
        good &= report(f"{name}, training step", times, 4, LEAST_TRAINING)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
