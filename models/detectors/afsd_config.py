"""The configuration of an AFSD network, its presets, and which window length follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.checks import check_size
from models.detectors.detector import Lengths


@dataclass(frozen=True)
class AfsdConfig:
    """A network for windows of exactly `length` steps, or for whole videos `resized` to that many.

    `stem` "temporal" takes snippet features, "spatial" the maps of I3D's Mixed_4f and Mixed_5c (of the latter alone
    where `stem_levels` is 1). `fusion` "late" runs one network per kind of feature and averages their candidates.
    A step holds `frames_per_step` places of the frame-level map: "frames" below and everywhere in AFSD are these.
    `distance_units_frames`: of each level, how far a distance reaches whose head says 0; 1 everywhere as a default.
    `boundaries` "rounded" pools between whole steps as published, "continuous" between the very ends of regions.
    """

    input_channels: tuple[int, ...]
    num_classes: int
    stem: Literal["temporal", "spatial"] = "temporal"
    stem_levels: int = 2
    fusion: Literal["none", "late"] = "none"
    length: int = 64
    resized: bool = False
    frames_per_step: int = 4
    levels: int = 6
    channels: int = 512
    groups: int = 32
    distance_units_frames: tuple[float, ...] = ()
    boundaries: Literal["rounded", "continuous"] = "rounded"

    def __post_init__(self) -> None:
        for name in ("num_classes", "length", "frames_per_step", "levels", "channels", "groups"):
            check_size(name, getattr(self, name))
        for channels in self.input_channels:
            check_size("input_channels", channels)
        if not self.input_channels:
            raise ValueError("input_channels is (); one kind of feature or more is needed")
        if self.channels % (2 * self.groups):
            raise ValueError(
                f"channels {self.channels} are no multiple of twice the groups {self.groups}; half are for starts"
            )
        if self.stem_levels not in {1, 2} or self.stem_levels > self.levels:
            raise ValueError(f"stem_levels is {self.stem_levels} of {self.levels} levels; 1 and 2 are accepted")
        if self.length % 2 ** (self.levels - 1):
            raise ValueError(f"length {self.length} is no multiple of {2 ** (self.levels - 1)}, the coarsest stride")
        self._check_units()
        self._check_kinds()

    def _check_units(self) -> None:
        units = self.distance_units_frames
        if units and (len(units) != self.levels or min(units) <= 0):
            raise ValueError(f"distance_units_frames {units}: {self.levels} numbers above 0, one per level, are needed")

    def _check_kinds(self) -> None:
        kinds = len(self.input_channels)
        if self.stem == "spatial" and kinds != self.stem_levels:
            raise ValueError(
                f"a spatial stem of {self.stem_levels} levels takes {self.stem_levels} maps; "
                f"input_channels are {self.input_channels}"
            )
        if self.fusion == "late" and (kinds < 2 or self.stem == "spatial"):
            raise ValueError(
                f"late fusion needs a temporal stem and two kinds of feature or more; stem is {self.stem!r}, "
                f"input_channels are {self.input_channels}"
            )

    @property
    def runs(self) -> tuple[int, ...]:
        """The feature channels of each network that runs side by side."""
        return self.input_channels if self.fusion == "late" else (sum(self.input_channels),)

    @property
    def units_frames(self) -> tuple[float, ...]:
        return self.distance_units_frames or (1.0,) * self.levels

    @property
    def num_frames(self) -> int:
        return self.length * self.frames_per_step

    @property
    def lengths(self) -> Lengths:
        """`train_length` tells windows that are cut from videos that are resized (`afsd_rules.windowing`)."""
        return Lengths(2 ** (self.levels - 1), fixed=self.length, train_length=None if self.resized else self.length)


def thumos(input_channels: int = 2048, num_classes: int = 20) -> AfsdConfig:
    """Features of every 12th frame, 64 at a time, as OpenTAD feeds them; from the stem on as published."""
    return AfsdConfig((input_channels,), num_classes)


def activitynet(input_channels: int = 512) -> AfsdConfig:
    """Finds actions of any class in a video resized to 96 steps; something else names them."""
    return AfsdConfig(
        (input_channels,),
        num_classes=1,
        stem_levels=1,
        length=96,
        resized=True,
        frames_per_step=8,
        distance_units_frames=(4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
    )


def compact(input_channels: int, num_classes: int, channels: int = 64) -> AfsdConfig:
    """For small data and small machines: a level's distances are in units of its own stride."""
    return AfsdConfig(
        (input_channels,),
        num_classes,
        length=128,
        channels=channels,
        groups=8,
        distance_units_frames=(4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
    )
