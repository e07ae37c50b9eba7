"""TSN (Wang et al.: "Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016).

A network for pictures looks at each segment of a clip by itself, and the segments' class scores are averaged: clips
(N, T, H, W, C) in, features (N, F) and class scores (N, K) out. A segment is one RGB frame, or five neighbouring fields
of displacements stacked as ten channels x1, y1, x2, y2, …; T is segments · (1 or 5).

How pixels are scaled depends on whose weights are used. Read in their sources: ResNet-50 takes RGB by ImageNet's means
and deviations, and flow as (byte - 128) / 128 (MMAction2); BN-Inception takes BGR less 104, 117, 128, and flow as byte
- 128 (tsn-pytorch; its ResNets, and the Caffe original's mean of 123 for red, differ and have no preset here). The byte
is what a flow image stores, 255 · (x + 20) / 40 of a displacement x bounded to ±20 px. Images round it, this network
does not: a pixel that stands still is 127.5 here and 128 there, unless the flow was rounded before (`quantised` in a
bundle's manifest), which these weights were trained with. How far flow of another algorithm than their TV-L1 shifts
the scores is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.backbones.backbone import (
    CHANNELS,
    Backbone,
    BackboneOutputs,
    ClipFormat,
    Kind,
    Normalise,
    PixelScale,
    check_clips,
    check_width,
)
from models.backbones.bn_inception import MULTIPLE_OF_PX, BnInception
from models.backbones.resnet import ResNet50
from models.checks import check_dropout, check_size

Architecture = Literal["resnet50", "bn_inception"]
TRUNKS: Mapping[Architecture, type[ResNet50 | BnInception]] = {"resnet50": ResNet50, "bn_inception": BnInception}
SEGMENT_FRAMES: Mapping[Kind, int] = {"rgb": 1, "flow": 5}

FLOW_BOUND_PX = 20.0
BYTES_PER_PX = 255 / (2 * FLOW_BOUND_PX)
STILL_BYTE = 255 / 2


def _stored_flow(mean_byte: float, std_byte: float) -> PixelScale:
    """(byte - mean) / std, where byte = BYTES_PER_PX · x + STILL_BYTE, as a scale of the displacement x itself."""
    mean, std = (mean_byte - STILL_BYTE) / BYTES_PER_PX, std_byte / BYTES_PER_PX
    return PixelScale((mean,) * 2, (std,) * 2, clip_px=FLOW_BOUND_PX)


SCALES: Mapping[tuple[Architecture, Kind], PixelScale] = {
    ("resnet50", "rgb"): PixelScale((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ("resnet50", "flow"): _stored_flow(128, 128),
    ("bn_inception", "rgb"): PixelScale((104.0, 117.0, 128.0), (1.0, 1.0, 1.0), bgr=True),
    ("bn_inception", "flow"): _stored_flow(128, 1),
}


@dataclass(frozen=True)
class TsnConfig:
    """`width` multiplies every channel count; `size_px` is what the network is meant to be fed with, not a limit."""

    architecture: Architecture = "resnet50"
    kind: Kind = "rgb"
    num_classes: int = 400
    segments: int = 1
    width: float = 1.0
    size_px: int = 224
    dropout: float = 0.4

    def __post_init__(self) -> None:
        for name, accepted in (("architecture", tuple(TRUNKS)), ("kind", tuple(CHANNELS))):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {', '.join(accepted)}")
        for name in ("num_classes", "segments", "size_px"):
            check_size(name, getattr(self, name))
        if self.architecture == "bn_inception" and self.size_px % MULTIPLE_OF_PX:
            raise ValueError(f"size_px is {self.size_px}; bn_inception takes multiples of {MULTIPLE_OF_PX}")
        check_width(self.width)
        check_dropout("dropout", self.dropout)


def resnet50(kind: Kind, num_classes: int = 400) -> TsnConfig:
    return TsnConfig("resnet50", kind, num_classes)


def bn_inception(kind: Kind, num_classes: int = 400) -> TsnConfig:
    return TsnConfig("bn_inception", kind, num_classes, dropout=0.8)


def compact(kind: Kind, num_classes: int, width: float = 0.25) -> TsnConfig:
    """For CPUs and tests: at a quarter of the width and 112 px, 0.15 GFLOP a segment instead of 8.2."""
    return TsnConfig("resnet50", kind, num_classes, width=width, size_px=112)


class Tsn(Backbone):
    config: TsnConfig

    def __init__(self, config: TsnConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(self.clip_format.scale)
        stacked = SEGMENT_FRAMES[config.kind] * CHANNELS[config.kind]
        self.trunk = TRUNKS[config.architecture](stacked, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.trunk.channels_out, config.num_classes)

    @property
    def clip_format(self) -> ClipFormat:
        config = self.config
        frames = config.segments * SEGMENT_FRAMES[config.kind]
        return ClipFormat(config.kind, frames, config.size_px, SCALES[config.architecture, config.kind])

    @property
    def feature_channels(self) -> int:
        return self.trunk.channels_out

    def forward(self, clips: Tensor) -> BackboneOutputs:
        check_clips(clips, self.clip_format, any_length=False)
        features = self.trunk(self.stacks(clips)).mean((2, 3))
        scores = self.classifier(self.dropout(features))
        return BackboneOutputs(self._consensus(features), self._consensus(scores))

    def stacks(self, clips: Tensor) -> Tensor:
        """Clips (N, T, H, W, C) → what the trunk sees, scaled: (N · segments, channels, H, W)."""
        segments = torch.unflatten(self.normalise(clips), 1, (self.config.segments, -1))
        return segments.permute(0, 1, 2, 5, 3, 4).flatten(2, 3).flatten(0, 1)

    def _consensus(self, per_segment: Tensor) -> Tensor:
        """(N · segments, C) → (N, C)."""
        return torch.unflatten(per_segment, 0, (-1, self.config.segments)).mean(1)
