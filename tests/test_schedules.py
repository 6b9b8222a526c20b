"""Rates warm up and cool down once in every phase."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.schedules import WarmupCosine


def rates(ends, steps, **words):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, **words)
    schedule.begin(ends)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def expected(step, length, warmup, start, end):
    done = step / (length - 1)
    if done < warmup:
        return 2 * (start + (1 - start) * done / warmup)
    return 2 * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))))


def test_every_phase_has_the_whole_curve():
    found = rates([11, 31], 31, warmup=0.2, start=0.1, end=0.01)
    assert found[:11] == pytest.approx([expected(step, 11, 0.2, 0.1, 0.01) for step in range(11)])
    assert found[11:] == pytest.approx([expected(step, 20, 0.2, 0.1, 0.01) for step in range(20)])
    assert found[0] == found[11] == pytest.approx(0.2)
    assert found[10] == found[30] == pytest.approx(0.02)
    assert max(found) == pytest.approx(2.0)


def test_phases_may_have_rates_of_their_own_and_end_late():
    found = rates([3, 6], 9, warmup=0.0, end=0.0, phase_factors=[1.0, 0.5])
    assert found == pytest.approx([2, 1, 0, 1, 0.5, 0, 0, 0, 0])
    assert rates([1, 2], 2, warmup=0.0) == pytest.approx([2, 2])  # a phase of one step has the highest rate


def test_a_resumed_schedule_goes_on_where_it_was():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer)
    schedule.begin([10, 20])
    for _ in range(7):
        optimizer.step()
        schedule.step()
    again = WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0))
    again.begin([10, 20])
    again.load_state_dict(schedule.state_dict())
    assert again.get_last_lr() == schedule.get_last_lr()


def test_wrong_settings_are_named():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(SettingsError, match=r"warmup is 1\.0"):
        WarmupCosine(optimizer, warmup=1.0)
    with pytest.raises(SettingsError, match="phase_factors has 1 entries, but the training has 2 phases"):
        WarmupCosine(optimizer, phase_factors=[1.0]).begin([1, 2])
