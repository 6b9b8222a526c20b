"""Textures for all surfaces of synthetic pictures, and what a camera does to a picture."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Textures", "textures", "through_the_lens"]

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_BANK = 320  # side of the stored textures, pixels


class Textures:
    """A store of grey patterns; crops of it, stretched and turned, give every surface a texture of its own."""

    def __init__(self, seed: int = 0) -> None:
        """Make the patterns.

        Args:
            seed: Of the patterns; the same for all pictures, as only the crops differ.
        """
        rng = np.random.default_rng(seed)
        self._patterns = [
            self._fractal(rng, (1, 1)),
            self._fractal(rng, (1, 9)),
            self._fractal(rng, (9, 1)),
            self._leaves(rng),
            self._bricks(rng, 16, 34, 0.5),
            self._bricks(rng, 24, 24, 0.0),
            self._bricks(rng, 10, 90, 0.37),
        ]
        grain = rng.standard_normal((_BANK * 2, _BANK * 2, 3)) + 0.5 * rng.standard_normal((_BANK * 2, _BANK * 2, 1))
        self._grain = np.clip(128 + 32 * grain, 0, 255).astype(np.uint8)

    @staticmethod
    def _stretch(field: Floats) -> npt.NDArray[np.uint8]:
        return np.asarray(np.clip(128 + 45 * (field - field.mean()) / field.std(), 0, 255), dtype=np.uint8)

    @classmethod
    def _fractal(cls, rng: np.random.Generator, aspect: tuple[int, int]) -> npt.NDArray[np.uint8]:
        field = np.zeros((_BANK, _BANK))
        for octave in range(2, 8):
            shape = (max(2, 2**octave // aspect[0]), max(2, 2**octave // aspect[1]))
            field += cv2.resize(rng.standard_normal(shape), (_BANK, _BANK), interpolation=cv2.INTER_CUBIC) / 2 ** (
                0.7 * octave
            )
        return cls._stretch(field)

    @classmethod
    def _leaves(cls, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        field = np.full((_BANK, _BANK), 128.0)
        for x, y, size, angle, value in rng.random((1500, 5)) * (_BANK, _BANK, 6, 360, 255):
            cv2.ellipse(
                field,
                (int(x), int(y)),
                (int(size) + 3, int(size / 3) + 2),
                angle,
                0,
                360,
                float(value),
                -1,
                cv2.LINE_AA,
            )
        return cls._stretch(field)

    @classmethod
    def _bricks(cls, rng: np.random.Generator, high: int, wide: int, shift: float) -> npt.NDArray[np.uint8]:
        field = np.zeros((_BANK, _BANK))
        for row in range(0, _BANK, high):
            for column in range(-wide, _BANK, wide):
                left = column + int(shift * wide * ((row // high) % 3))
                cv2.rectangle(
                    field, (left, row), (left + wide - 2, row + high - 2), 2.5 + 0.8 * rng.standard_normal(), -1
                )
        return cls._stretch(field + 0.3 * rng.standard_normal(field.shape))

    def crop(self, rng: np.random.Generator, height: int, width: int, kind: int | None = None) -> npt.NDArray[np.uint8]:
        """Return a pattern (height, width), grey around 128: of a kind, or of any."""
        draws = rng.random(5)
        pattern = self._patterns[int(draws[0] * len(self._patterns)) if kind is None else kind]
        side = _BANK * (0.25 + 0.5 * draws[1])
        high, wide = int(side), int(side * (0.6 + 0.7 * draws[2]))
        top, left = int(draws[3] * (_BANK - high)), int(draws[4] * (_BANK - wide))
        return np.asarray(cv2.resize(pattern[top : top + high, left : left + wide], (width, height)), dtype=np.uint8)

    def grain(self, rng: np.random.Generator, height: int, width: int) -> Image:
        """Return a sensor's noise (height, width, 3) around 128 with a deviation of about 36."""
        top, left = rng.integers(0, _BANK, 2)
        if height > _BANK or width > _BANK:
            repeats = (-(-height // _BANK), -(-width // _BANK), 1)
            return np.tile(self._grain[top : top + _BANK, left : left + _BANK], repeats)[:height, :width]
        return self._grain[top : top + height, left : left + width]


@cache
def textures() -> Textures:
    """Return the one store of textures, made on first use."""
    return Textures()


def through_the_lens(rng: np.random.Generator, image: Image) -> Image:
    """Return the picture as a camera takes it: exposure, contrast, colour cast, softness, noise."""
    height, width = image.shape[:2]
    draws = rng.random(5)
    contrast, brightness = 0.7 + 0.5 * draws[0], (draws[1] - 0.45) * 50
    cast = 1 + 0.07 * rng.standard_normal(3).clip(-1.5, 1.5)
    gamma = 0.7 + 0.5 * draws[2]
    level = np.arange(256)[:, None] / 255
    curve = ((level**gamma - 0.5) * contrast + 0.5) * 255 * cast + brightness
    image = np.asarray(cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)[None]), dtype=np.uint8)
    # Every lens is a little soft; some pictures are out of focus.
    softness = 0.45 if draws[3] > 0.25 else height / 160 * (0.5 + 2.4 * draws[3])
    image = np.asarray(cv2.GaussianBlur(image, (3, 3) if softness < 0.6 else (0, 0), softness), dtype=np.uint8)
    noise = 0.02 + 0.22 * draws[4] ** 3
    return np.asarray(
        cv2.addWeighted(image, 1.0, textures().grain(rng, height, width), noise, -128 * noise), dtype=np.uint8
    )
