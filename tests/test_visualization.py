import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_pose_zoo.errors import ImageError
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.visualization import (
    TRUTH_COLOR,
    contact_sheet,
    draw_comparison,
    draw_poses,
    enlarge,
    heatmap_overlay,
    legend,
    save_picture,
    to_picture,
    write_batch_sheet,
)

LEFT, RIGHT, MIDDLE = (255, 128, 0), (51, 153, 255), (230, 60, 180)
DOT = Skeleton.from_names("dot", ["nose"])
ARMS = Skeleton.from_names("arms", ["left_elbow", "left_wrist", "right_elbow", "right_wrist"], limbs=[(0, 1), (2, 3)])


def gray(height=120, width=160, value=128):
    return np.full((height, width, 3), value, dtype=np.uint8)


def near(pixel, color):
    """Anti-aliasing leaves the middle of a thin line a little short of its colour."""
    return bool((np.abs(pixel.astype(int) - color) <= 8).all())


def has_color(image, color):
    return bool((image == np.array(color)).all(axis=-1).any())


@pytest.mark.parametrize("size", [60, 400])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.25, 0.5), (0.7, 0.9), (0.5, 0.1)])
def test_a_dot_is_centred_on_its_coordinate_to_a_tenth_of_a_pixel(size, offset):
    x, y = size // 2 + offset[0], size // 3 + offset[1]
    drawn = draw_poses(gray(size, size, 0), np.array([[[x, y]]]), DOT, color=(255, 255, 255))
    weight = drawn[..., 0].astype(float)
    rows, columns = np.mgrid[:size, :size]
    center = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    assert center == pytest.approx((x, y), abs=0.1)


def test_limbs_and_keypoints_have_the_colours_of_their_sides():
    points = np.array([[[20, 20], [60, 20], [20, 90], [60, 90]]], dtype=float)
    drawn = draw_poses(gray(), points, ARMS)
    for x in (20, 40, 60):
        assert near(drawn[20, x], LEFT)
        assert near(drawn[90, x], RIGHT)
    green = draw_poses(gray(), points, ARMS, color=TRUTH_COLOR)
    assert near(green[20, 40], TRUTH_COLOR)
    assert near(green[90, 60], TRUTH_COLOR)
    assert not has_color(green, LEFT)


def test_limbs_and_keypoints_carry_a_dark_rim():
    points = np.array([[[40, 60], [300, 60], [40, 300], [300, 300]]], dtype=float)
    drawn = draw_poses(gray(400, 400, 255), points, ARMS).astype(int)
    for column in (40, 170):
        above, below = drawn[45:60, column], drawn[60:75, column]
        assert above.sum(axis=-1).min() < 330, "white is 765"
        assert below.sum(axis=-1).min() < 330


def test_hidden_keypoints_are_rings_through_which_the_picture_is_seen():
    points = np.array([[[40, 60], [300, 60], [40, 300], [300, 300]]], dtype=float)
    visibility = np.array([[1, 2, 0, 2]])
    image = gray(400, 400)
    drawn = draw_poses(image, points, ARMS, visibility=visibility)
    assert tuple(drawn[60, 40]) == (128, 128, 128), "the limb must end at the ring"
    assert tuple(drawn[60, 300]) == LEFT
    assert tuple(drawn[60, 170]) == LEFT
    around = drawn[50:71, 30:51].reshape(-1, 3)
    assert (around == LEFT).all(axis=1).sum() > 10
    assert (drawn[280:320, 20:60] == 128).all(), "a keypoint that is not labelled is not drawn"
    assert tuple(drawn[300, 300]) == RIGHT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e12])
def test_keypoints_that_are_nowhere_are_left_out(bad):
    points = np.array([[[20, 20], [60, 20], [20, 90], [60, 90]]], dtype=float)
    expected = draw_poses(gray(), points, ARMS, visibility=np.array([[2, 2, 2, 0]]))
    points[0, 3, 0] = bad
    assert (draw_poses(gray(), points, ARMS) == expected).all()
    assert (draw_poses(gray(), np.full((2, 4, 2), bad), ARMS) == gray()).all()


