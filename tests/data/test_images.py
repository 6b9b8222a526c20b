"""The decoder: right pixels, or an error that names the file."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lightning_pose_zoo.data.images import image_size, read_image
from lightning_pose_zoo.errors import ImageError


def noise(height, width, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    smooth = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    return cv2.GaussianBlur(smooth, (5, 5), 1)


def jpeg(path, picture, **options):
    Image.fromarray(picture).save(path, quality=90, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_viewers_do(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(noise(20, 30)).save(path, exif=exif, **options)
    stored = np.asarray(Image.open(path).convert("RGB"))
    if suffix == "tif":  # Pillow turns these when it decodes them
        expected = np.asarray(ImageOps.exif_transpose(Image.open(jpeg_twin(tmp_path, orientation))))
    else:
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    read = read_image(path)
    assert stored.size == read.size
    assert image_size(path) == (read.shape[1], read.shape[0])
    np.testing.assert_array_equal(read, expected)


def jpeg_twin(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(20, 30)).save(folder / "twin.png", exif=exif)
    return folder / "twin.png"


def test_jpeg_equals_pillow_on_real_pictures(test_data):
    paths = sorted((test_data / "coco-mini" / "val2017").glob("*.jpg"))
    assert len(paths) == 24
    for path in paths:
        expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
        read = read_image(path)
        assert image_size(path) == (expected.shape[1], expected.shape[0])
        assert np.abs(read - expected).mean() < 0.1


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("height", [33, 64, 200])
def test_needed_rows_are_those_of_the_whole_picture(tmp_path, subsampling, height):
    path = jpeg(tmp_path / "a.jpg", noise(height, 75), subsampling=subsampling)
    whole = read_image(path)
    shortened = 0
    for rows in range(-3, height + 5):
        part = read_image(path, rows=rows)
        assert min(max(rows, 1), height) <= len(part) <= height
        np.testing.assert_array_equal(part[: max(rows, 1)], whole[: max(rows, 1)])
        shortened += len(part) < height
    assert shortened > 0


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 4}])
def test_rows_of_unusual_jpegs_are_still_right(tmp_path, options):
    path = jpeg(tmp_path / "a.jpg", noise(120, 75), **options)
    np.testing.assert_array_equal(read_image(path, rows=20)[:20], read_image(path)[:20])


def test_rows_of_real_pictures(test_data):
    for path in sorted((test_data / "coco-mini" / "val2017").glob("*.jpg"))[:10]:
        whole = read_image(path)
        part = read_image(path, rows=len(whole) // 2)
        assert len(whole) // 2 <= len(part) < len(whole)
        np.testing.assert_array_equal(part[: len(whole) // 2], whole[: len(whole) // 2])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, fraction):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(90, 120)).save(whole)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * fraction)])
    for rows in (None, 10):
        with pytest.raises(ImageError, match="cut"):
            read_image(path, rows=rows)


def test_opencv_would_not_have_noticed(tmp_path):
    """Why there is a decoder of our own: the same truncated file is a picture to OpenCV."""
    whole = jpeg(tmp_path / "whole.jpg", noise(90, 120)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert cv2.imread(str(tmp_path / "cut.jpg")).shape == (90, 120, 3)
    with pytest.raises(ImageError):
        read_image(tmp_path / "cut.jpg")


def test_damaged_jpegs_are_refused(tmp_path):
    whole = bytearray(jpeg(tmp_path / "whole.jpg", noise(200, 300)).read_bytes())
    start = len(whole) // 3
    whole[start : start + 40] = np.random.default_rng(1).integers(0, 255, 40, dtype=np.uint8).tobytes()
    (tmp_path / "bad.jpg").write_bytes(whole)
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        read_image(tmp_path / "bad.jpg")


def test_flipped_bits_in_a_png_are_refused(tmp_path):
    picture, path = noise(24, 32), tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(8, len(whole), 3):
        data = bytearray(whole)
        data[position] ^= 16
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_image(path), picture)
        except ImageError:
            refused += 1
    assert refused > len(whole) / 3 * 0.95


def test_stray_bytes_before_the_end_are_no_damage(tmp_path):
    path = jpeg(tmp_path / "a.jpg", noise(40, 50))
    expected, data = read_image(path), path.read_bytes()
    path.write_bytes(data[:-2] + b"\0\0\0" + data[-2:])
    np.testing.assert_array_equal(read_image(path), expected)
    path.write_bytes(data[:-2] + b"\0" * 300 + data[-2:])
    with pytest.raises(ImageError):
        read_image(path)


def test_grey_alpha_palette_and_cmyk(tmp_path):
    color, grey = noise(30, 40), noise(30, 40, 1)
    alpha = np.dstack([color, noise(30, 40, 1, seed=3)])
    cases = {
        "grey.jpg": (Image.fromarray(grey), None),
        "grey.png": (Image.fromarray(grey), np.repeat(grey[..., None], 3, 2)),
        "alpha.png": (Image.fromarray(alpha, "RGBA"), color),
        "grey_alpha.png": (Image.fromarray(np.dstack([grey, grey]), "LA"), np.repeat(grey[..., None], 3, 2)),
        "one_bit.png": (Image.fromarray(grey > 127), np.repeat((grey > 127)[..., None] * 255, 3, 2)),
        "palette.gif": (Image.fromarray(grey).convert("P"), np.repeat(grey[..., None], 3, 2)),
        "cmyk.jpg": (Image.fromarray(color).convert("CMYK"), None),
    }
    for name, (picture, expected) in cases.items():
        picture.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.shape == (30, 40, 3), name
        assert read.dtype == np.uint8, name
        if expected is None:
            expected, tolerance = np.asarray(picture.convert("RGB")), 6.0
        else:
            tolerance = 0.0
        assert np.abs(read.astype(int) - expected).mean() <= tolerance, name


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.arange(60000, dtype=np.uint16).reshape(200, 300)
    cv2.imwrite(str(tmp_path / "grey.png"), values)
    cv2.imwrite(str(tmp_path / "color.png"), np.dstack([values, values + 1, values + 2]))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 1], values >> 8)
    np.testing.assert_array_equal(read_image(tmp_path / "color.png")[..., 0], (values + 2) >> 8)


def test_values_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((10, 10), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="32 bits"):
        read_image(tmp_path / "float.tif")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html><body>404</body></html>")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "nul.jpg").write_bytes(bytes(1000))
    for name in ("empty.jpg", "page.jpg", "folder.jpg", "nul.jpg", "missing.jpg", "x" * 400 + ".jpg", "a\0b.jpg"):
        for reader in (read_image, image_size):
            with pytest.raises(ImageError) as caught:
                reader(tmp_path / name)
            assert name[:20] in str(caught.value)
            assert "0x" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"pipe\.jpg.*special file"):
        read_image(tmp_path / "pipe.jpg")
    assert time.monotonic() - start < 1


def png_header(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 20_000, 100_000])
def test_bombs_are_refused_by_their_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    for reader in (read_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png"):
            reader(tmp_path / "bomb.png")
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_the_limit_of_pixels_can_be_chosen(tmp_path):
    path = jpeg(tmp_path / "a.jpg", noise(40, 50))
    assert read_image(path, max_pixels=2000).shape == (40, 50, 3)
    with pytest.raises(ImageError, match=r"50 x 40 pixels"):
        read_image(path, max_pixels=1999)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (3, 5000)])
def test_odd_sizes(tmp_path, shape):
    path = jpeg(tmp_path / "a.jpg", noise(*shape))
    assert read_image(path).shape == (*shape, 3)
    assert read_image(path, rows=1).shape[1] == shape[1]


@pytest.mark.parametrize("name", ["写真.jpg", "e\u0301té.png", "🙂.png", "a b.jpg", "a\nb.jpg", "a%20b.jpg"])
def test_names_of_all_kinds(tmp_path, name):
    Image.fromarray(noise(10, 12)).save(tmp_path / name)
    assert read_image(tmp_path / name).shape == (10, 12, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_bytes_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    sources = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(noise(24, 32)).save(buffer, kind)
        sources.append(buffer.getvalue())
    for trial in range(300):
        data = bytearray(sources[trial % len(sources)])
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(len(data))] = rng.integers(256)
        path = tmp_path / "fuzz"
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if trial % 3 == 0 else data)
        for rows in (None, 8):
            with contextlib.suppress(ImageError):
                assert read_image(path, rows=rows).shape[2] == 3
