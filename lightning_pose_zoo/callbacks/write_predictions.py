"""Predictions as files: COCO results and a drawing of every picture."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_pose_zoo.callbacks.draw_predictions import skeleton_of
from lightning_pose_zoo.data.results import picture_rows, write_coco_results
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.errors import DatasetError, PoseZooError, complain
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses
from lightning_pose_zoo.visualization import draw_poses, save_picture

__all__ = ["WritePredictions"]

log = logging.getLogger(__name__)
Integers = npt.NDArray[np.int64]


class WritePredictions(BasePredictionWriter):
    """Writes what ``predict`` finds: ``keypoints.json`` (COCO results), ``images.json`` and drawings.

    Every person is written once and in the order of the data set, on however many processes. ``images.json`` is the
    head of a COCO file: the pictures by id and the category with its keypoints, so that pycocotools and others read
    both files together. On several machines the folder must lie on a file system that they share.

    Args:
        folder: Where the results are written; ``predictions`` in the trainer's ``default_root_dir`` where not given.
        draw: Draw the poses on every picture, into ``pictures`` in the folder.
        min_score: Keypoints that score this or less are not drawn; all are written.
        category_id: COCO's category of every person.
    """

    def __init__(
        self, folder: str | None = None, draw: bool = True, min_score: float = 0.2, category_id: int = 1
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.draw = draw
        self.min_score = min_score
        self.category_id = category_id
        self._poses: list[Poses] = []
        self._orders: list[Integers] = []
        self._images: list[Integers] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse modules without a skeleton before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            skeleton_of(pl_module, type(self).__name__)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier run, and what a killed one has left in the folder."""
        self._poses, self._orders, self._images = [], [], []
        self._part(trainer, trainer.global_rank).unlink(missing_ok=True)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[Any] | None,
        batch: PoseBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the batch's poses, and where in the data set they belong."""
        if not isinstance(prediction, Poses):
            raise PoseZooError(f"WritePredictions needs predict_step to return Poses, not {type(prediction).__name__}.")
        if "image_id" not in batch:
            raise DatasetError(
                "WritePredictions needs 'image_id' in the batches: without it nobody knows whose results these are."
            )
        rows = len(batch["image"])
        samples = _dataset_indices(batch_indices, rows)
        if samples is None:
            samples = np.full(rows, batch_idx * trainer.world_size + trainer.global_rank)
        order = np.column_stack(np.broadcast_arrays(dataloader_idx, samples, trainer.global_rank, batch_idx))
        self._poses.append(prediction.cpu())
        self._orders.append(order[picture_rows(batch, prediction).cpu().numpy()])
        self._images.append(np.concatenate([batch["image_id"].cpu().numpy()[:, None], order], axis=1))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join what the processes have found, and write it."""
        skeleton = skeleton_of(pl_module, type(self).__name__)
        found = _joined(self._poses, skeleton.num_keypoints)
        orders = np.concatenate([np.zeros((0, 4), int), *self._orders])
        images = np.concatenate([np.zeros((0, 5), int), *self._images])
        _write_part(self._part(trainer, trainer.global_rank), found, orders, images)
        self._poses, self._orders, self._images = [], [], []
        trainer.strategy.barrier("predictions written")
        parts = [_read_part(self._part(trainer, rank)) for rank in range(trainer.world_size)]
        poses, image_ids = _merge(parts, skeleton.num_keypoints)
        files = _image_files(trainer, image_ids)
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            write_coco_results(folder / "keypoints.json", poses, self.category_id)
            head = json.dumps(_head(files, image_ids, skeleton, self.category_id), indent=1)
            write_atomically(folder / "images.json", head.encode())
        if self.draw:
            self._draw(trainer, poses, image_ids, files, skeleton)
        trainer.strategy.barrier("predictions drawn")
        self._part(trainer, trainer.global_rank).unlink(missing_ok=True)
        rank_zero_info(f"{len(poses)} persons in {len(image_ids)} pictures are written to {folder}.")

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "predictions"

    def _part(self, trainer: L.Trainer, rank: int) -> Path:
        return self._folder(trainer) / f".part_{rank:05d}.npz"

    def _draw(
        self, trainer: L.Trainer, poses: Poses, image_ids: list[int], files: dict[int, Path], skeleton: Skeleton
    ) -> None:
        """Draw this process's share of the pictures, one at a time."""
        from tqdm import tqdm

        from lightning_pose_zoo.data.images import read_image

        unknown = len(image_ids) - len(files)
        if unknown:
            what = f"{unknown} of {len(image_ids)} pictures are not drawn"
            rank_zero_warn(f"{what}: the data module has no image_path(image_id) that tells where they are.")
        names = _drawing_names(image_ids, files)
        mine = [image_id for image_id in image_ids if image_id in files][trainer.global_rank :: trainer.world_size]
        problems = []
        for image_id in tqdm(mine, desc="Drawing", unit="picture", disable=not trainer.is_global_zero):
            persons = poses[poses.image_ids == image_id]
            try:
                image = read_image(files[image_id])
            except PoseZooError as error:
                problems.append(str(error))
                continue
            keypoints, scores = persons.keypoints.numpy(), persons.keypoint_scores.numpy()
            drawn = draw_poses(image, keypoints, skeleton, scores=scores, min_score=self.min_score)
            save_picture(self._folder(trainer) / "pictures" / names[image_id], drawn)
        if problems:
            log.warning(complain("pictures that are not drawn", problems, "Their poses are written all the same."))


