"""The configuration of a ReAct network, its presets, and which window lengths follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from models.checks import check_size
from models.detectors.detector import Lengths


@dataclass(frozen=True)
class ReActConfig:
    """`train_length`: steps of a training window; with `resized` of every window, since videos are resized to it.

    `relational` False lets every query attend to every other. Else a query attends to those whose features are more
    alike than `similarity_above` (cosine, the paper's gamma) and whose segments overlap its own by at most
    `overlap_up_to` (IoU, tau). Of tau the supplement says 0.5 for THUMOS14, the released code has 0.2; 0.2 is the
    default, since the released weights were trained with it.

    `padded_positions`: as in the released code, in a padded window fractions are of the padded length, which moves what
    is sampled by a part of a step. Without it fractions are of the snippets that are there, as the code has it for a
    window without padding, and padding changes nothing. For equality with published numbers of padded batches only.
    """

    input_channels: tuple[int, ...]
    num_classes: int
    channels: int = 256
    heads: int = 8
    feed_forward: int = 1024
    encoder_layers: int = 2
    encoder_points: int = 4
    decoder_layers: int = 4
    decoder_points: int = 4
    queries: int = 40
    relational: bool = True
    overlap_up_to: float = 0.2
    similarity_above: float = 0.2
    train_length: int = 256
    resized: bool = False
    padded_positions: bool = False
    prior_probability: float = 0.01

    def __post_init__(self) -> None:
        for name in ("num_classes", "channels", "heads", "feed_forward", "decoder_layers", "queries", "train_length"):
            check_size(name, getattr(self, name))
        for name in ("encoder_points", "decoder_points"):
            check_size(name, getattr(self, name))
        if len(self.input_channels) != 1:
            raise ValueError(f"input_channels is {self.input_channels}; one kind of feature is needed, as in (2048,)")
        check_size("input_channels", self.input_channels[0])
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers is {self.encoder_layers}; 0 or more are needed")
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} are no multiple of heads {self.heads}")
        if not 0 <= self.overlap_up_to <= 1:
            raise ValueError(f"overlap_up_to is {self.overlap_up_to}; an IoU from 0 to 1 is needed")
        if not -1 <= self.similarity_above < 1:
            raise ValueError(f"similarity_above is {self.similarity_above}; a cosine from -1 to below 1 is needed")
        if not 0 < self.prior_probability < 1:
            raise ValueError(f"prior_probability is {self.prior_probability}; more than 0 and less than 1 is needed")

    @property
    def lengths(self) -> Lengths:
        """A length that is fixed without a length of training is that of resized videos."""
        if self.resized:
            return Lengths(fixed=self.train_length)
        return Lengths(fixed=self.train_length if self.padded_positions else None, train_length=self.train_length)


def thumos(input_channels: int = 2048, num_classes: int = 20) -> ReActConfig:
    """TSN features of two streams, every fifth frame."""
    return ReActConfig((input_channels,), num_classes)


def activitynet(input_channels: int = 400, num_classes: int = 200) -> ReActConfig:
    """Videos resized to 100 snippets of TSN class scores. Heads, hidden width and points, which the supplement leaves
    open here, are those of THUMOS14 (a reconstruction)."""
    return ReActConfig(
        (input_channels,),
        num_classes,
        encoder_layers=3,
        queries=60,
        overlap_up_to=0.9,
        similarity_above=-0.2,
        train_length=100,
        resized=True,
    )


def compact(input_channels: int, num_classes: int, channels: int = 64) -> ReActConfig:
    """For small data and small machines."""
    return ReActConfig(
        (input_channels,),
        num_classes,
        channels=channels,
        heads=4,
        feed_forward=4 * channels,
        encoder_layers=1,
        decoder_layers=3,
        queries=24,
        train_length=128,
    )
