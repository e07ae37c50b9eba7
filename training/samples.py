"""A video's features and actions in; one training sample out: a window of its steps, and the actions that are in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Resized, Whole, Windowing
from service.errors import InvalidOptions
from service.pipeline import windows
from service.pipeline.features import FeatureSequence
from service.runtime.feature_ops import HostOps
from service.runtime.session import to_numpy

Floats = NDArray[np.float64]
LEAST_SHARE = 1e-9  # what is outside a window altogether is no action of it, whatever was asked for


@dataclass(frozen=True)
class Sampling:
    """`length`: steps of a sample. A longer video is cut to it at random; of a shorter one a random share within
    `crop` is taken (None: all of it). Of actions that the cut leaves less than `trunc_thresh` of, nothing is asked."""

    length: int
    trunc_thresh: float = 0.5
    crop: tuple[float, float] | None = (0.9, 1.0)


@dataclass(frozen=True)
class Sample:
    """features (C, length), zeros beside the video; mask (length,); spans (G, 2) in steps and labels (G,)."""

    features: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spans: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Steps:
    """A whole video as a detector sees it: features (C, T), and spans (G, 2) in steps.

    `reach` is how far a snippet reaches to either side of its step: actions are known so far beyond a window.
    """

    features: NDArray[np.float32]
    spans: Floats
    labels: NDArray[np.int64]
    reach: float


def length_of(windowing: Windowing, train_length: int | None) -> int:
    """Steps of a training sample."""
    if isinstance(windowing, Whole):
        if train_length is None:
            raise InvalidOptions("a detector that sees whole videos must say its train_length to be trained")
        return train_length
    return windowing.length


def steps_of(sequence: FeatureSequence, segments_s: Floats, labels: NDArray[np.int64], windowing: Windowing) -> Steps:
    """On the very grid that serving will use; a detector of fixed length gets the video resized to it."""
    values = np.asarray(to_numpy(sequence.values) if sequence.values is not None else sequence.scores, np.float32)
    grid = windows.window_grid(sequence.grid, len(values), sequence.clip_span_frames, windowing)
    spans = grid.to_positions(segments_s)
    if isinstance(windowing, Resized):
        layout = windows.plan(len(values), windowing)
        features = to_numpy(next(windows.batches(values, layout, HostOps(), 1)).features)[0]
        return Steps(features, spans, labels, windowing.offset_steps)
    return Steps(values.T, spans, labels, sequence.clip_span_frames / 2 / grid.stride_frames)


def thinned(sequence: FeatureSequence, every: int, phase: int = 0) -> FeatureSequence:
    """Rows phase, phase + every, …, on their grid."""
    if every == 1:
        return sequence
    grid = sequence.grid
    offset_frames = grid.offset_frames + phase * grid.stride_frames
    values = None if sequence.values is None else to_numpy(sequence.values)[phase::every]
    scores = None if sequence.scores is None else sequence.scores[phase::every]
    return FeatureSequence(
        values, scores, grid.resampled(grid.stride_frames * every, offset_frames), sequence.clip_span_frames
    )


def draw(video: Steps, rule: Sampling, draws: np.random.Generator) -> Sample:
    total = video.features.shape[1]
    wanted = rule.length
    if total <= wanted:
        least, most = (1.0, 1.0) if rule.crop is None else rule.crop
        wanted = int(
            draws.integers(max(round(least * total), 1), max(min(round(most * total), total), 1), endpoint=True)
        )
    first, kept, spans = cut(video, wanted, rule.trunc_thresh, draws)
    features = np.zeros((len(video.features), rule.length), np.float32)
    features[:, :wanted] = video.features[:, first : first + wanted]
    return Sample(features, np.arange(rule.length) < wanted, spans, video.labels[kept])


def cut(
    video: Steps, wanted: int, trunc_thresh: float, draws: np.random.Generator
) -> tuple[int, NDArray[np.int64], Floats]:
    """Where a window of `wanted` steps begins, which actions are in it, and their spans in it, clipped.

    Every beginning that leaves `trunc_thresh` of some action is equally likely. Where none does, the action is longer
    than windows are, so those that leave most of one take part.
    """
    total = video.features.shape[1]
    starts = np.arange(total - wanted + 1)
    low, high = (starts - video.reach)[:, None], (starts + wanted + video.reach)[:, None]
    begins, ends = video.spans[:, 0], video.spans[:, 1]
    shared = np.clip(np.minimum(high, ends) - np.maximum(low, begins), 0, None)
    shares = shared / np.maximum(ends - begins, 1e-9)
    best = shares.max(axis=1, initial=0.0)
    threshold = min(max(trunc_thresh, LEAST_SHARE), float(best.max()))
    first = int(draws.choice(np.flatnonzero(best >= threshold)))
    kept = np.flatnonzero((shares[first] >= threshold) & (shares[first] > 0))
    spans = np.clip(video.spans[kept], low[first], high[first]) - first
    return first, kept, spans
