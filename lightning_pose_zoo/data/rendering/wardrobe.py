"""What synthetic people look like: skin, hair, faces and clothes, and the solids that a dressed body is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.rendering.body import FRAMES, POINTS, Body
from lightning_pose_zoo.data.rendering.drawing import BINS, Camera, Integers, Singles, Solids

__all__ = ["PARTS", "ROUGHNESS", "Outfit", "dress", "sample_outfit"]

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    """One solid of the body; lengths in units of the person's height.

    Attributes:
        start: The point that its axis begins at.
        end: The point that its axis ends at.
        frame: Whose axes its cross section has.
        profile: Half its width at equal steps along the axis.
        flatness: Its extent to the front against that to the side.
        bulge: How far the round ends reach, in radii.
        start_offset: From the start point, in the frame.
        end_offset: From the end point, in the frame.
    """

    start: str
    end: str
    frame: str
    profile: tuple[float, ...]
    flatness: float = 1.0
    bulge: float = 1.0
    start_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    end_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _limbs(side: str) -> dict[str, _Part]:
    out = 1 if side == "left" else -1
    return {
        f"{side}_{name}": _Part(f"{side}_{start}", f"{side}_{end}", f"{side}_{frame}", profile, flat)
        for name, start, end, frame, profile, flat in _LIMBS
    } | {
        f"{side}_ear": _Part(
            f"{side}_ear", f"{side}_ear", "head", (0.009, 0.0125, 0.0125, 0.0115, 0.009),
            start_offset=(-0.003 * out, -0.008, 0.0), end_offset=(-0.003 * out, 0.01, -0.003),
        )
    }  # fmt: skip


# Name, start, end, frame, profile and flatness.
_LIMBS = (
    ("upper_arm", "shoulder", "elbow", "upper_arm", (0.036, 0.035, 0.033, 0.029, 0.027), 1.0),
    ("forearm", "elbow", "wrist", "forearm", (0.027, 0.028, 0.025, 0.02, 0.0175), 1.0),
    ("hand", "wrist", "hand", "forearm", (0.0165, 0.021, 0.023, 0.021, 0.017), 0.75),
    ("thigh", "hip", "knee", "thigh", (0.057, 0.055, 0.05, 0.043, 0.037), 1.0),
    ("shin", "knee", "ankle", "shin", (0.036, 0.038, 0.035, 0.027, 0.023), 1.0),
    ("foot", "heel", "toe", "foot", (0.023, 0.024, 0.026, 0.026, 0.02), 1.0),
)
_PARTS: dict[str, _Part] = {
    "hips": _Part("left_hip", "right_hip", "pelvis", (0.053, 0.057, 0.06, 0.057, 0.053), 0.95),
    "belly": _Part("pelvis", "spine", "waist", (0.1, 0.093, 0.084, 0.079, 0.079), 0.68, 0.2),
    "chest": _Part("spine", "thorax", "chest", (0.079, 0.085, 0.094, 0.1, 0.088), 0.62, 0.35),
    "shoulders": _Part("left_shoulder", "right_shoulder", "chest", (0.033, 0.037, 0.044, 0.037, 0.033), 0.95),
    "neck": _Part("thorax", "upper_neck", "chest", (0.042, 0.035, 0.031, 0.03, 0.031), 1.0, 0.9,
                  (0, 0, 0.004), (0, -0.01, 0.002)),
    "head": _Part("chin", "crown", "head", (0.0285, 0.034, 0.0395, 0.0435, 0.046), 1.2),
    "nose": _Part("nose", "nose", "head", (0.0055, 0.007, 0.008, 0.009, 0.0105), 1.0, 1.0,
                  (0, -0.022, 0.015), (0, 0, 0.009)),
    "hair": _Part("crown", "crown", "head", (0.046, 0.05, 0.051, 0.05, 0.047), 1.15, 1.0,
                  (0, 0.03, 0.024), (0, -0.005, 0.011)),
    "long_hair": _Part("crown", "upper_neck", "head", (0.05, 0.054, 0.055, 0.053, 0.046), 0.75, 0.6,
                       (0, 0.01, 0.026), (0, 0.02, 0.034)),
    "bun": _Part("crown", "crown", "head", (0.02, 0.023, 0.024, 0.023, 0.02), 1.0, 1.0,
                 (0, -0.04, 0.03), (0, -0.03, 0.045)),
    "brim": _Part("crown", "crown", "head", (0.006, 0.007, 0.007, 0.007, 0.006), 5.0, 1.0,
                  (0.026, -0.008, -0.062), (-0.026, -0.008, -0.062)),
    "print": _Part("spine", "thorax", "chest", (0.03, 0.034, 0.036, 0.036, 0.034), 1.0, 0.6,
                   (0, -0.03, -0.036), (0, 0.04, -0.038)),
    "skirt": _Part("pelvis", "pelvis", "pelvis", (0.096, 0.108, 0.114, 0.118, 0.12), 0.85, 0.15, (0, -0.02, 0)),
    "pack": _Part("thorax", "spine", "chest", (0.055, 0.066, 0.07, 0.074, 0.066), 0.75, 0.5,
                  (0, 0.02, 0.085), (0, 0.05, 0.1)),
    **_limbs("left"),
    **_limbs("right"),
}  # fmt: skip
PARTS: tuple[str, ...] = tuple(_PARTS)
"""Names of the solids, in the order of ``dress``."""

_INDEX = {name: index for index, name in enumerate(PARTS)}


def _named(*names: str) -> Integers:
    sided = [name for name in names if name in _INDEX]
    sided += [f"{side}_{name}" for name in names for side in ("left", "right") if f"{side}_{name}" in _INDEX]
    return np.array([_INDEX[name] for name in sided])


_STEPS = (np.arange(BINS) + 0.5) / BINS
_START = np.array([POINTS.index(part.start) for part in _PARTS.values()])
_END = np.array([POINTS.index(part.end) for part in _PARTS.values()])
_START_OFFSET = np.array([part.start_offset for part in _PARTS.values()])[:, :, None]
_END_OFFSET = np.array([part.end_offset for part in _PARTS.values()])[:, :, None]
_FRAME = np.array([FRAMES.index(part.frame) for part in _PARTS.values()])
_BULGE = np.array([part.bulge for part in _PARTS.values()])
_FLATNESS = np.array([part.flatness for part in _PARTS.values()])
_PROFILE = np.stack([np.interp(_STEPS, np.linspace(0, 1, len(part.profile)), part.profile) for part in _PARTS.values()])
_HEAD = _named("head", "nose", "hair", "long_hair", "bun", "brim", "ear")
_HAIRY = _named("hair", "long_hair", "bun")
_FLESH = _named("hips", "belly", "chest", "shoulders", "upper_arm", "forearm", "thigh", "shin", "skirt")
_SKIRT, _HAIR, _LONG_HAIR, _BUN, _BRIM, _PACK, _PRINT = (
    _INDEX[name] for name in ("skirt", "hair", "long_hair", "bun", "brim", "pack", "print")
)
_TRUNK, _UPPER_ARMS, _FOREARMS = _named("belly", "chest", "shoulders"), _named("upper_arm"), _named("forearm")
_BELLY, _CHEST = _INDEX["belly"], _INDEX["chest"]
_HIPS, _THIGHS, _SHINS, _FEET = _INDEX["hips"], _named("thigh"), _named("shin"), _named("foot")

# Dark to light; a person's skin lies between two neighbours.
_SKIN = np.array(
    [(82, 54, 42), (118, 78, 58), (156, 108, 80), (192, 140, 108), (218, 170, 138), (236, 196, 168), (246, 214, 194)]
)
_HAIR_COLORS = np.array(
    [
        (28, 22, 20),
        (46, 32, 24),
        (70, 46, 30),
        (104, 66, 38),
        (150, 100, 56),
        (206, 166, 104),
        (128, 52, 28),
        (150, 148, 146),
        (214, 210, 206),
    ]
)
_HAIR_CHANCES = np.cumsum([0.2, 0.2, 0.17, 0.12, 0.08, 0.08, 0.05, 0.06, 0.04])


@dataclass(frozen=True)
class Outfit:
    """How one person looks; colours are RGB, 0 to 255.

    Attributes:
        skin: Its skin.
        hair: Its hair, or the hat that covers it.
        style: Of the hair: bald, short, bun, long or cap.
        beard: Whether it wears one.
        glasses: Whether it wears them.
        top: Its shirt.
        stripes: The shirt's second colour.
        stripe_width: Steps of each stripe; 0 for a plain shirt.
        sleeve: Length of the sleeves: 0 none, 1 to the elbow, 2 to the wrist.
        bottom: Its trousers or skirt.
        leg: Length of the trouser legs: 0 none, 1 to the knee, 2 to the ankle.
        skirt: Length of the skirt: 0 none, 1 to the knee.
        shoes: Its shoes.
        socks: How far the socks reach up the shin, 0 to 1.
        looseness: How much the clothes add to the radius, units of the person's height.
        pack: A backpack's colour, None without.
        print: Half the width of what is on the breast, a picture or a tie, in units of the average; 0 without.
    """

    skin: Floats
    hair: Floats
    style: str
    beard: bool
    glasses: bool
    top: Floats
    stripes: Floats
    stripe_width: int
    sleeve: float
    bottom: Floats
    leg: float
    skirt: float
    shoes: Floats
    socks: float
    looseness: float
    pack: Floats | None
    print: float


def _cloth_color(hue: float, saturation: float, value: float) -> Floats:
    """Return an RGB colour; every third is grey, white or black, as clothes are."""
    saturation = saturation * 1.5 - 0.5 if saturation < 0.55 else saturation * 0.9
    value = 30 + 215 * value**0.8
    angles = np.array([0.0, 2.0944, 4.18879]) + hue * 6.28319
    tint = 0.5 + 0.5 * np.cos(angles)
    return np.asarray(value * (1 - max(saturation, 0.04) * (1 - tint)))


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """Draw skin, hair and clothes of one person."""
    draws, colors = rng.random(16), rng.random((5, 3))
    tone = draws[0] ** 0.8 * (len(_SKIN) - 1.001)
    skin = _SKIN[int(tone)] + (tone % 1) * (_SKIN[int(tone) + 1] - _SKIN[int(tone)])
    hair = _HAIR_COLORS[min(int(np.searchsorted(_HAIR_CHANCES, draws[1])), len(_HAIR_COLORS) - 1)] * (
        0.85 + 0.3 * draws[2]
    )
    style = ("bald", "short", "short", "short", "bun", "long", "long", "long", "cap", "short")[int(draws[3] * 10)]
    top = _cloth_color(*colors[0])
    feminine = style in ("long", "bun")
    skirt = (0.45 + 0.9 * draws[5]) if draws[4] < (0.42 if feminine else 0.04) else 0.0
    dressed = skirt > 0 and draws[6] < 0.5
    denim = np.array([58.0, 78.0, 118.0]) * (0.6 + 0.9 * colors[1, 0])
    bottom = top if dressed else denim if draws[7] < 0.25 else _cloth_color(*colors[1]) * 0.85
    long_sleeve, short_sleeve = 1.65 + 0.33 * draws[9], 0.15 + 0.85 * draws[9]
    leg = 1.7 + 0.28 * draws[11] if draws[10] < 0.65 else 0.4 + 0.7 * draws[11]
    return Outfit(
        skin=skin,
        hair=_cloth_color(*colors[2]) if style == "cap" else hair,
        style=style,
        beard=not feminine and draws[12] < 0.25,
        glasses=bool(draws[13] < 0.15),
        top=top,
        stripes=_cloth_color(*colors[3]),
        stripe_width=int(draws[14] * 16) + 2 if draws[14] < 0.25 else 0,
        sleeve=long_sleeve if draws[8] < 0.5 else short_sleeve if draws[8] < 0.85 else 0.0,
        bottom=bottom,
        leg=0.0 if skirt else leg,
        skirt=skirt,
        shoes=_cloth_color(*colors[4]) * 0.8,
        socks=0.35 * draws[15] if draws[15] > 0.5 else 0.0,
        looseness=0.002 + 0.011 * draws[12] * draws[9],
        pack=_cloth_color(*colors[3]) if draws[6] > 0.9 else None,
        print=0.3 + 0.85 * draws[15] if draws[7] > 0.65 else 0.0,
    )


def _materials(body: Body, outfit: Outfit) -> tuple[Floats, Singles]:
    """Return half the widths (P, BINS), units of the body, and the colours (P, BINS, 3) of the dressed parts."""
    build = body.build
    radius = _PROFILE.copy()
    radius[_HEAD] *= build.head
    radius[_FLESH] *= build.girth
    radius[_BELLY] *= build.belly * (0.5 + 0.5 * build.hips)
    radius[_CHEST] *= 0.4 + 0.6 * build.shoulders
    colors = np.empty((len(PARTS), BINS, 3), dtype=np.float32)
    colors[:] = outfit.skin
    pattern = np.tile(outfit.top, (BINS, 1))
    if outfit.stripe_width:
        pattern[(np.arange(BINS) // outfit.stripe_width) % 2 == 1] = outfit.stripes
    loose = outfit.looseness

    def clothe(parts: Integers, length: float, cloth: Floats, more: float = 1.0) -> None:
        covered = int(BINS * min(max(length, 0.0), 1.0))
        colors[parts, :covered] = cloth[:covered] if cloth.ndim == 2 else cloth
        radius[parts, :covered] += loose * more

    clothe(_TRUNK, 1, pattern, 0.7)
    clothe(_UPPER_ARMS, outfit.sleeve, pattern)
    clothe(_FOREARMS, outfit.sleeve - 1, pattern)
    colors[_BELLY, :3] = outfit.bottom * 0.85
    clothe(np.array([_HIPS]), 1, outfit.bottom, 0.7)
    clothe(_THIGHS, outfit.leg, outfit.bottom)
    clothe(_SHINS, outfit.leg - 1, outfit.bottom, 1.3)
    if outfit.socks:
        colors[_SHINS, int(BINS * (1 - outfit.socks)) :] = np.maximum(outfit.stripes, 150)
    clothe(_FEET, 1, outfit.shoes, 0.0)
    colors[_FEET, -4:] = outfit.shoes * 0.75
    colors[_SKIRT] = outfit.bottom
    clothe(_THIGHS, 0.9 * outfit.skirt, outfit.bottom, 0.0)  # what presses through the skirt is cloth
    colors[[_HAIR, _LONG_HAIR, _BUN, _BRIM]] = outfit.hair
    colors[_PRINT] = outfit.stripes
    radius[_PRINT] *= outfit.print
    absent = [part for part, style in ((_LONG_HAIR, "long"), (_BUN, "bun"), (_BRIM, "cap")) if style != outfit.style]
    absent += [_HAIR] * (outfit.style == "bald") + [_SKIRT] * (not outfit.skirt) + [_PACK] * (outfit.pack is None)
    if outfit.pack is not None:
        colors[_PACK] = outfit.pack
    radius[absent] = 0
    return radius, colors


ROUGHNESS: Singles = np.full(len(PARTS), 0.05, dtype=np.float32)
"""How much the texture of skin, hair and cloth shows on each part."""
ROUGHNESS[_FLESH] = 0.2
ROUGHNESS[_HAIRY] = 0.45


def dress(body: Body, outfit: Outfit, camera: Camera) -> Solids:
    """Turn a posed body into the solids that the camera sees, in the order of ``PARTS``."""
    radius, colors = _materials(body, outfit)
    frames = body.frames[_FRAME]
    size = np.ones((len(PARTS), 1))
    size[_HEAD] = body.build.head
    start = body.points[_START] + (frames @ _START_OFFSET)[:, :, 0] * size
    end = body.points[_END] + (frames @ _END_OFFSET)[:, :, 0] * size
    if outfit.skirt:
        knees = (body.points[POINTS.index("left_knee")] + body.points[POINTS.index("right_knee")]) / 2
        spread = np.linalg.norm(body.points[POINTS.index("left_knee")] - body.points[POINTS.index("right_knee")]) / 2
        end[_SKIRT] = knees * outfit.skirt
        radius[_SKIRT] += np.linspace(0, np.clip((spread - 0.06) * outfit.skirt, 0, 0.05), BINS)
    pixels, depth, scale = camera.project(np.concatenate([start, end]))
    count = len(PARTS)
    first, last = pixels[:count], pixels[count:]
    along = last - first
    length = np.hypot(along[:, 0], along[:, 1])
    axis = along / np.maximum(length, 1e-6)[:, None]
    seen = camera.rotation @ frames
    # Half extents of an ellipsoid with the part's cross section, across the axis, along it and in depth.
    seen[:, :, 2] *= _FLATNESS[:, None]
    across = np.linalg.norm(seen[:, 0] * -axis[:, 1:] + seen[:, 1] * axis[:, :1], axis=1)
    flat = seen[:, :, [0, 2]]
    along_extent = np.linalg.norm(flat[:, 0] * axis[:, :1] + flat[:, 1] * axis[:, 1:], axis=1)
    deep = np.linalg.norm(seen[:, 2], axis=1)
    whole = np.hypot(length, depth[count:] - depth[:count])
    cosine = length / np.maximum(whole, 1e-6)
    bulge = np.sqrt((cosine * _BULGE) ** 2 + (1 - cosine**2) * (along_extent / across) ** 2)
    along_scale = scale[:count, None] + (scale[count:] - scale[:count])[:, None] * _STEPS
    return Solids(
        start=first,
        end=last,
        depth=np.stack([depth[:count], depth[count:]], axis=1),
        radius=radius * across[:, None] * along_scale,
        bulge=bulge,
        thickness=deep / across,
        colors=colors,
    )
