"""The configuration of a TadTR, its presets, and the one window length that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.checks import check_dropout, check_size
from models.detectors.detector import Lengths

Activation = Literal["relu", "leaky_relu", "gelu"]


@dataclass(frozen=True)
class TadTRConfig:
    """`length`: steps of a window, or of a whole video that is `resized` to it. `queries`: so many actions at most are
    found in one.

    `padding` says what empty steps are: "zeros", a part of the window like any other, as the published data are cut;
    or "masked", so that coordinates are fractions of the snippets that there are.
    `refine` False lets every layer predict from the first reference point with the same heads. Without `actionness`
    scores are those of the classes alone; `query_attention` and `positions` False are the paper's ablations.
    """

    input_channels: tuple[int, ...]
    num_classes: int
    channels: int = 256
    heads: int = 8
    encoder_layers: int = 4
    encoder_points: int = 4
    decoder_layers: int = 4
    decoder_points: int = 4
    feedforward_channels: int = 1024
    activation: Activation = "relu"
    queries: int = 40
    length: int = 128
    resized: bool = False
    padding: Literal["zeros", "masked"] = "zeros"
    refine: bool = True
    actionness: bool = True
    query_attention: bool = True
    positions: bool = True
    bins: int = 16
    roi_scale: float = 1.5
    norm_groups: int = 32
    dropout: float = 0.1
    prior_probability: float = 0.01

    def __post_init__(self) -> None:
        for name in ("num_classes", "channels", "heads", "encoder_points", "decoder_layers", "decoder_points"):
            check_size(name, getattr(self, name))
        for name in ("feedforward_channels", "queries", "length", "bins", "norm_groups"):
            check_size(name, getattr(self, name))
        check_dropout("dropout", self.dropout)
        if len(self.input_channels) != 1:
            raise ValueError(f"input_channels are {self.input_channels}; TadTR takes one kind of feature")
        check_size("input_channels", self.input_channels[0])
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers is {self.encoder_layers}; no negative number is accepted")
        for name in ("heads", "norm_groups"):
            if self.channels % getattr(self, name):
                raise ValueError(f"channels {self.channels} are no multiple of {name} {getattr(self, name)}")
        if self.roi_scale <= 0:
            raise ValueError(f"roi_scale is {self.roi_scale}; a number greater than 0 is needed")
        if not 0 < self.prior_probability < 1:
            raise ValueError(f"prior_probability is {self.prior_probability}; it lies between 0 and 1, both excluded")

    @property
    def lengths(self) -> Lengths:
        """`train_length` tells windows that are cut from videos that are resized (`tadtr_rules.windowing`)."""
        return Lengths(fixed=self.length, train_length=None if self.resized else self.length)


def thumos(input_channels: int = 2048, num_classes: int = 20) -> TadTRConfig:
    """Two-stream I3D features, in windows of 128 snippets."""
    return TadTRConfig((input_channels,), num_classes)


def activitynet(input_channels: int = 512) -> TadTRConfig:
    """TSP features; finds actions of any class, and something else names them.

    Reconstruction: the authors released THUMOS14's configuration only. Ten queries are what their page names; the
    layers are the defaults of their options, and 100 steps per video are what others resize to.
    """
    return TadTRConfig((input_channels,), num_classes=1, encoder_layers=2, queries=10, length=100, resized=True)


def compact(input_channels: int, num_classes: int, channels: int = 64) -> TadTRConfig:
    """For small data and small machines."""
    return TadTRConfig(
        (input_channels,),
        num_classes,
        channels=channels,
        heads=4,
        encoder_layers=2,
        decoder_layers=3,
        feedforward_channels=2 * channels,
        norm_groups=8,
    )
