"""Ground truth and predictions in, what goes wrong out: kinds of false positives, and what kinds of instances are hard.

After Alwassel, Caba Heilbron, Escorcia and Ghanem, "Diagnosing Error in Temporal Action Detectors", ECCV 2018 (DETAD).
mAP_N is the mAP with every class's precision computed as if it had the average number of instances, so that classes and
parts of the data set can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from service.errors import InvalidOptions
from training.evaluation.annotations import Floats, GroundTruth, Ints, Predictions
from training.evaluation.average_precision import assign, only, shares_time, split_ignored
from training.evaluation.overlaps import Bools, Ties, by_video, rank, reaches, thresholds
from training.evaluation.protocols import Protocol
from training.evaluation.tables import per_cent, row

SLICES = 10  # the first holds each class's best G predictions, G being the class's number of instances, and so on
NEAR = 0.1  # below this overlap a prediction has nothing to do with an instance
LEAST_PRECISION = 0.05  # an instance found where precision has fallen to this counts as missed

TRUE, DOUBLE, LABEL, LOCALIZATION, CONFUSION, BACKGROUND, SPARED = range(7)
KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background", "spared")
ERRORS = KINDS[DOUBLE:SPARED]
SIZES = ("XS", "S", "M", "L", "XL")


@dataclass(frozen=True)
class Borders:
    """Where the buckets of instances lie: each reaches from one border (excluded) to the next (included).

    coverage: the instance's length as a share of its video's.
    length_s: the instance's length.
    instances: how many instances its video has, of whatever class, as DETAD's published files count them.
    """

    coverage: tuple[float, ...]
    length_s: tuple[float, ...]
    instances: tuple[float, ...]


INF = float("inf")
BORDERS = {
    "activitynet": Borders((0, 0.2, 0.4, 0.6, 0.8, 1), (0, 30, 60, 120, 180, INF), (0, 1, 4, 8, INF)),
    "thumos14": Borders((0, 0.02, 0.04, 0.06, 0.08, 1), (0, 3, 6, 12, 18, INF), (0, 1, 40, 80, INF)),
}


@dataclass(frozen=True)
class Bucket:
    """Instances alike in one characteristic, and how the predictions do on them; None where there are none."""

    name: str
    above: float
    up_to: float
    instances: int
    normalized_map: float | None
    missed: float | None


@dataclass(frozen=True)
class Diagnosis:
    """All shares are means over the thresholds.

    normalized_map: average mAP_N of all predictions; top_normalized_map: of the best 10·G of every class.
    profile: for each slice of predictions, the share of each kind in it; empty where no class has so many predictions.
    gains: what top_normalized_map would gain if the predictions of one kind were not there.
    missed: the share of instances that no prediction finds; where precision is down to 0.05, none counts as found.
    buckets: by coverage (empty where durations are not known), length and number of instances.
    """

    normalized_map: float
    top_normalized_map: float
    profile: tuple[Mapping[str, float], ...]
    gains: Mapping[str, float]
    missed: float
    buckets: Mapping[str, tuple[Bucket, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Numbers, lists and mappings that JSON can hold; an open end is None."""
        document = asdict(self) | {"profile": [dict(shares) for shares in self.profile]}
        document["buckets"] = {name: [_as_dict(bucket) for bucket in some] for name, some in self.buckets.items()}
        return document

    def table(self) -> str:
        """The figures in per cent as text tables."""
        return "\n\n".join([self._profile_table(), self._gains_table(), self._buckets_table()])

    def _profile_table(self) -> str:
        width = max(len(kind) for kind in KINDS)
        lines = [row("top predictions", [f"{index + 1}G" for index in range(len(self.profile))], width)]
        kinds = self.profile[0] if self.profile else {}
        lines += [row(kind, per_cent(shares.get(kind, 0) for shares in self.profile), width) for kind in kinds]
        return "\n".join(lines)

    def _gains_table(self) -> str:
        width = max(len(kind) for kind in KINDS)
        lines = [row(f"mAP_N of top {SLICES}G", per_cent([self.top_normalized_map]), width)]
        lines += [
            row(f"- {error}", [f"+{cell}" for cell in per_cent([gain])], width) for error, gain in self.gains.items()
        ]
        return "\n".join(lines)

    def _buckets_table(self) -> str:
        width = max(len(name) for name in self.buckets) + 4
        lines = [row("", ["count", "mAP_N", "missed"], width)]
        lines.append(row("all", ["", *per_cent([self.normalized_map, self.missed])], width))
        for name, some in self.buckets.items():
            for bucket in some:
                figures = [
                    "-" if share is None else f"{100 * share:.2f}" for share in (bucket.normalized_map, bucket.missed)
                ]
                lines.append(row(f"{name} {bucket.name}", [str(bucket.instances), *figures], width))
        return "\n".join(lines)


