"""Exported methods for whole pictures: maps and candidates are the method's, and persons come out of them outside."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from perfect_fields import perfect_fields
from torch import nn

from lightning_pose_zoo.association.candidates import find_candidates, top_candidates
from lightning_pose_zoo.association.exported import persons_from_costs, persons_from_links
from lightning_pose_zoo.association.line_integrals import limb_scores, line_integrals
from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.association.part_pairs import partition_problem
from lightning_pose_zoo.cli import main
from lightning_pose_zoo.codecs import PartFieldCodec
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.export import DESCRIPTION, export_onnx, export_program
from lightning_pose_zoo.export_checks import PictureCheck
from lightning_pose_zoo.methods import DeepCut, OpenPose
from lightning_pose_zoo.methods.base import PoseModule

SIZE = (60, 84)  # no multiples of the stride
OPENPOSE = {"variant": "v2_bn", "stages": (1, 1), "channels": 8, "backbone": "resnet10t"}
DEEPCUT = {"backbone": "resnet10t", "same_part_distance": 14.0, "time_limit": 2.0}


def pictures(count=2, size=SIZE):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def openpose(skeleton="lsp14", **arguments):
    """A method whose maps are loud enough that there are candidates and limbs."""
    torch.manual_seed(0)
    method = OpenPose(skeleton, **OPENPOSE, **arguments).eval()
    nn.init.normal_(method.network.maps[-1].head.weight, std=1.2)
    nn.init.normal_(method.network.fields[-1].head.weight, std=12.0)
    return method


def deepcut(**arguments):
    torch.manual_seed(0)
    codec = PartFieldCodec(radius=9.0, threshold=0.68, most=3)
    method = DeepCut("lsp14", codec=codec, **DEEPCUT, **arguments).eval()
    for head in (method.network.scores, method.network.offsets, method.network.toward):
        nn.init.normal_(head.deep_weight, std=0.1)
    nn.init.zeros_(method.network.scores.bias)
    return method


def batch_of(images):
    return {"image": images, "image_id": torch.arange(len(images))}


def assert_same_persons(found, poses, row):
    """Compare plain persons of one picture with the poses of a method, in whatever order."""
    expected = poses[poses.image_ids == row]
    assert len(found) == len(expected)
    rows = sorted(range(len(found)), key=lambda n: -found[n].score)
    scores = torch.tensor([found[n].score for n in rows])
    torch.testing.assert_close(scores, expected.scores.sort(descending=True).values, rtol=1e-4, atol=1e-5)
    for person in found:
        points, heights = torch.tensor(person.keypoints), torch.tensor(person.keypoint_scores)
        off = (expected.keypoints - points).abs().amax(dim=(1, 2)) + (expected.keypoint_scores - heights).abs().amax(1)
        assert off.min() < 5e-3


def test_openpose_as_onnx(tmp_path):
    ort, *_ = (pytest.importorskip(name) for name in ("onnxruntime", "onnx", "onnxscript"))
    method, images = openpose(grouping=PartGrouping(min_parts=2)), pictures()
    assert export_onnx(method, tmp_path / "model.onnx", SIZE) <= 1e-3
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    assert described["outputs"] == [output.name for output in session.get_outputs()]
    assert described["outputs"] == ["part_maps", "fields", "places", "scores", "links"]
    how = described["association"]
    maps, *candidates = session.run(["part_maps", "places", "scores", "links"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(maps), method(images)[0], rtol=1e-3, atol=1e-4)
        poses = method.estimate(batch_of(images))
    assert len(poses) > 1
    for row in range(2):
        places, scores, links = (part[row] for part in candidates)
        persons = persons_from_links(places, scores, links, how["limbs"], how["keypoint_parts"], how["min_parts"])
        assert_same_persons(persons, poses, row)


def test_deepcut_as_a_program_from_the_command_line(tmp_path, capsys):
    method, images = deepcut(), pictures(3)
    checkpoint = {"state_dict": method.state_dict(), "hyper_parameters": dict(method.hparams), "image_size": [60, 84]}
    checkpoint["hyper_parameters"]["codec"] = {
        "class_path": "lightning_pose_zoo.codecs.PartFieldCodec",
        "init_args": {"radius": 9.0, "threshold": 0.68, "most": 3},
    }
    method.on_save_checkpoint(checkpoint)
    torch.save(checkpoint | {"image_size": [60, 84]}, tmp_path / "run.ckpt")
    words = ["--ckpt_path", str(tmp_path / "run.ckpt"), "--format", "program", "--out", str(tmp_path / "model.pt2")]
    main(["export", *words])
    assert "DeepCut, 14 keypoints (lsp14), pictures of 60x84" in capsys.readouterr().out
    extra = {DESCRIPTION: ""}
    run = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    described = json.loads(extra[DESCRIPTION])
    assert described["outputs"] == ["part_maps", "offsets", "toward", "places", "scores", "costs"]
    outputs = dict(zip(described["outputs"], run(images), strict=True))
    with torch.no_grad():
        expected = method(images)
        poses = method.estimate(batch_of(images))
    for name, ours in zip(("part_maps", "offsets", "toward"), expected, strict=True):
        torch.testing.assert_close(outputs[name], ours, rtol=1e-3, atol=1e-3)
    assert [solved.status for solved in method.partitions] == ["optimal"] * 3
    assert len(poses) > 3
    for row in range(3):
        candidates = (outputs[name][row] for name in ("places", "scores", "costs"))
        assert_same_persons(persons_from_costs(*candidates, **described["association"]), poses, row)


def people(count, joints, seed=0):
    random = torch.Generator().manual_seed(seed)
    figure = 14 * torch.randn(joints, 2, generator=random)
    middles = torch.tensor([(60.0 + 70 * (n % 10), 60.0 + 70 * (n // 10)) for n in range(count)]).view(-1, 1, 2)
    return middles + figure + 2 * torch.randn(count, joints, 2, generator=random)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_openposes_persons_from_maps(count, noise):
    method = OpenPose("lsp14", **OPENPOSE, grouping=PartGrouping(min_parts=1 if count == 12 else 3))
    places = people(count, 14)
    parts, seen = method.parts.from_keypoints(places, torch.full((count, 14), 2))
    rows = torch.zeros(count, dtype=torch.int64)
    fields, maps = method.codec.encode(parts, seen, rows, method.limbs, 1, (232, 800))
    random = torch.Generator().manual_seed(1)
    maps, fields = (part + noise * torch.randn(part.shape, generator=random) for part in (maps, fields))
    method.forward = lambda _: (maps, fields)
    graph = method.graph()
    found, scores, links = (part[0] for part in graph.decoded(maps, fields))
    how = graph.association()
    poses = method.estimate(batch_of(torch.zeros(1, 3, 232, 800, dtype=torch.uint8)))
    assert count <= len(poses) <= max(1, 3 * count)
    for convert in (lambda part: part, lambda part: part.tolist(), lambda part: part.numpy()):
        candidates = (convert(part) for part in (found, scores, links))
        persons = persons_from_links(*candidates, how["limbs"], how["keypoint_parts"], how["min_parts"])
        assert_same_persons(persons, poses, 0)
    assert [person.score for person in persons] == sorted((person.score for person in persons), reverse=True)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("count", [0, 1, 6])
def test_deepcuts_persons_from_fields(count, single):
    codec = PartFieldCodec(spacing=4.0, most=8)
    method = DeepCut("lsp14", **DEEPCUT, codec=codec, single_person=single)
    places = people(count, 14)
    batch = {
        "image": torch.zeros(1, 3, 160, 480, dtype=torch.uint8),
        "keypoints": places,
        "visibility": torch.full((count, 14), 2),
        "image_index": torch.zeros(count, dtype=torch.int64),
    }
    fields = perfect_fields(codec, batch)
    with torch.no_grad():
        found, scores, costs = (part[0] for part in method.graph().decoded(*fields))
    here = codec.candidates(*fields)
    problem = partition_problem(here, method.network.pairs, 8, 14.0, single)
    assert int((scores > 0).sum()) == len(here.parts)
    rows = (scores > 0).flatten()
    torch.testing.assert_close(costs[rows][:, rows].double(), torch.from_numpy(problem.pairwise), rtol=1e-5, atol=1e-4)
    persons = persons_from_costs(found, scores, costs, **method.graph().association())
    if single:
        assert len(persons) == min(count, 1)
    else:
        poses = method.poses_from_fields(fields, batch)
        assert_same_persons(persons, poses, 0)
        assert len(persons) == count
    # The heuristic's.
    assert len(persons_from_costs(found.tolist(), scores.tolist(), costs.tolist(), 0, single)) == len(persons)


@pytest.mark.parametrize("hidden", [0.3, 2.0])
def test_candidates_of_fixed_number_are_the_others(hidden):
    maps = torch.rand(2, 3, 20, 27, generator=torch.Generator().manual_seed(0)) ** 6
    cells, scores = top_candidates(maps, hidden=hidden, most=200)
    rows, parts, places = (scores > 0).nonzero(as_tuple=True)
    found = find_candidates(maps, hidden=hidden, most=200)

    def table(rows, parts, cells, scores):
        columns = torch.cat([torch.stack([rows, parts], dim=1).float(), cells, scores[:, None]], dim=1)
        return sorted(columns.tolist())

    mine = table(rows, parts, cells[rows, parts, places], scores[rows, parts, places])
    assert len(mine) > 200
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(table(*found)))
    few = top_candidates(maps, hidden=2.0, most=5)[1]
    assert (few > 0).all()
    assert (few[..., 1:] <= few[..., :-1]).all()
    assert top_candidates(maps[..., :2, :2], most=9)[1].shape == (2, 3, 4)
    assert not top_candidates(torch.zeros(1, 2, 9, 9))[1].any()


def test_limbs_scores_are_the_line_integrals():
    random = torch.Generator().manual_seed(0)
    limbs = ((0, 1), (2, 1), (0, 2))
    fields = 0.4 + torch.nn.functional.avg_pool2d(torch.randn(2, 6, 24, 31, generator=random), 5, 1)
    maps = torch.rand(2, 3, 20, 27, generator=random) ** 6
    cells, scores = top_candidates(maps, hidden=2.0, most=90)
    table = limb_scores(fields, cells, scores, limbs, 0.25)
    pairs = line_integrals(fields, find_candidates(maps, hidden=2.0), limbs, 3, 0.25)
    found = table[table > 0].sort().values
    assert len(found) > 1000
    torch.testing.assert_close(found, pairs.scores.sort().values)


def nothing(outputs):
    """Say what the method says, candidates in another order."""
    maps, (places, scores, links) = outputs[:2], outputs[2:]
    order = torch.randperm(scores.shape[-1], generator=torch.Generator().manual_seed(0))
    return (*maps, places[:, :, order], scores[:, :, order], links[:, :, order][..., order])


def changed(place, how):
    return lambda outputs: tuple(how(part) if number == place else part for number, part in enumerate(outputs))


MISTAKES = {
    "of the highest value of its maps": changed(0, lambda part: part + 0.01 * part.abs().max()),
    "of the highest value of its maps ": changed(1, lambda part: torch.full_like(part, math.nan)),
    r"\d+ of \d+ candidates": changed(2, lambda part: part + 0.01),
    r"\d+ of \d+ candidates ": changed(3, lambda part: torch.full_like(part, math.nan)),
    "pairs of candidates": changed(4, lambda part: 1.05 * part),
    "pairs of candidates ": changed(4, lambda part: part.transpose(2, 3)),
}


@torch.no_grad()
@pytest.mark.parametrize("what", [None, *MISTAKES])
def test_files_are_compared_with_their_method(what):
    graph = openpose().graph().eval()
    check = PictureCheck(graph, SIZE)
    assert (graph(check.images)[4] > 0).sum() > 100
    if what is None:
        assert check.distance(lambda images: nothing(graph(images)), 5, Path("model.pt2")) == 0
        return
    with pytest.raises(SettingsError, match=rf"model.pt2' was not written: on 5 .* {what.strip()}"):
        check.distance(lambda images: MISTAKES[what](graph(images)), 5, Path("model.pt2"))


@torch.no_grad()
def test_files_of_deepcut_are_compared_too():
    graph = deepcut().graph().eval()
    check = PictureCheck(graph, SIZE)
    order = torch.tensor([2, 0, 1])

    def reordered(images):
        *maps, places, scores, costs = graph(images)
        by_part = costs.unflatten(2, (14, 3)).unflatten(1, (14, 3))[:, :, order][..., order].flatten(3).flatten(1, 2)
        return (*maps, places[:, :, order], scores[:, :, order], by_part)

    assert check.distance(reordered, 5, Path("model.pt2")) == 0
    with pytest.raises(SettingsError, match="pairs of candidates"):
        check.distance(lambda images: (*graph(images)[:-1], graph(images)[-1] + 0.1), 5, Path("model.pt2"))


class Strange(PoseModule):
    """A method for whole pictures that does not say what can be exported."""

    samples = "pictures"

    def __init__(self):
        super().__init__("lsp14", torch.optim.SGD, None, None, False)

    def losses(self, batch):
        raise NotImplementedError

    def estimate(self, batch):
        raise NotImplementedError


def test_methods_without_a_graph_and_sizes_that_are_none_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"Strange finds people in whole pictures and has no graph\(\)"):
        export_program(Strange(), tmp_path / "model.pt2", SIZE)
    with pytest.raises(SettingsError, match="image_size is"):
        export_program(openpose(), tmp_path / "model.pt2", (0, 64))
    assert not list(tmp_path.iterdir())
