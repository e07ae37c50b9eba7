"""The vocabulary of an answer: what was asked of a video, what the video is, and which actions it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Extra = Literal["activations"]


@dataclass(frozen=True)
class VideoInfo:
    """A video as its container describes it; `width_px` and `height_px` are as displayed (rotated, square pixels)."""

    duration_s: float
    num_frames: int
    fps: float
    is_vfr: bool
    width_px: int
    height_px: int
    rotation_deg: int
    codec: str
    container: str
    start_s: float


@dataclass(frozen=True)
class Segment:
    """One action: from `start_s` to `end_s` on the container's presentation timeline, score in [0, 1]."""

    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True)
class DetectOptions:
    """What a caller may choose per request; None leaves the choice to the bundle.

    `start_s` and `end_s` bound the part of the video that is looked at; `include` names extras of the answer.
    """

    min_score: float | None = None
    top_k: int | None = None
    labels: tuple[str, ...] | None = None
    start_s: float | None = None
    end_s: float | None = None
    include: tuple[Extra, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far one stage of the work has come, in a unit of its own."""

    stage: str
    done: float
    total: float


@dataclass(frozen=True)
class ModelInfo:
    name: str
    version: str
    sha256: str
    provider: str


@dataclass(frozen=True)
class Activations:
    """How strong each label is over time: `values` holds a row per label with a number per moment of `times_s`.

    Of a model that gives candidates, a number is the best score of those that span the moment, before suppression.
    """

    labels: tuple[str, ...]
    times_s: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Localization:
    """The whole answer for one video."""

    video_name: str
    video: VideoInfo
    model: ModelInfo
    segments: tuple[Segment, ...]
    timings_s: dict[str, float]
    warnings: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    activations: Activations | None = None
