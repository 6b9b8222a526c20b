import json

import numpy as np
import pytest
import torch

from lightning_pose_zoo.data.results import picture_rows, read_coco_results, write_coco_results
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.structures import Poses


def random_poses(persons=7, keypoints=5, seed=0, ids=True):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(persons, 2, generator=generator) * 100
    return Poses(
        keypoints=torch.randn(persons, keypoints, 2, generator=generator) * 300,
        keypoint_scores=torch.rand(persons, keypoints, generator=generator),
        scores=torch.rand(persons, generator=generator),
        boxes=torch.cat([low, low + torch.rand(persons, 2, generator=generator) * 50], dim=1),
        image_ids=torch.randint(0, 2**40, (persons,), generator=generator),
        person_ids=torch.arange(persons) + 2**35 if ids else None,
        track_ids=torch.arange(persons) if ids else None,
    )


@pytest.mark.parametrize("ids", [True, False])
def test_results_are_read_back_to_the_last_bit(tmp_path, ids):
    poses = random_poses(ids=ids)
    write_coco_results(tmp_path / "keypoints.json", poses)
    again = read_coco_results(tmp_path / "keypoints.json")
    for name, value in poses.parts().items():
        read = again.parts()[name]
        if value is None:
            assert read is None
        elif name == "boxes":
            around = torch.cat([poses.keypoints.amin(dim=1), poses.keypoints.amax(dim=1)], dim=1)
            assert torch.allclose(read, around, atol=1e-4), "boxes are not written: they are drawn around the keypoints"
        else:
            assert read.dtype == value.dtype
            assert torch.equal(read, value), name


def test_an_entry_is_what_coco_says(tmp_path):
    poses = Poses(
        keypoints=torch.tensor([[[1.5, 2.0], [float("nan"), 4.0], [5.0, 6.0]]]),
        keypoint_scores=torch.tensor([[0.5, 0.9, float("nan")]]),
        scores=torch.tensor([0.75]),
        boxes=torch.tensor([[10.0, 20.0, 40.0, 60.0]]),
        image_ids=torch.tensor([9]),
    )
    write_coco_results(tmp_path / "r.json", poses, category_id=3)
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {
            "image_id": 9,
            "category_id": 3,
            "keypoints": [1.5, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            "score": 0.75,
        }
    ]


def test_a_diverged_network_is_written_as_zeros_and_said(tmp_path):
    poses = random_poses(2)
    poses.keypoints[0] = float("nan")
    poses.scores[0] = float("nan")
    poses.boxes[0] = float("inf")
    with pytest.warns(UserWarning, match="1 of 2 persons"):
        write_coco_results(tmp_path / "r.json", poses)
    again = read_coco_results(tmp_path / "r.json")
    assert again.scores[0] == 0
    assert (again.keypoints[0] == 0).all()
    assert (again.boxes[0] == 0).all()
    assert torch.equal(again.keypoints[1], poses.keypoints[1])


def test_nobody_is_an_empty_list(tmp_path):
    write_coco_results(tmp_path / "r.json", Poses.empty(17))
    assert json.loads((tmp_path / "r.json").read_text()) == []
    assert len(read_coco_results(tmp_path / "r.json")) == 0


def test_pycocotools_reads_what_we_write(tmp_path):
    from pycocotools.coco import COCO

    poses = random_poses(4, 17)
    write_coco_results(tmp_path / "r.json", poses)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": int(image_id)} for image_id in poses.image_ids],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "r.json"))
    for person, image_id in enumerate(poses.image_ids.tolist()):
        (entry,) = results.loadAnns(results.getAnnIds(imgIds=image_id))
        triples = np.array(entry["keypoints"]).reshape(17, 3)
        assert np.array_equal(triples[:, :2].astype(np.float32), poses.keypoints[person].numpy())
        assert np.float32(entry["score"]) == poses.scores[person].numpy()


