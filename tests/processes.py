"""Functions in several processes, as Lightning's own launcher would start them, for tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.multiprocessing as mp

_PRELOAD = ["lightning_pose_zoo.methods", "lightning_pose_zoo.data", "lightning_pose_zoo.metrics"]


def forkserver() -> ForkServerContext:
    """Return a way to start processes in which the imports are done already: once, by a server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process, which the caller may kill."""
    process = forkserver().Process(target=_alone, args=(function, arguments))
    process.start()
    return process


def run_on_ranks(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Run ``function(rank, *arguments)`` on several processes; a Trainer with that many devices joins them by DDP."""
    forkserver()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_join, (function, world_size, port, arguments), nprocs=world_size, start_method="forkserver")


def _alone(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Workers of a DataLoader would inherit the way that this process was started: each would import everything anew,
    # and none would notice that this process was killed.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    function(*arguments)


def _join(rank: int, function: Callable[..., None], world_size: int, port: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    warnings.simplefilter("ignore")
    os.environ |= {
        "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    function(rank, *arguments)
