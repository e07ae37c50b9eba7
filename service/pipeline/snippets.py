"""Frames in, clips for a backbone out; and `SnippetGrid`, the only place where positions become seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
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
    the end of the video, or one sampling interval after the last where frames were sampled every `sampling_s`.
    Positions outside continue at the mean frame rate.
    """

    frame_times_s: Times
    end_s: float
    stride_frames: float
    offset_frames: float
    sampling_s: float | None = None

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
        last_edge_s = self.end_s if self.sampling_s is None else self.frame_times_s[-1] + self.sampling_s
        return np.maximum.accumulate(np.append(self.frame_times_s, last_edge_s))

    @property
    def _mean_frame_s(self) -> float:
        edges = self._edges_s
        return max(float(edges[-1] - edges[0]) / self.num_frames, 1e-9)


@dataclass(frozen=True)
class ClipRule:
    """How one stream cuts clips: `clip_frames` frames, `frame_step` apart, a new clip each `stride_frames`.

    `reach_frames` is the longest clip of all streams of the bundle. It decides how many snippets a video has, so that
    every stream gives the same number; a shorter clip stands in its middle, so that all see the same moment, unless
    `first_frame` says where in it.
    """

    clip_frames: int
    frame_step: int
    stride_frames: int
    reach_frames: int
    pad_tail: bool = False
    first_frame: int | None = None

    @property
    def span_frames(self) -> int:
        return (self.clip_frames - 1) * self.frame_step + 1

    def count(self, num_frames: int) -> int:
        """Snippets of a video: at least one, since a short video is padded, not refused."""
        if num_frames <= 0:
            return 0
        beyond = max(0, num_frames - self.reach_frames) / self.stride_frames
        return 1 + (ceil(beyond) if self.pad_tail else int(beyond))

    def frames_of(self, snippet: int) -> range:
        centred = (self.reach_frames - self.span_frames) // 2
        start = snippet * self.stride_frames + (centred if self.first_frame is None else self.first_frame)
        return range(start, start + self.span_frames, self.frame_step)

    @cached_property
    def residues(self) -> frozenset[int]:
        """Frame numbers modulo the stride that some clip holds."""
        return frozenset(frame % self.stride_frames for frame in self.frames_of(0))


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


class SnippetCutter:
    """Cuts clips from frames as they arrive, holding only frames that a coming clip needs.

    It is pushed into rather than iterated, because the streams of a bundle share one pass over the video. Batches have
    `fixed_snippets`, or else as many clips as stay within `batch_frames` frames and `batch_bytes` bytes, at least one.
    """

    def __init__(
        self, rule: ClipRule, fixed_snippets: int | None = None, batch_frames: int = 32, batch_bytes: int = 1 << 28
    ) -> None:
        self._rule = rule
        self._batch_snippets = fixed_snippets or 0
        self._batch_frames = batch_frames
        self._batch_bytes = batch_bytes
        self._held: dict[int, Frames] = {}
        self._last: Frames | None = None
        self._num_frames = 0
        self._next_snippet = 0

    @property
    def num_held(self) -> int:
        return len(self._held)

    def push(self, frames: Frames) -> list[SnippetBatch]:
        """Takes the next frames (N, H, W, C); gives every full batch that they complete."""
        batches = []
        for frame in frames:
            if self._num_frames % self._rule.stride_frames in self._rule.residues:
                # A copy, because a view would keep the whole batch that it came in.
                self._held[self._num_frames] = frame.copy()
            self._num_frames += 1
            batch_snippets = self._batch_snippets or self._choose_batch(frame.nbytes)
            complete = (self._num_frames - self._rule.reach_frames) // self._rule.stride_frames + 1
            if self._next_snippet + batch_snippets <= complete:
                batches.append(self._cut(batch_snippets))
        if len(frames):
            self._last = frames[-1].copy()
        return batches

    def finish(self) -> list[SnippetBatch]:
        """The clips that remain when the video has ended; what they lack is filled with the last frame."""
        batches = []
        total = self._rule.count(self._num_frames)
        while self._next_snippet < total:
            batches.append(self._cut(min(self._batch_snippets, total - self._next_snippet)))
        return batches

    def _choose_batch(self, frame_bytes: int) -> int:
        frames = min(self._batch_frames, self._batch_bytes // max(1, frame_bytes))
        self._batch_snippets = max(1, frames // self._rule.clip_frames)
        return self._batch_snippets

    def _cut(self, count: int) -> SnippetBatch:
        first = self._next_snippet
        clips = np.stack([self._clip(index) for index in range(first, first + count)])
        self._next_snippet += count
        needed_from = self._rule.frames_of(self._next_snippet)[0]
        self._held = {number: frame for number, frame in self._held.items() if number >= needed_from}
        return SnippetBatch(clips, first)

    def _clip(self, index: int) -> Frames:
        return np.stack([self._frame(number) for number in self._rule.frames_of(index)])

    def _frame(self, number: int) -> Frames:
        if number < self._num_frames:
            return self._held[number]
        assert self._last is not None  # noqa: S101  (nothing is cut before the first frame)
        return self._last
