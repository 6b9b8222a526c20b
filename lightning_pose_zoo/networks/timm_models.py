"""timm's models as backbones: by name, nothing of other people's from a hub, and one message where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["pooled_backbone", "stage_strides", "timm_model", "timm_stage"]


def timm_model(name: str, own: Sequence[str] = (), **arguments: Any) -> Any:
    """Build one of timm's own models.

    Names that would fetch a model from elsewhere, such as ``hf-hub:...``, are refused: a name may come out of a file.

    Args:
        name: Of the model, with or without the tag of its weights.
        own: What a network takes besides timm's names, for the message.
        arguments: As for ``timm.create_model``.

    Raises:
        ValueError: Where there is no such model, or it cannot be built so; names similar ones.
    """
    import timm

    reason = ""
    if timm.is_model(name):
        try:
            return timm.create_model(name, **arguments)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = f" that can be used here ({error})"
    close = ", ".join([*own, *timm.list_models(f"{name[:6]}*")[:5]])
    raise ValueError(f"timm has no backbone '{name}'{reason}; similar names: {close or 'none'}.")


def pooled_backbone(name: str, pretrained: bool, own: Sequence[str] = ()) -> tuple[nn.Module, int]:
    """Build a classification model without its classifier, and return the number of its pooled features beside it.

    Raises:
        ValueError: Where there is no such model.
    """
    model = timm_model(name, own, pretrained=pretrained, num_classes=0)
    return model, int(getattr(model, "head_hidden_size", None) or model.num_features)


def stage_strides(name: str, stride: int, own: Sequence[str] = ()) -> list[int]:
    """Return the strides of a model's stages, without building its weights.

    Raises:
        ValueError: Where there is no such model, or none of its stages has the wanted stride.
    """
    with torch.device("meta"):
        strides: list[int] = timm_model(name, own, features_only=True).feature_info.reduction()
    if stride not in strides:
        raise ValueError(f"the backbone '{name}' has stages of stride {strides}, none of {stride}.")
    return strides


def timm_stage(name: str, pretrained: bool, stride: int) -> tuple[nn.Module, int]:
    """Build a model up to the last stage of a stride, and return its channels beside it.

    Raises:
        ValueError: Where there is no such model or stage.
    """
    strides = stage_strides(name, stride)
    index = len(strides) - 1 - strides[::-1].index(stride)
    stage = timm_model(name, pretrained=pretrained, features_only=True, out_indices=(index,))
    return stage, stage.feature_info.channels()[-1]
