"""A loss of NaN ends training on all processes at that step, and names its samples."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from processes import run_on_ranks
from resume_run import Dropping, SpotsData

from lightning_pose_zoo.errors import TrainingError


class Failing(Dropping):
    """Has a loss that is not finite at one step on one process."""

    def __init__(self, step: int, rank: int, value: float) -> None:
        super().__init__()
        self.bad = (step, rank, value)

    def losses(self, batch):
        losses = super().losses(batch)
        step, rank, value = self.bad
        if self.trainer.global_step == step and self.global_rank == rank:
            self.seen = batch["person_id"].tolist()
            losses["heatmap"] = losses["heatmap"] * value
        return losses


def fit(folder: Path, step: int = 3, rank: int = 0, value: float = float("nan"), devices: int = 1, **options):
    module = Failing(step, rank, value)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, **options,
    )  # fmt: skip
    try:
        trainer.fit(module, SpotsData())
    except TrainingError as error:
        return module, trainer, str(error)
    return module, trainer, None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_stops_at_that_step_and_names_the_samples(tmp_path, value, accumulate):
    module, trainer, error = fit(tmp_path, step=2, value=value, accumulate_grad_batches=accumulate)
    assert error is not None
    assert trainer.global_step == 2
    assert "at step 2 (epoch" in error
    for person in module.seen:
        assert f"image {person} person {person}" in error
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_a_finite_training_is_left_alone(tmp_path):
    _, trainer, error = fit(tmp_path, step=-1)
    assert error is None
    assert trainer.global_step == 10


def test_it_says_what_else_is_not_finite():
    from lightning_pose_zoo.callbacks.stop_on_non_finite_loss import _describe

    batch = {
        "image": torch.zeros(3, 3, 4, 4, dtype=torch.uint8),
        "keypoints": torch.zeros(3, 14, 2),
        "head_size": torch.full((3,), torch.nan),
        "image_id": torch.tensor([5, 6, 7]),
        "person_id": torch.tensor([50, 60, 70]),
    }
    module = torch.nn.Linear(2, 2)
    assert _describe(batch, module) == "samples: image 5 person 50, image 6 person 60, image 7 person 70"
    batch["keypoints"][1, 3] = torch.inf
    assert _describe(batch, module) == "keypoints is not finite of image 6 person 60"
    # Several persons in a picture: image 7 has the first two, image 5 the last.
    batch |= {"image_index": torch.tensor([2, 2, 0]), "to_original": torch.full((3, 2, 3), torch.nan)}
    assert _describe(batch, module) == (
        "keypoints is not finite of image 7 person 60; to_original is not finite of image 5, image 6, image 7"
    )
    module.weight.data[0, 0] = torch.nan
    assert _describe(torch.zeros(3), module).startswith("1 weights are not finite any more, such as weight")


def _fit_on_ranks(rank: int, folder: Path) -> None:
    module, trainer, error = fit(folder, step=3, rank=1, devices=2)
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())
    (folder / f"{rank}.txt").write_text(f"{trainer.global_step} {finite}\n{getattr(module, 'seen', '')}\n{error}")


def test_all_processes_stop_together(tmp_path):
    run_on_ranks(_fit_on_ranks, 2, tmp_path)
    (first, _, error), (second, seen, same) = ((tmp_path / f"{r}.txt").read_text().split("\n", 2) for r in range(2))
    assert first == second == "3 True"
    assert error == same
    assert "process 1: samples:" in error
    assert "process 0" not in error
    for person in seen.strip("[]").split(", "):
        assert f"image {person} person {person}" in error
