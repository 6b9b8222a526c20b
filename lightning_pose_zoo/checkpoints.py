"""Checkpoints that survive: written whole or not at all, and read only when they are what was written.

A checkpoint is written beside its target, brought to the disk and renamed, so that whoever stops the process leaves
either the old file or the new one. Its SHA-256 stands in the comment of the zip archive that ``torch.save`` makes:
other programs read the file as ever, and no second file can get lost. What is read holds tensors and plain values only;
nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from lightning_pose_zoo.errors import CheckpointError, UnsafeCheckpointError, complain
from lightning_pose_zoo.files import open_atomically

__all__ = ["AtomicCheckpointIO", "loose_values", "read_checkpoint", "verify_checkpoint", "write_checkpoint"]

_END_OF_ARCHIVE = b"PK\x05\x06"
_LABEL = b"sha256:"
_COMMENT = len(_LABEL) + 64
_BLOCK = 1 << 20
_PLAIN = (str, int, float, bool, bytes, type(None), Tensor, torch.dtype, torch.device)


class AtomicCheckpointIO(CheckpointIO):
    """Writes and reads Lightning's checkpoints on local and shared file systems.

    The command line uses it for every strategy that writes single files; elsewhere give it to the Trainer:
    ``Trainer(plugins=[AtomicCheckpointIO()])``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole or not at all.

        Args:
            checkpoint: What Lightning collected.
            path: The target, which is replaced.
            storage_options: Must be None.

        Raises:
            CheckpointError: Where the checkpoint could not be read again, or the path is no local one.
            OSError: Where the file system fails; the file that was there before is still there.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options.")
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole and holds nothing that could run code.

        Args:
            path: The file.
            map_location: Where its tensors go, as for ``torch.load``; main memory by default.
            weights_only: True or None. False is refused.

        Raises:
            CheckpointError: Where the file is missing, damaged or no checkpoint, or would have to run code.
        """
        if weights_only is False:
            raise CheckpointError(
                f"'{path}' was to be read with weights_only=False, which lets a checkpoint run any code. Convert it "
                "once with torch, to tensors and plain values, where you trust who made it."
            )
        checkpoint: dict[str, Any] = read_checkpoint(path, map_location)
        return checkpoint

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def write_checkpoint(checkpoint: Mapping[str, Any], path: _PATH) -> None:
    """Write a checkpoint beside its target, bring it to the disk and rename it.

    Args:
        checkpoint: Tensors and plain values, nested in dicts, lists, tuples and sets.
        path: The target; its folder is made. A link is replaced by a file.

    Raises:
        CheckpointError: Where a value is of a type that cannot be read again without running code; names it.
        OSError: Where the file system fails; the file that was there before is still there.
    """
    if "://" in str(path):
        raise CheckpointError(f"'{path}' is no local path; give the Trainer another CheckpointIO for it.")
    problems = list(loose_values(checkpoint))
    if problems:
        remedy = "Give plain values (str, int, float, bool, lists and dicts of them) instead."
        raise CheckpointError(complain(f"'{path}' could not be read again", problems, remedy))
    with open_atomically(Path(path)) as file:
        writer = _HashingWriter(file)
        try:
            torch.save(dict(checkpoint), cast("IO[bytes]", writer))
        except RuntimeError:
            if writer.error is not None:  # torch says only that the file is not where it should be
                raise writer.error from None
            raise
        writer.finish()


def read_checkpoint(path: _PATH, map_location: Any | None = None) -> Any:
    """Read a file of tensors and plain values, after its checksum was verified.

    Files that other programs wrote have no SHA-256; of those the checksums of the zip archive count.

    Args:
        path: The file.
        map_location: Where its tensors go, as for ``torch.load``; main memory by default.

    Raises:
        UnsafeCheckpointError: Where reading it could run code; names what it asks for.
        CheckpointError: Where the file is missing, damaged or no checkpoint.
    """
    verify_checkpoint(path)
    try:
        return torch.load(path, map_location="cpu" if map_location is None else map_location, weights_only=True)
    except Exception as error:  # damaged pickles end in errors of any kind
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise CheckpointError(f"'{path}' is damaged or no checkpoint: {reason}") from error
        raise UnsafeCheckpointError(
            f"'{path}' was not read: it asks for '{named[1]}', which could run code, and a file of weights needs none. "
            "Take it from its publisher, as safetensors if possible; if you trust it, save its tensors alone to a new "
            "file with torch, on a machine that may be lost."
        ) from error


def verify_checkpoint(path: _PATH) -> None:
    """Compare a file with the checksum that was written into it.

    Raises:
        CheckpointError: Where it is missing or damaged.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"'{source}' does not exist, or is no file; give the path of a checkpoint.")
    fault = _damage(source)
    if fault:
        raise CheckpointError(f"'{source}' is damaged: {fault}. Take an earlier checkpoint, or copy it again.")


