"""A compiled network says the same, and checkpoints know nothing of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from processes import run_on_ranks
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from lightning_pose_zoo.callbacks import CompileNetwork
from lightning_pose_zoo.callbacks import compile_network as module_of_callback
from lightning_pose_zoo.cli import build_cli
from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import ConvolutionalPoseMachine
from lightning_pose_zoo.structures import Poses


def machine(**options):
    """A network that is traced in a moment."""
    codec, loss = HeatmapCodec("center", 8, 0.875), HeatmapCrossEntropy(0.875)
    options = {"variant": "original_bn", "stages": 2, "channels": 4, "codec": codec, "loss": loss, **options}
    return ConvolutionalPoseMachine("lsp14", **options)


def people():
    return SyntheticPeople(skeleton="lsp14", image_size=(32, 32), train_size=8, val_size=3, batch_size=4)


def run(folder, *callbacks, **options):
    settings = {"max_steps": 2, "num_sanity_val_steps": 0, "limit_val_batches": 0, **options}
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, callbacks=list(callbacks),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


class Counting(CompileNetwork):
    """Counts the graphs that were compiled."""

    def __init__(self) -> None:
        torch._dynamo.reset()
        super().__init__(backend="eager")
        self.backend = CompileCounter()

    @property
    def graphs(self) -> int:
        return self.backend.frame_count


@pytest.fixture
def counting():
    yield Counting()
    torch._dynamo.reset()


def trained(folder, *callbacks, **options):
    L.seed_everything(5, verbose=False)
    method, trainer = machine(), run(folder, *callbacks, **options)
    trainer.fit(method, people())
    return method, trainer


def test_training_is_the_same_and_so_are_its_checkpoints(counting, tmp_path):
    plain, plain_trainer = trained(tmp_path)
    compiled, trainer = trained(tmp_path, counting)
    assert counting.graphs == 1
    for (key, ours), (other, theirs) in zip(compiled.state_dict().items(), plain.state_dict().items(), strict=True):
        assert key == other
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert all(part._compiled_call_impl is None for part in compiled.modules())

    paths = tmp_path / "compiled.ckpt", tmp_path / "plain.ckpt"
    for path, one in zip(paths, (trainer, plain_trainer), strict=True):
        one.save_checkpoint(path)
    first, second = (torch.load(path, weights_only=True) for path in paths)
    assert first.keys() == second.keys()
    assert first["callbacks"].keys() == second["callbacks"].keys()
    # Each goes on from the other's: with the callback from the plain one's, without it from the compiled one's.
    before = counting.graphs
    ends = []
    for path, callbacks in zip(paths, ((), (counting,)), strict=True):
        method, resumed = machine(), run(tmp_path, *callbacks, max_steps=4)
        resumed.fit(method, people(), ckpt_path=path)
        assert resumed.global_step == 4
        ends.append(method.state_dict())
    assert counting.graphs == before  # the same network, compiled already
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-4)


def test_evaluation_says_the_same_and_so_does_an_export(counting, tmp_path):
    method, _ = trained(tmp_path)
    compiled = Poses.cat(run(tmp_path, counting).predict(method, people()))
    assert counting.graphs == 1
    plain = Poses.cat(run(tmp_path).predict(method, people()))
    torch.testing.assert_close(compiled.keypoints, plain.keypoints, rtol=0, atol=1e-4)
    torch.testing.assert_close(compiled.keypoint_scores, plain.keypoint_scores, rtol=0, atol=1e-4)
    # A network that is compiled is exported as one that is not.
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected, _ = method.eval()(images)
    method.network.compile(backend=counting.backend)
    program = torch.export.export(method, (images,)).module()
    assert counting.graphs == 1
    torch.testing.assert_close(program(images)[0], expected, rtol=0, atol=1e-4)


def test_mixed_precision_and_channels_last(counting, tmp_path):
    method = machine(channels_last=True)
    run(tmp_path, counting, precision="bf16-mixed").fit(method, people())
    assert counting.graphs == 1
    assert method.network.trunk[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in method.parameters())


@pytest.mark.slow
def test_the_usual_backend_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    counters.clear()
    compiling = CompileNetwork()
    try:
        compiling.setup(run(tmp_path), one_layer(), "predict")
    except SettingsError as error:
        pytest.skip(f"inductor cannot compile here: {error}")
    method = one_layer().eval()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        plain = method.network(images)
        compiling.setup(run(tmp_path), method, "predict")
        torch.testing.assert_close(method.network(images), plain, rtol=0, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    compiling.teardown(run(tmp_path), method, "predict")


def one_layer():
    module = L.LightningModule()
    module.network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sigmoid())
    return module


class InParts(ConvolutionalPoseMachine):
    """Calls the parts of its network by themselves."""

    def _maps(self, images):
        network = self.network
        return network.stage1(network.trunk(self.normalized(images)))[:, :14]


def test_parts_that_are_called_by_themselves_are_compiled_too(counting, tmp_path):
    options = {"variant": "mmpose", "stages": 1, "channels": 4, "center_map": False, "codec": HeatmapCodec("center", 8)}
    run(tmp_path, counting).predict(InParts("lsp14", **options), people())
    assert counting.graphs == 2


def test_an_end_by_an_error_leaves_the_network_as_it_was(counting, tmp_path):
    class Failing(ConvolutionalPoseMachine):
        def losses(self, batch):
            raise RuntimeError("no")

    method = Failing("lsp14", stages=1, channels=4)
    with pytest.raises(RuntimeError, match="no"):
        run(tmp_path, counting).fit(method, people())
    assert all(part._compiled_call_impl is None for part in method.modules())


def test_it_is_a_switch_of_the_command_line(tmp_path):
    cli = build_cli(
        ["--model=SimpleBaseline", "--model.backbone=resnet10t", "--data=SyntheticPeople", "--trainer.accelerator=cpu",
         f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false", "--trainer.callbacks+=CompileNetwork",
         "--trainer.callbacks.mode=max-autotune", "--trainer.callbacks.dynamic=true"], run=False,
    )  # fmt: skip
    [switch] = [callback for callback in cli.trainer.callbacks if isinstance(callback, CompileNetwork)]
    assert (switch.mode, switch.dynamic, switch.backend) == ("max-autotune", True, "inductor")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    class Bare(L.LightningModule):
        def predict_step(self, batch, batch_idx): ...

    with pytest.raises(SettingsError, match="Bare has no network"):
        run(tmp_path, CompileNetwork()).predict(Bare(), [torch.zeros(1)])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match=r"no-such-compiler cannot be found; .* take CompileNetwork out"):
        run(tmp_path, CompileNetwork()).predict(machine(), people())
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(module_of_callback.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SettingsError, match=r"there is no .*Python\.h"):
        run(tmp_path, CompileNetwork()).predict(machine(), people())


def _fit_on_ranks(rank: int, folder: Path) -> None:
    L.seed_everything(5, verbose=False)
    compiling = Counting()
    trainer = run(folder, compiling, devices=2, strategy="ddp")
    method = machine()
    trainer.fit(method, people())
    weights = torch.cat([parameter.detach().flatten() for parameter in method.parameters()])
    torch.save({"weights": weights, "graphs": compiling.graphs}, folder / f"{rank}.pt")


def test_two_processes_train_a_compiled_network_together(tmp_path):
    run_on_ranks(_fit_on_ranks, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["graphs"] == second["graphs"] >= 1
    assert torch.equal(first["weights"], second["weights"])
