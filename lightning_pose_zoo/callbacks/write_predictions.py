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

from lightning_pose_zoo.association import oks_nms
from lightning_pose_zoo.callbacks.draw_predictions import skeleton_of
from lightning_pose_zoo.data.results import picture_rows, write_coco_results
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.errors import DatasetError, PoseZooError, SettingsError, complain
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.metrics.average_precision import areas_in_batch
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.stage_times import StageTimes, timed
from lightning_pose_zoo.structures import PoseBatch, Poses
from lightning_pose_zoo.visualization import draw_poses, save_picture

__all__ = ["WritePredictions"]

log = logging.getLogger(__name__)
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class WritePredictions(BasePredictionWriter):
    """Writes what ``predict`` finds: ``keypoints.json`` (COCO results), ``images.json`` and drawings.

    Every person is written once and in the order of the data set, on however many processes. ``images.json`` is the
    head of a COCO file: the pictures by id and the category with its keypoints, so that pycocotools and others read
    both files together. On several machines the folder must lie on a file system that they share.

    A detector often finds one person several times. So of the poses of one picture that were found in detected boxes
    the best stays, and those whose OKS with it is above ``oks_nms`` go, as in evaluation on detected boxes. Poses in
    annotated boxes, in whole pictures and those of bottom-up methods are all written.

    Args:
        folder: Where the results are written; ``predictions`` in the trainer's ``default_root_dir`` where not given.
        draw: Draw the poses on every picture, into ``pictures`` in the folder.
        min_score: Keypoints that score this or less are not drawn; all are written.
        category_id: COCO's category of every person.
        oks_nms: Largest OKS of two poses of a picture that are both written, where boxes were detected; null writes
            every pose.

    Raises:
        SettingsError: Where oks_nms is no similarity.
    """

    def __init__(
        self,
        folder: str | None = None,
        draw: bool = True,
        min_score: float = 0.2,
        category_id: int = 1,
        oks_nms: float | None = 0.9,
    ) -> None:
        super().__init__(write_interval="batch")
        if oks_nms is not None and not 0 <= oks_nms <= 1:
            raise SettingsError(f"oks_nms is {oks_nms}; give the largest OKS of two persons, 0 to 1, or null.")
        self.folder = folder
        self.draw = draw
        self.min_score = min_score
        self.category_id = category_id
        self.oks_nms = oks_nms
        self._poses: list[Poses] = []
        self._areas: list[Floats] = []
        self._orders: list[Integers] = []
        self._images: list[Integers] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse modules without a skeleton before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            skeleton_of(pl_module, type(self).__name__)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier run, and what a killed one has left in the folder."""
        self._forget()
        self._part(trainer, trainer.global_rank).unlink(missing_ok=True)

    def _forget(self) -> None:
        self._poses, self._areas, self._orders, self._images = [], [], [], []

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
        found_in = picture_rows(batch, prediction).cpu().numpy()
        self._poses.append(prediction.cpu())
        self._areas.append(self._areas_to_compare(batch, prediction, found_in))
        self._orders.append(order[found_in])
        self._images.append(np.concatenate([batch["image_id"].cpu().numpy()[:, None], order], axis=1))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join what the processes have found, and write it."""
        times: StageTimes | None = getattr(getattr(trainer, "datamodule", None), "stage_times", None)
        with timed(times, "write"):
            self._write(trainer, skeleton_of(pl_module, type(self).__name__))

    def _areas_to_compare(self, batch: PoseBatch, poses: Poses, found_in: Integers) -> Floats:
        """Return the area of the crop of each pose in a detected box, (P,); NaN of poses that nothing is done about."""
        if self.oks_nms is None or "box_score" not in batch or not len(poses):
            return np.full(len(poses), np.nan)
        detected = np.isfinite(batch["box_score"].cpu().numpy())[found_in]
        return np.where(detected, areas_in_batch(poses, batch).cpu().double().numpy(), np.nan)

    def _write(self, trainer: L.Trainer, skeleton: Skeleton) -> None:
        found = _joined(self._poses, skeleton.num_keypoints)
        areas = np.concatenate([np.zeros(0), *self._areas])
        orders = np.concatenate([np.zeros((0, 4), int), *self._orders])
        images = np.concatenate([np.zeros((0, 5), int), *self._images])
        _write_part(self._part(trainer, trainer.global_rank), found, orders, images, areas)
        self._forget()
        trainer.strategy.barrier("predictions written")
        parts = [_read_part(self._part(trainer, rank)) for rank in range(trainer.world_size)]
        every, image_ids, areas = _merge(parts, skeleton.num_keypoints)
        poses = every if self.oks_nms is None else _suppressed(every, areas, skeleton, self.oks_nms)
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
        gone = f" OKS-NMS {self.oks_nms:g} dropped {len(every) - len(poses)}." if (~np.isnan(areas)).any() else ""
        rank_zero_info(f"{len(poses)} persons in {len(image_ids)} pictures are written to {folder}.{gone}")

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


