"""Writing files whole or not at all."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_atomically", "write_atomically"]

_ABANDONED_AFTER = 24 * 3600.0  # seconds; for what other machines left, whose processes cannot be asked for


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that is there whole or not at all, also when the process is killed or the disk is full.

    It is written beside its target, brought to the disk and renamed. What killed processes left beside the target is
    removed.

    Args:
        path: An existing file is replaced; the folder is made where it is missing.

    Yields:
        The file.

    Raises:
        OSError: Where the file system fails; a file that was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    # In the target's own folder, because a rename is atomic within one file system only.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every system can bring a folder to the disk
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all; see ``open_atomically``.

    Args:
        path: An existing file is replaced; the folder is made where it is missing.
        content: What the file shall hold.
    """
    with open_atomically(path) as file:
        file.write(content)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while writing left."""
    for leftover in folder.glob(".*-*.tmp"):
        host, _, process = leftover.name.removesuffix(".tmp").rpartition("-")
        with suppress(FileNotFoundError):
            here = host.endswith(f".{socket.gethostname()}") and process.isdigit()
            gone = not _is_alive(int(process)) if here else time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER
            if gone:
                leftover.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
