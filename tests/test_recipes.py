"""Every recipe is complete: it parses, its classes are built, and its header says what must be said."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from lightning_pose_zoo.cli import build_cli

RECIPES = Path(__file__).parent.parent / "recipes"
PARTS = ("data", "trainer", "cluster")
ALL = sorted(path for path in RECIPES.rglob("*.yaml") if path.relative_to(RECIPES).parts[0] not in PARTS)
ids = [str(path.relative_to(RECIPES)) for path in ALL]


def project(folder: Path) -> Path:
    """A labelled project with nothing but its header and one frame's row."""
    folder.mkdir()
    with (folder / "CollectedData.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["scorer", *["a"] * 4], ["bodyparts", "earL", "earL", "earR", "earR"], ["coords", "x", "y", "x", "y"],
             ["labeled-data/img0.png", 1, 2, 3, 4]]
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("path", ALL, ids=ids)
def test_recipe_is_built(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(path.read_text())
    arguments = ["--config", str(path), "--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    if content["model"]["init_args"].get("pretrained"):
        arguments.append("--model.pretrained=false")
    if "LabeledFrames" in str(content["data"]):
        arguments.append(f"--data.root={project(tmp_path / 'project')}")
    cli = build_cli(arguments, run=False)
    assert cli.model.skeleton == cli.datamodule.skeleton
    # Methods that regress coordinates have no maps.
    size, stride = cli.datamodule.settings.size, getattr(getattr(cli.model, "codec", None), "stride", 1)
    halved = 8 if type(cli.model).__name__ in ("ConvolutionalPoseMachine", "OpenPose") else 32
    assert all(side % halved == 0 for side in size)
    assert all(side % stride == 0 for side in size)
    # One-cycle schedules fail after their last step, and never reach the end if they are longer.
    schedule = content["model"]["init_args"].get("lr_scheduler", {})
    if "OneCycleLR" in str(schedule):
        assert schedule["init_args"]["total_steps"] == cli.trainer.max_steps


@pytest.mark.parametrize("path", ALL, ids=ids)
def test_header_and_form(path):
    text = path.read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Paper:", "Target:", "Hardware:", "Run:"):
        assert word in header, f"the header lacks '{word}'"
    assert f"--config recipes/{path.relative_to(RECIPES)}" in header
    assert "num_keypoints" not in text
    assert "${" not in text
    content = yaml.safe_load(text)
    assert set(content) == {"seed_everything", "model", "data", "trainer"}


def test_parts_are_used():
    """Files of parts that no recipe refers to are dead."""
    texts = "\n".join(path.read_text() for path in ALL)
    for part in [*RECIPES.glob("data/*.yaml"), *RECIPES.glob("trainer/*.yaml")]:
        assert f"{part.parent.name}/{part.name}" in texts, part
