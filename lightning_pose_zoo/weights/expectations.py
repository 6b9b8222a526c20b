"""What weights expect of the method around them: pixels, and how the network's maps are read."""

from __future__ import annotations

from torch import nn

from lightning_pose_zoo.weights.reading import TrainedWeights
from lightning_pose_zoo.weights.sources import Pixels, Source

__all__ = ["pixels_of", "reading_advice", "set_normalization"]


def pixels_of(trained: TrainedWeights, source: Source) -> Pixels | None:
    """Return what weights expect of pixels: by their source, or as a checkpoint of this package says; else None."""
    if source.pixels is not None:
        return source.pixels
    return Pixels(**trained.normalization) if trained.normalization else None


def set_normalization(method: nn.Module, trained: TrainedWeights, source: Source) -> list[str]:
    """Let a method hand its network the pixels that the weights were trained on; says so where that is a change."""
    from lightning_pose_zoo.methods.normalization import Normalization

    before, pixels = getattr(method, "normalization", None), pixels_of(trained, source)
    if pixels is None or not isinstance(before, Normalization):
        return []
    now = Normalization(*pixels)
    if now.settings() == before.settings():
        return []
    method.normalization = now.to(before.mean.device)
    return [f"normalization: set to {now}, which these weights expect; it was {before}"]


def reading_advice(method: nn.Module, trained: TrainedWeights, source: Source) -> list[str]:
    """Say where a method reads its network's output otherwise than the weights were trained."""
    advice = []
    codec = getattr(method, "codec", None)
    convention = getattr(codec, "convention", "")
    if source.convention and convention and convention != source.convention:
        advice.append(
            f"codec: these weights were trained with the convention '{source.convention}', and this method reads by "
            f"'{convention}'. To score them as they are, give the method {type(codec).__name__}"
            f"('{source.convention}', ...); "
            "where they are trained on, they learn the method's."
        )
    given = getattr(method, "hparams", {})
    for name, value in source.arguments.items():
        if name in given and given[name] != value:
            advice.append(
                f"{name}: these weights were trained with {name}={value!r}, and this method has {given[name]!r}; to "
                f"score them as they are, build it with {name}={value!r}"
            )
    for name in ("codec", "loss"):
        there, here = trained.parts.get(name), getattr(method, name, None)
        if there is not None and here is not None and there != repr(here):
            advice.append(f"{name}: these weights were trained with {there}, and this method has {here}")
    return advice
