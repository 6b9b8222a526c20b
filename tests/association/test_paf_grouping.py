"""Persons out of maps and fields: against plain loops, brute force, and by what must not happen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from real_crowds import PARTS, read_crowds, score

from lightning_pose_zoo.association.candidates import Candidates, find_candidates
from lightning_pose_zoo.association.line_integrals import Pairs, line_integrals
from lightning_pose_zoo.association.paf import PartGrouping, _assembled, match_pairs
from lightning_pose_zoo.codecs.paf import PartAffinityCodec
from lightning_pose_zoo.errors import PoseZooError

LIMBS = PARTS.skeleton.limbs
CODEC = PartAffinityCodec()


def drawn(parts, seen, rows, pictures, size):
    fields, maps = CODEC.encode(parts, seen, torch.as_tensor(rows), LIMBS, pictures, size)
    return maps[:, :-1], fields


def standing_people(count, columns=12, height=110.0):
    """People side by side, each a little different, as (N, 18, 2) parts."""
    body = torch.tensor(
        [[0, .05], [0, .2], [-.12, .2], [-.17, .36], [-.2, .5], [.12, .2], [.17, .36], [.2, .5], [-.08, .52],
         [-.1, .75], [-.1, .97], [.08, .52], [.1, .75], [.1, .97], [-.03, .03], [.03, .03], [-.07, .05], [.07, .05]]
    )  # fmt: skip
    random = torch.Generator().manual_seed(3)
    places = body + 0.02 * torch.randn(count, 18, 2, generator=random)
    corner = torch.tensor([[0.35 + 0.6 * (i % columns), 0.05 + 1.1 * (i // columns)] for i in range(count)]).view(-1, 2)
    return height * (places + corner[:, None])


def test_peaks_lie_between_the_cells_and_beyond_the_border():
    random = torch.Generator().manual_seed(0)
    places = torch.rand(40, 1, 2, generator=random) * torch.tensor([103.0, 71.0]) - 0.4
    maps = CODEC.maps.encode(places, torch.full((40, 1), 2), (72, 104)).heatmaps
    found = find_candidates(maps, hidden=2.0)
    assert found.rows.tolist() == list(range(40))
    torch.testing.assert_close(CODEC.to_pixels(found.cells), places[:, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(found.scores, torch.ones(40), atol=0.01, rtol=0)


@pytest.mark.parametrize("apart", [1.2, 1.5, 1.8])
def test_a_peak_that_a_higher_one_hides_is_found(apart):
    cells = torch.tensor([[[5.1, 6.2]], [[5.1 + apart, 6.4]]])
    maps = CODEC.maps.encode(CODEC.to_pixels(cells), torch.full((2, 1), 2), (96, 96)).heatmaps.amax(dim=0)[None]
    assert len(find_candidates(maps, hidden=2.0).rows) <= 2
    found = find_candidates(maps)
    assert len(found.rows) == 2
    order = found.cells[:, 0].argsort()
    torch.testing.assert_close(found.cells[order], cells[:, 0], atol=0.75, rtol=0)


def test_plateaus_have_one_peak_and_noise_has_a_limit():
    maps = torch.zeros(1, 2, 9, 9)
    maps[0, 0, 4, 4:6] = 0.7
    assert find_candidates(maps, hidden=2.0).cells.round().tolist() in ([[4, 4]], [[5, 4]])
    noise = torch.rand(2, 3, 90, 90)
    found = find_candidates(noise, most=20)
    assert torch.bincount(found.rows * 3 + found.parts).tolist() == [20] * 6
    key = found.rows * 3 + found.parts
    assert (key[1:] >= key[:-1]).all()
    assert ((found.scores[1:] <= found.scores[:-1]) | (key[1:] > key[:-1])).all()


def integral_by_loops(field, start, end, heights):
    way = np.subtract(end, start) / math.dist(start, end)
    values = []
    for step in range(10):
        x, y = np.clip(np.add(start, np.subtract(end, start) * step / 9), 0, [field.shape[2] - 1, field.shape[1] - 1])
        left, top = min(int(x), field.shape[2] - 2), min(int(y), field.shape[1] - 2)
        weights = [(1 - (x - left)) * (1 - (y - top)), (x - left) * (1 - (y - top)), (1 - (x - left)) * (y - top),
                   (x - left) * (y - top)]  # fmt: skip
        corners = [field[:, top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)]
        values.append(sum(weight * corner for weight, corner in zip(weights, corners, strict=True)) @ way)
    good = sum(value > 0.05 for value in values) >= 8
    mean = sum(values) / 10 + min(0.5 * field.shape[1] / math.dist(start, end) - 1, 0)
    if math.dist(start, end) < 0.4:
        return max(mean, 0.05) * heights
    return mean * heights if good and mean > 0 else None


def test_line_integrals_equal_loops_over_pairs():
    random = torch.Generator().manual_seed(0)
    limbs, parts = ((0, 1), (2, 1), (0, 2)), 3
    smooth = torch.nn.functional.avg_pool2d(torch.randn(2, 6, 24, 31, generator=random), 5, 1)
    fields = 3 * smooth + 0.3
    count = 60
    key = torch.randint(0, 6, (count,), generator=random).sort().values
    cells = torch.rand(count, 2, generator=random) * torch.tensor([27.0, 20.0]) - 0.5
    cells[1] = cells[0] + 0.1
    candidates = Candidates(key // 3, key % 3, cells, torch.rand(count, generator=random))
    found = line_integrals(fields, candidates, limbs, parts)
    ours = {tuple(row[:3]): row[3] for row in zip(*(column.tolist() for column in found), strict=True)}
    expected = {}
    for limb, (a, b) in enumerate(limbs):
        for i, j in itertools.product(range(count), repeat=2):
            if candidates.rows[i] == candidates.rows[j] and candidates.parts[i] == a and candidates.parts[j] == b:
                field = fields[candidates.rows[i], 2 * limb : 2 * limb + 2].double().numpy()
                heights = float(candidates.scores[i] * candidates.scores[j]) ** 0.5
                value = integral_by_loops(field, cells[i].double().numpy(), cells[j].double().numpy(), heights)
                if value is not None:
                    expected[limb, i, j] = value
    assert len(expected) > 50
    assert ours == pytest.approx(expected, abs=1e-5)


def random_pairs(seed, limbs=3, candidates=5):
    random = np.random.default_rng(seed)
    columns = np.array(list(itertools.product(range(limbs), range(candidates), range(candidates, 2 * candidates))))
    columns = columns[random.random(len(columns)) < 0.6]
    scores = random.permutation(len(columns)) + 1.0
    return Pairs(*torch.from_numpy(columns.T), torch.from_numpy(scores).float() / len(columns))


@pytest.mark.parametrize("seed", range(8))
def test_matchings_equal_a_loop_and_brute_force(seed):
    pairs = random_pairs(seed)
    rows = sorted(zip(*(column.tolist() for column in pairs), strict=True), key=lambda row: -row[3])
    used, greedy = set(), []
    for limb, first, second, value in rows:
        if not {(limb, first), (limb, second)} & used:
            used |= {(limb, first), (limb, second)}
            greedy.append((limb, first, second, value))
    found = match_pairs(pairs, 10, "greedy")
    assert list(zip(*(column.tolist() for column in found), strict=True)) == greedy

    table = {row[:3]: row[3] for row in rows}
    best = sum(
        max(
            sum(table.get((limb, first, second), 0.0) for first, second in enumerate(order))
            for order in itertools.permutations(range(5, 10))
        )
        for limb in range(3)
    )
    found = match_pairs(pairs, 10, "optimal")
    chosen = list(zip(*(column.tolist() for column in found[:3]), strict=True))
    assert sum(found.scores.tolist()) == pytest.approx(best)
    assert len({(limb, first) for limb, first, _ in chosen}) == len({(limb, s) for limb, _, s in chosen}) == len(chosen)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_where_one_pair_outweighs_all_after_it_greedy_is_optimal():
    for seed in range(8):
        pairs = random_pairs(seed, limbs=2, candidates=3)
        rank = torch.argsort(torch.argsort(pairs.scores, descending=True)).float()
        greedy, optimal = (match_pairs(pairs._replace(scores=2**-rank), 6, how) for how in ("greedy", "optimal"))
        assert len(greedy.limbs) > 2
        for one, other in zip(greedy, optimal, strict=True):
            assert one.tolist() == other.tolist()


@pytest.mark.parametrize("matching", ["greedy", "optimal"])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_everybody_is_found_whole(count, matching):
    places = standing_people(count)
    maps, fields = drawn(places, torch.full((count, 18), 2), torch.zeros(count, dtype=torch.int64), 1, (616, 856))
    found = PartGrouping(matching=matching)(maps, fields, LIMBS)
    assert found.cells.shape == (count, 18, 2)
    if count:
        distance = (CODEC.to_pixels(found.cells)[:, None] - places[None]).norm(dim=-1).amax(dim=-1)
        assert distance.min(dim=1).values.max() < 2
        assert sorted(distance.argmin(dim=1).tolist()) == list(range(count))
        assert (found.scores > 0.9).all()


def test_pictures_of_a_batch_are_apart_and_in_order():
    places = standing_people(5)
    rows = torch.tensor([2, 0, 2, 2, 0])
    found = PartGrouping()(*drawn(places, torch.full((5, 18), 2), rows, 4, (200, 400)), LIMBS)
    assert found.rows.tolist() == [0, 0, 2, 2, 2]
    for row in (0, 2):
        alone = found.scores[found.rows == row]
        assert alone.tolist() == sorted(alone.tolist(), reverse=True)


@pytest.mark.parametrize("matching", ["greedy", "optimal"])
def test_a_person_of_one_joint_and_one_of_all_in_a_point(matching):
    places = standing_people(1)
    seen = torch.zeros(1, 18, dtype=torch.int64)
    seen[0, 4] = 2
    maps, fields = drawn(places, seen, [0], 1, (136, 104))
    assert len(PartGrouping(matching=matching)(maps, fields, LIMBS).scores) == 0
    found = PartGrouping(matching=matching, min_parts=1)(maps, fields, LIMBS)
    assert (found.part_scores > 0).nonzero().tolist() == [[0, 4]]
    # Nothing is drawn of limbs without a length; parts in one place belong together all the same.
    heap = torch.full((1, 18, 2), 50.3)
    found = PartGrouping(matching=matching)(*drawn(heap, torch.full((1, 18), 2), [0], 1, (104, 72)), LIMBS)
    assert len(found.scores) == 1
    torch.testing.assert_close(CODEC.to_pixels(found.cells)[0], heap[0], atol=0.05, rtol=0)


def test_maps_that_cannot_be_read_are_refused():
    maps, fields = drawn(standing_people(2), torch.full((2, 18), 2), [0, 1], 2, (136, 200))
    maps[1, 3, 2, 2] = torch.nan
    with pytest.raises(PoseZooError, match=r"confidence maps of pictures \[1\].*not finite"):
        PartGrouping()(maps, fields, LIMBS)
    maps, fields = drawn(standing_people(2), torch.full((2, 18), 2), [0, 1], 2, (136, 200))
    fields[0, 5, 1, 1] = -torch.inf
    with pytest.raises(PoseZooError, match=r"fields of pictures \[0\].*not finite"):
        PartGrouping()(maps, fields, LIMBS)
    with pytest.raises(PoseZooError, match=r"19 limbs need fields of \(2, 38, 17, 25\)"):
        PartGrouping()(maps, fields[:, :-2], LIMBS)


@pytest.mark.parametrize("arguments", [{"matching": "best"}, {"threshold": 0.0}, {"min_parts": 0}, {"hidden": -1}])
def test_bad_settings_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PartGrouping(**arguments)


def test_noise_makes_no_candidates():
    """Peaks stand out of white noise, whose level is told by the maps themselves, each picture's by its own."""
    random = torch.Generator().manual_seed(0)
    places = torch.tensor([[[40.2, 60.9]], [[130.0, 33.3]], [[71.0, 20.1]]])
    maps = CODEC.maps.encode(places, torch.full((3, 1), 2), (96, 160)).heatmaps
    noise = torch.randn(maps.shape, generator=random)
    assert len(find_candidates(maps + 0.2 * noise).rows) <= 12 < len(find_candidates(0.2 * noise + 1).rows)
    level = torch.tensor([0.0, 0.05, 0.15])[:, None, None, None]
    found = find_candidates(maps + level * noise)
    for row in range(3):
        here = found.rows == row
        assert 1 <= here.sum() <= 2
        torch.testing.assert_close(CODEC.to_pixels(found.cells[here][0]), places[row, 0], atol=5, rtol=0)
    # What is smooth is no noise, however it varies: a low peak is found on it.
    hill = 0.08 * CODEC.maps.encode(torch.tensor([[[80.0, 48.0]]]), torch.full((1, 1), 2), (96, 160)).heatmaps
    assert len(find_candidates(2 * hill + 0.1 * torch.linspace(0, 1, 20).sin()).rows) == 1


