"""The configuration of a BMN, its presets, and the one window length that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.checks import check_size
from models.detectors.boundary_matching import MapShape
from models.detectors.detector import Lengths


@dataclass(frozen=True)
class BmnConfig:
    """`length`: steps of a window, or of a whole video that is `resized` to it; spans of up to `durations` steps.

    `layout` is how cells lie beside each other for the convolutions over the map: by duration and start, or by start
    and end (JJBOY's code, as long as `durations` is `length`). `sampled_ends` and `scored_ends` say which step samples
    are laid to, and whose end score counts: the last one of a span, or the one after it (the same code; a span that
    ends with the window then has none, and scores 0).

    A cell's score is the product of both of its answers, with `boundary_scores` also that of its start and of its end.
    With `peak_filter` spans take part whose start and end are likelier than those beside them, or than half of the
    likeliest. `classification_channel` is which of the two answers is trained to be high; the other regresses the tIoU.
    """

    input_channels: tuple[int, ...]
    length: int = 100
    durations: int = 100
    resized: bool = False
    channels: int = 256
    groups: int = 4
    hidden_channels: int = 128
    cell_channels: int = 512
    head_channels: int = 128
    head_layers: int = 2
    bins: int = 32
    samples_per_bin: int = 3
    context: float = 0.5
    layout: Literal["duration-start", "start-end"] = "duration-start"
    sampled_ends: Literal["last", "after"] = "last"
    scored_ends: Literal["last", "after"] = "last"
    classification_channel: int = 1
    boundary_scores: bool = True
    peak_filter: bool = True

    def __post_init__(self) -> None:
        check_host(self.input_channels, self.channels, self.groups)
        for name in ("length", "hidden_channels", "cell_channels", "head_channels"):
            check_size(name, getattr(self, name))
        if self.head_layers < 0:
            raise ValueError(f"head_layers is {self.head_layers}; 0 or more are needed")
        if self.layout == "start-end" and self.durations != self.length:
            raise ValueError(f"a map by start and end has {self.length} rows; durations is {self.durations}")
        if self.classification_channel not in {0, 1}:
            raise ValueError(f"classification_channel is {self.classification_channel}; 0 and 1 are accepted")
        _ = self.shape

    @property
    def num_classes(self) -> int:
        """Proposals are of any class; something else names them."""
        return 1

    @property
    def shape(self) -> MapShape:
        after = self.sampled_ends == "after"
        return MapShape(self.length, self.durations, self.bins, self.samples_per_bin, self.context, after)

    @property
    def lengths(self) -> Lengths:
        """`train_length` tells windows that are cut from videos that are resized (`bmn_rules.windowing`)."""
        return Lengths(fixed=self.length, train_length=None if self.resized else self.length)


def check_host(input_channels: tuple[int, ...], channels: int, groups: int) -> None:
    if len(input_channels) != 1:
        raise ValueError(f"input_channels is {input_channels}; one kind of feature is needed, as in (2048,)")
    for name, value in (("input_channels", input_channels[0]), ("channels", channels)):
        check_size(name, value)
        if value % groups:
            raise ValueError(f"{name} is {value}, no multiple of groups {groups}")


def thumos(input_channels: int = 2048) -> BmnConfig:
    """OpenTAD's: I3D features every 4 frames, windows of 128, spans of up to 64; scores without boundaries."""
    return BmnConfig((input_channels,), length=128, durations=64, boundary_scores=False)


def activitynet(input_channels: int = 400) -> BmnConfig:
    """The paper's: TSN class scores, videos resized to 100 steps."""
    return BmnConfig((input_channels,), resized=True)


def compact(input_channels: int, channels: int = 64) -> BmnConfig:
    """For small data and small machines."""
    return BmnConfig(
        (input_channels,),
        length=128,
        durations=64,
        channels=channels,
        hidden_channels=channels,
        cell_channels=2 * channels,
        head_channels=channels,
        bins=16,
    )