def test_a_limb_may_leave_the_picture():
    points = np.array([[[80, 60], [9e4, 60], [80, 100], [80, -5e4]]], dtype=float)
    drawn = draw_poses(gray(), points, ARMS)
    assert near(drawn[60, 159], LEFT)
    assert near(drawn[5, 80], RIGHT)


def test_keypoints_at_or_below_the_lowest_score_are_left_out():
    points = np.array([[[20, 20], [60, 20], [20, 90], [60, 90]]], dtype=float)
    drawn = draw_poses(gray(), points, ARMS, scores=np.array([[0.5, 0.6, 0.2, np.nan]]), min_score=0.2)
    assert has_color(drawn, LEFT)
    assert not has_color(drawn, RIGHT)


def test_the_picture_itself_stays_as_it_is_and_need_not_be_contiguous():
    image = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)[:, :, ::-1]
    before = image.copy()
    drawn = draw_poses(image, np.array([[[30.0, 30.0]]]), DOT)
    assert (image == before).all()
    assert (drawn != before).any()
    assert drawn.dtype == np.uint8
    assert (draw_poses(image, np.zeros((0, 1, 2)), DOT) == before).all()


@pytest.mark.parametrize("shape", [(1, 3, 2), (4, 2), (1, 4, 3)])
def test_keypoints_of_another_skeleton_are_refused(shape):
    with pytest.raises(ValueError, match="skeleton 'arms' needs"):
        draw_poses(gray(), np.zeros(shape), ARMS)


def test_lines_grow_with_the_person_and_with_the_picture():
    def thickness(extent, size):
        points = np.array([[[10, 20], [10 + extent, 20], [10, 60], [10 + extent, 60]]], dtype=float)
        drawn = draw_poses(gray(size, size), points, ARMS)
        return (drawn[:40, 10 + extent // 2] != 128).any(axis=-1).sum()

    assert thickness(400, 720) > 1.5 * thickness(40, 720)
    assert thickness(80, 96) >= 2, "legible on a thumbnail"
    assert thickness(100, 4000) > thickness(100, 300), "and on a large photograph"
    assert thickness(2000, 2400) < 60


def test_the_truth_shows_around_a_prediction_that_covers_it():
    points = np.array([[[40, 60], [300, 60], [40, 300], [300, 300]]], dtype=float)
    drawn = draw_comparison(gray(400, 400), ARMS, points, np.full((1, 4), 2), points)
    assert tuple(drawn[60, 170]) == LEFT
    for border in (drawn[40:60, 170], drawn[60:80, 170]):
        red, green, blue = border.astype(int).T
        assert (green - np.maximum(red, blue)).max() > 60
    moved = draw_comparison(gray(400, 400), ARMS, points, np.full((1, 4), 2), points + 30, np.zeros((1, 4)))
    assert not has_color(moved, LEFT), "scores of zero are not drawn"


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(128, 96, 2), (64, 48, 4), (100, 80, 3), (256, 192, 1), (720, 1280, 1)]
)
def test_enlarging_keeps_keypoints_on_their_pixels(height, width, factor):
    point = np.array([[width * 0.4, height * 0.7]])
    rows, columns = np.mgrid[:height, :width]
    spot = np.exp(-((columns - point[0, 0]) ** 2 + (rows - point[0, 1]) ** 2) / 8)
    image = np.repeat((255 * spot).round().astype(np.uint8)[..., None], 3, axis=2)
    bigger, moved = enlarge(image, point)
    assert bigger.shape == (height * factor, width * factor, 3)
    weight = bigger[..., 0].astype(float)
    rows, columns = np.mgrid[: bigger.shape[0], : bigger.shape[1]]
    center = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    assert center == pytest.approx(tuple(moved[0]), abs=0.05 * factor)


