"""I3D (Carreira, Zisserman: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017).

Inception-v1 with its filters inflated to three dimensions: clips (N, T, H, W, C) in, features (N, 1024 · width) and
class scores (N, K) out. Time shrinks by 8: T frames leave ceil(T / 8) steps, of which neighbours are averaged, so that
ceil(T / 8) - 1 steps are classified (1 for T ≤ 8, where there is no neighbour); features and scores are their means.

Numbers agree with the PyTorch port of the authors' network, whose padding follows TensorFlow: as much as the stride
needs at this size, the odd element at the end. Deviation: space is averaged whole, which is the port's 7x7 window at
224 px and lets other sizes pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what every torch user calls it)

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
    scaled,
)
from models.checks import check_dropout, check_size

Sizes = tuple[int, int, int]  # time, height, width

RGB_SCALE = PixelScale(mean=(127.5,) * 3, std=(127.5,) * 3)
CENTRED_GAIN = 2.0  # what is left without the mean is small
FLOW_SCALE = PixelScale(mean=(0.0,) * 2, std=(20.0,) * 2, clip_px=20.0)


@dataclass(frozen=True)
class I3dConfig:
    """`width` multiplies every channel count. `clip_frames` and `size_px` say what the network is meant to be fed with;
    it takes other lengths and sizes, and a graph exported from it is tied to those of its example.

    `centred` takes a clip's mean picture away from each of its frames, so that what stands still vanishes: not
    published, for training from nothing on little data, where backgrounds would hide what moves.
    """

    kind: Kind = "rgb"
    num_classes: int = 400
    width: float = 1.0
    clip_frames: int = 16
    size_px: int = 224
    dropout: float = 0.5
    centred: bool = False

    def __post_init__(self) -> None:
        if self.kind not in tuple(CHANNELS):
            raise ValueError(f"kind is {self.kind!r}; accepted are {', '.join(CHANNELS)}")
        for name in ("num_classes", "clip_frames", "size_px"):
            check_size(name, getattr(self, name))
        check_width(self.width)
        check_dropout("dropout", self.dropout)


def rgb(num_classes: int = 400) -> I3dConfig:
    return I3dConfig("rgb", num_classes)


def flow(num_classes: int = 400) -> I3dConfig:
    return I3dConfig("flow", num_classes)


def compact(kind: Kind, num_classes: int, width: float = 0.25) -> I3dConfig:
    """For CPUs and tests: at a quarter of the width and 112 px, 1.5 GFLOP a clip instead of 56."""
    return I3dConfig(kind, num_classes, width, size_px=112)


class Conv(NamedTuple):
    channels: int
    kernel: int
    stride: int = 1


class Pool(NamedTuple):
    kernel: Sizes
    stride: Sizes


class Mixed(NamedTuple):
    """Channels of an Inception block: four branches, two of which are narrowed before their 3x3x3."""

    point: int
    first_narrow: int
    first: int
    second_narrow: int
    second: int
    pooled: int


# The stages by their published names, in order.
PLAN: Mapping[str, Conv | Pool | Mixed] = {
    "Conv3d_1a_7x7": Conv(64, 7, 2),
    "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Conv(64, 1),
    "Conv3d_2c_3x3": Conv(192, 3),
    "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, 96, 128, 16, 32, 32),
    "Mixed_3c": Mixed(128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, 96, 208, 16, 48, 64),
    "Mixed_4c": Mixed(160, 112, 224, 24, 64, 64),
    "Mixed_4d": Mixed(128, 128, 256, 24, 64, 64),
    "Mixed_4e": Mixed(112, 144, 288, 32, 64, 64),
    "Mixed_4f": Mixed(256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, 160, 320, 32, 128, 128),
    "Mixed_5c": Mixed(384, 192, 384, 48, 128, 128),
}


class SamePadding(nn.Module):
    """(…, T, H, W) with zeros around, so that a strided window gives ceil(size / stride) positions."""

    def __init__(self, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.axes = tuple(zip(kernel, stride, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        # No branch on a size, and no comparison: a trace follows sizes through arithmetic only.
        for size, (kernel, stride) in zip(reversed(x.shape[2:]), reversed(self.axes), strict=True):
            missing = kernel - 1 - (size - 1) % stride
            sides += [missing // 2, missing - missing // 2]
        return F.pad(x, sides)


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        # At stride 1 the padding is the same on both sides at any size, and costs no copy inside the convolution.
        inside = kernel // 2 if stride == 1 else 0
        self.pad = SamePadding((kernel,) * 3, (stride,) * 3) if stride > 1 else nn.Identity()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride, inside, bias=False)
        self.norm = nn.BatchNorm3d(channels_out, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(self.pad(x))))


class InceptionBlock(nn.Module):
    """(N, C, T, H, W) → (N, C', T, H, W): a point, two 3x3x3 and a pooled branch, side by side."""

    def __init__(self, channels_in: int, plan: Mixed) -> None:
        super().__init__()
        self.point = ConvUnit(channels_in, plan.point, 1)
        self.first = nn.Sequential(
            ConvUnit(channels_in, plan.first_narrow, 1), ConvUnit(plan.first_narrow, plan.first, 3)
        )
        self.second = nn.Sequential(
            ConvUnit(channels_in, plan.second_narrow, 1), ConvUnit(plan.second_narrow, plan.second, 3)
        )
        # This pool pads with minus infinity, the port with zeros: the same, since nothing after a ReLU is negative.
        self.pooled = nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvUnit(channels_in, plan.pooled, 1))
        self.channels_out = plan.point + plan.first + plan.second + plan.pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.first(x), self.second(x), self.pooled(x)], 1)


