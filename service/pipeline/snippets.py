"""Frames in, clips for a backbone out; and `SnippetGrid`, the only place where positions become seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Frames = NDArray[Any]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class SnippetGrid:
    """Where snippets stand on a video's presentation timeline.

    Position g is frame `g * stride_frames + offset_frames` of the sampled frames; a frame's moment is its own
    presentation time, so variable frame rate and late starts need no further thought. Frame n, one past the last, is
    the end of the video. Positions outside the video continue at its mean frame rate.
    """

    frame_times_s: Times
    end_s: float
    stride_frames: float
    offset_frames: float

    def __post_init__(self) -> None:
        if self.frame_times_s.ndim != 1 or not len(self.frame_times_s):
            raise ValueError(f"frame_times_s has shape {self.frame_times_s.shape}; a grid needs at least one frame")
        if self.stride_frames <= 0:
            raise ValueError(f"stride_frames is {self.stride_frames}; it must be positive")

    def __repr__(self) -> str:
        span = f"{self.num_frames} frames, {self.start_s:.3f}..{self.end_s:.3f} s"
        return f"SnippetGrid({span}, stride {self.stride_frames:g}, offset {self.offset_frames:g})"

    @property
    def num_frames(self) -> int:
        return len(self.frame_times_s)

    @property
    def start_s(self) -> float:
        return float(self.frame_times_s[0])

    def to_seconds(self, positions: ArrayLike) -> Times:
        return self.frames_to_seconds(np.asarray(positions, np.float64) * self.stride_frames + self.offset_frames)

    def to_positions(self, seconds: ArrayLike) -> Times:
        return self.frames_to_positions(self.seconds_to_frames(seconds))

    def frames_to_positions(self, frames: ArrayLike) -> Times:
        return (np.asarray(frames, np.float64) - self.offset_frames) / self.stride_frames

    def frames_to_seconds(self, frames: ArrayLike) -> Times:
        wanted = np.asarray(frames, np.float64)
        inside = np.interp(wanted, np.arange(self.num_frames + 1), self._edges_s)
        return inside + (wanted - np.clip(wanted, 0, self.num_frames)) * self._mean_frame_s

    def seconds_to_frames(self, seconds: ArrayLike) -> Times:
        wanted = np.asarray(seconds, np.float64)
        inside = np.interp(wanted, self._edges_s, np.arange(self.num_frames + 1))
        return inside + (wanted - np.clip(wanted, self.start_s, self._edges_s[-1])) / self._mean_frame_s

    def resampled(self, stride_frames: float, offset_frames: float) -> SnippetGrid:
        return replace(self, stride_frames=stride_frames, offset_frames=offset_frames)

    @property
    def _edges_s(self) -> Times:
        """Every frame's time and the end; never falling, whatever a container claims."""
        return np.maximum.accumulate(np.append(self.frame_times_s, self.end_s))

    @property
    def _mean_frame_s(self) -> float:
        edges = self._edges_s
        return max(float(edges[-1] - edges[0]) / self.num_frames, 1e-9)


@dataclass(frozen=True)
class ClipRule:
    """How one stream cuts clips: `clip_frames` frames, `frame_step` apart, a new clip each `stride_frames`.

    `reach_frames` is the longest clip of all streams of the bundle: it decides how many snippets a video has, so that
    every stream gives the same number.
    """

    clip_frames: int
    frame_step: int
    stride_frames: int
    reach_frames: int
    pad_tail: bool = False

    @property
    def span_frames(self) -> int:
        return (self.clip_frames - 1) * self.frame_step + 1

    def count(self, num_frames: int) -> int:
        """Snippets of a video: at least one, since a short video is padded, not refused."""
        if num_frames <= 0:
            return 0
        beyond = max(0, num_frames - self.reach_frames) / self.stride_frames
        return 1 + (ceil(beyond) if self.pad_tail else int(beyond))


@dataclass(frozen=True)
class SnippetBatch:
    """Consecutive clips (N, T, H, W, C) of one stream; `first_index` is the grid position of the first."""

    clips: Frames
    first_index: int

    def __post_init__(self) -> None:
        if self.clips.ndim != 5 or not len(self.clips):
            raise ValueError(f"clips have shape {self.clips.shape}; (N, T, H, W, C) with N of at least 1 is needed")

    def __repr__(self) -> str:
        return f"SnippetBatch(clips={self.clips.shape} {self.clips.dtype}, first_index={self.first_index})"


@dataclass
class SnippetCutter:
    """Cuts clips from frames as they arrive, holding no more frames than the next batch needs.

    It is pushed into rather than iterated, because the streams of a bundle share one pass over the video.
    """

    rule: ClipRule
    batch_snippets: int
    _held: deque[Frames] = field(default_factory=deque)
    _first_held: int = 0
    _num_frames: int = 0
    _next_snippet: int = 0

    def push(self, frames: Frames) -> list[SnippetBatch]:
        """Takes the next frames (N, H, W, C); gives every full batch that they complete."""
        self._held.extend(frames)
        self._num_frames += len(frames)
        complete = (self._num_frames - self.rule.reach_frames) // self.rule.stride_frames + 1
        batches = []
        while self._next_snippet + self.batch_snippets <= complete:
            batches.append(self._cut(self.batch_snippets))
        return batches

    def finish(self) -> list[SnippetBatch]:
        """The clips that remain when the video has ended; what they lack is filled with the last frame."""
        batches = []
        total = self.rule.count(self._num_frames)
        while self._next_snippet < total:
            batches.append(self._cut(min(self.batch_snippets, total - self._next_snippet)))
        return batches

    def _cut(self, count: int) -> SnippetBatch:
        first = self._next_snippet
        clips = np.stack([self._clip(index) for index in range(first, first + count)])
        self._next_snippet += count
        self._forget(self._next_snippet * self.rule.stride_frames)
        return SnippetBatch(clips, first)

    def _clip(self, index: int) -> Frames:
        start = index * self.rule.stride_frames
        wanted = range(start, start + self.rule.span_frames, self.rule.frame_step)
        last = self._num_frames - 1
        return np.stack([self._held[min(frame, last) - self._first_held] for frame in wanted])

    def _forget(self, before_frame: int) -> None:
        # The last frame stays: it may have to pad a clip after the end.
        while self._first_held < before_frame and len(self._held) > 1:
            self._held.popleft()
            self._first_held += 1
