"""The configuration of a G-TAD, its presets, and the one window length that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.checks import check_size
from models.detectors.detector import Lengths

Context = Literal["none", "last", "all"]
EndRead = Literal["after", "within"]


@dataclass(frozen=True)
class GtadConfig:
    """`length`: steps of a window, or of a whole video that is `resized` to it; actions of up to `max_duration` of them
    are looked for. Every cell of the map, a start and a duration, sees its span and half of it to either side.

    `context`: the mean of each snippet's nearest neighbours, in the space of the last features or of both graphs'
    inputs, is pooled into `context_bins` beside the `inner_bins` of the features themselves.
    `exclusive_ends`: the span of a cell reaches to where the step after it begins (OpenTAD), not to its last step.
    `cell_start`: the grid position where the first cell begins; a step's own cell is the half step around it.
    `ends_inside`: nothing that ends with the window is an answer, as in the published codes.
    `boundary_filter`: only cells whose start and end are peaks, or half as likely as the likeliest, are answers. How
    likely a cell's end is the step "after" it tells, or the last step "within" (OpenTAD, where a window's own ends can
    be peaks); None takes all cells.
    `classification_first` says which of a cell's two answers is which in the weights.
    """

    input_channels: tuple[int, ...]
    num_classes: int = 1
    channels: int = 256
    pooled_channels: int = 512
    head_channels: int = 128
    head_kernel: int = 3
    length: int = 256
    max_duration: int = 64
    resized: bool = False
    inner_bins: int = 16
    context_bins: int = 16
    context: Context = "last"
    neighbours: int = 3
    stem_groups: int = 4
    graph_groups: int = 32
    graph_width: int = 128
    exclusive_ends: bool = False
    cell_start: float = -0.5
    ends_inside: bool = True
    boundary_filter: EndRead | None = None
    classification_first: bool = False

    def __post_init__(self) -> None:
        for name in ("channels", "pooled_channels", "head_channels", "head_kernel", "length", "max_duration"):
            check_size(name, getattr(self, name))
        for name in ("inner_bins", "context_bins", "neighbours", "stem_groups", "graph_groups", "graph_width"):
            check_size(name, getattr(self, name))
        if len(self.input_channels) != 1:
            raise ValueError(f"input_channels are {self.input_channels}; G-TAD takes one kind of feature")
        check_size("input_channels", self.input_channels[0])
        if self.num_classes != 1:
            raise ValueError(f"num_classes is {self.num_classes}; G-TAD finds actions of any class: only 1 is accepted")
        if self.head_kernel % 2 == 0:
            raise ValueError(f"head_kernel is {self.head_kernel}; an odd number is needed")
        for name in ("max_duration", "neighbours"):
            if getattr(self, name) > self.length:
                raise ValueError(f"{name} {getattr(self, name)} exceeds length {self.length}")
        for name in ("channels", "input_channels"):
            size = self.input_channels[0] if name == "input_channels" else self.channels
            if size % self.stem_groups:
                raise ValueError(f"{name} {size} are no multiple of stem_groups {self.stem_groups}")
        if self.graph_width % self.graph_groups:
            raise ValueError(f"graph_width {self.graph_width} is no multiple of graph_groups {self.graph_groups}")

    @property
    def bins(self) -> int:
        """Per cell and channel, of both kinds together."""
        return self.inner_bins + (0 if self.context == "none" else self.context_bins)

    @property
    def lengths(self) -> Lengths:
        """`train_length` tells windows that are cut from videos that are resized (`gtad_rules.windowing`)."""
        return Lengths(fixed=self.length, train_length=None if self.resized else self.length)


def thumos(input_channels: int = 2048) -> GtadConfig:
    """Two-stream TSN features of every fifth frame, in windows of 256; the authors' branch `master`."""
    return GtadConfig((input_channels,))


def activitynet(input_channels: int = 400) -> GtadConfig:
    """TSN class scores of a video resized to 100 steps; the authors' branch `anet`."""
    return GtadConfig(
        (input_channels,),
        head_kernel=1,
        length=100,
        max_duration=100,
        resized=True,
        inner_bins=32,
        context_bins=4,
        boundary_filter="after",
    )


def compact(input_channels: int, channels: int = 64) -> GtadConfig:
    """For small data and small machines."""
    return GtadConfig(
        (input_channels,),
        channels=channels,
        pooled_channels=2 * channels,
        head_channels=channels,
        length=128,
        max_duration=64,
        inner_bins=8,
        context_bins=8,
        graph_groups=8,
        graph_width=channels,
        ends_inside=False,
    )