def test_a_contact_sheet_lays_its_pictures_out_in_rows():
    images = [gray(256, 200, 50 + 10 * index) for index in range(5)]
    sheet = contact_sheet(images, columns=3, background=(1, 2, 3))
    assert sheet.shape == (4 + 2 * (256 + 4), 4 + 3 * (200 + 4), 3)
    for index in range(5):
        top, left = 4 + index // 3 * 260, 4 + index % 3 * 204
        assert (sheet[top : top + 256, left : left + 200] == 50 + 10 * index).all()
    assert (sheet[4 + 260 :, 4 + 2 * 204 :] == (1, 2, 3)).all(), "the last cell is empty"
    for line in (sheet[:4], sheet[260:264], sheet[:, :4], sheet[:, 204:208], sheet[:, -4:], sheet[-4:]):
        assert (line == (1, 2, 3)).all()


def test_a_contact_sheet_enlarges_thumbnails_and_takes_pictures_of_any_size():
    sheet = contact_sheet([gray(96, 72, 90), gray(300, 500, 70), gray(256, 100, 60)], columns=2, background=(0, 0, 0))
    assert sheet.shape == (4 + 304 + 260, 4 + 2 * 504, 3), (
        "rows as high as their highest, columns as wide as the widest"
    )
    assert ((sheet == 90).all(axis=-1)).sum() == 288 * 216
    assert ((sheet == 70).all(axis=-1)).sum() == 300 * 500


def test_captions_stand_below_their_pictures_and_are_cut():
    images = [gray(256, 60), gray(256, 60)]
    sheet = contact_sheet(
        images, 2, captions=["a caption that is much wider than its picture", ""], background=(0, 0, 0)
    )
    assert sheet.shape == (4 + 256 + 20 + 4, 4 + 2 * 64, 3)
    assert sheet[260:280, 4:64].any()
    assert not sheet[260:280, 64:].any()
    assert not sheet[:, 64:68].any()


@pytest.mark.parametrize(
    ("count", "columns", "captions"), [(0, 1, None), (1, 0, None), (2, 1, ["one"])], ids=["none", "columns", "captions"]
)
def test_contact_sheets_of_nothing_are_refused(count, columns, captions):
    with pytest.raises(ValueError, match="picture"):
        contact_sheet([gray()] * count, columns, captions)


def test_the_legend_shows_truth_left_and_right():
    strip = legend(get_skeleton("coco17"), 400)
    assert strip.shape == (24, 400, 3)
    assert all(has_color(strip, color) for color in (TRUTH_COLOR, LEFT, RIGHT))
    assert not has_color(legend(get_skeleton("coco17"), 400, truth=False), TRUTH_COLOR)
    assert not has_color(legend(DOT, 400), LEFT)


def test_a_heatmap_glows_where_it_peaks_and_lets_the_rest_through():
    heatmaps = np.zeros((3, 32, 24), dtype=np.float32)
    heatmaps[1, 8, 16] = 0.7
    image = gray(128, 96, 100)
    drawn = heatmap_overlay(image, heatmaps)
    change = np.abs(drawn.astype(int) - 100).sum(axis=-1)
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert abs(x - (16.5 * 4 - 0.5)) <= 2
    assert abs(y - (8.5 * 4 - 0.5)) <= 2
    assert (drawn[64:, :48] == 100).all()
    assert (heatmap_overlay(image, np.full((2, 8, 8), np.nan)) == image).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pictures_of_float_batches_are_stretched_to_the_full_range(dtype):
    image = torch.linspace(-2, 2, 3 * 8 * 8, dtype=torch.float64).reshape(3, 8, 8).to(dtype)
    picture = to_picture(image)
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)
    assert (to_picture(torch.zeros(3, 4, 4)) == 0).all()
    plain = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    assert (to_picture(plain) == plain.permute(1, 2, 0).numpy()).all()