def _dataset_indices(keys: Sequence[Any] | None, rows: int) -> Integers | None:
    """Return the place in the data set of each sample of a batch, (rows,), or None where the sampler does not tell."""
    if keys is None or len(keys) != rows:
        return None
    indices = [key.index if isinstance(key, SampleKey) else key for key in keys]
    whole = all(isinstance(index, (int, np.integer)) for index in indices)
    return np.array(indices, dtype=np.int64) if whole else None


def _joined(several: Sequence[Poses], keypoints: int) -> Poses:
    # Nobody has no person_ids, so nobody must not take part: Poses.cat would drop everybody's.
    return Poses.cat([poses for poses in several if len(poses)] or [Poses.empty(keypoints)])


def _write_part(path: Path, poses: Poses, order: Integers, images: Integers) -> None:
    arrays: dict[str, Any] = {name: value.numpy() for name, value in poses.parts().items() if value is not None}
    content = io.BytesIO()
    np.savez(content, order=order, images=images, **arrays)
    write_atomically(path, content.getvalue())


def _read_part(path: Path) -> tuple[Poses, Integers, Integers]:
    if not path.exists():
        raise PoseZooError(
            f"'{path}' is missing: on several machines the folder must lie on a file system that they share."
        )
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    order, images = arrays.pop("order"), arrays.pop("images")
    return Poses(**{name: torch.from_numpy(value) for name, value in arrays.items()}), order, images


def _merge(parts: Sequence[tuple[Poses, Integers, Integers]], keypoints: int) -> tuple[Poses, list[int]]:
    """Join the processes' parts: persons and pictures in the order of the data set, each once.

    Args:
        parts: Of each process its P poses, their order (P, 4) and its pictures (n, 5). The columns of an order are
            loader, place in the data set, process and batch; before them a picture's row has its id.
        keypoints: K, in case nobody was found.

    Returns:
        The poses, and the ids of all pictures that were looked at.
    """
    poses = _joined([part[0] for part in parts], keypoints)
    order, images = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    kept = np.lexsort(order.T[::-1])
    # A sampler that evens out the processes deals some samples twice: what came from the first place counts.
    _, first, sample = np.unique(order[kept, :2], axis=0, return_index=True, return_inverse=True)
    kept = kept[(order[kept] == order[kept][first][sample.reshape(-1)]).all(axis=1)]
    poses = poses[torch.from_numpy(kept)]
    if poses.person_ids is not None:
        persons = torch.stack([poses.image_ids, poses.person_ids], dim=1).numpy()
        poses = poses[torch.from_numpy(np.sort(np.unique(persons, axis=0, return_index=True)[1]))]
    images = images[np.lexsort(images[:, 1:].T[::-1])]
    return poses, list(dict.fromkeys(images[:, 0].tolist()))


def _image_files(trainer: L.Trainer, image_ids: list[int]) -> dict[int, Path]:
    """Ask the data module where the pictures are; those that it cannot tell are absent."""
    image_path = getattr(getattr(trainer, "datamodule", None), "image_path", None)
    if image_path is None:
        return {}
    files = {}
    for image_id in image_ids:
        with suppress(DatasetError):
            files[image_id] = Path(image_path(image_id))
    return files


def _drawing_names(image_ids: list[int], files: dict[int, Path]) -> dict[int, str]:
    """Name the drawings after the pictures; pictures of one name get their ids added."""
    # Without case, because some file systems do not tell A.jpg from a.jpg.
    same = Counter(path.stem.lower() for path in files.values())
    names: dict[int, str] = {}
    taken = set()
    for image_id in image_ids:
        if image_id in files:
            stem = files[image_id].stem
            name = stem if same[stem.lower()] == 1 else f"{stem}_{image_id}"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
            names[image_id] = f"{name}.jpg"
    return names


def _head(files: dict[int, Path], image_ids: list[int], skeleton: Skeleton, category_id: int) -> dict[str, Any]:
    """Compose the head of a COCO file: pictures and category, without annotations."""
    images = [{"id": i, "file_name": files[i].as_posix()} if i in files else {"id": i} for i in image_ids]
    category = {
        "id": category_id,
        "name": skeleton.name,
        "keypoints": list(skeleton.names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
    }
    return {"images": images, "categories": [category]}
