"""Spans (N, 2), scores (N,) and labels (N,) in, overlaps and the spans worth keeping out: tIoU, suppression, voting.

A span is a pair (start, end) in any one unit. Everything is computed in float64. A score of 0 or less is no candidate.
Spans that share no time never suppress each other, and a span of no or negative length overlaps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Kind = Literal["none", "hard", "linear", "gaussian", "bsn"]
Overlap = Literal["iou", "coverage"]
Weight = Literal["score_iou", "score"]

GONE = -1.0  # the score of a candidate that was taken or dropped; 0 still counts for `keep_last`


@dataclass(frozen=True)
class Quirks:
    """Where published post-processings differ from the plain rule; needed for equality with their numbers only.

    overlap: "coverage" measures which share of the best span another one covers (TadTR's soft-NMS).
    inclusive: whether an overlap of exactly the threshold suppresses; not so in BSN, ReAct and TadTR.
    width_epsilon: added to every width (1e-6 in the C++ of ActionFormer and OpenTAD).
    spare_first: the best candidate of a run is exempt from `min_score` (the same C++, soft kinds).
    keep_last: False never returns the last candidate that remains (BSN, G-TAD, AFSD).
    candidate_order: returned as the candidates came, not by score (ReAct, AFSD).
    zero_from_length: spans of this length or more lose their score, but still count for `keep_last` (G-TAD THUMOS).
    """

    overlap: Overlap = "iou"
    inclusive: bool = True
    width_epsilon: float = 0.0
    spare_first: bool = False
    keep_last: bool = True
    candidate_order: bool = False
    zero_from_length: float | None = None


@dataclass(frozen=True)
class Nms:
    """How the best candidate lowers the scores of those that it overlaps by o.

    hard: to 0 where o reaches `iou_threshold`. linear: by the factor 1 - o where o reaches it.
    gaussian: by exp(-o^2 / sigma). bsn: the same, but only where o reaches t1 + (t2 - t1) * width, with the width of
    the best candidate in units of `unit_length`; the form t1 + slope * width is t2 = t1 + slope.
    Candidates below `min_score` leave, at the start or once decayed; at most `max_kept` are returned over all classes.
    """

    kind: Kind = "hard"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    t1: float = 0.5
    t2: float = 0.9
    unit_length: float = 1.0
    min_score: float = 0.0
    max_kept: int | None = None
    quirks: Quirks = Quirks()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"nms kind is {self.kind!r}; accepted are {', '.join(get_args(Kind))}")
        for name in ("sigma", "unit_length"):
            if not getattr(self, name) > 0:
                raise ValueError(f"nms {name} is {getattr(self, name)}; it must be greater than 0")
        if self.max_kept is not None and self.max_kept < 1:
            raise ValueError(f"nms max_kept is {self.max_kept}; it must be at least 1, or None for no limit")


@dataclass(frozen=True)
class Voting:
    """Kept spans move to the weighted mean of the candidates that overlap them by `iou_threshold` or more."""

    iou_threshold: float
    weight: Weight = "score_iou"


class Kept(NamedTuple):
    """What survived: spans (M, 2), scores (M,), labels (M,), and indices (M,) of the candidates they come from."""

    spans: Floats
    scores: Floats
    labels: Ints
    indices: Ints


def tiou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Temporal intersection over union of every span of a (N, 2) with every span of b (M, 2): (N, M)."""
    first, second = _spans(a, "a")[:, None], _spans(b, "b")[None]
    shared = _intersection(first, second)
    return _ratio(shared, _width(first) + _width(second) - shared)


def coverage(a: ArrayLike, b: ArrayLike) -> Floats:
    """Which share of every span of a (N, 2) each span of b (M, 2) covers: (N, M)."""
    first, second = _spans(a, "a")[:, None], _spans(b, "b")[None]
    shared = _intersection(first, second)
    return _ratio(shared, np.broadcast_to(_width(first), shared.shape))


def clip(spans: ArrayLike, low: float, high: float) -> Floats:
    """Spans with both ends moved into [low, high]; what lies outside comes to have no length."""
    return np.clip(_spans(spans, "spans"), low, high)


def suppress(
    spans: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    nms: Nms,
    *,
    class_agnostic: bool = False,
    voting: Voting | None = None,
) -> Kept:
    """The post-processing of one video: suppression within each class, or over all classes and then voting."""
    where = _spans(spans, "spans")
    marks = _scores(scores, "scores", len(where))
    classes = np.asarray(labels, dtype=np.int64)
    if classes.shape != marks.shape:
        raise ValueError(f"labels have shape {classes.shape}; {len(marks)} scores need {marks.shape}")
    indices, kept_scores = select(where, marks, nms, None if class_agnostic else classes)
    kept = where[indices]
    # A class alone has too few neighbours to vote: the references vote over all classes only.
    if voting is not None and class_agnostic:
        kept = vote(kept, where, marks, voting.iou_threshold, voting.weight)
    return Kept(kept, kept_scores, classes[indices], indices)


def select(spans: ArrayLike, scores: ArrayLike, nms: Nms, labels: ArrayLike | None = None) -> tuple[Ints, Floats]:
    """Indices and lowered scores of the survivors, best first; with labels each class is suppressed by itself.

    Suppression only lowers scores, so the next survivor is the best head of any class. Taking heads one by one
    therefore equals running every class to its end and cutting afterwards, but stops after `max_kept` steps.
    """
    where = _spans(spans, "spans")
    marks = _scores(scores, "scores", len(where))
    groups = [np.arange(len(marks))] if labels is None else _by_class(np.asarray(labels, dtype=np.int64))
    races = [_Race(where[group], marks[group], nms) for group in groups]
    heads = np.array([race.head_score for race in races])
    indices: list[int] = []
    kept: list[float] = []
    limit = len(marks) if nms.max_kept is None else nms.max_kept
    while len(kept) < limit and heads.size:
        winner = int(heads.argmax())
        if heads[winner] <= 0:
            break
        race = races[winner]
        indices.append(int(groups[winner][race.head]))
        kept.append(race.take())
        heads[winner] = race.head_score
    return _ordered(np.array(indices, dtype=np.int64), np.array(kept, dtype=np.float64), nms.quirks)


def vote(
    kept: ArrayLike, spans: ArrayLike, scores: ArrayLike, iou_threshold: float, weight: Weight = "score_iou"
) -> Floats:
    """Every kept span moved to the mean of its neighbours among `spans`, weighted by score, or by score times IoU."""
    where = _spans(spans, "spans")
    marks = _scores(scores, "scores", len(where))
    moved = _spans(kept, "kept").copy()
    widths = _width(where)
    for row in moved:
        shared = _intersection(where, row)
        near = shared.nonzero()[0]
        overlap = shared[near] / (widths[near] + _width(row) - shared[near])
        weights = np.where(overlap >= iou_threshold, marks[near], 0.0)
        if weight == "score_iou":
            weights *= overlap
        if (total := weights.sum()) > 0:
            row[:] = weights @ where[near] / total
    return moved


class _Race:
    """The candidates of one class; `take` removes the best and lowers the scores of those that it overlaps."""

    def __init__(self, spans: Floats, scores: Floats, nms: Nms) -> None:
        self.nms = nms
        self.starts, self.ends = np.ascontiguousarray(spans.T)
        self.widths = self.ends - self.starts + nms.quirks.width_epsilon
        self.scores = _admitted(scores, self.ends - self.starts, nms)
        self._find_head()

    def take(self) -> float:
        score, self.scores[self.head] = float(self.scores[self.head]), GONE
        if self.nms.kind != "none":
            self._decay_neighbours()
        self._find_head()
        return score

    def _find_head(self) -> None:
        self.head = int(self.scores.argmax()) if len(self.scores) else 0
        self.head_score = float(self.scores[self.head]) if len(self.scores) else GONE
        if not self.nms.quirks.keep_last and np.count_nonzero(self.scores >= 0) < 2:
            self.head_score = GONE

    def _decay_neighbours(self) -> None:
        start, end, width = self.starts[self.head], self.ends[self.head], self.widths[self.head]
        shared = np.minimum(self.ends, end)
        shared -= np.maximum(self.starts, start)
        near = ((shared > 0) & (self.scores > 0)).nonzero()[0]
        if not near.size:
            return
        shared = shared[near]
        # Spans that share time have a length, so neither denominator can be 0.
        whole = width if self.nms.quirks.overlap == "coverage" else width + self.widths[near] - shared
        decayed = self.scores[near] * _decay(shared / whole, float(width), self.nms)
        decayed[decayed < self.nms.min_score] = GONE
        self.scores[near] = decayed


def _decay(overlap: Floats, best_width: float, nms: Nms) -> Floats:
    """The factors that the best candidate puts on scores."""
    match nms.kind:
        case "gaussian":
            return np.exp(overlap * overlap / -nms.sigma)
        case "bsn":
            threshold = nms.t1 + (nms.t2 - nms.t1) * best_width / nms.unit_length
            lowered = np.exp(overlap * overlap / -nms.sigma)
        case "linear":
            threshold, lowered = nms.iou_threshold, 1 - overlap
        case _:
            threshold, lowered = nms.iou_threshold, np.zeros_like(overlap)
    reached = overlap >= threshold if nms.quirks.inclusive else overlap > threshold
    return np.where(reached, lowered, 1.0)


def _admitted(scores: Floats, lengths: Floats, nms: Nms) -> Floats:
    """A copy of the scores in which whatever takes no part is marked."""
    admitted = np.where(scores < nms.min_score, GONE, scores)
    if nms.quirks.spare_first and len(scores):
        best = scores.argmax()
        admitted[best] = scores[best]
    if nms.quirks.zero_from_length is not None:
        admitted[lengths >= nms.quirks.zero_from_length] = 0
    return admitted


def _ordered(indices: Ints, scores: Floats, quirks: Quirks) -> tuple[Ints, Floats]:
    if not quirks.candidate_order:
        return indices, scores
    order = indices.argsort()
    return indices[order], scores[order]


def _by_class(labels: Ints) -> list[Ints]:
    """The indices of every class that occurs, in rising order of label and within it of index."""
    order = labels.argsort(kind="stable")
    borders = np.flatnonzero(np.diff(labels[order])) + 1
    return list(np.split(order, borders)) if len(labels) else []


def _intersection(a: Floats, b: Floats) -> Floats:
    shared: Floats = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    return np.maximum(shared, 0.0, out=shared)


def _width(spans: Floats) -> Floats:
    width: Floats = spans[..., 1] - spans[..., 0]
    return width


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.zeros_like(part), where=part > 0)
    return ratio


def _spans(values: ArrayLike, name: str) -> Floats:
    spans = np.asarray(values, dtype=np.float64)
    if spans.size == 0:
        spans = spans.reshape(-1, 2)
    if spans.ndim != 2 or spans.shape[1] != 2:
        raise ValueError(f"{name} have shape {spans.shape}; (N, 2) is needed")
    return _finite(spans, name)


def _scores(values: ArrayLike, name: str, count: int) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (count,):
        raise ValueError(f"{name} have shape {scores.shape}; {count} spans need ({count},)")
    return _finite(scores, name)


def _finite(values: Floats, name: str) -> Floats:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"{name}[{row}] is {values[row]}; only finite numbers are accepted")
    return values