def test_png_files_keep_every_pixel_and_jpeg_files_the_colours(tmp_path):
    image = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    save_picture(tmp_path / "new" / "a.png", image)
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == image).all()
    save_picture(tmp_path / "b.JPG", np.full((32, 32, 3), (200, 100, 20), dtype=np.uint8))
    read = np.asarray(Image.open(tmp_path / "b.JPG")).astype(int)
    assert np.abs(read - (200, 100, 20)).max() < 6
    with pytest.raises(ImageError, match=r"\.png or \.jpg"):
        save_picture(tmp_path / "c.gif", image)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.png", "b.JPG"]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_a_batch_sheet_shows_every_person_in_its_picture(tmp_path, kind):
    images = torch.full((2, 3, 256, 256), 90, dtype=torch.uint8)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0, 255  # a range for the float pictures
    batch = {
        "image": images if kind == "uint8" else images.float() / 255,
        "keypoints": torch.tensor([[[50.0, 60.0]], [[100.0, 60.0]], [[200.0, 220.0]]]),
        "visibility": torch.tensor([[2], [1], [2]], dtype=torch.uint8),
        "image_index": torch.tensor([0, 0, 1]),
    }
    write_batch_sheet(batch, DOT, tmp_path / "batch.png")
    sheet = np.asarray(Image.open(tmp_path / "batch.png"))
    assert sheet.shape == (4 + 260 + 24, 4 + 2 * 260, 3)
    assert tuple(sheet[4 + 60, 4 + 50]) == MIDDLE
    assert tuple(sheet[4 + 60, 4 + 100]) != MIDDLE, "hidden, so hollow"
    assert has_color(sheet[4 + 50 : 4 + 70, 4 + 90 : 4 + 110], MIDDLE)
    assert tuple(sheet[4 + 220, 4 + 260 + 200]) == MIDDLE
    assert tuple(sheet[4 + 220, 4 + 200]) != MIDDLE


def test_real_people_are_drawn_where_they_are(test_data):
    """Every changed pixel lies in the reach of a labelled person, and every labelled visible keypoint is coloured."""
    import json

    file = next((test_data / "coco-mini").rglob("*val*.json"))
    content = json.loads(file.read_text())
    skeleton = get_skeleton("coco17")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    people = [entry for entry in content["annotations"] if entry.get("num_keypoints")]
    assert len(people) == 26
    for entry in people:
        path = next((test_data / "coco-mini").rglob(names[entry["image_id"]]))
        image = np.asarray(Image.open(path).convert("RGB"))
        triples = np.array(entry["keypoints"], dtype=float).reshape(17, 3)
        drawn = draw_poses(image, triples[None, :, :2], skeleton, visibility=triples[None, :, 2].astype(int))
        labelled = triples[triples[:, 2] > 0, :2]
        low, high = labelled.min(axis=0) - 16, labelled.max(axis=0) + 16
        rows, columns = np.nonzero((drawn != image).any(axis=-1))
        assert ((columns >= low[0]) & (columns <= high[0]) & (rows >= low[1]) & (rows <= high[1])).all()
        x, y = np.rint(triples[triples[:, 2] == 2][-1, :2]).astype(int) if (triples[:, 2] == 2).any() else (0, 0)
        if x:
            index = int(np.flatnonzero(triples[:, 2] == 2)[-1])
            assert tuple(drawn[min(y, image.shape[0] - 1), min(x, image.shape[1] - 1)]) == skeleton.colors[index]


def test_drawing_does_not_depend_on_cv2_threads():
    points = np.random.default_rng(3).uniform(0, 200, (5, 17, 2))
    first = draw_poses(gray(200, 200), points, get_skeleton("coco17"))
    cv2.setNumThreads(2)
    try:
        assert (draw_poses(gray(200, 200), points, get_skeleton("coco17")) == first).all()
    finally:
        cv2.setNumThreads(1)
