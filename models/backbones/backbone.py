"""What every backbone is: pixels of clips in, one feature vector and class scores per clip out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Kind = Literal["rgb", "flow"]
CHANNELS: Mapping[Kind, int] = {"rgb": 3, "flow": 2}
DTYPES: Mapping[Kind, torch.dtype] = {"rgb": torch.uint8, "flow": torch.float32}
WIDEST = 4  # times the published width; more is a mistake in a configuration


class BackboneOutputs(NamedTuple):
    """Of N clips: features (N, C) float32, and class scores (N, K) before any activation."""

    features: Tensor
    scores: Tensor


@dataclass(frozen=True)
class PixelScale:
    """Values of a frame as the network wants them: (x - mean) / std, channel by channel.

    x is a byte 0 to 255 (RGB), or a displacement in pixels (flow), bounded to ±`clip_px` first. With `bgr` the frame's
    channels are turned round first, so that means and deviations are those of blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip_px: float | None = None
    bgr: bool = False


@dataclass(frozen=True)
class ClipFormat:
    """What a backbone's clips are cut from: frames or displacements, how many, how large."""

    kind: Kind
    clip_frames: int
    size_px: int
    scale: PixelScale


class BackboneConfig(Protocol):
    @property
    def num_classes(self) -> int: ...


class Backbone(nn.Module):
    """`forward` takes frames as they were decoded; normalisation is part of the network, so that it is exported too."""

    config: BackboneConfig

    @property
    def clip_format(self) -> ClipFormat:
        raise NotImplementedError

    @property
    def feature_channels(self) -> int:
        raise NotImplementedError

    def forward(self, clips: Tensor) -> BackboneOutputs:
        """uint8 clips (N, T, H, W, 3), or float32 displacements (N, T, H, W, 2) in pixels."""
        raise NotImplementedError


class Normalise(nn.Module):
    """Frames as they were decoded (…, C) → float32 (…, C), scaled.

    Its numbers belong to the architecture, not to what was learned: they move to a GPU and into a graph with the
    network, but stay out of its state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scale: PixelScale) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor(scale.mean), persistent=False)
        self.register_buffer("std", torch.tensor(scale.std), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        values = frames.to(torch.float32)
        if self.scale.bgr:
            values = values.flip(-1)
        if self.scale.clip_px is not None:
            values = values.clamp(-self.scale.clip_px, self.scale.clip_px)
        return (values - self.mean) / self.std


def check_clips(clips: Tensor, form: ClipFormat, *, any_length: bool) -> None:
    """Refuse what is not a batch of clips of this form; pictures may have any height and width."""
    if is_traced():
        return
    length: int | str = "T" if any_length else form.clip_frames
    fits = clips.dim() == 5 and clips.shape[-1] == CHANNELS[form.kind] and length in {"T", clips.shape[1]}
    if not fits or clips.dtype != DTYPES[form.kind]:
        raise ValueError(
            f"clips are {tuple(clips.shape)} of {clips.dtype}; {form.kind} takes (N, {length}, H, W, "
            f"{CHANNELS[form.kind]}) of {DTYPES[form.kind]}"
        )


def is_traced() -> bool:
    """Whether torch.jit.trace is at work: sizes are tensors then, and a comparison of them warns and is not traced."""
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return traced


def check_width(width: object) -> None:
    if not isinstance(width, int | float) or not 0 < width <= WIDEST:
        raise ValueError(f"width is {width!r}; a number above 0 and up to {WIDEST} is needed")


def scaled(channels: int, width: float) -> int:
    """Channels of a network that is `width` times as wide: the nearest whole number, at least 1."""
    return max(1, round(channels * width))
