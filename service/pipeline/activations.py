"""Class activations over time in; spans in frames with class and score out (weakly supervised and window classifiers).

Activations (T, K) belong to T rising positions in frames. `group` brings the curve of one class after another to every
frame from the first position to the last, marks where the class is active, and scores each run of active frames.
Frame i of a curve is [first + i, first + i + 1); a run of frames [s, e) becomes the span (first + s, first + e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Support = Literal["point", "mean", "max"]
OuterContext = Literal["clamped", "cmcs"]


@dataclass(frozen=True)
class Threshold:
    """A class is active where its curve exceeds a value, or a value times the mean or the maximum of the curve.

    Several values are tried one by one, and every distinct run that any of them finds counts.
    """

    kind: Literal["absolute", "mean", "max"] = "mean"
    values: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("threshold values are empty; at least one is needed")


@dataclass(frozen=True)
class Grouping:
    """The rules from curves to spans, in the order in which they apply.

    min_video_score, max_classes: only classes whose video score exceeds it, and of those the likeliest.
    normalise: "minmax" maps each curve to [0, 1] before it is brought to frames; a constant curve becomes 0.
    support: "point" interpolates between positions; "mean" and "max" join all windows that cover a frame.
    ends: with "point", the first and last position are "held" to the ends of the video, or curves are "cut" there.
    dilation_frames: width of the footprint that widens runs; an even one reaches one frame less far to the right.
    max_gap_frames: runs with a gap of at most so many frames become one. min_length_frames: shorter runs are dropped.
    score: mean inside; that minus the mean outside, over `outer_fraction` of the length on both sides; or the maximum.
    outer_context: "cmcs" has no left context at all where it would begin before the first frame.
    global_weight: so much of the class's video score is added.
    """

    threshold: Threshold = Threshold()
    min_video_score: float = 0.0
    max_classes: int | None = None
    normalise: Literal["none", "minmax"] = "none"
    support: Support = "point"
    ends: Literal["held", "cut"] = "held"
    dilation_frames: int = 0
    max_gap_frames: int = 0
    min_length_frames: int = 1
    score: Literal["inner", "inner_outer", "max"] = "inner"
    outer_fraction: float = 0.25
    outer_context: OuterContext = "clamped"
    global_weight: float = 0.0


class Grouped(NamedTuple):
    """Spans (N, 2) in frames, scores (N,) and labels (N,), by class and within it by start."""

    spans: Floats
    scores: Floats
    labels: Ints


def group(
    activations: ArrayLike,
    video_scores: ArrayLike | None,
    ticks_frames: ArrayLike,
    rules: Grouping,
    window_frames: int = 1,
    num_frames: int | None = None,
) -> Grouped:
    """Groups the activations (T, K) of a video of `num_frames` into spans; without them it ends at the last tick.

    `ticks_frames` says which frame each row stands for, or with support "mean" and "max" at which frame its window of
    `window_frames` begins. Without `video_scores` (K,) every class passes and none has a video score to add.
    """
    curves = _finite(activations, "activations", 2)
    ticks = _rising(ticks_frames, len(curves))
    classes, priors = _gate(video_scores, curves.shape[1], rules)
    parts = [Grouped(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=np.int64))]
    cover = covering(ticks, window_frames) if len(ticks) and rules.support != "point" else None
    held_frames = num_frames if rules.support == "point" and rules.ends == "held" else None
    first_frame = float(ticks[0]) if len(ticks) and held_frames is None else 0.0
    for label in classes if len(ticks) else ():
        curve = normalise(curves[:, label]) if rules.normalise == "minmax" else curves[:, label]
        frames = upsample(curve, ticks, held_frames) if cover is None else spread(curve, cover, rules.support)
        runs = _find_runs(frames, rules)
        scores = _score_runs(frames, runs, rules) + rules.global_weight * priors[label]
        parts.append(Grouped(runs.astype(np.float64) + first_frame, scores, np.full(len(runs), label)))
    return Grouped(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def sum_groups(activations: ArrayLike, groups: Sequence[Sequence[int]]) -> Floats:
    """Activations (..., K) of classes in, (..., G) of groups out: the members of each group added."""
    curves = np.asarray(activations, dtype=np.float64)
    return np.stack([curves[..., list(members)].sum(axis=-1) for members in groups], axis=-1)


def normalise(curve: Floats) -> Floats:
    """The curve mapped to [0, 1]; a constant one says nothing about time and becomes 0."""
    low, high = curve.min(), curve.max()
    if high <= low:
        return np.zeros_like(curve)
    scaled: Floats = (curve - low) / (high - low)
    return scaled


def upsample(curve: Floats, ticks_frames: Floats, num_frames: int | None = None) -> Floats:
    """Linear interpolation at every frame from the first tick to the last, or of a whole video with the ends held."""
    if num_frames is None:
        frames = ticks_frames[0] + np.arange(int(ticks_frames[-1] - ticks_frames[0]) + 1)
    else:
        frames = np.arange(num_frames, dtype=np.float64)
    return np.asarray(np.interp(frames, ticks_frames, curve), np.float64)


def covering(starts_frames: Floats, window_frames: int) -> tuple[Ints, Ints]:
    """For every frame, the first window that covers it and the one after the last; equal where none does."""
    count = int(np.ceil(starts_frames[-1] - starts_frames[0])) + window_frames
    frames = starts_frames[0] + np.arange(count)
    first = np.searchsorted(starts_frames, frames - window_frames, side="right")
    stop = np.searchsorted(starts_frames, frames, side="right")
    return first, stop


def spread(curve: Floats, cover: tuple[Ints, Ints], support: Support) -> Floats:
    """Per frame the mean or maximum of the windows that cover it; 0 where none does."""
    first, stop = cover
    count = stop - first
    if support == "mean":
        summed = np.concatenate([[0.0], np.cumsum(curve)])
        # Differences of sums round: without the clip a constant curve would exceed its own mean here and there.
        means = np.clip((summed[stop] - summed[first]) / np.maximum(count, 1), curve.min(), curve.max())
        return np.where(count > 0, means, 0.0)
    frames = np.zeros(len(first))
    highest, length = curve, 1
    # Two overlapping stretches of a power of two cover any range, so one table per power answers every frame.
    while length <= count.max():
        at = np.flatnonzero((count >= length) & (count < 2 * length))
        frames[at] = np.maximum(highest[first[at]], highest[stop[at] - length])
        highest, length = np.maximum(highest[:-length], highest[length:]), 2 * length
    return frames


def find_runs(mask: NDArray[np.bool_]) -> Ints:
    """The runs [start, end) of true frames: (R, 2)."""
    edges = np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def dilate(runs: Ints, footprint_frames: int, num_frames: int) -> Ints:
    """Runs widened by a footprint: [s, e) becomes [s - n // 2, e + (n - 1) // 2) within the curve."""
    if footprint_frames < 2:
        return runs
    widened: Ints = runs + np.array([-(footprint_frames // 2), (footprint_frames - 1) // 2])
    return np.clip(widened, 0, num_frames)


def join(runs: Ints, max_gap_frames: int) -> Ints:
    """Runs, rising by start, with every gap of at most `max_gap_frames` closed."""
    if not len(runs):
        return runs
    apart = runs[1:, 0] - runs[:-1, 1] > max_gap_frames
    return np.stack([runs[np.r_[True, apart], 0], runs[np.r_[apart, True], 1]], axis=1)


def inner_outer(
    curve: Floats, start: int, end: int, fraction: float = 0.25, context: OuterContext = "clamped"
) -> float:
    """The mean inside [start, end) minus the mean over `fraction` of its length, at least a frame, on both sides."""
    reach = (end - start) * fraction
    left = min(int(start - reach), start - 1)
    right = max(int(end + reach), end + 1)
    if left < 0:
        left = start if context == "cmcs" else 0
    outer = np.concatenate([curve[left:start], curve[end:right]])
    inner = float(curve[start:end].mean())
    return inner - float(outer.mean()) if outer.size else inner


def _gate(video_scores: ArrayLike | None, num_classes: int, rules: Grouping) -> tuple[Ints, Floats]:
    """The classes that pass, rising, and the video score of every class."""
    if video_scores is None:
        if rules.min_video_score > 0 or rules.max_classes is not None or rules.global_weight:
            raise ValueError("min_video_score, max_classes and global_weight need video_scores; there are none")
        return np.arange(num_classes), np.zeros(num_classes)
    scores = _finite(video_scores, "video_scores", 1)
    if len(scores) != num_classes:
        raise ValueError(f"there are {len(scores)} video_scores; activations of {num_classes} classes need as many")
    likeliest = np.argsort(-scores, kind="stable")
    passing = likeliest[scores[likeliest] > rules.min_video_score]
    return np.sort(passing[: rules.max_classes]), scores


def _find_runs(curve: Floats, rules: Grouping) -> Ints:
    found = []
    for level in _levels(curve, rules.threshold):
        runs = dilate(find_runs(curve > level), rules.dilation_frames, len(curve))
        runs = join(runs, rules.max_gap_frames)
        found.append(runs[runs[:, 1] - runs[:, 0] >= rules.min_length_frames])
    return np.unique(np.concatenate(found), axis=0)


def _levels(curve: Floats, threshold: Threshold) -> list[float]:
    # A mean may leave the range of the curve by rounding, and a constant curve would then exceed its own mean.
    scale = {"absolute": 1.0, "mean": np.clip(curve.mean(), curve.min(), curve.max()), "max": curve.max()}
    return [float(value * scale[threshold.kind]) for value in threshold.values]


def _score_runs(curve: Floats, runs: Ints, rules: Grouping) -> Floats:
    match rules.score:
        case "inner":
            scores = [float(curve[start:end].mean()) for start, end in runs]
        case "inner_outer":
            scores = [inner_outer(curve, start, end, rules.outer_fraction, rules.outer_context) for start, end in runs]
        case "max":
            scores = [float(curve[start:end].max()) for start, end in runs]
    return np.array(scores, dtype=np.float64)


def _rising(ticks_frames: ArrayLike, count: int) -> Floats:
    ticks = _finite(ticks_frames, "ticks_frames", 1)
    if len(ticks) != count:
        raise ValueError(f"there are {len(ticks)} ticks_frames; activations with {count} rows need as many")
    if np.any(np.diff(ticks) <= 0):
        raise ValueError(f"ticks_frames do not rise after index {int(np.argmax(np.diff(ticks) <= 0))}; they must")
    return ticks


def _finite(values: ArrayLike, name: str, dimensions: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"{name} have shape {array.shape}; {dimensions} dimensions are needed")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} hold {array[~np.isfinite(array)][0]}; only finite numbers are accepted")
    return array
