"""Bad data sets: one error before training starts, which names the file, the annotation and the remedy."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_pose_zoo.data.checks import safe_name
from lightning_pose_zoo.data.coco_files import read_coco
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import Skeleton

FIVE = Skeleton.from_names("five", ["nose", "left_hand", "right_hand", "left_foot", "right_foot"])


def change_keypoints(position, value):
    def change(annotation):
        annotation["keypoints"][position] = value

    return change


ANNOTATION_CASES = {
    "14 values": lambda annotation: annotation["keypoints"].pop(),
    "15 numbers": lambda annotation: annotation.update(keypoints=None),
    "no list of 15 numbers": change_keypoints(0, "12"),
    "no list of 15 numbers (": change_keypoints(3, True),
    "not finite": change_keypoints(0, float("nan")),
    "a coordinate is not finite": change_keypoints(1, float("inf")),
    "coordinate is not finite": change_keypoints(1, 10**400),
    "beyond 1000000 pixels": change_keypoints(4, 1e30),
    "visibility is none of 0, 1, 2": change_keypoints(2, 3),
    "visibility is none of": change_keypoints(2, 0.5),
    "negative side": lambda annotation: annotation.update(bbox=[10, 10, -5, 5]),
    "bbox is no list of 4 numbers": lambda annotation: annotation.update(bbox=[10, 10, 5]),
    "bbox is no list": lambda annotation: annotation.pop("bbox"),
    "finite": lambda annotation: annotation.update(bbox=[10, float("nan"), 5, 5]),
    "area is no positive number": lambda annotation: annotation.update(area=-1),
    "area is no": lambda annotation: annotation.update(area=float("nan")),
    "area": lambda annotation: annotation.update(area="3"),
    "iscrowd": lambda annotation: annotation.update(iscrowd=2),
    "unknown picture: 99": lambda annotation: annotation.update(image_id=99),
    "unknown picture: [10]": lambda annotation: annotation.update(image_id=[10]),
    "unknown category: 5": lambda annotation: annotation.update(category_id=5),
    "unknown category: {}": lambda annotation: annotation.update(category_id={}),
}


@pytest.mark.parametrize("reason", ANNOTATION_CASES)
def test_a_bad_annotation_is_named(small_coco, reason):
    ANNOTATION_CASES[reason](small_coco.content["annotations"][2])
    with pytest.raises(DatasetError) as caught:
        small_coco.module().setup("fit")
    message = str(caught.value)
    assert "annotations.json: 1 problem" in message
    assert "annotation 102: " in message
    assert reason in message
    assert "on_bad: skip" in message


@pytest.mark.parametrize("reason", ANNOTATION_CASES)
def test_a_bad_annotation_is_skipped_when_asked(small_coco, reason):
    ANNOTATION_CASES[reason](small_coco.content["annotations"][2])
    data = small_coco.module(on_bad="skip")
    with pytest.warns(UserWarning, match=r"annotations\.json: left out is what has one of 1 problems: 1 x "):
        data.setup("fit")
    assert data.datasets["train"].table.person_ids.tolist() == [100, 101, 103, 104, 105]


def test_all_problems_are_told_at_once(small_coco):
    entries = small_coco.content["annotations"]
    entries[0]["keypoints"][0] = None
    entries[1]["bbox"] = [1, 2, -3, 4]
    entries[2]["image_id"] = 7
    entries[3]["id"] = 104
    del entries[5]["id"]
    with pytest.raises(DatasetError) as caught:
        small_coco.module().setup("fit")
    message = str(caught.value)
    assert "annotations.json: 5 problems" in message
    for part in (
        "annotation 100: ",
        "annotation 101: ",
        "annotation 102: ",
        "annotation 104: the id is given twice",
        "entry 5",
    ):
        assert part in message


def test_many_problems_are_counted(small_coco):
    small_coco.content["annotations"] = [
        {**copy.deepcopy(small_coco.content["annotations"][0]), "id": number, "area": -1} for number in range(1, 301)
    ]
    with pytest.raises(DatasetError) as caught:
        small_coco.module().setup("fit")
    assert "300 problems" in str(caught.value)
    assert "and 280 more" in str(caught.value)
    assert len(str(caught.value)) < 4000


FILE_CASES = {
    "picture 10: the id is given twice": lambda content: content["images"].append(dict(content["images"][0])),
    "entry 1 of 'images' has no integer id": lambda content: content["images"][1].update(id="11"),
    "picture 11: the file_name '../x.png'": lambda content: content["images"][1].update(file_name="../x.png"),
    "picture 11: the file_name None": lambda content: content["images"][1].pop("file_name"),
    "needs exactly one category 'person'": lambda content: content["categories"][0].update(name="dog"),
    "its categories are: none": lambda content: content["categories"].clear(),
    "no usable annotation": lambda content: content["annotations"].clear(),
    "lacks the lists images": lambda content: content.pop("images"),
    "lacks the lists annotations, categories": lambda content: content.update(annotations={}, categories=None),
}


@pytest.mark.parametrize("reason", FILE_CASES)
def test_a_bad_file_is_refused_even_where_annotations_may_be_skipped(small_coco, reason):
    FILE_CASES[reason](small_coco.content)
    for policy in ("refuse", "skip"):
        with pytest.raises(DatasetError) as caught:
            small_coco.module(on_bad=policy, skeleton=FIVE).setup("fit")
        assert "annotations.json" in str(caught.value)
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1, column 1"),
        (b'{"images": [],\n "annotations": [}', "line 2, column 18"),
        (b"[]", "lacks the lists"),
        (b"\x1f\x8b\x08\x00garbage", "cannot be read"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": 1e5}', "lacks the lists"),
        (b'{"images": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_broken_json_is_refused_with_its_place(small_coco, content, reason):
    data = small_coco.module(skeleton=FIVE)
    (small_coco.root / "annotations.json").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        data.setup("fit")
    assert "annotations.json" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_of_json_are_read(small_coco, encoding):
    data = small_coco.module()
    (small_coco.root / "annotations.json").write_text(json.dumps(small_coco.content), encoding=encoding)
    data.setup("fit")
    assert len(data.datasets["train"]) == 6


def test_missing_files_and_folders(small_coco):
    with pytest.raises(DatasetError, match=r"nowhere\.json' does not exist"):
        small_coco.module(train_annotations="nowhere.json", skeleton=FIVE).setup("fit")
    with pytest.raises(DatasetError, match=r"the folder of its pictures, '.*nowhere', does not exist"):
        small_coco.module(train_images="nowhere").setup("fit")


def test_missing_and_broken_pictures_are_listed_at_once(small_coco):
    (small_coco.root / "images/picture1.png").unlink()
    (small_coco.root / "images/picture3.png").write_text("no picture")
    Image.new("RGB", (100, 120)).save(small_coco.root / "images/picture4.png")
    with pytest.raises(DatasetError) as caught:
        small_coco.module().setup("fit")
    message = str(caught.value)
    assert "3 problems" in message
    assert "annotation 101: missing picture: 'picture1.png'" in message
    assert "annotation 103: unreadable picture: " in message
    assert (
        "annotation 104: picture of another size: 'picture4.png' is annotated with 120 x 100 pixels, but has 100 x 120"
        in message
    )
    with pytest.warns(UserWarning, match="3 problems"):
        kept = small_coco.module(on_bad="skip").table("train")
    assert kept.person_ids.tolist() == [100, 102, 105]


def test_pictures_that_nobody_is_in_need_not_be_there(small_coco):
    (small_coco.root / "images/picture1.png").unlink()
    small_coco.content["annotations"].pop(1)
    small_coco.module().setup("fit")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_among_the_pictures_is_not_waited_for(small_coco):
    (small_coco.root / "images/picture1.png").unlink()
    os.mkfifo(small_coco.root / "images/picture1.png")
    start = time.monotonic()
    with pytest.raises(DatasetError, match="special file"):
        small_coco.module().setup("fit")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "name",
    [
        "../x.jpg",
        "/etc/passwd",
        "a/../../x.jpg",
        "a\0.jpg",
        "C:\\x.jpg",
        "C:x.jpg",
        "\\\\host\\share\\x.jpg",
        "",
        ".",
        "a\\..\\x",
    ],
)
def test_names_that_point_out_of_the_folder(small_coco, name):
    assert safe_name(name) is None
    small_coco.content["images"][0]["file_name"] = name
    with pytest.raises(DatasetError, match="picture 10: the file_name"):
        small_coco.module().setup("fit")


def test_names_are_taken_literally():
    assert safe_name("a/b c/%2e%2e/d.jpg") == "a/b c/%2e%2e/d.jpg"
    assert safe_name("a\\b.jpg") == "a/b.jpg"
    assert safe_name("./a..b.jpg") == "a..b.jpg"


@pytest.mark.parametrize("name", ["写真.png", "a b.png", "sub/deep/a.png", "é.png", "x" * 300 + ".png", "\ud800.png"])
def test_unusual_names_load_or_are_refused(small_coco, name):
    with contextlib.suppress(OSError, UnicodeError):
        (small_coco.root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (small_coco.root / "images/picture0.png").rename(small_coco.root / "images" / name)
    small_coco.content["images"][0]["file_name"] = name
    try:
        present = (small_coco.root / "images" / name).exists()
    except (OSError, UnicodeError):
        present = False
    with contextlib.nullcontext() if present else pytest.raises(DatasetError, match="missing picture"):
        small_coco.module().setup("fit")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "bbox", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACES = st.tuples(
    st.sampled_from(["images", "annotations", "categories"]),
    st.integers(0, 5),
    st.sampled_from(
        ["id", "image_id", "category_id", "keypoints", "bbox", "area", "iscrowd", "file_name", "width", "height",
         "name", "num_keypoints", "skeleton"]
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(PLACES, JSON), min_size=1, max_size=3),
    inner=st.booleans(),
    policy=st.sampled_from(["refuse", "skip"]),
)
def test_random_damage_gives_a_data_set_or_one_kind_of_error(small_coco, changes, inner, policy):
    content = copy.deepcopy(small_coco.content)
    for (key, position, field), value in changes:
        entry = content[key][position % len(content[key])]
        if inner and isinstance(entry.get(field), list) and entry[field]:
            entry[field][position % len(entry[field])] = value
        else:
            entry[field] = value
    path = small_coco.root / "damaged.json"
    path.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = read_coco(path, small_coco.root / "images", FIVE, None, policy)
        except DatasetError:
            return
    assert 0 < len(table) <= 6
    assert (table.visibility <= 2).all()
    assert abs(table.keypoints).max() <= 1e6
    assert len(set(table.person_ids.tolist())) == len(table)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON)
def test_any_json_is_refused(small_coco, content):
    path = small_coco.root / "any.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"any\.json"):
        read_coco(path, small_coco.root / "images", FIVE)


def test_annotations_are_columns(small_coco):
    """No list of dicts stays behind: a worker that counts references to one would copy hundreds of megabytes."""
    template = small_coco.content["annotations"][0]
    small_coco.content["annotations"] = [{**template, "id": number} for number in range(20_000)]
    start = time.process_time()
    data = small_coco.module()
    data.setup("fit")
    assert time.process_time() - start < 20
    table = data.datasets["train"].table
    assert len(table) == 20_000
    columns = vars(table).values()
    assert not any(isinstance(column, (list, dict)) for column in columns)
    assert sum(column.nbytes for column in columns if hasattr(column, "nbytes")) < 20_000 * 200


def _nothing(small):
    """Leave the files as they are; the command line is what is wrong."""


def _empty(small):
    small.content["annotations"] = []


def _no_picture(small):
    (small.root / "images/picture3.png").write_text("no picture")


CLI_CASES = {
    "missing image folder": (_nothing, ["--data.train_images=nowhere"], ["nowhere", "does not exist"]),
    "broken JSON": (_nothing, ["--data.train_annotations=broken.json"], ["broken.json", "line 1"]),
    "wrong keypoint count": (
        lambda small: small.content["annotations"][2]["keypoints"].pop(),
        [],
        ["annotations.json", "102", "14 values"],
    ),
    "no picture": (_no_picture, [], ["annotation 103", "picture3.png"]),
    "empty training set": (_empty, [], ["annotations.json"]),
    "unknown skeleton": (_nothing, ["--data.skeleton=coco71"], ["coco71", "Did you mean 'coco17'"]),
}


@pytest.mark.parametrize("case", CLI_CASES)
def test_the_command_line_says_it_in_one_message(small_coco, capsys, case):
    """Before training starts, naming file and annotation, without a traceback, and leaving the data as it was."""
    from lightning_pose_zoo.cli import main

    damage, arguments, expected = CLI_CASES[case]
    damage(small_coco)
    small_coco.write()
    (small_coco.root / "broken.json").write_text('{"images": [')
    before = {path: path.read_bytes() for path in small_coco.root.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "fit", "--model=SimpleBaseline", "--model.backbone=resnet18", "--data=COCOKeypoints",
                f"--data.root={small_coco.root}", "--data.train_annotations=annotations.json",
                "--data.train_images=images", "--data.val_annotations=annotations.json", "--data.val_images=images",
                "--data.skeleton=null", "--data.image_size=[64, 64]", "--data.num_workers=0",
                "--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false",
                f"--trainer.default_root_dir={small_coco.root / 'run'}", *arguments,
            ]
        )  # fmt: skip
    # Only the last words are ours: log handlers of earlier tests may complain of their closed streams before.
    error = capsys.readouterr().err.rpartition("Error: ")[2]
    assert stop.value.code == 1
    assert "Traceback" not in error
    for words in expected:
        assert words in error
    assert {path: path.read_bytes() for path in before} == before
    assert not (small_coco.root / "run" / "checkpoints").exists()