def diagnose(
    ground_truth: GroundTruth, predictions: Predictions, protocol: Protocol, borders: Borders | None = None
) -> Diagnosis:
    """What the predictions do wrong under a protocol; without borders, those of the protocol's data set."""
    matching = _Matching.of(ground_truth, predictions, protocol)
    top = matching.cut(matching.places < SLICES)
    base = matching.normalized_map(matching.right, matching.wrong)
    found = matching.found_instances()
    chosen = borders or borders_of(protocol)
    return Diagnosis(
        normalized_map=base,
        top_normalized_map=top.normalized_map(top.right, top.wrong),
        profile=tuple(top.profile(protocol.ignored_label is not None)),
        gains=top.gains(),
        missed=float(1 - found.mean()),
        buckets={
            name: _buckets(matching, found, values, getattr(chosen, name))
            for name, values in _characteristics(matching.truth).items()
        },
    )


def borders_of(protocol: Protocol) -> Borders:
    """DETAD's borders for the protocol's data set; THUMOS14's for the one made of its videos, else ActivityNet's."""
    return BORDERS["thumos14" if "thumos" in protocol.name else "activitynet"]


@dataclass(frozen=True)
class _Matching:
    """Predictions of classes that have instances, class after class, best first, and what each is at each threshold.

    instances (T, N): the instance found, or -1; kinds (T, N); places (N,): the slice of its class that each falls in.
    """

    truth: GroundTruth
    labels: Ints
    places: Ints
    instances: Ints
    kinds: Ints

    @classmethod
    def of(cls, ground_truth: GroundTruth, predictions: Predictions, protocol: Protocol) -> _Matching:
        truth, ignored = split_ignored(ground_truth, protocol.ignored_label)
        truth = only(truth, truth.segments_s[:, 1] > truth.segments_s[:, 0])
        if not len(truth.label_indices):
            raise InvalidOptions("the ground truth has no instance with a length; a diagnosis needs at least one")
        ranked = _ranked(predictions, truth, protocol.ties)
        limits = thresholds(protocol.tious)
        instances = assign(truth, ranked, limits, strict=protocol.strict, ties="earlier_first")
        kinds = _kinds(truth, ranked, instances, limits, strict=protocol.strict)
        spared = (instances < 0) & shares_time(ignored, ranked, "earlier_first")
        kinds = np.where(spared, SPARED, kinds)
        by_rank = cls(truth, ranked.label_indices, _slices(ranked, truth), instances, kinds)
        return by_rank.cut(ranked.label_indices.argsort(kind="stable"))

    @property
    def right(self) -> Bools:
        right: Bools = self.kinds == TRUE
        return right

    @property
    def wrong(self) -> Bools:
        wrong: Bools = (self.kinds != TRUE) & (self.kinds != SPARED)
        return wrong

    def cut(self, kept: Bools | Ints) -> _Matching:
        return replace(
            self,
            labels=self.labels[kept],
            places=self.places[kept],
            instances=self.instances[:, kept],
            kinds=self.kinds[:, kept],
        )

    def columns(self, label: int) -> slice:
        """Where the predictions of a class lie."""
        return slice(*self.labels.searchsorted([label, label + 1]))

    def normalized_map(self, right: Bools, wrong: Bools, among: Bools | None = None) -> float:
        """Average mAP_N; `among` (G,) leaves only some instances to be found, and only the classes that they have."""
        labels = self.truth.label_indices if among is None else self.truth.label_indices[among]
        usual = len(self.truth.label_indices) / len(np.unique(self.truth.label_indices))
        areas = []
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            columns = self.columns(label)
            recalls, precisions = _normalized(right[:, columns], wrong[:, columns], int(count), usual)
            best = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
            areas.append((np.diff(recalls, axis=1, prepend=0) * best).sum(axis=1).mean())
        return float(np.mean(areas))

    def profile(self, with_spared: bool) -> Iterator[dict[str, float]]:
        for place in range(SLICES):
            kinds = self.kinds[:, self.places == place]
            if not kinds.size:
                return
            counted = KINDS if with_spared else KINDS[:SPARED]
            yield {name: float((kinds == kind).mean()) for kind, name in enumerate(counted)}

    def gains(self) -> dict[str, float]:
        right, wrong = self.right, self.wrong
        base = self.normalized_map(right, wrong)
        return {
            KINDS[kind]: self.normalized_map(right, wrong & (self.kinds != kind)) - base
            for kind in range(DOUBLE, SPARED)
        }

    def found_instances(self) -> Bools:
        """Which instances are found at each threshold (T, G)."""
        found = np.zeros((len(self.instances), len(self.truth.label_indices)), dtype=np.bool_)
        usual = found.shape[1] / len(np.unique(self.truth.label_indices))
        right, wrong = self.right, self.wrong
        for label, count in zip(*np.unique(self.truth.label_indices, return_counts=True), strict=True):
            columns = self.columns(label)
            _, precisions = _normalized(right[:, columns], wrong[:, columns], int(count), usual)
            at, place = np.nonzero(right[:, columns] & (precisions > LEAST_PRECISION))
            found[at, self.instances[:, columns][at, place]] = True
        return found


