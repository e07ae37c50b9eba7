"""The configuration of an RCL network, its presets, and the one window length that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.checks import check_size
from models.detectors.bmn_config import check_host
from models.detectors.boundary_matching import MapShape
from models.detectors.detector import Lengths
from models.detectors.gtad_config import GtadConfig

Sampling = Literal["regular", "sparse-half", "sparse-levels", "scale-invariant"]
HALF = 0.5  # of the window: spans longer than this are looked for at every second start ("sparse-half")
LEVEL = 0.2  # of the window: with every such part of it that a span is longer, at half as many ("sparse-levels")
SHORTEST = 1.0  # step


@dataclass(frozen=True)
class RclConfig:
    """`length`: steps of a window, or of a whole video that is `resized` to it. `host`: what reads it, the base of a
    "bmn" or that of a "gtad" (`neighbours`, `graph_groups`, `graph_width` are of the latter).

    Spans are asked for on a lattice of `rows` lengths, up to `longest` steps, by `length` starts. `sampling`: at every
    multiple of longest / rows ("regular"); the same, but longer spans at fewer starts ("sparse-half",
    "sparse-levels"); or at lengths of equal ratios ("scale-invariant"). Training moves every span by up to half a cell
    if `jitter`. `coordinates`: where a span lies, "relative" to the nearest cell of the regular grid, whose features it
    has, or in the window ("absolute").

    A recurrent cell then corrects the map `iterations` times; `inference_iterations` None stands for as many.
    `update` "lean" lets it read the map as it is and a context of `context_channels`; "full" is RAFT's, which encodes
    the map and the spans' features, too.
    """

    input_channels: tuple[int, ...]
    length: int = 100
    rows: int = 100
    longest: int = 100
    resized: bool = False
    host: Literal["bmn", "gtad"] = "bmn"
    channels: int = 256
    groups: int = 4
    neighbours: int = 3
    graph_groups: int = 32
    graph_width: int = 128
    hidden_channels: int = 128
    cell_channels: int = 512
    head_channels: int = 128
    head_layers: int = 2
    bins: int = 32
    samples_per_bin: int = 3
    context: float = 0.5
    sampling: Sampling = "scale-invariant"
    jitter: bool = True
    coordinates: Literal["relative", "absolute"] = "relative"
    iterations: int = 10
    inference_iterations: int | None = None
    update: Literal["lean", "full"] = "lean"
    memory_channels: int = 64
    context_channels: int = 32

    def __post_init__(self) -> None:
        check_host(self.input_channels, self.channels, self.groups)
        for name in ("length", "rows", "longest", "hidden_channels", "cell_channels", "head_channels"):
            check_size(name, getattr(self, name))
        for name in ("memory_channels", "context_channels"):
            check_size(name, getattr(self, name))
        for name in ("head_layers", "iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 or more are needed")
        if self.inference_iterations is not None and self.inference_iterations < 0:
            raise ValueError(f"inference_iterations is {self.inference_iterations}; 0 or more are needed")
        if self.inference_iterations and not self.iterations:
            raise ValueError(
                f"inference_iterations is {self.inference_iterations}, but a network of 0 iterations has nothing to "
                "correct its map with"
            )
        if self.longest > self.length:
            raise ValueError(f"longest is {self.longest}; a window of {self.length} steps has no longer spans")
        _ = self.shape
        if self.host == "gtad":
            _ = self.gtad

    @property
    def num_classes(self) -> int:
        """Proposals are of any class; something else names them."""
        return 1

    @property
    def shape(self) -> MapShape:
        """The regular grid that features are made for."""
        return MapShape(self.length, self.longest, self.bins, self.samples_per_bin, self.context)

    @property
    def gtad(self) -> GtadConfig:
        """That of the host."""
        return GtadConfig(
            self.input_channels,
            channels=self.channels,
            length=self.length,
            max_duration=self.longest,
            neighbours=self.neighbours,
            stem_groups=self.groups,
            graph_groups=self.graph_groups,
            graph_width=self.graph_width,
        )

    @property
    def lengths(self) -> Lengths:
        """`train_length` tells windows that are cut from videos that are resized (`bmn_rules.windowing`)."""
        return Lengths(fixed=self.length, train_length=None if self.resized else self.length)


def thumos(input_channels: int = 2048) -> RclConfig:
    """Windows of 256 steps, spans of up to 64."""
    return RclConfig((input_channels,), length=256, rows=64, longest=64)


def activitynet(input_channels: int = 400) -> RclConfig:
    """Videos resized to 100 steps."""
    return RclConfig((input_channels,), resized=True)


def compact(input_channels: int, channels: int = 64) -> RclConfig:
    """For small data and small machines."""
    return RclConfig(
        (input_channels,),
        length=128,
        rows=48,
        longest=64,
        channels=channels,
        graph_groups=8,
        graph_width=channels // 2,
        hidden_channels=channels,
        cell_channels=2 * channels,
        head_channels=channels,
        bins=16,
        iterations=5,
        memory_channels=channels // 2,
        context_channels=channels // 4,
    )
