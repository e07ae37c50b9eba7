"""The configuration of an AMNet, its presets, and which window lengths follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from models.checks import check_size
from models.detectors import actionformer_config
from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Lengths

Mask = Literal["learned", "off"]
MaskForm = Literal["softmax", "independent"]
Refinement = Literal["projected", "scaled"]
Groups = Literal["temporal", "channel", "pyramid", "off"]


@dataclass(frozen=True)
class AmnetConfig(ActionFormerConfig):
    """Without mask and groups this is an ActionFormer, whose other fields mean what they mean there.

    `mask_form`: the share of the positive branch in a softmax over both, or each branch's own sigmoid. `refinement`:
    how masked features enter, see `MaskingEncoder`. `groups`: what the short and the long group are, see
    `TemporalGroups`, `ChannelGroups`, `LevelGroups`. `long_stride` belongs to temporal groups: steps per long token.
    """

    stem_blocks: int = 0  # group attention stands where ActionFormer has two local blocks
    mask: Mask = "learned"
    mask_form: MaskForm = "softmax"
    refinement: Refinement = "projected"
    groups: Groups = "temporal"
    group_layers: int = 2
    group_heads: int = 4
    long_stride: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        accepted = {"mask": Mask, "mask_form": MaskForm, "refinement": Refinement, "groups": Groups}
        for name, values in accepted.items():
            if getattr(self, name) not in get_args(values):
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {', '.join(get_args(values))}")
        for name in ("group_layers", "group_heads", "long_stride"):
            check_size(name, getattr(self, name))
        self._check_groups()

    def _check_groups(self) -> None:
        if self.groups == "off":
            return
        if self.groups != "pyramid" and self.channels % 2:
            raise ValueError(f"channels {self.channels} cannot be halved for {self.groups} groups")
        if self.group_channels % self.group_heads:
            raise ValueError(
                f"group_heads {self.group_heads} do not divide the {self.group_channels} channels of a group"
            )
        if self.groups == "temporal" and self.long_stride % 2:
            raise ValueError(f"long_stride is {self.long_stride}; an even number is needed")
        if self.groups == "pyramid" and len(self.windows) == 1:
            raise ValueError(f"pyramid groups need two levels or more, found windows {self.windows}")
        if self.lengths.fixed is not None and self.lengths.fixed % self.lengths.multiple_of:
            raise ValueError(
                f"train_length {self.train_length} is no multiple of {self.lengths.multiple_of}, as the coarsest level "
                f"and long_stride {self.long_stride} need"
            )

    @property
    def group_channels(self) -> int:
        return self.channels if self.groups == "pyramid" else self.channels // 2

    @property
    def lengths(self) -> Lengths:
        """ActionFormer's, such that long tokens come out even; group attention sees everything and reads no padding."""
        lengths = super().lengths
        unit = math.lcm(lengths.multiple_of, self.long_stride) if self.groups == "temporal" else lengths.multiple_of
        if lengths.fixed is not None:
            return replace(lengths, multiple_of=unit)
        return replace(
            lengths,
            multiple_of=unit,
            margin=-(-lengths.margin // unit) * unit,
            beyond_multiple_of=math.lcm(lengths.beyond_multiple_of or 1, unit),
        )


def thumos(input_channels: int = 2048, num_classes: int = 20, channels: int = 512) -> AmnetConfig:
    """The paper's embedding widths are 128, 256 and, chosen, 512."""
    return AmnetConfig(
        (input_channels,), num_classes, channels=channels, neck_channels=channels, head_channels=channels
    )


def activitynet(input_channels: int = 2048) -> AmnetConfig:
    """Finds actions of any class in 192 steps per video; something else names them."""
    return _like(actionformer_config.activitynet(input_channels))


def compact(input_channels: int, num_classes: int, channels: int = 64) -> AmnetConfig:
    """For small data and small machines."""
    return _like(actionformer_config.compact(input_channels, num_classes, channels))


def _like(preset: ActionFormerConfig) -> AmnetConfig:
    """With group attention where that has its blocks before the pyramid."""
    return AmnetConfig(**{**vars(preset), "stem_blocks": 0})
