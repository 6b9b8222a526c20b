"""A training that was stopped and resumed ends as the one that was not, to the last bit."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch
from processes import run_on_ranks, start
from resume_run import SIZE, STEPS, train, train_on_ranks

from lightning_pose_zoo.checkpoints import read_checkpoint


def trained_samples(folder):
    """Return the samples of each step; of a step that was done again, those that counted in the end."""
    lines = [json.loads(line) for line in (folder / "samples.txt").read_text().splitlines()]
    return {step: (samples, loss) for step, samples, loss in lines}


def assert_equal(one, other, where=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_end(whole, parts):
    one, other = read_checkpoint(whole / "end.ckpt"), read_checkpoint(parts / "end.ckpt")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert_equal(one[key], other[key], key)
    assert json.loads((whole / "end.json").read_text()) == json.loads((parts / "end.json").read_text())
    assert trained_samples(whole) == trained_samples(parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folders = {}
    for mode in ("epochs", "steps"):
        folders[mode] = tmp_path_factory.mktemp(mode)
        train(folders[mode], 0, False, mode, 3)
    return folders


def test_every_epoch_sees_each_sample_at_most_once(whole):
    samples = trained_samples(whole["epochs"])
    assert len(samples) == STEPS
    per_epoch = SIZE // 4
    orders = []
    for epoch in range(STEPS // per_epoch):
        seen = [s for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) for s in samples[step + 1][0]]
        assert len(set(seen)) == len(seen) == 4 * per_epoch
        orders.append(tuple(seen))
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("mode", ["epochs", "steps"])
# Every 3 steps: stopped at 8, it goes on from 6, the first step of an epoch; stopped at 14, from 12, in the middle of
# one. Every 5: from the very end of an epoch. 0: Lightning's own moment, after the validation at an epoch's end.
@pytest.mark.parametrize(
    ("every", "stop", "workers"), [(3, 8, 0), (3, 14, 0), (3, 14, 2), (5, 12, 0), (0, 13, 0), (0, 13, 2)]
)
def test_resumed_training_is_bit_equal(tmp_path, whole, mode, every, stop, workers):
    with pytest.raises(InterruptedError):
        train(tmp_path, workers, False, mode, every, stop_after=stop)
    assert not (tmp_path / "end.ckpt").exists()
    train(tmp_path, workers, True, mode, every)
    assert_same_end(whole[mode], tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == (whole[mode] / "metrics.csv").read_text().splitlines()


def test_a_training_that_is_killed_five_times_ends_as_the_one_that_was_not(tmp_path, whole):
    rng = random.Random(4)
    samples = tmp_path / "samples.txt"
    last_lines = 0
    for kill in range(5):
        process = start(train, tmp_path, 2 * (kill % 2), kill > 0, "epochs", 2)
        # Somewhere within the next steps, and in no step that is a round number.
        wanted = last_lines + rng.randint(1, 4)
        while process.is_alive() and (len(samples.read_text().splitlines()) if samples.exists() else 0) < wanted:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        assert process.is_alive()
        process.kill()
        process.join()
        last_lines = len(samples.read_text().splitlines())
    assert not (tmp_path / "end.ckpt").exists()
    train(tmp_path, 0, True, "epochs", 2)
    assert len(samples.read_text().splitlines()) > STEPS  # some steps were done again
    assert_same_end(whole["epochs"], tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_two_processes_resume_bit_equal(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_on_ranks(train_on_ranks, 2, whole, False, None)
    run_on_ranks(train_on_ranks, 2, parts, False, 7)
    assert not (parts / "end.ckpt").exists()
    run_on_ranks(train_on_ranks, 2, parts, True, None)
    assert_same_end(whole, parts)
    states = read_checkpoint(whole / "end.ckpt")["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
