"""Files of weights, good and bad: what is inside is found, and nothing in them runs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.weights import UnsafeCheckpointError
from lightning_pose_zoo.weights.reading import read_weights

WEIGHT = torch.arange(6.0)


class Attack:
    """Asks the reader of a pickle to make a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", ["beside", "inside", "hidden in hyper-parameters"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("forced", [True, False])
def test_a_file_that_wants_to_run_code_is_refused_by_name(tmp_path, monkeypatch, place, zipped, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    attack = Attack(marker)
    content = {
        "beside": {"state_dict": {"weight": WEIGHT}, "extra": attack},
        "inside": {"state_dict": {"weight": attack}},
        "hidden in hyper-parameters": {"hyper_parameters": {"skeleton": {"names": [attack]}}, "state_dict": {}},
    }[place]
    path = tmp_path / "attack.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"attack\.pth' was not read: it asks for 'posix\.system'"):
        read_weights(path)
    assert not marker.exists()
    os.system(f"touch {marker}")
    assert marker.exists()


def test_objects_inside_of_numpy_arrays_are_refused(tmp_path):
    torch.save({"weight": WEIGHT, "array": np.array([{"a": 1}], dtype=object)}, tmp_path / "objects.pth")
    with pytest.raises(CheckpointError, match=r"objects\.pth"):
        read_weights(tmp_path / "objects.pth")


def whole_file():
    file = io.BytesIO()
    torch.save({"weight": torch.randn(5000)}, file)
    return file.getvalue()


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def program():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/version", b"3")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        whole_file()[:3000],
        whole_file()[:-30],
        flipped(whole_file()),
        program(),
        b"PK\x03\x04",
    ],
    ids=["empty", "text", "half", "short by 30 bytes", "one bit flipped", "TorchScript", "a zip's start"],
)
@pytest.mark.filterwarnings("ignore:.*TorchScript archive.*")
def test_damaged_files_are_refused_with_their_path(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_noise_is_refused(tmp_path):
    random, path = np.random.RandomState(0), tmp_path / "noise.pth"
    file = io.BytesIO()
    torch.save({"weight": WEIGHT}, file, _use_new_zipfile_serialization=False)
    for _ in range(60):
        path.write_bytes(random.bytes(random.randint(1, 300)))
        with pytest.raises(CheckpointError, match=r"noise\.pth"):
            read_weights(path)
        # Older files have no checksum: wrong bytes may go unseen in the numbers, but no other error comes out.
        noisy = bytearray(file.getvalue())
        for place in random.randint(0, len(noisy), 5):
            noisy[place] = random.randint(256)
        path.write_bytes(noisy)
        with contextlib.suppress(CheckpointError):
            read_weights(path)


def test_files_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.pth does not exist"):
        read_weights(tmp_path / "no.pth")
    with pytest.raises(CheckpointError, match="is no file"):
        read_weights(tmp_path)
    for content in ({}, {"state_dict": {}}, [1, 2], {"lr": 1.0}, WEIGHT):
        torch.save(content, tmp_path / "nothing.pth")
        with pytest.raises(CheckpointError, match=r"nothing\.pth holds no weights"):
            read_weights(tmp_path / "nothing.pth")


def test_safetensors_whatever_the_file_is_called(tmp_path):
    for name in ("model.safetensors", "model.bin"):
        save_file({"module.weight": WEIGHT}, tmp_path / name)
        assert torch.equal(read_weights(tmp_path / name).state["weight"], WEIGHT)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is damaged"):
        read_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("content", "nest"),
    [
        ({"layer.weight": WEIGHT}, ""),
        ({"state_dict": {"module.layer.weight": WEIGHT}, "epoch": 1}, "state_dict"),
        ({"state_dict": {"module._orig_mod.layer.weight": WEIGHT}}, "state_dict"),
        ({"state_dict": {"_orig_mod.module.layer.weight": WEIGHT}}, "state_dict"),
        ({"state_dict": {"model.module.layer.weight": WEIGHT}}, "state_dict"),
        ({"model": {"layer.weight": WEIGHT}, "optimizer": {"state": {}}}, "model"),
        ({"model": {"state_dict": {"layer.weight": WEIGHT}}}, "model.state_dict"),
        ({"model": {"layer.weight": WEIGHT + 1}, "ema": {"module": {"layer.weight": WEIGHT}}}, "ema.module"),
        ({"state_dict": {"layer.weight": WEIGHT + 1}, "state_dict_ema": {"layer.weight": WEIGHT}}, "state_dict_ema"),
        ({"state_dict": {"layer.weight": WEIGHT}, "model": {"type": "HRNet"}, "ema": {"decay": 0.9}}, "state_dict"),
        ({"state_dict": {"n_averaged": torch.tensor(3), "module.layer.weight": WEIGHT}}, "state_dict"),
        ({"best_state_dict": {"layer.weight": WEIGHT}, "perf": 0.7}, "best_state_dict"),
    ],
)
def test_nests_and_wrappers(tmp_path, content, nest):
    torch.save(content, tmp_path / "nested.pth")
    trained = read_weights(tmp_path / "nested.pth")
    assert list(trained.state) == ["layer.weight"]
    assert torch.equal(trained.state["layer.weight"], WEIGHT)
    assert trained.nest == nest


def test_what_mmpose_writes_beside_its_weights(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    history = module.HistoryBuffer()
    history.log_history = np.array([1.0, 2.0])
    names = {0: "nose", 1: "left_eye", 2: "right_eye"}
    content = {
        "state_dict": {"weight": WEIGHT},
        "meta": {
            "dataset_meta": {
                "dataset_name": "faces",
                "keypoint_id2name": names,
                "sigmas": np.ones(3, dtype=np.float32),
                "keypoint_colors": np.zeros((3, 3), dtype=np.uint8),
            }
        },
        "message_hub": {"log_scalars": {"train/loss": history}, "best": np.float64(0.7)},
    }
    with monkeypatch.context() as patch:
        for part in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(content, tmp_path / "mmpose.pth")
    trained = read_weights(tmp_path / "mmpose.pth")
    assert trained.skeleton.name == "faces"
    assert trained.skeleton.names == ("nose", "left_eye", "right_eye")
    # The names are allowed for this file alone.
    with pytest.raises(Exception, match=r"HistoryBuffer|numpy"):
        torch.load(tmp_path / "mmpose.pth", weights_only=True)
