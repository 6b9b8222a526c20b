"""Single parts in other people's projects: our network and metric in their module, our method with their data."""

from __future__ import annotations

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import HRNet
from lightning_pose_zoo.metrics import PCK
from lightning_pose_zoo.networks import SimpleBaselineNetwork

SIZE = (64, 64)


class Dots(Dataset):
    """Coloured dots on grey; a stranger's data set of plain dicts, one sample at a time."""

    def __init__(self, count: int, floating: bool = False) -> None:
        self.count, self.floating = count, floating

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        keypoints = 8 + torch.rand(3, 2, generator=generator) * 48
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        image = torch.stack([torch.exp(-((x - kx) ** 2 + (y - ky) ** 2) / 18) for kx, ky in keypoints.tolist()])
        if not self.floating:
            image = (image * 200 + 30).to(torch.uint8)
        return {"image": image, "keypoints": keypoints, "visibility": torch.full((3,), 2, dtype=torch.uint8)}


class TheirData(L.LightningDataModule):
    def __init__(self, floating: bool = False) -> None:
        super().__init__()
        self.floating = floating

    def train_dataloader(self):
        return DataLoader(Dots(32, self.floating), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Dots(6, self.floating), batch_size=4)

    predict_dataloader = val_dataloader


class TheirModule(L.LightningModule):
    """Somebody else's module around our network, codec, loss and metric."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SimpleBaselineNetwork(3, "resnet18", deconv_channels=(32, 32), backbone_stride=16)
        self.codec = HeatmapCodec(stride=self.network.stride)
        self.loss = HeatmapCrossEntropy()
        self.pck = PCK({"names": ["red", "green", "blue"]}, thresholds=(0.1,), normalize_by="box")

    def training_step(self, batch, batch_idx):
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], SIZE)
        return self.loss(self.network(batch["image"]), targets)

    def validation_step(self, batch, batch_idx):
        keypoints, _ = self.codec.decode(self.loss.to_heatmaps(self.network(batch["image"])))
        sizes = torch.full((len(keypoints),), 64.0)
        self.pck.update(keypoints, batch["keypoints"], batch["visibility"], sizes)

    def on_validation_epoch_end(self):
        self.log_dict(self.pck.compute())
        self.pck.reset()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def trainer(tmp_path, epochs):
    return L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip


def test_our_network_and_metric_in_their_module(tmp_path):
    torch.manual_seed(0)
    run = trainer(tmp_path, 25)
    run.fit(TheirModule(), TheirData(floating=True))
    assert run.callback_metrics["PCK@0.1"] > 0.8


def test_our_method_with_their_data(tmp_path):
    method = HRNet(
        skeleton={"names": ["red", "green", "blue"]}, variant="w18_small", loss=HeatmapCrossEntropy(), flip_test=False
    )
    run = trainer(tmp_path, 1)
    run.fit(method, TheirData())
    assert 0 <= run.callback_metrics["val/PCK@0.2"] <= 1
    [first, second] = run.predict(method, TheirData())
    assert first.keypoints.shape == (4, 3, 2)
    assert second.keypoints.shape == (2, 3, 2)
    # Without a map to an original picture, the crop is the original.
    assert first.keypoints.min() > -8
    assert first.keypoints.max() < 72


def test_their_normalised_pictures_are_left_alone():
    method = HRNet(skeleton={"names": ["a", "b", "c"]}, variant="w18_small").eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(method.heatmaps(image), method.network(image))


def test_their_loaders_without_a_data_module(tmp_path):
    method = HRNet(skeleton={"names": ["a", "b", "c"]}, variant="w18_small")
    run = trainer(tmp_path, 1)
    run.fit(method, DataLoader(Dots(8), batch_size=4), DataLoader(Dots(5), batch_size=2))
    assert "val/PCK@0.2" in run.callback_metrics
