"""The metrics on several processes: equal to the last bit, whatever each of them has seen."""

from __future__ import annotations

import math
import pickle
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from metric_cases import ARGUMENTS, metrics, people, scores, update
from processes import forkserver

COUNTS = (0, 1, 2, 3, 7, 64, 101)


def _shares(count: int, world_size: int) -> dict[str, list[list[int]]]:
    """Return different ways to share persons among processes."""
    padded = [n % count for n in range(-(-count // world_size) * world_size)] if count else []
    everybody = list(range(count))
    parts = [everybody[: count // 4], everybody[count // 4 :]] if world_size > 2 else [everybody]
    ways = {
        "in turn": [list(range(rank, count, world_size)) for rank in range(world_size)],
        "padded": [padded[rank::world_size] for rank in range(world_size)],
        "uneven, some with nobody": [[], *parts, []][:world_size],
    }
    return {way: shares for way, shares in ways.items() if way == next(w for w in ways if ways[w] == shares)}


def _run(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    results = {}
    for count in COUNTS:
        columns = people(count)
        for way, shares in _shares(count, world_size).items():
            for key, metric in metrics(columns).items():
                share, size = shares[rank], rank + 2 + count // 8  # of another size on every process
                for start in range(0, len(share), size):
                    update(metric, columns, share[start : start + size])
                own = {name: metric.rows(name) for name in metric._row_types}
                results[count, way, key] = scores(metric)
                # The gathered rows are gone again, so that an epoch can go on after a compute.
                assert all(torch.equal(metric.rows(name).nan_to_num(), rows.nan_to_num()) for name, rows in own.items())
    results["without ids"] = _without_ids(rank, world_size)
    Path(f"{folder}/{rank}.pkl").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()


def _without_ids(rank: int, world_size: int) -> dict[str, dict[str, float]]:
    """Score persons that have no ids, in turn: a stranger's data module with a distributed sampler."""
    columns, results = people(9), {}
    # Without ids nothing says which of two images goes first, so their scores differ.
    columns["score"] += torch.arange(9) / 1000
    for key, metric in metrics(columns).items():
        if key.endswith("_of_all"):
            continue
        for n in range(rank, 9, world_size):
            person = {name: column[n : n + 1] for name, column in columns.items()}
            if key in ("ap", "diagnosis"):
                target = torch.cat([person["target"], person["visibility"][..., None]], dim=-1)
                metric.update(
                    [{"keypoints": person["predicted"], "scores": person["score"]}],
                    [{"keypoints": target, "area": person["area"]}],
                )
            else:
                metric.update(*(person[name] for name in ARGUMENTS[key]))
        results[key] = scores(metric)
    return results


def _exactly(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(
        value == other[name] or (math.isnan(value) and math.isnan(other[name])) for name, value in one.items()
    )


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.filterwarnings("ignore")
def test_equal_to_one_process_to_the_last_bit(tmp_path, world_size):
    # The server imports once what all processes need.
    forkserver()
    mp.start_processes(_run, (world_size, str(tmp_path)), nprocs=world_size, start_method="forkserver")
    by_rank = [pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(world_size)]
    different = []
    for count in COUNTS:
        columns = people(count)
        for key, metric in metrics(columns).items():
            if count:
                update(metric, columns, range(count))
            alone = scores(metric)
            assert count < 7 or any(0 < value < math.inf for value in alone.values())
            different += [
                (count, way, key, rank)
                for way in _shares(count, world_size)
                for rank, results in enumerate(by_rank)
                if not _exactly(results[count, way, key], alone)
            ]
    assert not different
    alone = _without_ids(0, 1)
    assert all(_exactly(results["without ids"][key], alone[key]) for results in by_rank for key in alone)
