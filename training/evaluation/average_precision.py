"""Ground truth and predictions in, average precision of every class at every tIoU out, as ActivityNet defines it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from service.errors import InvalidOptions
from training.evaluation.annotations import Floats, GroundTruth, Ints, Predictions
from training.evaluation.overlaps import Bools, Ties, by_class_and_video, by_video, rank, reaches, thresholds

# What becomes of predictions of a class without instances: no part of the mean, or ActionFormer's slip, where their
# number is mistaken for a place in the list of classes that have instances.
Absent = Literal["leave_out", "mistake_for_place"]


@dataclass(frozen=True)
class AveragePrecision:
    """values (T, C): of every threshold and class; label_indices (C,): the classes with instances, rising."""

    values: Floats
    label_indices: Ints

    @property
    def means(self) -> Floats:
        """The mAP at every threshold (T,)."""
        means: Floats = self.values.mean(axis=1)
        return means


def average_precision(
    ground_truth: GroundTruth,
    predictions: Predictions,
    tious: tuple[float, ...],
    *,
    strict: bool = False,
    ties: Ties = "later_first",
    ignored_label: str | None = None,
    absent: Absent = "leave_out",
) -> AveragePrecision:
    """Interpolated average precision; a class without predictions counts 0.

    strict: an overlap must exceed the threshold rather than reach it.
    ignored_label: its instances are no class of their own. A prediction of any class that is not right and shares
    time with one of them is not wrong either.
    """
    if absent not in get_args(Absent):
        raise InvalidOptions(f"absent is {absent!r}; accepted are {', '.join(get_args(Absent))}")
    limits = thresholds(tious)
    truth, ignored_truth = split_ignored(ground_truth, ignored_label)
    classes = np.unique(truth.label_indices)
    if not classes.size:
        raise InvalidOptions("the ground truth has no instance of any class; at least one is needed")
    if absent == "mistake_for_place":
        predictions = _mistaken(predictions, classes)
    right = assign(truth, predictions, limits, strict=strict, ties=ties) >= 0
    wrong = ~right & ~shares_time(ignored_truth, predictions, ties)
    order = rank(predictions.scores, ties)
    values = np.zeros((len(limits), len(classes)))
    for column, label in enumerate(classes):
        ranked = order[predictions.label_indices[order] == label]
        instances = int(np.count_nonzero(truth.label_indices == label))
        values[:, column] = _interpolated(right[:, ranked], wrong[:, ranked], instances)
    return AveragePrecision(values, classes)


def assign(
    ground_truth: GroundTruth, predictions: Predictions, tious: Floats, *, strict: bool = False, ties: Ties
) -> Ints:
    """The instance that each prediction finds at each threshold (T, N), -1 for none: by falling score, each takes the
    free instance of its class and video that it overlaps most, if that is enough.

    Predictions of different classes or videos never compete, so the first of all groups choose together, then the
    second of all, and so on: as many steps as the largest group has predictions, whatever the number of videos.
    """
    found = np.full((len(tious), len(predictions.scores)), -1, dtype=np.int64)
    taken = np.zeros((len(tious), len(ground_truth.label_indices)), dtype=np.bool_)
    turns, indices, instances, overlaps = _pairs(ground_truth, predictions, float(tious.min()), strict, ties)
    # The best overlap of a prediction comes first; of equal ones the last instance, as in the official code.
    order = np.lexsort((-instances, -overlaps, indices, turns))
    turns, indices, instances, overlaps = turns[order], indices[order], instances[order], overlaps[order]
    enough = reaches(overlaps, tious, strict=strict)
    borders = np.flatnonzero(np.diff(turns, prepend=-1, append=-1)) if len(turns) else np.zeros(0, dtype=np.int64)
    for low, high in pairwise(borders):
        places = np.arange(high - low)
        wanted, choosing = instances[low:high], indices[low:high]
        firsts = np.flatnonzero(np.diff(choosing, prepend=-1))
        free = enough[:, low:high] & ~taken[:, wanted]
        choice = np.minimum.reduceat(np.where(free, places, high - low), firsts, axis=1)
        row, column = np.nonzero(choice < high - low)
        taken[row, wanted[choice[row, column]]] = True
        found[row, choosing[firsts[column]]] = wanted[choice[row, column]]
    return found


def split_ignored(ground_truth: GroundTruth, ignored_label: str | None) -> tuple[GroundTruth, GroundTruth]:
    """The instances that count, and those of the ignored label."""
    if ignored_label is None or ignored_label not in ground_truth.labels:
        return ground_truth, only(ground_truth, np.zeros(len(ground_truth.label_indices), dtype=np.bool_))
    ignored = ground_truth.label_indices == ground_truth.labels.index(ignored_label)
    return only(ground_truth, ~ignored), only(ground_truth, ignored)


def _pairs(
    ground_truth: GroundTruth, predictions: Predictions, lowest: float, strict: bool, ties: Ties
) -> tuple[Ints, Ints, Ints, Floats]:
    """Pairs that can match at all: the prediction's turn in its group and its index, the instance, the overlap."""
    turns: list[Ints] = [np.zeros(0, dtype=np.int64)]
    indices, instances = list(turns), list(turns)
    overlaps: list[Floats] = [np.zeros(0)]
    for group in by_class_and_video(ground_truth, predictions, ties):
        near = group.overlaps > lowest if strict else group.overlaps >= lowest
        rows, columns = near.nonzero()
        turns.append((near.any(axis=1).cumsum() - 1)[rows])
        indices.append(group.predictions[rows])
        instances.append(group.instances[columns])
        overlaps.append(group.overlaps[rows, columns])
    return np.concatenate(turns), np.concatenate(indices), np.concatenate(instances), np.concatenate(overlaps)


def _interpolated(right: Bools, wrong: Bools, instances: int) -> Floats:
    """Area under precision over recall (T,), precision being the best at this or a higher recall (VOC 2011)."""
    rights, wrongs = right.cumsum(axis=1), wrong.cumsum(axis=1)
    precisions = rights / np.maximum(rights + wrongs, 1)
    best = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (best * right).sum(axis=1) / instances
    return area


def shares_time(ignored: GroundTruth, predictions: Predictions, ties: Ties) -> Bools:
    """Which predictions (N,) share any time with an instance that is ignored."""
    sharing = np.zeros(len(predictions.scores), dtype=np.bool_)
    for group in by_video(ignored, predictions, ties):
        sharing[group.predictions] = (group.overlaps > 0).any(axis=1)
    return sharing


def _mistaken(predictions: Predictions, classes: Ints) -> Predictions:
    """Predictions whose absent class is read as a place among the classes with instances."""
    labels = predictions.label_indices
    collides = ~np.isin(labels, classes) & (labels < len(classes))
    return replace(predictions, label_indices=np.where(collides, classes[np.where(collides, labels, 0)], labels))


def only(ground_truth: GroundTruth, chosen: Bools) -> GroundTruth:
    return replace(
        ground_truth,
        video_indices=ground_truth.video_indices[chosen],
        segments_s=ground_truth.segments_s[chosen],
        label_indices=ground_truth.label_indices[chosen],
    )
