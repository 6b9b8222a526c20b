"""Evaluations read checkpoints too, and take nothing of a training's place from them."""

from __future__ import annotations

import warnings

import lightning as L

from lightning_pose_zoo.callbacks import ExactResume
from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.methods import SimpleBaseline


def test_an_evaluation_takes_no_states_from_a_checkpoint(tmp_path):
    data = SyntheticPeople(skeleton="lsp14", image_size=(64, 64), train_size=8, val_size=2, batch_size=4)
    method = SimpleBaseline(skeleton=data.skeleton, backbone="resnet18", deconv_channels=(8, 8, 8))
    settings = {
        "default_root_dir": tmp_path, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False,
    }  # fmt: skip
    trainer = L.Trainer(max_steps=1, callbacks=[ExactResume()], **settings)
    trainer.fit(method, data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")

    resume = ExactResume()
    again = L.Trainer(max_steps=2, callbacks=[resume], **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(random|state).*")
        again.validate(method, data, ckpt_path=tmp_path / "one.ckpt", verbose=False)
    assert not resume._resumed
    assert not resume._loaders
    # The same trainer then starts a training of its own, at its beginning.
    again.fit(method, data)
    assert again.global_step == 2
