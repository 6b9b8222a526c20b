"""Files are written whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from lightning_pose_zoo.files import write_atomically


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new and half written")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_complete_before_it_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    seen = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append((path.exists(), os.fstat(handle).st_size)), sync(handle))
    )
    write_atomically(path, b"12345")
    assert seen[0] == (False, 5)
    assert path.read_bytes() == b"12345"


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    host = socket.gethostname()
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = tmp_path / f".last.ckpt.{host}-{dead.pid}.tmp"
    running = tmp_path / f".last.ckpt.{host}-{process.pid}.tmp"
    elsewhere = tmp_path / ".last.ckpt.another-machine-17.tmp"
    long_ago = tmp_path / ".last.ckpt.another-machine-18.tmp"
    for path in (mine, running, elsewhere, long_ago):
        path.write_bytes(b"half")
    os.utime(long_ago, (0, 0))
    write_atomically(tmp_path / "new.json", b"{}")
    process.kill()
    process.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"new.json", running.name, elsewhere.name}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "a.bin", b"1")
