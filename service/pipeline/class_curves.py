"""Class activations, or candidates before suppression, in; one curve per label, short enough to draw, out."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from service.localization import Activations
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import Detections

MOST_POINTS = 512
Scores = NDArray[np.float64]


def of_activations(curves: Scores) -> Scores:
    """Curves (positions, K) → (K, points): the maximum of the positions that a point stands for."""
    points = _points(len(curves))
    starts = np.searchsorted(points, np.arange(points[-1] + 1))
    return np.asarray(np.maximum.reduceat(curves, starts, axis=0).T, np.float64)


def of_candidates(detections: Detections, grid: SnippetGrid, num_labels: int) -> Scores:
    """(K, points): the best score of each label among the candidates that span a position; 0 where none does.

    A candidate between two positions counts at the nearer one.
    """
    points = _points(num_positions(grid))
    last = len(points) - 1
    middle = np.round(detections.spans.mean(axis=1))
    low, high = np.ceil(detections.spans[:, 0]), np.floor(detections.spans[:, 1])
    between = low > high
    first_point, last_point = (
        points[np.clip(np.where(between, middle, edge), 0, last).astype(np.int64)] for edge in (low, high)
    )
    values = np.zeros((num_labels, points[-1] + 1))
    for first, final, label, score in zip(first_point, last_point, detections.labels, detections.scores, strict=True):
        row = values[label, first : final + 1]
        np.maximum(row, score, out=row)
    return values


def as_answer(
    values: Scores, positions: int, grid: SnippetGrid, labels: tuple[str, ...], wanted: tuple[str, ...] | None
) -> Activations:
    """With the moment of every point: the middle of the positions that it stands for."""
    points = _points(positions)
    times_s = np.clip(grid.to_seconds(np.arange(positions)), grid.start_s, grid.end_s)
    middles_s = np.bincount(points, times_s) / np.bincount(points)
    chosen = [number for number, label in enumerate(labels) if wanted is None or label in wanted]
    return Activations(
        tuple(labels[number] for number in chosen),
        tuple(middles_s.tolist()),
        tuple(tuple(values[number].tolist()) for number in chosen),
    )


def num_positions(grid: SnippetGrid) -> int:
    """Positions of a grid until the end of the video."""
    return max(1, ceil((grid.num_frames - grid.offset_frames) / grid.stride_frames))


def _points(positions: int) -> NDArray[np.int64]:
    """Which point each position belongs to."""
    return np.arange(positions) * min(positions, MOST_POINTS) // positions
