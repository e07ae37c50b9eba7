"""What every detector takes and gives: features and a mask in, candidates or curves of activation out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

OutputKind = Literal["candidates", "activations"]
# What a graph made of a detector gives, by the names that a manifest has for it.
OUTPUTS: Mapping[OutputKind, tuple[str, ...]] = {
    "candidates": ("spans", "scores", "groups"),
    "activations": ("activations", "video_scores"),
}


class Candidates(NamedTuple):
    """Spans (B, N, 2) in grid positions, scores (B, N, K) in [0, 1] (0: no candidate), groups (N,): pyramid levels."""

    spans: Tensor
    scores: Tensor
    groups: Tensor


class Activations(NamedTuple):
    """How strong each class is at every step (B, T, K) and in a whole window (B, K), in [0, 1]; 0 without snippets."""

    curves: Tensor
    video_scores: Tensor


class Targets(NamedTuple):
    """The annotated actions of one video: spans (G, 2) in grid positions, labels (G,) int64.

    Detectors that learn from whole videos look at the labels alone, and count a video `weight` times; a label beyond
    the last class is the background's.
    """

    spans: Tensor
    labels: Tensor
    weight: float = 1.0


class Losses(NamedTuple):
    """`total` is what training descends; `parts` are what it was made of, by name, for curves and logs."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Lengths:
    """Which window lengths a detector takes, in steps; `fixed` excludes all others.

    `margin`: so many empty steps after a video make its last candidates independent of how far it is padded beyond. It
    is published numbers that count: a video is padded to `train_length` at most, and a longer one to a multiple of
    `beyond_multiple_of`, margin or not.
    """

    multiple_of: int = 1
    fixed: int | None = None
    margin: int = 0
    train_length: int | None = None
    beyond_multiple_of: int | None = None


class DetectorConfig(Protocol):
    @property
    def input_channels(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def lengths(self) -> Lengths: ...


class Detector(nn.Module):
    """`forward` gives what a loss needs, `decode` makes of it what serving needs; both are tensor code that exports."""

    config: DetectorConfig

    def forward(self, features: Tensor, mask: Tensor) -> Any:
        """Features (B, C, T) and mask (B, T), true where there is a real snippet."""
        raise NotImplementedError

    def decode(self, outputs: Any) -> Candidates | Activations:
        raise NotImplementedError


def steps_of(mask: Tensor) -> Tensor:
    """0, 1, 2 … for a mask (T,), in float32; a trace would tie `arange` to the device that it was made on."""
    return (mask.to(torch.float32) * 0 + 1).cumsum(0) - 1
