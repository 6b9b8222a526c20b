"""Checkpoints are there whole or not at all, are read only undamaged, and never run code."""

from __future__ import annotations

import enum
import os
import pickle
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import forkserver, start

from lightning_pose_zoo.checkpoints import AtomicCheckpointIO, loose_values, read_checkpoint, write_checkpoint
from lightning_pose_zoo.errors import CheckpointError, SettingsError
from lightning_pose_zoo.methods import SimpleBaseline

CONTENT = {
    "state_dict": {"weight": torch.arange(3000.0).reshape(3, 1000), "count": torch.tensor(7)},
    "hyper_parameters": {"variant": "w32", "size": (256, 192), "rate": 1e-3, "none": None},
    "loops": [{"epoch": 3, "done": True}],
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    write_checkpoint(CONTENT, path)
    for content in (
        read_checkpoint(path),
        torch.load(path, weights_only=True),
        AtomicCheckpointIO().load_checkpoint(path),
    ):
        assert torch.equal(content["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
        assert content["hyper_parameters"] == CONTENT["hyper_parameters"]
        assert content["loops"] == CONTENT["loops"]
    assert list(path.parent.iterdir()) == [path]
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    good = path.read_bytes()
    rng = random.Random(0)
    # Also the first and the last bytes: the archive's signature, the recorded hash and its length.
    places = [*rng.sample(range(len(good)), 150), *range(4), *range(len(good) - 95, len(good))]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << rng.randrange(8))]) + good[place + 1 :])
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            read_checkpoint(path)
    for length in (0, 1, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            read_checkpoint(path)
    path.write_bytes(good + b"more")
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_checkpoint(path)
    path.write_bytes(good)
    read_checkpoint(path)


def test_damage_in_files_of_other_programs_is_noticed_by_their_checksums(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(CONTENT, path)
    read_checkpoint(path)
    good = path.read_bytes()
    place = good.index(torch.arange(3000.0).numpy().tobytes()) + 5000
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert torch.load(path, weights_only=True)  # torch itself does not look
    with pytest.raises(CheckpointError, match=r"theirs\.pth.*damaged.*checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x04K\x01.", b"PK\x03\x04 and nothing"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "page.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.ckpt"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"missing\.ckpt' does not exist"):
        read_checkpoint(tmp_path / "missing.ckpt")


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_no_checkpoint_runs_code(tmp_path, new_format, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / "evil.ckpt", tmp_path / "marker"
    torch.save({"state_dict": {}, "extra": Evil(marker)}, path, _use_new_zipfile_serialization=new_format)
    for read in (read_checkpoint, AtomicCheckpointIO().load_checkpoint, SimpleBaseline.load_from_checkpoint):
        with pytest.raises((CheckpointError, pickle.UnpicklingError), match="system"):
            read(path)
    with pytest.raises(CheckpointError, match="weights_only=False"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not marker.exists()


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize("value", [np.float64(0.1), np.float32(0.1), np.zeros(2), Path("a"), Color.RED, slice(3), int])
def test_what_could_not_be_read_again_is_not_written(tmp_path, value):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"hyper_parameters\.optimizer\[1\]\.rate is a "):
        write_checkpoint({"hyper_parameters": {"optimizer": [1, {"rate": value}]}}, path)
    assert path.read_bytes() == before
    assert list(loose_values(CONTENT)) == []


def test_a_method_refuses_arguments_that_its_checkpoint_could_not_hold():
    with pytest.raises(SettingsError, match=r"backbone_stride is a numpy\.int64"):
        SimpleBaseline("lsp14", backbone="resnet18", pretrained=False, backbone_stride=np.int64(32))


def _fill_disk(path: str, result: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        write_checkpoint({"weight": torch.zeros(1_000_000)}, path)
    except OSError as error:
        Path(result).write_text(f"OSError {error}")


def test_a_full_disk_is_an_error_and_leaves_the_last_checkpoint(tmp_path):
    path, result = tmp_path / "last.ckpt", tmp_path / "result"
    write_checkpoint(CONTENT, path)
    process = start(_fill_disk, str(path), str(result))
    process.join()
    assert process.exitcode == 0
    assert result.read_text().startswith("OSError")
    read_checkpoint(path)
    assert {child.name for child in tmp_path.iterdir()} == {"last.ckpt", "result"}


def _write_for_ever(folder: str, temporary: str) -> None:
    os.environ["TMPDIR"] = temporary
    weights, number = torch.zeros(4_000_000), 0
    while True:
        number += 1
        AtomicCheckpointIO().save_checkpoint({"number": number, "weights": weights + number}, f"{folder}/last.ckpt")


def test_twenty_kills_while_a_checkpoint_is_written_leave_one_that_loads(tmp_path):
    temporary = Path("/dev/shm")
    other_device = temporary.is_dir() and temporary.stat().st_dev != tmp_path.stat().st_dev
    if not other_device:
        temporary = tmp_path
    forkserver()
    rng = random.Random(1)
    interrupted = 0
    for _ in range(20):
        process = start(_write_for_ever, str(tmp_path), str(temporary))
        while not (tmp_path / "last.ckpt").exists():
            time.sleep(0.01)
        time.sleep(0.3 + rng.random() * 0.3)
        process.kill()
        process.join()
        interrupted += len(list(tmp_path.glob(".last.ckpt.*.tmp")))
        content = read_checkpoint(tmp_path / "last.ckpt")
        assert (content["weights"] == content["number"]).all()
    assert interrupted >= 5  # the kills came while something was written
    write_checkpoint(CONTENT, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
