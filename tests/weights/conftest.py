"""Weights made by name and shape alone, as the reference outputs were made with."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch


class Reference:
    """One public implementation: its entries, its input and what it answers."""

    def __init__(self, folder, name):
        spec = importlib.util.spec_from_file_location("deterministic_weights", folder / "deterministic_weights.py")
        maker = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(maker)
        description = json.loads((folder / f"{name}.json").read_text())
        shapes = dict(description["state_dict"])
        self.state = {key: torch.from_numpy(np.asarray(maker.fill(key, tuple(s)))) for key, s in shapes.items()}
        images = maker.image(name, tuple(description["input_shape"]))
        if images.shape[-1] == 3:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        self.images = torch.from_numpy(images)
        with np.load(folder / f"{name}.npz") as outputs:
            self.outputs = [outputs[key] for key in sorted(outputs.files)]


@pytest.fixture
def reference(test_data):
    return lambda name: Reference(test_data / "oracles" / "networks", name)
