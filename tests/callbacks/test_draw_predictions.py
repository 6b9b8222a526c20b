import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from lightning_pose_zoo.callbacks import DrawPredictions
from lightning_pose_zoo.errors import PoseZooError, SkeletonError
from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.structures import Poses, person_images
from lightning_pose_zoo.visualization import TRUTH_COLOR

EYES = Skeleton.from_names("eyes", ["left_eye", "right_eye"])
LEFT, RIGHT = np.array((255, 128, 0)), np.array((51, 153, 255))
HEIGHT, WIDTH, FACTOR = 64, 48, 4
SHIFT = torch.tensor([6.0, -3.0])


def crops(samples=6, first=0, seed=0):
    """Gray crops with the truth of each at its own place; the original picture is turned, bigger and elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(samples, generator=generator) * 6
    linear = 3 * torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], dim=-2
    )
    return {
        "image": torch.full((samples, 3, HEIGHT, WIDTH), 100, dtype=torch.uint8),
        "keypoints": torch.rand(samples, 2, 2, generator=generator) * 20 + 12,
        "visibility": torch.tensor([[2, 1]] * samples, dtype=torch.uint8),
        "to_original": torch.cat([linear, torch.rand(samples, 2, 1, generator=generator) * 500], dim=-1),
        "image_id": torch.arange(first, first + samples),
    }


class Guesser(L.LightningModule):
    """Predicts the truth, moved by a constant in the crop."""

    def __init__(self, skeleton=EYES, scores=(0.9, 0.9)):
        super().__init__()
        self.skeleton = skeleton
        self.scores = scores
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        rows = person_images(batch)
        keypoints = apply_affine(batch["keypoints"] + SHIFT, batch["to_original"][rows])
        count = len(keypoints)
        return {
            "poses": Poses(
                keypoints=keypoints,
                keypoint_scores=torch.tensor([self.scores] * count),
                scores=torch.ones(count),
                boxes=torch.zeros(count, 4),
                image_ids=batch["image_id"][rows],
            )
        }

    def test_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def trainer(folder, *callbacks, logger=False, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, **options}
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def color_at(sheet, tile, point, columns):
    """The colour at a point of a crop, wherever its tile stands."""
    x, y = (np.asarray(point) + 0.5) * FACTOR - 0.5
    left, top = 4 + tile % columns * (WIDTH * FACTOR + 4), 4 + tile // columns * (HEIGHT * FACTOR + 4)
    return sheet[top + round(y), left + round(x)]


def test_every_epoch_gets_a_sheet_with_truth_and_predictions_in_their_places(tmp_path):
    batches = [crops(3), crops(3, first=3, seed=1)]
    run = trainer(tmp_path, DrawPredictions(pictures=5), max_epochs=2, num_sanity_val_steps=2)
    run.fit(Guesser(), loader(batches[0]), loader(*batches))
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["val_epoch_000.png", "val_epoch_001.png"]
    sheet = read(tmp_path / "pictures" / "val_epoch_001.png")
    assert sheet.shape == (4 + 2 * (HEIGHT * FACTOR + 4) + 24, 4 + 3 * (WIDTH * FACTOR + 4), 3)
    truth = torch.cat([batch["keypoints"] for batch in batches]).numpy()
    for tile in range(5):
        left, right = truth[tile]
        assert abs(color_at(sheet, tile, left, 3) - TRUTH_COLOR).max() < 9
        assert abs(color_at(sheet, tile, right, 3) - TRUTH_COLOR).max() > 50, "hidden, so a ring"
        assert abs(color_at(sheet, tile, left + SHIFT.numpy(), 3) - LEFT).max() < 9
        assert abs(color_at(sheet, tile, right + SHIFT.numpy(), 3) - RIGHT).max() < 9
    assert (sheet[4 + HEIGHT * FACTOR + 4 : -24, 4 + 2 * (WIDTH * FACTOR + 4) :] == 32).all(), "five, not six"


def test_test_and_validate_have_their_own_sheets_in_the_folder_that_is_asked_for(tmp_path):
    run = trainer(tmp_path / "root", DrawPredictions(folder=str(tmp_path / "here")))
    run.validate(Guesser(), loader(crops()), verbose=False)
    run.test(Guesser(), loader(crops()), verbose=False)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["test.png", "val.png"]
    assert not (tmp_path / "root").exists()


def test_only_every_nth_epoch_is_drawn(tmp_path):
    run = trainer(tmp_path, DrawPredictions(every_n_epochs=2), max_epochs=5)
    run.fit(Guesser(), loader(crops()), loader(crops()))
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["val_epoch_001.png", "val_epoch_003.png"]


def test_the_sanity_check_is_not_drawn(tmp_path):
    run = trainer(tmp_path, DrawPredictions(), max_epochs=1, num_sanity_val_steps=2, limit_val_batches=0.5)
    run.fit(Guesser(), loader(crops()), loader(crops(), crops()))
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["val_epoch_000.png"]
    only_sanity = trainer(tmp_path / "b", DrawPredictions(), check_val_every_n_epoch=5, num_sanity_val_steps=2)
    only_sanity.fit(Guesser(), loader(crops()), loader(crops()))
    assert not (tmp_path / "b" / "pictures").exists()


def test_unsure_keypoints_are_not_drawn(tmp_path):
    batch = crops(1)
    run = trainer(tmp_path, DrawPredictions(min_score=0.3))
    run.validate(Guesser(scores=(0.9, 0.3)), loader(batch), verbose=False)
    sheet = read(tmp_path / "pictures" / "val.png")[:-24]
    assert (abs(sheet - LEFT).max(axis=-1) < 9).any()
    assert not (abs(sheet - RIGHT).max(axis=-1) < 9).any()


def test_several_persons_of_one_picture_are_drawn_into_it(tmp_path):
    batch = crops(2)
    batch["keypoints"] = torch.tensor([[[10.0, 10], [30, 10]], [[10, 25], [30, 25]], [[10, 45], [30, 45]]])
    batch["visibility"] = torch.full((3, 2), 2, dtype=torch.uint8)
    batch["image_index"] = torch.tensor([0, 0, 1])
    run = trainer(tmp_path, DrawPredictions())
    run.validate(Guesser(), loader(batch), verbose=False)
    sheet = read(tmp_path / "pictures" / "val.png")
    for tile, left, there in [
        (0, (10, 10), True),
        (0, (10, 25), True),
        (0, (10, 45), False),
        (1, (10, 45), True),
        (1, (10, 10), False),
    ]:
        assert (abs(color_at(sheet, tile, left, 2) - TRUTH_COLOR).max() < 9) == there
        assert (abs(color_at(sheet, tile, left + SHIFT.numpy(), 2) - LEFT).max() < 9) == there


def test_pictures_that_are_normalised_already_are_drawn(tmp_path):
    batch = crops(1)
    batch["image"] = torch.linspace(-2, 2, HEIGHT * WIDTH * 3).reshape(1, 3, HEIGHT, WIDTH)
    run = trainer(tmp_path, DrawPredictions())
    run.validate(Guesser(), loader(batch), verbose=False)
    tile = read(tmp_path / "pictures" / "val.png")[4:-28, 4:-4]
    assert tile[..., 2].max() == 255
    assert tile[..., 0].min() <= 5


def test_tensorboard_and_loggers_with_log_image_get_the_sheet_and_others_are_left_alone(tmp_path):
    class WithPictures(DummyLogger):
        def __init__(self):
            super().__init__()
            self.got = []

        def log_image(self, key, images):
            self.got.append((key, images))

    board, taker = TensorBoardLogger(tmp_path, name="board"), WithPictures()
    run = trainer(tmp_path, DrawPredictions(), logger=[board, taker, CSVLogger(tmp_path, name="csv")])
    run.fit(Guesser(), loader(crops()), loader(crops()))
    board.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir).Reload()
    sheet = read(tmp_path / "pictures" / "val_epoch_000.png")
    (event,) = events.Images("val/predictions")
    assert (event.height, event.width) == sheet.shape[:2]
    assert event.step == 1
    ((key, images),) = taker.got
    assert key == "val/predictions"
    assert (images[0] == sheet).all()


def test_a_module_without_a_skeleton_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(SkeletonError, match=r"DrawPredictions.*Guesser has no attribute 'skeleton'"):
        trainer(tmp_path, DrawPredictions()).validate(Guesser(skeleton=None), loader(crops()), verbose=False)


def test_the_skeleton_may_be_a_name(tmp_path):
    trainer(tmp_path, DrawPredictions()).validate(Guesser(skeleton=EYES.to_dict()), loader(crops()), verbose=False)
    assert (tmp_path / "pictures" / "val.png").exists()


def test_a_step_that_returns_no_poses_is_refused(tmp_path):
    class Silent(Guesser):
        def validation_step(self, batch, batch_idx):
            return torch.zeros(())

    with pytest.raises(PoseZooError, match=r"return {'poses': Poses}"):
        trainer(tmp_path, DrawPredictions()).validate(Silent(), loader(crops()), verbose=False)


@pytest.mark.parametrize("arguments", [{"every_n_epochs": 0}, {"pictures": 0}])
def test_numbers_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="count from 1"):
        DrawPredictions(**arguments)