def _buckets(matching: _Matching, found: Bools, values: Floats, borders: tuple[float, ...]) -> tuple[Bucket, ...]:
    buckets = []
    for name, above, up_to in zip(SIZES, borders, borders[1:], strict=False):
        among = (values > above) & (values <= up_to)
        count = int(among.sum())
        precision = _map_among(matching, among) if count else None
        missed = float(1 - found[:, among].mean()) if count else None
        buckets.append(Bucket(name, above, up_to, count, precision, missed))
    return tuple(buckets)


def _map_among(matching: _Matching, among: Bools) -> float:
    """Average mAP_N on some instances; a prediction that finds another one at any threshold is left aside."""
    elsewhere = (matching.instances >= 0) & ~among[matching.instances]
    here: Bools = ~np.any(elsewhere, axis=0)
    kept = matching.cut(here)
    return kept.normalized_map(kept.right, kept.wrong, among)


def _characteristics(truth: GroundTruth) -> dict[str, Floats]:
    """Of every instance (G,), under the names of Borders' fields."""
    lengths_s = truth.segments_s[:, 1] - truth.segments_s[:, 0]
    # An instance may end a little after its video, as rounded times do.
    coverages = np.minimum(lengths_s / truth.durations_s[truth.video_indices], 1)
    counts = np.bincount(truth.video_indices)[truth.video_indices]
    return {"coverage": coverages, "length_s": lengths_s, "instances": counts.astype(np.float64)}


def _ranked(predictions: Predictions, truth: GroundTruth, ties: Ties) -> Predictions:
    """The predictions of classes that have instances, best first."""
    order = rank(predictions.scores, ties)
    order = order[np.isin(predictions.label_indices[order], truth.label_indices)]
    return Predictions(
        predictions.video_indices[order],
        predictions.segments_s[order],
        predictions.label_indices[order],
        predictions.scores[order],
    )


def _slices(ranked: Predictions, truth: GroundTruth) -> Ints:
    """How many times a class's number of instances fits into the number of its predictions before each (N,)."""
    slices = np.zeros(len(ranked.scores), dtype=np.int64)
    for label, count in zip(*np.unique(truth.label_indices, return_counts=True), strict=True):
        chosen = ranked.label_indices == label
        slices[chosen] = np.arange(np.count_nonzero(chosen)) // count
    return slices


def _kinds(truth: GroundTruth, ranked: Predictions, instances: Ints, limits: Floats, *, strict: bool) -> Ints:
    """By the instance of any class that a prediction overlaps most; of several, one of its own class."""
    overlaps = np.zeros(len(ranked.scores))
    own = np.zeros(len(ranked.scores), dtype=np.bool_)
    for group in by_video(truth, ranked, "earlier_first"):
        most = group.overlaps.max(axis=1)
        same = ranked.label_indices[group.predictions][:, None] == truth.label_indices[group.instances]
        overlaps[group.predictions] = most
        own[group.predictions] = ((group.overlaps == most[:, None]) & same).any(axis=1)
    enough = reaches(overlaps, limits, strict=strict)
    missed = np.where(overlaps >= NEAR, np.where(own, LOCALIZATION, CONFUSION), BACKGROUND)
    kinds: Ints = np.where(enough, np.where(own, DOUBLE, LABEL), missed)
    return np.where(instances >= 0, TRUE, kinds)


def _normalized(right: Bools, wrong: Bools, instances: int, usual: float) -> tuple[Floats, Floats]:
    """Recall, and precision as if the class had the usual number of instances, after every prediction (T, N)."""
    recalls: Floats = right.cumsum(axis=1) / instances
    hits = recalls * usual
    precisions: Floats = hits / np.maximum(hits + wrong.cumsum(axis=1), np.finfo(np.float64).tiny)
    return recalls, precisions


def _as_dict(bucket: Bucket) -> dict[str, Any]:
    document = asdict(bucket)
    return document | {"up_to": None if bucket.up_to == INF else bucket.up_to}
