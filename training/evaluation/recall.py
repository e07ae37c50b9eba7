"""Ground truth and predictions in, recall out: AR@AN with its area (ActivityNet), or Recall@kx (Ego4D)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import InvalidOptions
from training.evaluation.annotations import Floats, GroundTruth, Ints, Predictions
from training.evaluation.overlaps import Ties, by_class_and_video, by_video, reaches, thresholds

STEPS = 100  # points of the curve of recall over proposals


@dataclass(frozen=True)
class ProposalRecall:
    """recalls (T, 100) at average numbers of proposals per video (100,), with labels left aside."""

    proposals: Floats
    recalls: Floats

    @property
    def averages(self) -> Floats:
        """AR: the mean over the thresholds, at every number of proposals (100,)."""
        averages: Floats = self.recalls.mean(axis=0)
        return averages

    @property
    def area(self) -> float:
        """AUC: the area under AR over proposals, as a share of its greatest number of proposals."""
        heights = (self.averages[1:] + self.averages[:-1]) / 2
        return float((heights * np.diff(self.proposals)).sum() / self.proposals[-1])


@dataclass(frozen=True)
class MultipleRecall:
    """Recall@kx, values (T, K, C); label_indices (C,): the classes with instances, rising."""

    values: Floats
    label_indices: Ints

    @property
    def means(self) -> Floats:
        """The mean over the classes (T, K)."""
        means: Floats = self.values.mean(axis=2)
        return means


def proposal_recall(
    ground_truth: GroundTruth,
    predictions: Predictions,
    tious: tuple[float, ...],
    *,
    most: int = 100,
    strict: bool = False,
    ties: Ties = "later_first",
) -> ProposalRecall:
    """Recall when every video spends the same share of its proposals, so that the average video spends 1 … `most`.

    The roundings are those of the official code: shares become whole numbers of proposals by cutting off, and
    proposals of videos without instances count when `most` is turned into a share, but not afterwards.
    """
    limits = thresholds(tious)
    videos = np.unique(ground_truth.video_indices)
    if not videos.size:
        raise InvalidOptions("the ground truth has no instance; recall needs at least one")
    counts = np.bincount(predictions.video_indices, minlength=len(ground_truth.videos))
    wanted = float(most * len(videos))
    spent = np.minimum((counts * (wanted / max(len(predictions.scores), 1))).astype(np.int64), counts)
    total = int(spent[videos].sum())
    steps = np.arange(1, STEPS + 1) / STEPS
    if not total:
        return ProposalRecall(steps * most, np.zeros((len(limits), STEPS)))
    shares = steps * (wanted / total)
    budgets = np.minimum((spent[:, None] * shares).astype(np.int64), spent[:, None])
    found = np.zeros((len(limits), STEPS))
    for group in by_video(ground_truth, predictions, ties):
        video = ground_truth.video_indices[group.instances[0]]
        hits = reaches(group.overlaps, limits, strict=strict)
        # The place of the first proposal that finds an instance, or one beyond all budgets.
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), len(predictions.scores))
        found += (first[:, :, None] < budgets[video]).sum(axis=1)
    return ProposalRecall(shares * (total / len(videos)), found / len(ground_truth.video_indices))


def multiple_recall(
    ground_truth: GroundTruth,
    predictions: Predictions,
    tious: tuple[float, ...],
    *,
    multiples: tuple[int, ...] = (1, 5),
    strict: bool = False,
    ties: Ties = "later_first",
) -> MultipleRecall:
    """Recall@kx: the share of instances found by the best k·n predictions of the class in the video, where the video
    has n instances of it. One prediction may find several instances."""
    limits = thresholds(tious)
    if not multiples or any(multiple < 1 for multiple in multiples):
        raise InvalidOptions(f"multiples are {multiples}; one or more whole numbers from 1 on are needed")
    classes, counts = np.unique(ground_truth.label_indices, return_counts=True)
    if not classes.size:
        raise InvalidOptions("the ground truth has no instance; recall needs at least one")
    found = np.zeros((len(limits), len(multiples), len(classes)))
    for group in by_class_and_video(ground_truth, predictions, ties):
        column = classes.searchsorted(ground_truth.label_indices[group.instances[0]])
        hits = reaches(group.overlaps, limits, strict=strict)
        for place, multiple in enumerate(multiples):
            found[:, place, column] += hits[:, : multiple * len(group.instances)].any(axis=1).sum(axis=1)
    return MultipleRecall(found / counts, classes)
