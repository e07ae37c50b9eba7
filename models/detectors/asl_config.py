"""The configuration of an ASL network: ActionFormer's and what the paper changes; its presets per data set.

Layers, heads, widths and lengths are those of the supplement (Shao et al., ICCV 2023). It tells no attention windows,
no position encoding and no dropout: those are reconstructions, chosen as ActionFormer's presets choose them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Lengths

ChannelForm = Literal["paper", "released", "none"]


@dataclass(frozen=True)
class AslConfig(ActionFormerConfig):
    """`embed_layers`: the projection and the layers of the TCN encoder. `stem_blocks`: the transformer encoder, whose
    `channel_share` comes from attention between channels. `windows`: of the levels; the first is also the encoder's.

    `channel_attention` "released" is that of the authors' challenge code, which sees padded places, so that numbers
    depend on how far a video is padded. `resized`: every video is stretched to `train_length` steps.
    """

    heads: int = 8
    windows: tuple[int, ...] = (19, 19, 19, 19, 19)
    train_length: int = 1024
    channel_attention: ChannelForm = "paper"
    channel_share: float = 0.2
    resized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.channel_share <= 1:
            raise ValueError(f"channel_share is {self.channel_share}; a number from 0 to 1 is needed")
        if self.blocks != "transformer":
            raise ValueError(f"blocks is {self.blocks!r}; ASL is made of 'transformer' blocks alone")
        if self.resized and self.train_length % self._coarsest:
            raise ValueError(
                f"train_length is {self.train_length}; resized videos need a multiple of the coarsest stride, "
                f"{self._coarsest}"
            )

    @property
    def lengths(self) -> Lengths:
        if self.resized:
            return Lengths(self._coarsest, fixed=self.train_length)
        lengths = super().lengths
        if self.channel_attention != "released" or lengths.fixed is not None:
            return lengths
        # Padded to the length of training at least: there is no margin beyond which the padding does not matter.
        return replace(lengths, margin=-(-self.train_length // self._coarsest) * self._coarsest)

    @property
    def _coarsest(self) -> int:
        return self.strides[-1]


def thumos(input_channels: int = 2048, num_classes: int = 20) -> AslConfig:
    """Reconstruction: the supplement "extends" videos to 1024 steps; here longer ones stay whole."""
    return AslConfig((input_channels,), num_classes)


def multithumos(input_channels: int = 1024, num_classes: int = 65) -> AslConfig:
    return AslConfig((input_channels,), num_classes, resized=True)


def charades(input_channels: int = 1024, num_classes: int = 157) -> AslConfig:
    """Reconstruction: 512 steps bound a training sample; the supplement does not say whether videos are stretched."""
    return AslConfig((input_channels,), num_classes, train_length=512)


def activitynet(input_channels: int = 2048) -> AslConfig:
    """Finds actions of any class in 192 steps per video; something else names them."""
    return AslConfig(
        (input_channels,),
        num_classes=1,
        channels=256,
        heads=4,
        neck_channels=256,
        head_channels=256,
        windows=(7, 7, 7, 7, 0),
        position_encoding=True,
        train_length=192,
    )


def ego4d(input_channels: int = 4096, num_classes: int = 110) -> AslConfig:
    """EgoVLP, SlowFast and Omnivore features side by side (256 + 2304 + 1536); eight levels."""
    return AslConfig(
        (input_channels,),
        num_classes,
        embed_layers=3,
        stem_blocks=3,
        windows=(9,) * 8,
        position_encoding=True,
        dropout=0.1,
    )


def epic_kitchens(input_channels: int = 2304, num_classes: int = 97) -> AslConfig:
    return AslConfig((input_channels,), num_classes, windows=(9,) * 5)


def compact(input_channels: int, num_classes: int, channels: int = 64) -> AslConfig:
    """For small data and small machines; ours, as ActionFormer's."""
    return AslConfig(
        (input_channels,),
        num_classes,
        channels=channels,
        heads=4,
        neck_channels=channels,
        head_channels=channels,
        windows=(9,) * 5,
        train_length=512,
    )
