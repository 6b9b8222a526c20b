import json
import logging

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_pose_zoo.callbacks import WritePredictions
from lightning_pose_zoo.callbacks.write_predictions import _merge, _suppressed
from lightning_pose_zoo.data.results import read_coco_results
from lightning_pose_zoo.data.sampling import PoseSampler
from lightning_pose_zoo.errors import DatasetError, PoseZooError, SkeletonError
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.structures import Poses

EYES = Skeleton.from_names("eyes", ["left_eye", "right_eye"], limbs=[(0, 1)])
LEFT, RIGHT = np.array((255, 128, 0)), np.array((51, 153, 255))
# The picture of every person, in the order of the data set: persons of one picture do not stand together.
PICTURES = [30, 10, 20, 10, 30, 20, 10]


def keypoints_of(person):
    """Where person n is, in pixels of the original picture; each has a corner of its own."""
    x, y = 20 + 60 * (person % 3), 20 + 40 * (person // 3)
    return [[x, y], [x + 25, y]]


class People(Dataset):
    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, index):
        index = getattr(index, "index", index) if not isinstance(index, int) else index
        return {
            "image": torch.zeros(3, 8, 8, dtype=torch.uint8),
            "image_id": torch.tensor(PICTURES[index]),
            "person_id": torch.tensor(100 + index),
        }


class Stream(IterableDataset):
    def __iter__(self):
        return (People()[index] for index in range(len(PICTURES)))


class Finder(L.LightningModule):
    """Finds everybody exactly, with scores that tell who it was."""

    def __init__(self, skeleton=EYES, with_person_ids=True):
        super().__init__()
        self.skeleton = skeleton
        self.with_person_ids = with_person_ids

    def predict_step(self, batch, batch_idx):
        people = (batch["person_id"] - 100).tolist()
        return Poses(
            keypoints=torch.tensor([keypoints_of(person) for person in people], dtype=torch.float32),
            keypoint_scores=torch.full((len(people), 2), 0.9),
            scores=torch.tensor([person / 8 for person in people]),
            boxes=torch.tensor([[person, 0, person + 2, 3] for person in people], dtype=torch.float32),
            image_ids=batch["image_id"],
            person_ids=batch["person_id"] if self.with_person_ids else None,
        )


class Pictures(L.LightningDataModule):
    """Three gray pictures in folders; two of them have the same name."""

    def __init__(self, folder, sampler=None, batch_size=2, dataset=None):
        super().__init__()
        self.files = {10: folder / "a" / "one.png", 20: folder / "b" / "one.png", 30: folder / "b" / "three.jpg"}
        self.sampler = sampler
        self.batch_size = batch_size
        self.people = People() if dataset is None else dataset

    def prepare_data(self):
        for path in self.files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((160, 200, 3), 100, dtype=np.uint8))

    def image_path(self, image_id):
        return self.files[image_id]

    def predict_dataloader(self):
        rank, size = self.trainer.global_rank, self.trainer.world_size
        sampler = None
        if self.sampler == "padded":
            sampler = DistributedSampler(self.people, num_replicas=size, rank=rank, shuffle=False)
        if self.sampler == "shuffled":
            sampler = torch.utils.data.RandomSampler(self.people, generator=torch.Generator().manual_seed(3))
        if self.sampler == "ours":
            sampler = PoseSampler(self.people, shuffle=True, pad=False, rank=rank, world_size=size)
        return DataLoader(self.people, batch_size=self.batch_size, sampler=sampler)


