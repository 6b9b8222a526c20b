"""Boxes, affine crops and flips against the HRNet repository, against inverses and against pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_pose_zoo import geometry
from lightning_pose_zoo.skeletons import get_skeleton

CONVENTIONS = ("center", "msra", "udp")


def test_crops_equal_the_hrnet_repository(test_data):
    expected = np.load(test_data / "oracles" / "processing" / "affine_official.npz")
    width, height = (int(side) for side in expected["size"])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    for center, scale, row in zip(expected["center"], expected["scale"], expected["matrices"], strict=True):
        for rotation, matrix in zip(expected["rotation"], row, strict=True):
            ours = geometry.crop_affine(center, scale * 200.0, (height, width), float(rotation), convention="msra")
            # Compared where the crop is: the published matrix is solved from points in single precision.
            original = geometry.apply_affine(corners, geometry.invert_affine(ours))
            np.testing.assert_allclose(geometry.apply_affine(original, matrix), corners, atol=1e-4)


@given(
    center=st.tuples(st.floats(-50, 700), st.floats(-50, 500)),
    side=st.floats(5, 900),
    rotation=st.floats(-180, 180),
    flip=st.booleans(),
    convention=st.sampled_from(CONVENTIONS),
)
def test_crop_and_inverse_is_the_identity(center, side, rotation, flip, convention):
    matrix = geometry.crop_affine(
        np.array(center), np.array([side * 0.75, side]), (256, 192), rotation, flip, convention
    )
    points = np.random.default_rng(0).uniform(-100, 800, (9, 2))
    back = geometry.apply_affine(geometry.apply_affine(points, matrix), geometry.invert_affine(matrix))
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_center_convention_maps_box_edges_to_crop_edges():
    # A box of 48 x 64 pixels from (10, 20) to a crop of 96 x 128: every pixel becomes 2 x 2 pixels.
    matrix = geometry.crop_affine(np.array([34.0, 52.0]), np.array([48.0, 64.0]), (128, 96))
    np.testing.assert_allclose(geometry.apply_affine(np.array([[10.0, 20.0]]), matrix), [[0.5, 0.5]])
    np.testing.assert_allclose(geometry.apply_affine(np.array([[57.0, 83.0]]), matrix), [[94.5, 126.5]])


def test_udp_convention_maps_first_and_last_pixels():
    matrix = geometry.crop_affine(np.array([23.5, 31.5]), np.array([47.0, 63.0]), (64, 48), convention="udp")
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_points_follow_the_pixels(convention, flip, rotation):
    """A blurred dot that is warped lies where its centre was mapped to."""
    picture = np.zeros((200, 300), dtype=np.float32)
    picture[90, 160] = 1
    picture = cv2.GaussianBlur(picture, (0, 0), 4)
    matrix = geometry.crop_affine(
        np.array([150.0, 100.0]), np.array([120.0, 160.0]), (128, 96), rotation, flip, convention
    )
    crop = cv2.warpAffine(picture, matrix, (96, 128), flags=cv2.INTER_LINEAR)
    y, x = np.mgrid[:128, :96]
    found = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum()
    np.testing.assert_allclose(found, geometry.apply_affine(np.array([160.0, 90.0]), matrix), atol=0.05)


def test_rotation_turns_the_content_counter_clockwise():
    matrix = geometry.crop_affine(np.array([50.0, 50.0]), np.array([100.0, 100.0]), (100, 100), 90.0)
    right = geometry.apply_affine(np.array([80.0, 49.5]), matrix)
    np.testing.assert_allclose(right, [49.5, 19.0], atol=1.0)


def test_tensors_and_arrays_agree():
    rng = np.random.default_rng(0)
    points, matrices = rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 2, 3))
    ours = geometry.apply_affine(torch.tensor(points), torch.tensor(matrices))
    np.testing.assert_allclose(ours.numpy(), geometry.apply_affine(points, matrices))
    np.testing.assert_allclose(geometry.invert_affine(torch.tensor(matrices)).numpy(), geometry.invert_affine(matrices))
    boxes = rng.uniform(0, 100, (6, 4))
    np.testing.assert_allclose(geometry.xywh_to_xyxy(torch.tensor(boxes)).numpy(), geometry.xywh_to_xyxy(boxes))
    np.testing.assert_allclose(geometry.xyxy_to_xywh(geometry.xywh_to_xyxy(boxes)), boxes)
    np.testing.assert_allclose(geometry.box_area(torch.tensor(boxes)).numpy(), geometry.box_area(boxes))


def test_mixed_precision_rounds_no_points():
    """A matrix product would be taken in bf16, whose steps are 4 pixels beyond 512."""
    matrix = torch.tensor([[5.0, 1.0, 10.0], [-1.0, 5.0, 20.0]]).expand(3, 2, 3)
    points = torch.rand(3, 17, 2, generator=torch.Generator().manual_seed(0)) * 192
    with torch.autocast("cpu", torch.bfloat16):
        mapped = geometry.apply_affine(points, matrix)
    exact = geometry.apply_affine(points.double(), matrix.double())
    torch.testing.assert_close(mapped.double(), exact, rtol=0, atol=1e-3)


def test_boxes_are_clipped_and_fitted():
    boxes = np.array([[-5.0, 10, 30, 500], [700, 20, 710, 30]])
    np.testing.assert_array_equal(geometry.clip_boxes(boxes, 640, 480), [[0, 10, 30, 480], [640, 20, 640, 30]])
    np.testing.assert_allclose(geometry.fit_aspect(np.array([30.0, 100.0]), 0.75, 1.25), [93.75, 125.0])
    np.testing.assert_allclose(geometry.fit_aspect(np.array([90.0, 100.0]), 0.75), [90.0, 120.0])


def test_boxes_around_keypoints_leave_out_what_is_not_labelled():
    keypoints = np.array([[[10.0, 20], [30, 60], [999, 999]], [[1, 1], [2, 2], [3, 3]]])
    boxes = geometry.boxes_from_keypoints(keypoints, np.array([[2, 1, 0], [0, 0, 0]]), margin=0.1)
    np.testing.assert_allclose(boxes, [[8, 16, 32, 64], [0, 0, 0, 0]])


def test_flipping_twice_is_the_identity_and_swaps_sides():
    skeleton = get_skeleton("coco17")
    keypoints = np.random.default_rng(0).uniform(0, 100, (3, 17, 2))
    once = geometry.flip_keypoints(keypoints, 100, skeleton.flip_permutation)
    assert once[0, skeleton.index("left_wrist"), 0] == 99 - keypoints[0, skeleton.index("right_wrist"), 0]
    np.testing.assert_allclose(geometry.flip_keypoints(once, 100, skeleton.flip_permutation), keypoints)