def test_results_of_other_projects_are_read(test_data):
    """Detections of a published network, as COCO's own example has them."""
    files = [path for path in (test_data / "oracles").rglob("*.json") if "result" in path.name or "pred" in path.name]
    read = 0
    for path in files:
        content = json.loads(path.read_text())
        if isinstance(content, list) and content and "keypoints" in content[0]:
            poses = read_coco_results(path)
            assert len(poses) == len(content)
            assert poses.keypoints[0].flatten().tolist() == pytest.approx(
                [value for index, value in enumerate(content[0]["keypoints"]) if index % 3 < 2]
            )
            read += 1
    assert read > 0


def entry(**changes):
    good = {"image_id": 1, "category_id": 1, "keypoints": [1.0, 2.0, 0.5] * 3, "score": 0.5, "bbox": [0, 0, 5, 5]}
    return {key: value for key, value in {**good, **changes}.items() if value != "absent"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'{"images": [], "annotations": []}', "a file of annotations"),
        (b"[1]", "entry 0: is no mapping"),
        ([entry(), entry(keypoints=[1.0, 2.0])], "entry 1: 'keypoints' .image 1. .* length is 2"),
        ([entry(keypoints=[])], "entry 0: 'keypoints'"),
        ([entry(keypoints="abc")], "entry 0: 'keypoints'"),
        ([entry(keypoints=[1.0, None, 0.5])], "entry 0: 'keypoints'"),
        ([entry(keypoints=[1.0, float("nan"), 0.5])], "entry 0: 'keypoints'"),
        ([entry(keypoints=[10**400, 1, 0.5])], "entry 0: 'keypoints'"),
        ([entry(), entry(keypoints=[0.0] * 51)], "differ in their number of keypoints: 3, 17"),
        ([entry(bbox=[1, 2, 3])], "'bbox'"),
        ([entry(score="high")], "'score'"),
        ([entry(score="absent")], "'score' is missing"),
        ([entry(image_id="absent")], "'image_id' is missing"),
        ([entry(image_id="a.jpg")], "'image_id' is a.jpg"),
        ([entry(image_id=10**30)], "'image_id' is 1000"),
        ([entry(person_id=1.5)], "'person_id' is 1.5"),
    ],
)
def test_wrong_files_are_refused_with_the_file_and_the_entry(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DatasetError, match=message) as caught:
        read_coco_results(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.json' does not exist"):
        read_coco_results(tmp_path / "nowhere.json")


def test_a_missing_box_is_drawn_around_the_keypoints(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps([entry(bbox="absent", keypoints=[3.0, 8.0, 1.0, 5.0, 2.0, 1.0])]))
    assert read_coco_results(path).boxes.tolist() == [[3.0, 2.0, 5.0, 8.0]]


def predicted(*image_ids):
    poses = random_poses(len(image_ids))
    poses.image_ids = torch.tensor(image_ids, dtype=torch.int64)
    return poses


def test_persons_are_found_back_in_the_rows_of_their_batch():
    images = torch.zeros(3, 3, 4, 4)
    crops_of_one_picture = {"image": images, "image_id": torch.tensor([5, 5, 6])}
    assert picture_rows(crops_of_one_picture, predicted(5, 5, 6)).tolist() == [0, 1, 2]
    pictures = {"image": images, "image_id": torch.tensor([7, 5, 6])}
    assert picture_rows(pictures, predicted(6, 7, 6)).tolist() == [2, 0, 2]
    assert picture_rows(pictures, predicted(6, 6)).tolist() == [2, 2]
    assert picture_rows(pictures, Poses.empty(5)).tolist() == []
    assert picture_rows({"image": images}, predicted(0, 1, 2)).tolist() == [0, 1, 2]
    with pytest.raises(DatasetError, match="no 'image_id'"):
        picture_rows({"image": images}, predicted(0, 1))
    with pytest.raises(DatasetError, match=r"pictures \[8\]"):
        picture_rows(pictures, predicted(5, 8))