class I3d(Backbone):
    """Parts that comparisons need: `endpoints` of scaled clips, `steps` in time, and `step_scores`."""

    config: I3dConfig

    def __init__(self, config: I3dConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(self.clip_format.scale)
        self.trunk, self._feature_channels = _build(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv1d(self._feature_channels, config.num_classes, 1)

    @property
    def clip_format(self) -> ClipFormat:
        scale = RGB_SCALE if self.config.kind == "rgb" else FLOW_SCALE
        return ClipFormat(self.config.kind, self.config.clip_frames, self.config.size_px, scale)

    @property
    def feature_channels(self) -> int:
        return self._feature_channels

    def forward(self, clips: Tensor) -> BackboneOutputs:
        check_clips(clips, self.clip_format, any_length=True)
        volume = self.normalise(clips).permute(0, 4, 1, 2, 3)
        if self.config.centred:
            volume = CENTRED_GAIN * (volume - volume.mean(2, keepdim=True))
        steps = self.steps(self.trunk(volume))
        return BackboneOutputs(steps.mean(2), self.step_scores(steps).mean(2))

    def endpoints(self, volume: Tensor) -> dict[str, Tensor]:
        """Scaled clips (N, C, T, H, W) → what each stage gives, by its published name; the last is Mixed_5c."""
        seen = {}
        for name, stage in self.trunk.named_children():
            volume = stage(volume)
            seen[name] = volume
        return seen

    @staticmethod
    def steps(volume: Tensor) -> Tensor:
        """Mixed_5c (N, C, t, h, w) → features of each step (N, C, max(t - 1, 1))."""
        length, height, width = volume.shape[2:]
        pair = 2 - 1 // length  # two neighbours, or the only one there is; again without a branch
        return F.avg_pool3d(volume, (pair, height, width), stride=1).flatten(2)

    def step_scores(self, steps: Tensor) -> Tensor:
        """Features (N, C, t) → class scores (N, K, t) before any activation."""
        scores: Tensor = self.classifier(self.dropout(steps))
        return scores


def _build(config: I3dConfig) -> tuple[nn.Sequential, int]:
    """The stages, and how many channels the last one has."""
    channels = CHANNELS[config.kind]
    trunk = nn.Sequential()
    for name, plan in PLAN.items():
        match plan:
            case Conv(wide, kernel, stride):
                trunk.add_module(name, ConvUnit(channels, scaled(wide, config.width), kernel, stride))
                channels = scaled(wide, config.width)
            case Pool(window, hop):
                trunk.add_module(name, nn.Sequential(SamePadding(window, hop), nn.MaxPool3d(window, hop)))
            case Mixed():
                block = InceptionBlock(channels, Mixed(*(scaled(wide, config.width) for wide in plan)))
                trunk.add_module(name, block)
                channels = block.channels_out
    return trunk, channels
