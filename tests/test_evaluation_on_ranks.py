"""``Trainer.test`` and ``predict`` on several processes report what one process reports, also with fewer samples."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from processes import run_on_ranks
from resume_run import Dropping, SpotsData

from lightning_pose_zoo.callbacks import WritePredictions


class SeenSamples(L.Callback):
    """Writes down what a process was given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.seen += batch["person_id"].tolist()


def evaluate(rank: int, folder: Path, size: int, devices: int) -> None:
    """Test, predict and train with a validation at the end."""
    L.seed_everything(0, verbose=False)
    seen = SeenSamples()
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[seen, WritePredictions(str(folder / "predictions"), draw=False)], max_epochs=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    module = Dropping()
    # Batches of one, so that the network computes the same on each.
    [scores] = trainer.test(module, SpotsData(batch_size=1, size=size), verbose=False)
    trainer.predict(module, SpotsData(batch_size=1, size=size), return_predictions=False)
    trainer.fit(module, SpotsData(batch_size=2, size=size))
    result = {"scores": scores, "seen": seen.seen, "validated": "val/EPE" in trainer.callback_metrics}
    (folder / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_several_processes_report_what_one_reports(tmp_path, size):
    alone = tmp_path / "1"
    alone.mkdir()
    evaluate(0, alone, size, 1)
    expected = json.loads((alone / "0.json").read_text())
    assert expected["seen"] == list(range(size))
    for devices in (2, 3) if size == 1 else (2,):
        folder = tmp_path / str(devices)
        folder.mkdir()
        run_on_ranks(evaluate, devices, folder, size, devices)
        results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]
        assert sorted(sample for result in results for sample in result["seen"]) == list(range(size))
        assert all(result["scores"] == expected["scores"] for result in results)
        assert all(result["validated"] for result in results)
        for name in ("keypoints.json", "images.json"):
            one, several = ((place / "predictions" / name).read_bytes() for place in (alone, folder))
            assert one == several
    assert torch.isfinite(torch.tensor(list(expected["scores"].values()))).all()