def _suppressed(poses: Poses, areas: Floats, skeleton: Skeleton, threshold: float) -> Poses:
    """Drop poses in detected boxes that are more similar to a better one of their picture than a threshold.

    Those without an area, and those that are not finite, which cannot be compared, stay.
    """
    finite = torch.isfinite(poses.keypoints).all(dim=-1).all(dim=-1) & torch.isfinite(poses.scores)
    compared = np.flatnonzero(~np.isnan(areas) & finite.numpy())
    rows = torch.from_numpy(compared)
    keypoints, scores = (value[rows].double().numpy() for value in (poses.keypoints, poses.scores))
    image_ids = poses.image_ids[rows].numpy()
    kept = compared[oks_nms(keypoints, scores, areas[compared], image_ids, skeleton.sigmas, threshold)]
    stay = np.ones(len(poses), dtype=np.bool_)
    stay[np.setdiff1d(compared, kept)] = False
    return poses[torch.from_numpy(stay)]


def _write_part(path: Path, poses: Poses, order: Integers, images: Integers, areas: Floats) -> None:
    arrays: dict[str, Any] = {name: value.numpy() for name, value in poses.parts().items() if value is not None}
    content = io.BytesIO()
    np.savez(content, order=order, images=images, areas=areas, **arrays)
    write_atomically(path, content.getvalue())


def _read_part(path: Path) -> tuple[Poses, Integers, Integers, Floats]:
    if not path.exists():
        raise PoseZooError(
            f"'{path}' is missing: on several machines the folder must lie on a file system that they share."
        )
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    order, images, areas = arrays.pop("order"), arrays.pop("images"), arrays.pop("areas")
    return Poses(**{name: torch.from_numpy(value) for name, value in arrays.items()}), order, images, areas


def _merge(
    parts: Sequence[tuple[Poses, Integers, Integers, Floats]], keypoints: int
) -> tuple[Poses, list[int], Floats]:
    """Join the processes' parts: persons and pictures in the order of the data set, each once.

    Args:
        parts: Of each process its P poses, their order (P, 4), its pictures (n, 5) and the areas (P,) of its poses. The
            columns of an order are loader, place in the data set, process and batch; before them a picture's row has
            its id.
        keypoints: K, in case nobody was found.

    Returns:
        The poses, the ids of all pictures that were looked at, and the areas of the poses.
    """
    poses = _joined([part[0] for part in parts], keypoints)
    order, images = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    areas = np.concatenate([part[3] for part in parts])
    kept = np.lexsort(order.T[::-1])
    # A sampler that evens out the processes deals some samples twice: what came from the first place counts.
    _, first, sample = np.unique(order[kept, :2], axis=0, return_index=True, return_inverse=True)
    kept = kept[(order[kept] == order[kept][first][sample.reshape(-1)]).all(axis=1)]
    if poses.person_ids is not None:
        persons = torch.stack([poses.image_ids, poses.person_ids], dim=1).numpy()[kept]
        kept = kept[np.sort(np.unique(persons, axis=0, return_index=True)[1])]
    poses, areas = poses[torch.from_numpy(kept)], areas[kept]
    images = images[np.lexsort(images[:, 1:].T[::-1])]
    return poses, list(dict.fromkeys(images[:, 0].tolist())), areas


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
