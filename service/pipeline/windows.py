"""A feature sequence in, windows for a detector out; and back: what it found in windows, on the video's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from models.manifest import Resized, Sliding, Whole, Windowing
from service.errors import InferenceFailed
from service.pipeline.snippets import SnippetGrid
from service.runtime.feature_ops import FeatureOps, Gather
from service.runtime.session import Array, Tensor

WHOLE_VIDEO = Whole(mode="whole")


@dataclass(frozen=True)
class WindowPlan:
    """Which snippets stand where in which window: W windows of L steps each."""

    places: Gather
    mask: NDArray[np.bool_]
    first_snippet: NDArray[np.int64]

    def __repr__(self) -> str:
        return f"WindowPlan({self.mask.shape[0]} windows of {self.mask.shape[1]}, {int(self.mask.sum())} places filled)"


@dataclass(frozen=True)
class WindowBatch:
    """Windows for one run of the detector: features (B, C, T), mask (B, T), and where each begins on the grid."""

    features: Tensor
    mask: NDArray[np.bool_]
    first_snippet: NDArray[np.int64]

    def __post_init__(self) -> None:
        batch, _, length = self.features.shape
        if self.mask.shape != (batch, length) or self.first_snippet.shape != (batch,):
            raise ValueError(
                f"features {self.features.shape}, mask {self.mask.shape}, first_snippet {self.first_snippet.shape}"
                " do not agree; (B, C, T), (B, T) and (B,) are needed"
            )

    def __repr__(self) -> str:
        return f"WindowBatch(features={tuple(self.features.shape)}, filled={int(self.mask.sum())})"


@dataclass(frozen=True)
class CandidateLimits:
    """Which raw candidates are worth suppressing at all; those of no more than `min_length_steps` leave last."""

    min_score: float = 0.0
    top_k_per_group: int | None = None
    top_k_per_window: int | None = None
    max_classes: int | None = None
    min_length_steps: float = 0.0


@dataclass(frozen=True)
class Detections:
    """Spans (N, 2) in grid positions of the video, their scores, classes and the windows that they come from.

    `knows_class` is False where a detector scores spans only and something else has to name what happens in them.
    """

    spans: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    windows: NDArray[np.int64]
    knows_class: bool = True

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = (self.spans.shape, self.scores.shape, self.labels.shape, self.windows.shape)
        if shapes != ((count, 2), (count,), (count,), (count,)):
            raise ValueError(f"spans, scores, labels, windows have shapes {shapes}; (N, 2) and three (N,) are needed")

    def __repr__(self) -> str:
        return f"Detections({len(self.scores)} spans of {len(np.unique(self.labels))} classes)"

    def take(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> Detections:
        return Detections(self.spans[keep], self.scores[keep], self.labels[keep], self.windows[keep], self.knows_class)


def plan(num_snippets: int, windowing: Windowing) -> WindowPlan:
    """Lays windows over `num_snippets` snippets; a video shorter than a window is padded."""
    if num_snippets < 1:
        raise ValueError(f"num_snippets is {num_snippets}; a video has at least one snippet")
    match windowing:
        case Resized():
            return _resized(num_snippets, windowing.length)
        case Sliding():
            starts = _starts(num_snippets, windowing.length, windowing.hop, windowing.tail)
            return _cut(num_snippets, windowing.length, starts)
        case Whole():
            return _whole(num_snippets, windowing)


def pad_plan(layout: WindowPlan, multiple_of: int) -> WindowPlan:
    """Adds empty windows until a graph with a fixed batch size can take them all."""
    missing = -len(layout.mask) % multiple_of
    if not missing:
        return layout
    old = layout.places

    def padded(array: Array) -> Array:
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

    places = Gather(padded(old.low), padded(old.high), padded(old.weight_low), padded(old.weight_high))
    return WindowPlan(places, padded(layout.mask), padded(layout.first_snippet))


def window_grid(grid: SnippetGrid, num_snippets: int, clip_span_frames: int, windowing: Windowing) -> SnippetGrid:
    """The grid that a detector's positions refer to: the snippets' own, or the resized one."""
    if not isinstance(windowing, Resized):
        return grid
    span_frames = {
        "clips": (num_snippets - 1) * grid.stride_frames + clip_span_frames,
        "strides": num_snippets * grid.stride_frames,
        "video": float(grid.num_frames),
    }[windowing.span]
    stride_frames = span_frames / windowing.length
    return grid.resampled(stride_frames, windowing.offset_steps * stride_frames)


def batches(rows: Tensor, layout: WindowPlan, ops: FeatureOps, batch_windows: int) -> Iterator[WindowBatch]:
    for at in range(0, len(layout.mask), batch_windows):
        yield gather(rows, layout, ops, slice(at, at + batch_windows))


def gather(rows: Tensor, layout: WindowPlan, ops: FeatureOps, part: slice) -> WindowBatch:
    places = layout.places
    taken = Gather(places.low[part], places.high[part], places.weight_low[part], places.weight_high[part])
    return WindowBatch(ops.gather(rows, taken), layout.mask[part], layout.first_snippet[part])


def place_on_grid(
    raw: tuple[Array, Array, Array | None], batch: WindowBatch, limits: CandidateLimits, first_window: int
) -> Detections:
    """Raw candidates of a batch — spans (B, N, 2), scores (B, N, K), groups (N,) or none — as detections."""
    spans, scores, groups = raw
    _check_candidates(spans, scores, groups)
    found = []
    for index in np.flatnonzero(batch.mask.any(axis=1)):
        start = batch.first_snippet[index]
        which, labels = _worth_keeping(np.asarray(scores[index], np.float64), groups, limits)
        kept = scores[index][which, labels].astype(np.float64)
        window = np.full(len(which), first_window + index, np.int64)
        chosen = spans[index][which].astype(np.float64)
        placed = Detections(chosen + start, kept, labels, window, knows_class=scores.shape[2] > 1)
        if limits.min_length_steps:
            placed = placed.take(chosen[:, 1] - chosen[:, 0] > limits.min_length_steps)
        found.append(placed)
    return join(found)


def join(parts: list[Detections]) -> Detections:
    if not parts:
        return Detections(np.empty((0, 2)), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    return Detections(
        np.concatenate([part.spans for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.windows for part in parts]),
        parts[0].knows_class,
    )


def merge_activations(parts: list[Array], layout: WindowPlan, num_positions: int) -> NDArray[np.float64]:
    """Activations (B, T, K) of all windows → (num_positions, K): the mean wherever windows overlap."""
    stacked = np.concatenate(parts).astype(np.float64)
    total = np.zeros((num_positions, stacked.shape[2]))
    count = np.zeros((num_positions, 1))
    for window, mask, start in zip(stacked, layout.mask, layout.first_snippet, strict=True):
        where = start + np.flatnonzero(mask)
        total[where] += window[: len(mask)][mask]
        count[where] += 1
    return total / np.maximum(count, 1)


def _cut(num_snippets: int, length: int, starts: NDArray[np.int64]) -> WindowPlan:
    rows = starts[:, None] + np.arange(length)
    mask = rows < num_snippets
    low = np.minimum(rows, num_snippets - 1)
    places = Gather(low, low, mask.astype(np.float32), np.zeros(mask.shape, np.float32))
    return WindowPlan(places, mask, starts)


def _starts(num_snippets: int, length: int, hop: int, tail: str) -> NDArray[np.int64]:
    if num_snippets <= length:
        return np.zeros(1, np.int64)
    beyond = num_snippets - length
    if tail == "pad":
        return np.arange(0, ceil(beyond / hop) + 1, dtype=np.int64) * hop
    starts = np.arange(0, beyond + 1, hop, dtype=np.int64)
    if tail == "shift" and starts[-1] != beyond:
        starts = np.append(starts, beyond)
    return starts


def _whole(num_snippets: int, windowing: Whole) -> WindowPlan:
    limit = windowing.max_length
    if limit is None or num_snippets <= limit:
        length = _padded(num_snippets, windowing)
        length = length if limit is None else min(length, limit)
        return _cut(num_snippets, length, np.zeros(1, np.int64))
    hop = max(1, limit - round(limit * windowing.overlap))
    return _cut(num_snippets, limit, _starts(num_snippets, limit, hop, "shift"))


def _padded(num_snippets: int, windowing: Whole) -> int:
    """How long the window of a whole video is."""
    wanted = _rounded_up(num_snippets + windowing.margin, windowing.multiple_of)
    if windowing.train_length is None or windowing.beyond_multiple_of is None or wanted <= windowing.train_length:
        return wanted
    return max(windowing.train_length, _rounded_up(num_snippets, windowing.beyond_multiple_of))


def _rounded_up(length: int, multiple_of: int) -> int:
    return ceil(length / multiple_of) * multiple_of


def _resized(num_snippets: int, length: int) -> WindowPlan:
    """Linear interpolation between snippet centres, the ends held."""
    source = np.clip((np.arange(length) + 0.5) * num_snippets / length - 0.5, 0, num_snippets - 1)
    low = np.floor(source).astype(np.int64)[None]
    high = np.minimum(low + 1, num_snippets - 1)
    weight_high = (source[None] - low).astype(np.float32)
    places = Gather(low, high, 1 - weight_high, weight_high)
    return WindowPlan(places, np.ones((1, length), bool), np.zeros(1, np.int64))


def _check_candidates(spans: Array, scores: Array, groups: Array | None) -> None:
    if spans.ndim != 3 or scores.ndim != 3 or spans.shape[2] != 2 or spans.shape[:2] != scores.shape[:2]:
        raise InferenceFailed(
            f"detector gave spans {spans.shape} and scores {scores.shape}; (B, N, 2), (B, N, K) needed"
        )
    if groups is not None and groups.shape != spans.shape[1:2]:
        raise InferenceFailed(f"detector gave groups {groups.shape} for {spans.shape[1]} candidates; (N,) needed")
    if not (np.isfinite(spans).all() and np.isfinite(scores).all()):
        raise InferenceFailed("detector gave candidates that are not finite numbers (NaN or infinity)")


def _worth_keeping(
    scores: NDArray[np.float64], groups: Array | None, limits: CandidateLimits
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Candidate and class numbers of the scores (N, K) to keep, best first; a score of 0 is no candidate."""
    eligible = scores > max(limits.min_score, 0.0)
    if limits.max_classes is not None and limits.max_classes < scores.shape[1]:
        ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
        eligible &= ranks < limits.max_classes
    which, labels = np.nonzero(eligible)
    order = np.argsort(-scores[which, labels], kind="stable")
    which, labels = which[order], labels[order]
    if groups is not None and limits.top_k_per_group is not None:
        group = groups[which]
        within = np.empty(len(which), np.int64)
        for value in np.unique(group):
            members = group == value
            within[members] = np.arange(members.sum())
        chosen = within < limits.top_k_per_group
        which, labels = which[chosen], labels[chosen]
    limit = limits.top_k_per_window
    return which[:limit], labels[:limit]
