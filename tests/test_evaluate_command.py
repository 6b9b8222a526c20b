"""``pose-zoo evaluate`` on files of known content."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from lightning_pose_zoo.cli import main
from lightning_pose_zoo.metrics import evaluate_coco
from lightning_pose_zoo.skeletons import get_skeleton

COCO = get_skeleton("coco17")


def _files(folder, change=None):
    """Write ten images of two persons and predictions that are a little off; ``change`` spoils both."""
    rng = np.random.default_rng(0)
    images = [{"id": n, "width": 900 + n, "height": 500 + n} for n in range(10)]
    annotations, results = [], []
    for number in range(20):
        points = rng.uniform(0, 200, (17, 2)) * [1, 1.5] + [50 + 350 * (number % 2), 60]
        low, size = points.min(axis=0), np.ptp(points, axis=0)
        annotations.append({
            "id": number, "image_id": number // 2, "category_id": 1, "bbox": [*low, *size], "iscrowd": 0,
            "area": 0.5 * size[0] * size[1], "num_keypoints": 17,
            "keypoints": np.concatenate([points, np.full((17, 1), 2)], axis=1).ravel().tolist(),
        })  # fmt: skip
        points = points + rng.normal(0, 3, points.shape)
        results.append({
            "image_id": number // 2, "category_id": 1, "score": float(rng.random()),
            "keypoints": np.concatenate([points, np.ones((17, 1))], axis=1).ravel().tolist(),
        })  # fmt: skip
    content = {
        "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.names)}],
    }  # fmt: skip
    if change is not None:
        content, results = change(content, results)
    paths = folder / "truth.json", folder / "results.json"
    for path, what in zip(paths, (content, results), strict=True):
        path.write_text(json.dumps(what))
    return paths


def _run(paths, out=None, *more):
    main([
        "evaluate", "--annotations", str(paths[0]), "--results", str(paths[1]),
        *(["--out", str(out)] if out else []), *more,
    ])  # fmt: skip
    return json.loads((out / "evaluation.json").read_text()) if out else None


def _moved(function):
    """Return a change of every prediction's keypoints (17, 2) by a function of them and the image's entry."""

    def change(content, results):
        sizes = {image["id"]: np.array([image["width"], image["height"]]) for image in content["images"]}
        for result in results:
            points = np.array(result["keypoints"]).reshape(17, 3)
            points[:, :2] = function(points[:, :2], sizes[result["image_id"]])
            result["keypoints"] = points.ravel().tolist()
        return content, results

    return change


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom lightning_pose_zoo.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['evaluate', '--help'])\n"
        "heavy = {'torch', 'lightning', 'numpy', 'cv2'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--annotations" in done.stdout
    assert "hotcoco" in done.stdout


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("coco_litehrnet", "coco_litehrnet"), ("coco_xtcocoapi_4img", "coco_xtcoco"),
        ("coco_val2017_seeded", "coco_val2017_seeded"), ("crowdpose_seeded", "crowdpose_seeded"),
    ],
)  # fmt: skip
def test_reproduces_the_references(test_data, tmp_path, capsys, name, folder):
    oracles = test_data / "oracles"
    expected = json.loads((oracles / "expected.json").read_text())[name]["expected"]
    report = _run((oracles / folder / "gt.json", oracles / folder / "results.json"), tmp_path)
    printed = capsys.readouterr().out
    for key, wanted in expected.items():
        scores = report["scores"]
        value = scores[key.replace("Pm", "P_M").replace("Rm", "R_M").replace("Pl", "P_L").replace("Rl", "R_L")]
        assert value == pytest.approx(wanted, abs=5.1e-5 if key.startswith("AP_") else 1e-9)
        assert f"{value:.4f}" in printed
    assert report["diagnosis"]["1"]["AP"] == pytest.approx(expected["AP"], abs=1e-9)
    assert not report["hints"]
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000


def test_counts_and_keypoints_are_told(tmp_path, capsys):
    def change(content, results):
        annotations = content["annotations"]
        annotations[4] |= {"keypoints": [0] * 51, "num_keypoints": 0}
        annotations[5] |= {"keypoints": [0] * 51, "num_keypoints": 0, "iscrowd": 1}
        far = [dict(results[0], score=0.0, keypoints=[5000.0] * 51) for _ in range(25)]
        del results[-1]
        return content, results + far

    paths = _files(tmp_path, change)
    report = _run(paths, tmp_path / "out")
    assert report["counts"] == {
        "images": 10, "persons": 18, "ignored": 1, "crowds": 1, "detections": 44, "images_with_detections": 10,
        "most_per_image": 20, "dropped": 7,
    }  # fmt: skip
    assert report["scores"] == evaluate_coco(*paths)
    assert report["sigmas_from"] == "skeleton 'coco17', by the names of the category's keypoints"
    content, results = (json.loads(path.read_text()) for path in paths)
    right = total = 0
    shoulder, hip = COCO.torso[0]
    for person, result in zip(content["annotations"][:-1], results, strict=False):  # predictions stand in their order
        truth, found = (np.array(one["keypoints"]).reshape(17, 3)[:, :2] for one in (person, result))
        if person["num_keypoints"]:
            limit = 0.1 * np.linalg.norm(truth[shoulder] - truth[hip])
            right += (np.linalg.norm(found - truth, axis=1) <= limit).sum()
            total += 17
    total += 17  # nobody was predicted for the last person
    assert report["PCK"]["normalizer"] == "torso"
    assert report["PCK"]["keypoints"]["all"]["labelled"] == total
    assert report["PCK"]["keypoints"]["all"]["PCK@0.1"] == pytest.approx(right / total)
    assert report["diagnosis"]["1"]["count/missed_person"] == 1
    assert report["diagnosis"]["1"]["count/background"] == 18  # two of the best 20 of the first image are persons
    printed = capsys.readouterr().out
    assert "18 persons count; ignored are 1 without a labelled keypoint and 1 crowds" in printed
    assert "7 beyond the best 20" in printed
    assert "joined one to one, the highest OKS first" in printed


def test_several_categories_are_diagnosed_apart(tmp_path):
    def change(content, results):
        content["categories"].append({"id": 2, "name": "other", "keypoints": list(COCO.names)})
        for entry in [*content["annotations"][10:], *results[10:]]:
            entry["category_id"] = 2
        return content, results

    report = _run(_files(tmp_path, change), tmp_path / "out")
    assert report["diagnosis"].keys() == {"1", "2"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.json", "diagnosis_1.png", "diagnosis_2.png",
    }  # fmt: skip


def test_the_box_stands_in_for_a_torso_and_uniform_sigmas_are_said_aloud(tmp_path, capsys):
    def change(content, results):
        content["categories"][0]["keypoints"] = [f"part_{n}" for n in range(17)]
        return content, results

    _run(_files(tmp_path, change))
    printed = capsys.readouterr().out
    assert "PCK by the box" in printed
    assert "sigmas       a uniform default of 0.05" in printed
    assert "warning      the names of the keypoints tell no sigmas" in printed


def _order(content, results):
    return _moved(lambda points, _: points[np.random.default_rng(3).permutation(17)])(content, results)


def _areas_of_0(content, results):
    return content | {"annotations": [person | {"area": 0} for person in content["annotations"]]}, results


def _unlabelled(content, results):
    nothing = {"keypoints": [0] * 51, "num_keypoints": 0}
    return content | {"annotations": [person | nothing for person in content["annotations"]]}, results


def _nobody(content, results):
    return content | {"annotations": []}, results


def _nothing(content, results):
    return content, []


def _mapping(content, results):
    return content, {"results": results}


def _other_category(content, results):
    categories = [content["categories"][0], content["categories"][0] | {"id": 2}]
    return content | {"categories": categories}, [result | {"category_id": 2} for result in results]


def _empty_image(content, results):
    return content | {"images": [*content["images"], {"id": 99}]}, [result | {"image_id": 99} for result in results]


@pytest.mark.parametrize(
    ("change", "ap", "message"),
    [
        (_moved(lambda points, _: points[:, ::-1]), 0, "x and y are exchanged. With that undone AP50 is 1.000"),
        (_moved(lambda points, size: points / size), 0, "fractions of the image's width and height"),
        (_moved(lambda points, _: points[COCO.flip_permutation]), 0, "left and right keypoints are exchanged"),
        (_moved(lambda points, _: points + 4000), 0, "times the longer side of the person's box"),
        (_order, 0, "another order; the results seem to have"),
        (_areas_of_0, 0, "areas of 0 leave no tolerance. With that undone AP50 is 1.000"),
        (_unlabelled, -1, "none of the 20 annotated persons counts"),
        (_nobody, -1, "no person is annotated"),
        (_nothing, 0, "holds no detection"),
        (_other_category, 0, "category ids differ: all results are of category [2]"),
        (_empty_image, 0, "no result is in an image where somebody is annotated"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_is_told_why_ap_is_0(tmp_path, capsys, change, ap, message):
    paths = _files(tmp_path, change)
    _run(paths)
    printed = capsys.readouterr().out
    assert evaluate_coco(*paths)["AP"] == pytest.approx(ap, abs=0.01)
    assert "why AP is" in printed
    assert message in printed.partition("why AP is")[2]


def test_the_order_of_the_keypoints_is_named(tmp_path, capsys):
    _run(_files(tmp_path, _order))
    order = np.random.default_rng(3).permutation(17)
    assert ", ".join(COCO.names[n] for n in order) in capsys.readouterr().out


def test_good_results_need_no_explanation(tmp_path, capsys):
    _run(_files(tmp_path))
    assert "why AP" not in capsys.readouterr().out


def _nan(content, results):
    results[3]["keypoints"][4] = float("nan")
    return content, results


def _other_images(content, results):
    return content, [result | {"image_id": result["image_id"] + 50} for result in results]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, "result 3: keypoints is NaN"),
        (_other_images, "no image_id of the results is in the annotations"),
        (_mapping, "list"),
    ],
)
def test_bad_files_end_in_one_clear_message(tmp_path, capsys, change, message):
    with pytest.raises(SystemExit) as stop:
        _run(_files(tmp_path, change))
    assert stop.value.code == 1
    error = capsys.readouterr().err.rpartition("Error: ")[2]
    assert message in error
    assert "results.json" in error
    assert "Traceback" not in error


def test_wrong_options_are_named(tmp_path, capsys):
    paths = _files(tmp_path)
    with pytest.raises(SystemExit) as stop:
        _run(paths, None, "--skeletn", "coco17")
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--annotations", str(paths[0])])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        _run(paths, None, "--skeleton", "coco71")
    assert stop.value.code == 1
    assert "coco17" in capsys.readouterr().err


def test_the_backends_agree(tmp_path, capsys):
    pytest.importorskip("hotcoco")
    paths = _files(tmp_path)
    _run(paths, None, "--backend", "hotcoco")
    by_hotcoco = capsys.readouterr().out
    _run(paths)
    assert capsys.readouterr().out == by_hotcoco
