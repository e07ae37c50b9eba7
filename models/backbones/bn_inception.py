"""BN-Inception (Ioffe, Szegedy, ICML 2015) without its head: pictures (N, C, H, W) in, maps (N, 1024 · width, …) out.

The variant that TSN's authors published: convolutions keep a bias although batch norm follows, pooling with a stride
rounds sizes up, average pooling counts its padding as zeros, and the last block pools by maximum. Maps are H / 32 by
W / 32. Where a map of odd size is halved, convolution and pooling disagree about the result: H and W must be multiples
of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what every torch user calls it)

from models.backbones.backbone import is_traced, scaled

MULTIPLE_OF_PX = 32


class Mixed(NamedTuple):
    """Channels of a block: 1x1; 3x3 after a narrow 1x1; two 3x3 after another; 1x1 after pooling."""

    point: int
    first_narrow: int
    first: int
    second_narrow: int
    second: int
    pooled: int


class Halving(NamedTuple):
    """Channels of a block that halves height and width: no 1x1 branch, and the pooled one passes on what comes in."""

    first_narrow: int
    first: int
    second_narrow: int
    second: int


PLAN: Mapping[str, Mixed | Halving] = {
    "inception_3a": Mixed(64, 64, 64, 64, 96, 32),
    "inception_3b": Mixed(64, 64, 96, 64, 96, 64),
    "inception_3c": Halving(128, 160, 64, 96),
    "inception_4a": Mixed(224, 64, 96, 96, 128, 128),
    "inception_4b": Mixed(192, 96, 128, 96, 128, 128),
    "inception_4c": Mixed(160, 128, 160, 128, 160, 128),
    "inception_4d": Mixed(96, 128, 192, 160, 192, 128),
    "inception_4e": Halving(128, 192, 192, 256),
    "inception_5a": Mixed(352, 192, 320, 160, 224, 128),
    "inception_5b": Mixed(352, 192, 320, 192, 224, 128),
}
POOLS_BY_MAXIMUM = {"inception_5b"}


class ConvUnit(nn.Module):
    """Convolution with bias, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class InceptionBlock(nn.Module):
    """(N, C, H, W) → (N, C', H, W): four branches side by side."""

    def __init__(self, channels_in: int, plan: Mixed, pool: nn.Module) -> None:
        super().__init__()
        self.point = ConvUnit(channels_in, plan.point, 1)
        self.first = _one_3x3(channels_in, plan, 1)
        self.second = _two_3x3(channels_in, plan, 1)
        self.pooled = nn.Sequential(pool, ConvUnit(channels_in, plan.pooled, 1))
        self.channels_out = plan.point + plan.first + plan.second + plan.pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.first(x), self.second(x), self.pooled(x)], 1)


class HalvingBlock(nn.Module):
    """(N, C, H, W) → (N, C', H / 2, W / 2), rounded up: two branches, and what came in, pooled."""

    def __init__(self, channels_in: int, plan: Halving) -> None:
        super().__init__()
        self.first = _one_3x3(channels_in, plan, 2)
        self.second = _two_3x3(channels_in, plan, 2)
        self.pooled = _halving_pool()
        self.channels_out = plan.first + plan.second + channels_in

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x), self.pooled(x)], 1)


class BnInception(nn.Sequential):
    """Stages by the names of the published weights."""

    def __init__(self, channels_in: int, width: float = 1.0) -> None:
        super().__init__()
        channels, wide = scaled(64, width), scaled(192, width)
        self.add_module("conv1_7x7_s2", ConvUnit(channels_in, channels, 7, 2))
        self.add_module("pool1_3x3_s2", _halving_pool())
        self.add_module("conv2_3x3_reduce", ConvUnit(channels, channels, 1))
        self.add_module("conv2_3x3", ConvUnit(channels, wide, 3))
        self.add_module("pool2_3x3_s2", _halving_pool())
        channels = wide
        for name, plan in PLAN.items():
            block = _block(name, plan, channels, width)
            self.add_module(name, block)
            channels = block.channels_out
        self.channels_out = channels

    def forward(self, pictures: Tensor) -> Tensor:
        if not is_traced() and any(side % MULTIPLE_OF_PX for side in pictures.shape[2:]):
            height, width = pictures.shape[2:]
            raise ValueError(f"pictures of {width}x{height} px; BN-Inception takes multiples of {MULTIPLE_OF_PX} px")
        for stage in self:
            pictures = stage(pictures)
        return pictures


def _block(name: str, plan: Mixed | Halving, channels_in: int, width: float) -> InceptionBlock | HalvingBlock:
    widths = (scaled(channels, width) for channels in plan)
    if isinstance(plan, Halving):
        return HalvingBlock(channels_in, Halving(*widths))
    pool = nn.MaxPool2d(3, 1, 1) if name in POOLS_BY_MAXIMUM else nn.AvgPool2d(3, 1, 1, count_include_pad=True)
    return InceptionBlock(channels_in, Mixed(*widths), pool)


def _one_3x3(channels_in: int, plan: Mixed | Halving, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(channels_in, plan.first_narrow, 1), ConvUnit(plan.first_narrow, plan.first, 3, stride)
    )


def _two_3x3(channels_in: int, plan: Mixed | Halving, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(channels_in, plan.second_narrow, 1),
        ConvUnit(plan.second_narrow, plan.second, 3),
        ConvUnit(plan.second, plan.second, 3, stride),
    )


def _halving_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
