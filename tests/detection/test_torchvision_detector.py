"""Torchvision's detectors: the same boxes as torchvision itself gives, weights from files, and what is refused."""

from __future__ import annotations

import urllib.error

import numpy as np
import pytest
import torch
from torchvision.models import detection, get_model, get_model_weights, list_models
from torchvision.models._api import WeightsEnum

from lightning_pose_zoo.detection import TorchvisionDetector, detect_pictures
from lightning_pose_zoo.errors import CheckpointError, SettingsError

SMALL = "ssdlite320_mobilenet_v3_large"


def noise(*sizes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


def built(name: str, classes: int, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options).eval()


@pytest.fixture(scope="module")
def of_two_classes(tmp_path_factory) -> str:
    """A file of weights that knows persons and the background alone."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({"model": {f"module.{name}": value for name, value in built(SMALL, 2).state_dict().items()}}, path)
    return str(path)


def expected(model: torch.nn.Module, picture: np.ndarray, category: int) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        [answer] = model([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    person = answer["labels"] == category
    return answer["boxes"][person].numpy(), answer["scores"][person].numpy()


def test_boxes_are_those_of_torchvision(of_two_classes):
    detector = TorchvisionDetector(SMALL, of_two_classes, min_score=0.4, nms=0.3, max_boxes=30, cache=None)
    for picture, found in zip(pictures := noise((90, 120), (200, 60)), detector.detect(pictures), strict=True):
        boxes, scores = expected(built(SMALL, 2, score_thresh=0.4, nms_thresh=0.3), picture, 1)
        assert len(boxes) > 5
        np.testing.assert_allclose(found[0], boxes[:30], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found[1], scores[:30], rtol=1e-6)


def test_the_best_persons_are_kept_among_all_classes(tmp_path):
    name, settings = "fasterrcnn_mobilenet_v3_large_320_fpn", {"min_size": 48, "max_size": 80}
    model = built(name, 4, box_score_thresh=0.2, box_detections_per_img=100, **settings)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    detector = TorchvisionDetector(
        name, str(tmp_path / "mine.pth"), category=3, min_score=0.2, max_boxes=4, min_size=48, cache=None
    )
    [picture] = noise((64, 90))
    boxes, scores = expected(model, picture, 3)
    found = detector.detect([picture])[0]
    assert len(boxes) > 4 == len(found[0])
    best = np.argsort(-scores, kind="stable")[:4]
    np.testing.assert_allclose(found[0], boxes[best], rtol=1e-5, atol=1e-4)


def test_published_weights_are_read_as_torchvision_reads_them(monkeypatch):
    """Torchvision's own builder freezes batch norms and sets their eps to 0 for weights that were trained so."""
    name = "retinanet_resnet50_fpn"
    state = built(name, 91).state_dict()
    state["backbone.body.bn1.running_var"].fill_(1e-5)  # as large as the eps
    frozen = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    asked = []

    def get_state_dict(self, *args, **options):
        asked.append((self.url, options))
        return frozen

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    model = get_model(name, weights="DEFAULT", score_thresh=0.0, min_size=64, max_size=107, topk_candidates=50).eval()
    detector = TorchvisionDetector(name, min_score=0.0, min_size=64, max_boxes=300, cache=None)
    detector.network.topk_candidates = 50
    # Every class is as likely at random; so the most frequent one is taken.
    [picture] = noise((64, 80))
    with torch.no_grad():
        [answer] = model([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    detector.category = int(answer["labels"].mode().values)
    boxes, scores = expected(model, picture, detector.category)
    found = detector.detect([picture])[0]
    assert len(boxes) > 0
    np.testing.assert_allclose(found[0], boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[1], scores, rtol=1e-4)
    assert asked[-1] == (asked[0][0], {"progress": True, "check_hash": True, "weights_only": True})


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn"])
def test_other_detectors_run_from_random_weights(name):
    detector = TorchvisionDetector(name, None, min_score=0.0, min_size=32, cache=None)
    [(boxes, scores)] = detector.detect(noise((40, 30)))
    assert boxes.shape == (len(scores), 4)
    assert len(scores) <= 100
    if name.startswith("mask"):
        assert detector.network.roi_heads.mask_head is None  # nobody asks for masks


def test_every_published_detector_has_weights_that_are_known_by_their_address():
    for name in list_models(module=detection):
        assert get_model_weights(name)["DEFAULT"].url in TorchvisionDetector(name).fingerprint()


def test_the_fingerprint_tells_weights_and_settings_apart(of_two_classes, tmp_path):
    other = tmp_path / "other.pth"
    state = built(SMALL, 2).state_dict()
    state["backbone.features.0.0.0.weight"][0] += 1
    torch.save(state, other)
    kinds = [
        {}, {"weights": str(other)}, {"min_score": 0.4}, {"nms": 0.4}, {"max_boxes": 3}, {"category": 2},
        {"weights": "default"}, {"name": "fcos_resnet50_fpn", "weights": "default"},
        {"name": "fcos_resnet50_fpn", "weights": "default", "min_size": 400},
    ]  # fmt: skip
    prints = [
        TorchvisionDetector(**({"name": SMALL, "weights": of_two_classes} | kind)).fingerprint() for kind in kinds
    ]
    assert len(set(prints)) == len(kinds)
    assert TorchvisionDetector(SMALL, of_two_classes, batch_size=4, device="cpu").fingerprint() == prints[0]
    made = [TorchvisionDetector(SMALL, None) for _ in range(2)]
    assert made[0].fingerprint() == made[0].fingerprint() != made[1].fingerprint()


def test_boxes_are_found_once(of_two_classes, tmp_path, test_data):
    files = sorted((test_data / "mmpose-samples/coco").glob("*.jpg"))[:2]
    options = {"name": SMALL, "weights": of_two_classes, "min_score": 0.4, "max_boxes": 5, "cache": str(tmp_path)}
    first = detect_pictures(files, TorchvisionDetector(**options))
    again = TorchvisionDetector(**options)
    for one, two in zip(first, detect_pictures(files, again), strict=True):
        assert len(one[0])
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert again._network is None  # nothing was even built


def test_without_a_network_the_user_learns_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(CheckpointError) as caught:
        TorchvisionDetector(SMALL, cache=None).detect(noise((20, 20)))
    for part in (get_model_weights(SMALL)["DEFAULT"].url, str(tmp_path / "hub" / "checkpoints"), "weights: FILE"):
        assert part in str(caught.value)


def test_weights_that_do_not_fit_are_refused(of_two_classes, tmp_path):
    with pytest.raises(CheckpointError, match=r"mine\.pth is no file of fasterrcnn_mob"):
        TorchvisionDetector("fasterrcnn_mobilenet_v3_large_fpn", of_two_classes, cache=None).detect(noise((20, 20)))
    with pytest.raises(CheckpointError, match=r"knows 2 classes.*no category 5; give one of 1\."):
        TorchvisionDetector(SMALL, of_two_classes, category=5, cache=None).detect(noise((20, 20)))
    state = built(SMALL, 2).state_dict()
    state["backbone.features.0.0.0.weight"] = torch.zeros(3, 3)
    del state["backbone.features.0.0.1.bias"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth does not fit .*: 3 of its entries differ.*bias is missing"):
        TorchvisionDetector(SMALL, str(tmp_path / "odd.pth"), cache=None).detect(noise((20, 20)))
    (tmp_path / "damaged.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        TorchvisionDetector(SMALL, str(tmp_path / "damaged.pth"), cache=None).detect(noise((20, 20)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "yolo"}, SettingsError, "no detector 'yolo'"),
        ({"weights": "no.pth"}, CheckpointError, "no.pth does not exist"),
        ({"name": SMALL, "min_size": 300}, SettingsError, "one size only"),
        ({"min_size": 0}, SettingsError, "min_size is 0"), ({"max_boxes": 0}, SettingsError, "max_boxes is"),
        ({"category": 0}, SettingsError, "0 is the background"), ({"nms": 2.0}, SettingsError, "nms is"),
        ({"min_score": float("nan")}, SettingsError, "min_score is"),
    ],
)  # fmt: skip
def test_settings_are_checked_before_anything_is_built(options, error, message):
    with pytest.raises(error, match=message):
        TorchvisionDetector(**options)