def predict(folder, writer, module=None, data=None, loaders=None, **options):
    options = {"accelerator": "cpu", "devices": 1, **options}
    run = L.Trainer(
        default_root_dir=folder,
        callbacks=[writer],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    run.predict(module or Finder(), dataloaders=loaders, datamodule=data, return_predictions=False)


def near(pixel, color):
    return bool((np.abs(np.asarray(pixel, dtype=int) - color) < 40).all())


def persons_in(path):
    """Which persons are drawn in a picture, by the colours at their places."""
    drawn = np.asarray(Image.open(path).convert("RGB"))
    assert drawn.shape == (160, 200, 3)
    found = []
    for person in range(len(PICTURES)):
        (x0, y0), (x1, y1) = keypoints_of(person)
        if near(drawn[y0, x0], LEFT) and near(drawn[y1, x1], RIGHT):
            found.append(person)
        else:
            assert near(drawn[y0, x0], 100)
            assert near(drawn[y1, x1], 100)
    return found


def check_everything(folder):
    entries = json.loads((folder / "keypoints.json").read_text())
    assert [entry["image_id"] for entry in entries] == PICTURES
    assert [entry["score"] for entry in entries] == [person / 8 for person in range(7)]
    for person, entry in enumerate(entries):
        (x0, y0), (x1, y1) = keypoints_of(person)
        assert entry["keypoints"] == [x0, y0, pytest.approx(0.9), x1, y1, pytest.approx(0.9)]
    names = {"three.jpg": [0, 4], "one_10.jpg": [1, 3, 6], "one_20.jpg": [2, 5]}
    assert {path.name: persons_in(path) for path in (folder / "pictures").iterdir()} == names
    assert sorted(path.name for path in folder.iterdir()) == ["images.json", "keypoints.json", "pictures"], (
        "no parts are left"
    )


@pytest.mark.parametrize("sampler", [None, "shuffled", "padded", "ours"])
@pytest.mark.parametrize("with_person_ids", [True, False])
def test_everybody_is_written_once_in_the_order_of_the_data_set(tmp_path, sampler, with_person_ids):
    writer = WritePredictions()
    predict(tmp_path / "run", writer, Finder(with_person_ids=with_person_ids), Pictures(tmp_path / "data", sampler))
    check_everything(tmp_path / "run" / "predictions")


@pytest.mark.slow
def test_two_processes_write_what_one_writes_though_the_sampler_deals_somebody_twice(tmp_path):
    for devices in (1, 2):
        strategy = {"strategy": "ddp_spawn", "devices": 2} if devices == 2 else {}
        # Seven persons for two processes: DistributedSampler deals the first one to both.
        data = Pictures(tmp_path / "data", sampler="padded")
        predict(
            tmp_path,
            WritePredictions(folder=str(tmp_path / f"on_{devices}")),
            Finder(with_person_ids=False),
            data,
            **strategy,
        )
    check_everything(tmp_path / "on_2")
    for name in ("keypoints.json", "images.json"):
        assert (tmp_path / "on_2" / name).read_bytes() == (tmp_path / "on_1" / name).read_bytes()


def test_a_stream_is_written_in_the_order_of_its_arrival(tmp_path):
    predict(tmp_path / "run", WritePredictions(), data=Pictures(tmp_path / "data", dataset=Stream()))
    check_everything(tmp_path / "run" / "predictions")


def test_pycocotools_reads_both_files_together(tmp_path):
    from pycocotools.coco import COCO

    from lightning_pose_zoo.skeleton_files import read_coco_category

    predict(tmp_path, WritePredictions(category_id=4), data=Pictures(tmp_path / "data"))
    head = COCO(str(tmp_path / "predictions" / "images.json"))
    results = head.loadRes(str(tmp_path / "predictions" / "keypoints.json"))
    assert [len(results.getAnnIds(imgIds=image_id)) for image_id in (10, 20, 30)] == [3, 2, 2]
    assert head.loadImgs(20)[0]["file_name"] == (tmp_path / "data" / "b" / "one.png").as_posix()
    (category,) = head.loadCats(results.loadAnns(results.getAnnIds())[0]["category_id"])
    again = read_coco_category(category)
    assert (again.names, again.limbs, again.flip_pairs) == (EYES.names, EYES.limbs, EYES.flip_pairs)


def test_a_second_run_starts_from_nothing(tmp_path):
    writer = WritePredictions()
    for _ in range(2):
        predict(tmp_path / "run", writer, data=Pictures(tmp_path / "data"))
    check_everything(tmp_path / "run" / "predictions")


def test_pictures_with_nobody_in_them_are_listed_and_drawn_too(tmp_path):
    class Nobody(Finder):
        def predict_step(self, batch, batch_idx):
            return Poses.empty(2)

    predict(tmp_path / "run", WritePredictions(), Nobody(), Pictures(tmp_path / "data"))
    folder = tmp_path / "run" / "predictions"
    assert read_coco_results(folder / "keypoints.json").keypoints.shape[0] == 0
    assert [image["id"] for image in json.loads((folder / "images.json").read_text())["images"]] == [30, 10, 20]
    assert all(persons_in(path) == [] for path in (folder / "pictures").iterdir())
    assert len(list((folder / "pictures").iterdir())) == 3


def test_person_ids_stay_when_a_batch_finds_nobody(tmp_path):
    class Sometimes(Finder):
        def predict_step(self, batch, batch_idx):
            return Poses.empty(2) if batch_idx == 1 else super().predict_step(batch, batch_idx)

    predict(tmp_path, WritePredictions(draw=False), Sometimes(), Pictures(tmp_path / "data"))
    poses = read_coco_results(tmp_path / "predictions" / "keypoints.json")
    assert poses.person_ids.tolist() == [100, 101, 104, 105, 106]


def test_several_persons_of_one_picture_are_kept_in_their_order(tmp_path):
    class BottomUp(Finder):
        """Finds as many persons as the picture's id has tens, none in the last picture of a batch."""

        def predict_step(self, batch, batch_idx):
            ids = [image_id for image_id in batch["image_id"].tolist()[::-1] for _ in range(image_id // 10)]
            count = len(ids)
            place = torch.arange(count, dtype=torch.float32)
            return Poses(
                keypoints=place[:, None, None].expand(count, 2, 2) + 10,
                keypoint_scores=torch.ones(count, 2),
                scores=place / 100,
                boxes=torch.zeros(count, 4),
                image_ids=torch.tensor(ids),
            )

    loader = DataLoader(
        [{"image": torch.zeros(3, 4, 4), "image_id": torch.tensor(i)} for i in (30, 0, 20, 10)], batch_size=2
    )
    predict(tmp_path, WritePredictions(draw=False), BottomUp(), loaders=loader)
    entries = json.loads((tmp_path / "predictions" / "keypoints.json").read_text())
    assert [entry["image_id"] for entry in entries] == [30, 30, 30, 20, 20, 10]
    assert [round(entry["score"] * 100) for entry in entries] == [0, 1, 2, 1, 2, 0]
    assert not (tmp_path / "predictions" / "pictures").exists()


def test_unsure_keypoints_are_written_but_not_drawn(tmp_path):
    predict(tmp_path / "run", WritePredictions(min_score=0.95), data=Pictures(tmp_path / "data"))
    folder = tmp_path / "run" / "predictions"
    assert len(read_coco_results(folder / "keypoints.json")) == 7
    assert all(persons_in(path) == [] for path in (folder / "pictures").iterdir())


def test_without_files_the_poses_are_written_and_the_user_is_told(tmp_path):
    with pytest.warns(UserWarning, match="3 of 3 pictures are not drawn.*image_path"):
        predict(tmp_path, WritePredictions(), loaders=DataLoader(People(), batch_size=2))
    assert len(read_coco_results(tmp_path / "predictions" / "keypoints.json")) == 7
    assert json.loads((tmp_path / "predictions" / "images.json").read_text())["images"] == [
        {"id": i} for i in (30, 10, 20)
    ]

    class Filmed(Pictures):
        def image_path(self, image_id):
            if image_id == 20:
                raise DatasetError("frames of a video have no files.")
            return super().image_path(image_id)

    with pytest.warns(UserWarning, match="1 of 3 pictures are not drawn"):
        predict(tmp_path / "film", WritePredictions(), data=Filmed(tmp_path / "data"))
    assert {path.name for path in (tmp_path / "film" / "predictions" / "pictures").iterdir()} == {
        "one.jpg",
        "three.jpg",
    }


def test_a_damaged_picture_does_not_take_the_others_along(tmp_path, caplog):
    class Damaged(Pictures):
        def prepare_data(self):
            super().prepare_data()
            self.files[20].write_bytes(b"no picture")

    with caplog.at_level(logging.WARNING):
        predict(tmp_path / "run", WritePredictions(), data=Damaged(tmp_path / "data"))
    folder = tmp_path / "run" / "predictions"
    assert {path.name for path in (folder / "pictures").iterdir()} == {"one_10.jpg", "three.jpg"}
    assert len(read_coco_results(folder / "keypoints.json")) == 7
    assert str(tmp_path / "data" / "b" / "one.png") in caplog.text


def test_the_user_is_told_where_the_results_are(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    with caplog.at_level(logging.INFO):
        predict(tmp_path, WritePredictions(draw=False), data=Pictures(tmp_path / "data"))
    assert f"7 persons in 3 pictures are written to {tmp_path / 'predictions'}." in caplog.text


def test_modules_and_batches_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(SkeletonError, match=r"WritePredictions.*has no attribute 'skeleton'"):
        predict(tmp_path, WritePredictions(), Finder(skeleton=None), Pictures(tmp_path / "data"))

    class Silent(Finder):
        def predict_step(self, batch, batch_idx):
            return {"keypoints": []}

    with pytest.raises(PoseZooError, match="return Poses, not dict"):
        predict(tmp_path, WritePredictions(), Silent(), Pictures(tmp_path / "data"))

    class NoIds(Finder):
        def predict_step(self, batch, batch_idx):
            return Poses.empty(2)

    with pytest.raises(DatasetError, match="needs 'image_id'"):
        predict(tmp_path, WritePredictions(), NoIds(), loaders=DataLoader([{"image": torch.zeros(3, 4, 4)}]))
    assert not (tmp_path / "predictions" / "keypoints.json").exists()


def test_a_missing_part_says_that_the_folder_is_not_shared(tmp_path, monkeypatch):
    writer = WritePredictions(draw=False)
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    with pytest.raises(PoseZooError, match=r"part_00001\.npz' is missing.*share"):
        predict(tmp_path, writer, data=Pictures(tmp_path / "data"))


@pytest.mark.parametrize("seed", range(20))
def test_merging_equals_a_plain_loop(seed):
    """Samples dealt at random to three processes, some to several of them, with 0 to 3 persons each."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, size=12)
    parts, firsts = [], {}
    for rank in range(3):
        samples = rng.permutation(12)[: rng.integers(0, 12)]
        rows = []
        for position, sample in enumerate(samples):
            batch = position // 2
            firsts.setdefault(int(sample), (rank, batch))
            rows += [(int(sample), batch, number) for number in range(counts[sample])]
        values = torch.tensor([[sample, rank, number] for sample, _, number in rows], dtype=torch.float32).reshape(
            -1, 3
        )
        poses = Poses(
            keypoints=values[:, :2].reshape(-1, 1, 2),
            keypoint_scores=values[:, 2:],
            scores=values[:, 0],
            boxes=torch.zeros(len(rows), 4),
            image_ids=torch.tensor([sample // 2 for sample, _, _ in rows], dtype=torch.int64),
        )
        order = np.array([(0, sample, rank, batch) for sample, batch, _ in rows], dtype=int).reshape(-1, 4)
        seen = np.array([(s // 2, 0, s, rank, p // 2) for p, s in enumerate(samples)], dtype=int).reshape(-1, 5)
        parts.append((poses, order, seen, values[:, 2].double().numpy()))
    merged, image_ids, areas = _merge(parts, 1)
    expected = [[sample, firsts[sample][0], number] for sample in sorted(firsts) for number in range(counts[sample])]
    assert torch.cat([merged.keypoints[:, 0], merged.keypoint_scores], dim=1).tolist() == expected
    assert areas.tolist() == [number for _, _, number in expected]
    assert image_ids == list(dict.fromkeys(sample // 2 for sample in sorted(firsts)))


def test_only_what_can_be_compared_is_suppressed():
    """Twins, of whom the better stays; poses without an area, of another picture, and with NaN all stay, in order."""
    poses = Poses(
        keypoints=torch.tensor([[[5.0, 5], [9, 5]]] * 6),
        keypoint_scores=torch.ones(6, 2),
        scores=torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6, 0.4]),
        boxes=torch.zeros(6, 4),
        image_ids=torch.tensor([1, 1, 1, 1, 2, 2]),
    )
    poses.keypoints[3, 1, 0] = float("nan")
    areas = np.array([100.0, 100, np.nan, 100, 100, 100])
    kept = _suppressed(poses, areas, EYES, 0.9)
    assert kept.scores.tolist() == poses.scores[[1, 2, 3, 4]].tolist()
    assert len(_suppressed(poses, areas, EYES, 1.0)) == 6
    assert len(_suppressed(poses[:0], areas[:0], EYES, 0.9)) == 0