def pieces(labelled, limbs):
    """Return the largest set of labelled parts (J,) that limbs join."""
    left, best = set(labelled.nonzero()[:, 0].tolist()), set()
    while left:
        reached, edge = set(), {left.pop()}
        while edge:
            reached |= edge
            edge = {b for limb in limbs for a, b in (limb, limb[::-1]) if a in edge and labelled[b]} - reached
        left -= reached
        best = max(best, reached, key=len)
    return best


def test_people_come_back_from_their_own_joints_and_fields(test_data):
    """Given the joints as candidates, fields alone tell whose they are: what limbs join of a person stays together."""
    together = people = 0
    for size, persons in read_crowds(test_data)[1::3]:
        zoom = 736 / size[0]
        truth = torch.tensor([person["keypoints"] for person in persons], dtype=torch.float32).view(-1, 17, 3)
        parts, seen = PARTS.from_keypoints((truth[..., :2] + 0.5) * zoom - 0.5, truth[..., 2])
        pixels = [-(-round(side * zoom) // 8) * 8 for side in size]
        _, fields = drawn(parts, seen, torch.zeros(len(persons), dtype=torch.int64), 1, pixels)
        part, person = (seen > 0).T.nonzero(as_tuple=True)
        cells = (parts[person, part] + 0.5) / 8 - 0.5
        candidates = Candidates(torch.zeros_like(part), part, cells, torch.ones(len(part)))
        pairs = match_pairs(line_integrals(fields, candidates, LIMBS, 18), len(part))
        bodies, _ = _assembled(candidates, pairs, lone=True)
        body_of = {candidate: number for number, body in enumerate(bodies) for candidate in body.values()}
        for number in range(len(persons)):
            piece = pieces(seen[number] > 0, LIMBS)
            members = [row for row in range(len(part)) if person[row] == number and int(part[row]) in piece]
            people += 1
            together += len({body_of[row] for row in members}) == 1
    assert people > 150
    assert together / people >= 0.99


def test_real_crowds_are_recovered(test_data):
    """The people of COCO's annotations, 736 pixels high, read from the maps' own peaks."""
    crowds = read_crowds(test_data)[::2]
    values = score(crowds, 736, PartGrouping(min_parts=2))
    assert values["people"] > 200
    assert values["AP"] >= 0.97
    assert values["AR"] >= 0.98
