"""The configuration of an ActionFormer, its presets, and which window lengths follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from models.checks import check_dropout, check_size
from models.detectors.detector import Lengths


@dataclass(frozen=True)
class ActionFormerConfig:
    """`windows`: attention window of the stem and of each further level, in points of that level; 0 sees everything.

    `projected_channels` belongs to input of several kinds of feature, each of which is first projected by itself.
    `train_length` is the longest window of training; position encodings are stretched beyond it.
    `mask_after_norm` and `pyramid_depthwise` tell OpenTAD's networks from those of the paper's own code.
    """

    input_channels: tuple[int, ...]
    num_classes: int
    projected_channels: tuple[int, ...] = ()
    channels: int = 512
    heads: int = 4
    windows: tuple[int, ...] = (19, 19, 19, 19, 19, 19)
    blocks: Literal["transformer", "convolution"] = "transformer"
    embed_layers: int = 2
    embed_kernel: int = 3
    stem_blocks: int = 2
    scale_factor: int = 2
    neck: Literal["identity", "pyramid"] = "identity"
    neck_channels: int = 512
    first_level: int = 0
    head_channels: int = 512
    head_layers: int = 3
    head_kernel: int = 3
    embed_norm: bool = True
    neck_norm: bool = True
    head_norm: bool = True
    position_encoding: bool = False
    relative_positions: bool = False
    train_length: int = 2304
    dropout: float = 0.0
    drop_path: float = 0.1
    input_dropout: float = 0.0
    residual_scale: bool = True
    prior_probability: float = 0.01
    empty_classes: tuple[int, ...] = ()
    norm_eps: float = 1e-5
    mask_after_norm: bool = False
    pyramid_depthwise: bool = True

    def __post_init__(self) -> None:
        self._check_numbers()
        if len(self.input_channels) > 1 and len(self.projected_channels) != len(self.input_channels):
            raise ValueError(
                f"{len(self.input_channels)} kinds of feature need as many projected_channels, "
                f"found {self.projected_channels}"
            )
        if self.projected_channels and sum(self.projected_channels) != self.channels:
            raise ValueError(f"projected_channels {self.projected_channels} add up to channels, not {self.channels}")
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} are no multiple of heads {self.heads}")
        if self.blocks == "transformer" and self.scale_factor > 1 and self.scale_factor % 2:
            raise ValueError(f"scale_factor is {self.scale_factor}; attention pools by 1 or an even number")
        if self.embed_layers == 0 and (sum(self.projected_channels) or self.input_channels[0]) != self.channels:
            raise ValueError(f"without embed_layers the features must have {self.channels} channels, as the blocks do")
        if not 0 <= self.first_level < len(self.windows):
            raise ValueError(f"first_level is {self.first_level}; there are levels 0 to {len(self.windows) - 1}")
        if self.neck == "identity" and self.neck_channels != self.channels:
            raise ValueError(
                f"neck_channels {self.neck_channels} differ from channels {self.channels} without a pyramid"
            )
        if self.relative_positions and any(window > 1 and window % 2 == 0 for window in self.windows):
            raise ValueError(f"relative positions need windows of odd length, found {self.windows}")

    def _check_numbers(self) -> None:
        for name in ("num_classes", "channels", "heads", "scale_factor", "neck_channels", "head_channels"):
            check_size(name, getattr(self, name))
        for name in ("head_layers", "embed_kernel", "head_kernel", "train_length"):
            check_size(name, getattr(self, name))
        for name in ("input_channels", "projected_channels"):
            for channels in getattr(self, name):
                check_size(name, channels)
        for name in ("dropout", "drop_path", "input_dropout"):
            check_dropout(name, getattr(self, name))
        if not self.input_channels or not self.windows or min(*self.windows, self.stem_blocks, self.embed_layers) < 0:
            raise ValueError(
                f"input_channels {self.input_channels}, windows {self.windows}, stem_blocks {self.stem_blocks}, "
                f"embed_layers {self.embed_layers}: one or more channels, one or more windows (0 sees everything) and "
                "no negative number are needed"
            )
        if self.embed_kernel % 2 == 0 or self.head_kernel % 2 == 0:
            raise ValueError(f"embed_kernel {self.embed_kernel} and head_kernel {self.head_kernel} must be odd")
        if not 0 <= self.prior_probability < 1:
            raise ValueError(f"prior_probability is {self.prior_probability}; at least 0 and less than 1 is needed")
        if any(not 0 <= number < self.num_classes for number in self.empty_classes):
            raise ValueError(f"empty_classes {self.empty_classes} name a class beyond the {self.num_classes} there are")

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels that have heads, in grid positions."""
        return tuple(self.scale_factor**level for level in range(self.first_level, len(self.windows)))

    @property
    def lengths(self) -> Lengths:
        coarsest = self.scale_factor ** (len(self.windows) - 1)
        sees_all = self.blocks == "transformer" and any(window <= 1 for window in self.windows)
        if sees_all:  # meant for resized videos
            return Lengths(coarsest, fixed=self.train_length)
        # So many empty points, on every level, are within reach of the last real one's convolutions and pooling.
        margin = max(coarsest * max(1, self.head_kernel // 2), self.embed_kernel // 2)
        reaches = (
            stride * 2 * (window // 2) if window > 1 else stride
            for stride, window in zip(self.strides, self.windows, strict=False)
        )
        return Lengths(
            coarsest,
            margin=-(-margin // coarsest) * coarsest,
            train_length=self.train_length,
            beyond_multiple_of=math.lcm(max(reaches), coarsest),
        )


def thumos(input_channels: int = 2048, num_classes: int = 20) -> ActionFormerConfig:
    return ActionFormerConfig((input_channels,), num_classes)


def activitynet(input_channels: int = 2048) -> ActionFormerConfig:
    """Finds actions of any class in 192 steps per video; something else names them."""
    return ActionFormerConfig(
        (input_channels,),
        num_classes=1,
        channels=256,
        neck_channels=256,
        head_channels=256,
        windows=(7, 7, 7, 7, 7, 0),
        position_encoding=True,
        train_length=192,
    )


def epic_kitchens(input_channels: int = 2304, num_classes: int = 97) -> ActionFormerConfig:
    return ActionFormerConfig((input_channels,), num_classes, windows=(9,) * 6)


def ego4d(input_channels: int = 2304, num_classes: int = 110) -> ActionFormerConfig:
    return ActionFormerConfig(
        (input_channels,), num_classes, windows=(9,) * 7, position_encoding=True, train_length=1024, dropout=0.1
    )


def compact(input_channels: int, num_classes: int, channels: int = 64) -> ActionFormerConfig:
    """For small data and small machines."""
    return ActionFormerConfig(
        (input_channels,),
        num_classes,
        channels=channels,
        neck_channels=channels,
        head_channels=channels,
        windows=(9,) * 5,
        train_length=512,
    )
