"""Ground truth and predictions in, the overlaps of those that may match each other out, group by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from models.geometry import tiou
from service.errors import InvalidOptions
from training.evaluation.annotations import Floats, GroundTruth, Ints, Predictions

Bools = NDArray[np.bool_]

# The official code sorts with an unstable sort and reverses: which of two equal scores comes first depends on the
# machine. A stable sort reversed ("later_first") is the same line made repeatable.
Ties = Literal["later_first", "earlier_first"]


class Group(NamedTuple):
    """Indices (P,) of predictions, best first, indices (G,) of instances, and their overlaps (P, G)."""

    predictions: Ints
    instances: Ints
    overlaps: Floats


def rank(scores: Floats, ties: Ties) -> Ints:
    """Indices of the scores, best first."""
    if ties not in get_args(Ties):
        raise InvalidOptions(f"ties is {ties!r}; accepted are {', '.join(get_args(Ties))}")
    return scores.argsort(kind="stable")[::-1] if ties == "later_first" else (-scores).argsort(kind="stable")


def by_class_and_video(ground_truth: GroundTruth, predictions: Predictions, ties: Ties) -> Iterator[Group]:
    """A group for every class and video that has both predictions and instances."""
    videos = len(ground_truth.videos) + 1  # the last stands for those that the ground truth lacks
    return _groups(
        ground_truth,
        predictions,
        ground_truth.label_indices * videos + ground_truth.video_indices,
        predictions.label_indices * videos + predictions.video_indices,
        ties,
    )


def by_video(ground_truth: GroundTruth, predictions: Predictions, ties: Ties) -> Iterator[Group]:
    """A group for every video that has both, whatever the classes."""
    return _groups(ground_truth, predictions, ground_truth.video_indices, predictions.video_indices, ties)


def reaches(overlaps: Floats, tious: Floats, *, strict: bool) -> Bools:
    """Which overlaps suffice at which threshold: (thresholds, *overlaps)."""
    limits = tious.reshape(-1, *[1] * overlaps.ndim)
    return overlaps > limits if strict else overlaps >= limits


def thresholds(tious: tuple[float, ...]) -> Floats:
    """The thresholds as an array; at 0 everything would match."""
    limits = np.asarray(tious, dtype=np.float64)
    if limits.ndim != 1 or not limits.size or not ((limits > 0) & (limits <= 1)).all():
        raise InvalidOptions(f"tIoU thresholds are {tious}; one or more numbers above 0 and up to 1 are needed")
    return limits


def _groups(
    ground_truth: GroundTruth, predictions: Predictions, true_keys: Ints, predicted_keys: Ints, ties: Ties
) -> Iterator[Group]:
    predicted = _split(predicted_keys, rank(predictions.scores, ties))
    for key, instances in _split(true_keys, np.arange(len(true_keys))).items():
        if key in predicted:
            found = predicted[key]
            yield Group(found, instances, tiou(predictions.segments_s[found], ground_truth.segments_s[instances]))


def _split(keys: Ints, order: Ints) -> dict[int, Ints]:
    """The indices of every key, each in the given order."""
    if not len(keys):
        return {}
    grouped = order[keys[order].argsort(kind="stable")]
    borders = np.flatnonzero(np.diff(keys[grouped])) + 1
    return {int(keys[part[0]]): part for part in np.split(grouped, borders)}
