"""Torchvision's detectors as person detectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_pose_zoo.detection.boxes import check_selection, found_boxes, select_boxes
from lightning_pose_zoo.detection.cache import DEFAULT_CACHE
from lightning_pose_zoo.detection.detectors import PersonDetector, Pictures
from lightning_pose_zoo.errors import CheckpointError, SettingsError

__all__ = ["TorchvisionDetector"]

_COCO_CLASSES = 91
# With these weights torchvision's own builders set the eps of all batch norms to 0, because they were trained so.
_WITHOUT_EPS = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
# The layer that gives the scores of the classes; its channels are a multiple of their number.
_SCORES = (
    "roi_heads.box_predictor.cls_score.weight",
    "head.classification_head.cls_logits.weight",
    "head.classification_head.module_list.0.weight",
    "head.classification_head.module_list.0.1.weight",
)
_LONGEST = 1333 / 800  # of the longer side to the shorter, in torchvision's settings


class TorchvisionDetector(PersonDetector):
    """A detector of torchvision.models.detection.

    The weights that torchvision trained on COCO are downloaded at the first use and kept by torch. Boxes are kept too,
    by the content of the picture, the weights and all settings below ``category``.

    Args:
        name: One of torchvision's: fasterrcnn_resnet50_fpn_v2 finds most; fasterrcnn_mobilenet_v3_large_320_fpn and
            ssdlite320_mobilenet_v3_large are the fastest.
        weights: "default" for those that torchvision trained on COCO; or a file of weights of this detector with any
            number of classes; null for random ones.
        category: Which of its labels is the person; 1 in COCO.
        min_score: Boxes of a lower score are left out. For average precision give 0.05 or less.
        nms: Largest overlap (IoU) of two persons; null for the detector's own, 0.45 to 0.6.
        max_boxes: How many persons a picture has at most; the best are kept.
        min_size: Pixels that the shorter side of a picture is brought to, the longer one to at most 1.67 times that;
            less is faster and finds fewer small people. Null for the detector's own. SSD's are fixed.
        batch_size: How many pictures are looked at together.
        device: "auto" takes the GPU where there is one.
        cache: Folder in which boxes are kept; null keeps none.

    Raises:
        SettingsError: Where there is no such detector, or a setting makes no sense.
        CheckpointError: Where the file of weights is missing.
    """

    def __init__(
        self,
        name: str = "fasterrcnn_resnet50_fpn_v2",
        weights: str | None = "default",
        category: int = 1,
        min_score: float = 0.3,
        nms: float | None = None,
        max_boxes: int = 100,
        min_size: int | None = None,
        batch_size: int = 1,
        device: str = "auto",
        cache: str | None = DEFAULT_CACHE,
    ) -> None:
        check_selection(min_score, nms, max_boxes)
        _check_name(name)
        if min_size is not None and (name.startswith("ssd") or min_size < 1):
            raise SettingsError(
                f"min_size is {min_size}, but {name} "
                + ("has one size only; leave it out." if name.startswith("ssd") else "needs at least one pixel.")
            )
        if category < (1 if "rcnn" in name or name.startswith("ssd") else 0):
            raise SettingsError(f"category is {category}; {name} counts its classes from 1, 0 is the background.")
        if weights not in (None, "default") and not Path(str(weights)).is_file():
            raise CheckpointError(f"{weights} does not exist; give 'default' or the path of a file of weights.")
        self.name = name
        self.weights = weights
        self.category = category
        self.min_score = min_score
        self.nms = nms
        self.max_boxes = max_boxes
        self.min_size = min_size
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self._network: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """Torchvision's own module, built and filled when it is first asked for.

        Raises:
            CheckpointError: Where the weights cannot be downloaded or read, or do not fit.
        """
        if self._network is None:
            network = self._filled()
            for head in ("mask_head", "keypoint_head"):
                # Masks and keypoints are not asked for, and cost more than the boxes.
                if hasattr(getattr(network, "roi_heads", None), head):
                    setattr(network.roi_heads, head, None)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._network = network.eval().to(device if self.device == "auto" else self.device)
        return self._network

    def detect(self, pictures: Pictures) -> Sequence[tuple[Any, Any]]:
        """Find the persons in some pictures; see ``PersonDetector``.

        Raises:
            CheckpointError: As ``network``.
        """
        network = self.network
        device = next(network.parameters()).device
        images = [torch.from_numpy(np.ascontiguousarray(picture)).to(device) for picture in pictures]
        with torch.inference_mode():
            answers = network([image.permute(2, 0, 1).float() / 255 for image in images])
        return [self._persons(answer) for answer in answers]

    def _persons(self, answer: Mapping[str, Tensor]) -> tuple[Any, Any]:
        person = answer["labels"] == self.category
        found = found_boxes((answer["boxes"][person], answer["scores"][person]), self.name, Path())
        rows = select_boxes(found, self.min_score, None, self.max_boxes)
        return found[0][rows], found[1][rows]

    def fingerprint(self) -> str:
        """Return a text of weights and settings: boxes of two detectors may differ only where it does."""
        import torchvision

        if self.weights is None:
            whose = hashlib.sha256()
            for name, value in self.network.state_dict().items():
                whose.update(name.encode() + value.cpu().numpy().tobytes())
            weights = whose.hexdigest()
        elif self.weights == "default":
            weights = _published(self.name).url
        else:
            with Path(self.weights).open("rb") as file:
                weights = hashlib.file_digest(file, "sha256").hexdigest()
        settings = (self.category, self.min_score, self.nms, self.max_boxes, self.min_size)
        return f"torchvision {torchvision.__version__} {self.name} {weights} {settings}"

    def _built(self, num_classes: int) -> nn.Module:
        from torchvision.models import get_model

        two_stages = "rcnn" in self.name
        prefix = "box_" if two_stages else ""
        options: dict[str, Any] = {
            f"{prefix}score_thresh": self.min_score,
            # Of all classes together, so that other things do not push persons out.
            f"{prefix}detections_per_img": max(self.max_boxes, 100 if two_stages else 300),
        }
        if self.nms is not None:
            options[f"{prefix}nms_thresh"] = self.nms
        if self.min_size is not None:
            options |= {"min_size": self.min_size, "max_size": round(self.min_size * _LONGEST)}
        network: nn.Module = get_model(
            self.name, weights=None, weights_backbone=None, num_classes=num_classes, **options
        )
        if self.weights is not None and self.name in _WITHOUT_EPS:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 0.0
        return network

    def _filled(self) -> nn.Module:
        """Build the network with its weights."""
        if self.weights is None:
            return self._built(max(_COCO_CLASSES, self.category + 1))
        if self.weights == "default":
            state, source = _downloaded(self.name), f"the weights of {self.name}"
        else:
            from lightning_pose_zoo.weights.reading import read_weights

            state, source = read_weights(self.weights).state, self.weights
        network = self._built(_COCO_CLASSES)
        classes = _number_of_classes(state, network.state_dict())
        if classes is None:
            found = ", ".join(list(state)[:3])
            raise CheckpointError(
                f"{source} is no file of {self.name}: nothing in it gives the scores of classes; its entries are "
                f"{found}, ... Give the name of the detector that it was trained as."
            )
        if self.category >= classes:
            raise CheckpointError(
                f"{source} knows {classes} classes, the background among them, so there is no category "
                f"{self.category}; give one of {', '.join(map(str, range(1, min(classes, 10))))}"
                f"{', ...' if classes > 10 else ''}."
            )
        if classes != _COCO_CLASSES:
            network = self._built(classes)
        _fill(network, state, source, self.name)
        return network


def _check_name(name: str) -> None:
    from torchvision.models import detection, list_models

    names = list_models(module=detection)
    if name not in names:
        raise SettingsError(
            f"torchvision has no detector '{name}'; it has {', '.join(names)}. Besides these there is whole_picture, "
            "and a detector of your own by its dotted path."
        )


def _published(name: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(name)["DEFAULT"]


def _downloaded(name: str) -> Mapping[str, Tensor]:
    """Return the weights that torchvision trained, from torch's folder or from the network.

    Raises:
        CheckpointError: Where neither has them.
    """
    published = _published(name)
    try:
        state: Mapping[str, Tensor] = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:
        # Besides errors of the network there are those of the disk, and of a file that was cut off.
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"the weights of {name} are not in '{folder}' and cannot be downloaded from {published.url}: {error}. On a "
            "machine with a network fetch that file, and put it into that folder or name it by weights: FILE."
        ) from error
    return state


def _number_of_classes(state: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes, the background among them, of weights; None where they are of another detector."""
    for name in _SCORES:
        if name in built and name in state:
            per_class = built[name].shape[0] // _COCO_CLASSES
            if state[name].ndim and state[name].shape[0] % per_class == 0:
                return int(state[name].shape[0] // per_class)
    return None


def _fill(network: nn.Module, state: Mapping[str, Tensor], source: str, name: str) -> None:
    own = network.state_dict()
    # Frozen batch norms count no batches, and nothing depends on the count.
    wanted = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [f"{key} is in no {name}" for key in given if key not in wanted]
    problems += [
        f"{key} has the shape {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit {name}: {len(problems)} of its entries differ, such as {'; '.join(problems[:3])}. "
            "Give the name of the detector that it was trained as."
        )
    network.load_state_dict(given, strict=False)