def loose_values(value: Any, name: str = "") -> Iterator[str]:
    """Name the values of a nested structure that are no plain values, such as ``hyper_parameters.lr``, and their types.

    Numpy's numbers, paths, enumerations and modules are among them: ``torch.save`` takes them without a word, and the
    file can then not be read with ``weights_only=True``.
    """
    # Exact types: a subclass of int or str, such as an enumeration, is pickled by its class.
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from loose_values(key, f"{name}: the key {key!r}")
            yield from loose_values(item, f"{name}.{key}" if name else str(key))
        if not isinstance(value, dict):
            yield f"{name} is a {type(value).__qualname__}"
    elif type(value) in (list, tuple, set, torch.Size):
        for index, item in enumerate(value):
            yield from loose_values(item, f"{name}[{index}]")
    elif type(value) not in _PLAIN and not isinstance(value, Tensor):
        yield f"{name} is a {type(value).__module__}.{type(value).__qualname__}"


class _HashingWriter(io.RawIOBase):
    """A file that hashes what is written to it, but for the last two bytes: the length of the archive's comment."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self._held = b""
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        view = memoryview(data).cast("B")
        if len(view) < 2:
            held = self._held + bytes(view)
            self._hash.update(held[:-2])
            self._held = held[-2:]
        else:
            self._hash.update(self._held)
            self._hash.update(view[:-2])
            self._held = bytes(view[-2:])
        return len(view)

    def finish(self) -> None:
        """Put the hash into the archive's comment."""
        if self._held != b"\0\0":
            raise CheckpointError("torch.save did not write a zip archive without a comment.")
        self._file.seek(-2, os.SEEK_CUR)
        self._file.write(struct.pack("<H", _COMMENT) + _LABEL + self._hash.hexdigest().encode())


def _damage(path: Path) -> str | None:
    """Say how a file differs from what was written; None where it does not, or nobody can tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None if size else "it is empty"
        file.seek(max(size - 2 * _COMMENT, 0))
        tail = file.read()
        end = tail[-_COMMENT - 22 :]
        ours = end.startswith(_END_OF_ARCHIVE) and end[20:22] == struct.pack("<H", _COMMENT)
        if ours != (_LABEL in tail) or (ours and not end[22:].startswith(_LABEL)):
            return "its last bytes are not those that were written"
        if not ours:
            return _damage_of_archive(path)
        file.seek(0)
        left, digest = size - _COMMENT - 2, hashlib.sha256()
        while left:
            block = file.read(min(_BLOCK, left))
            if not block:
                return "it became shorter while it was read"
            digest.update(block)
            left -= len(block)
    recorded = end[22 + len(_LABEL) :].decode(errors="replace")
    return None if digest.hexdigest() == recorded else "its SHA-256 is not the one that was written into it"


def _damage_of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as reason:
        return str(reason)
    return None if bad is None else f"the checksum of its part '{bad}' is wrong"
