"""Ground truth, predictions and a data set's protocol in, the figures that its papers print out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.evaluation.annotations import GroundTruth, Predictions
from training.evaluation.average_precision import AveragePrecision, average_precision, split_ignored
from training.evaluation.overlaps import Ties
from training.evaluation.recall import MultipleRecall, ProposalRecall, multiple_recall, proposal_recall
from training.evaluation.tables import per_cent, row

PROPOSALS = (1, 5, 10, 50, 100)  # the points of the recall curve that papers print


@dataclass(frozen=True)
class Protocol:
    """How a data set is scored.

    tious: the thresholds, which are averaged over.
    strict: an overlap must exceed the threshold rather than reach it.
    ignored_label: what overlaps its instances is not wrong.
    multiples: of the number of instances, at which recall is measured.
    proposals: the greatest average number of proposals per video of AR@AN; None leaves AR@AN out.
    ties: which of two equal scores comes first.
    """

    name: str
    tious: tuple[float, ...]
    strict: bool = False
    ignored_label: str | None = None
    multiples: tuple[int, ...] = ()
    proposals: int | None = None
    ties: Ties = "later_first"


def _steps(first: int, last: int, step: int) -> tuple[float, ...]:
    """Thresholds from hundredths: the nearest numbers to the printed ones, which repeated addition misses."""
    return tuple(hundredths / 100 for hundredths in range(first, last + 1, step))


# The challenge's rules: strict, and what shares time with an ambiguous instance is spared. Many papers instead score
# THUMOS14 by ActivityNet's inclusive rule, on annotations without ambiguous instances: replace(THUMOS14, strict=False).
THUMOS14 = Protocol("thumos14", _steps(30, 70, 10), strict=True, ignored_label="Ambiguous")
ACTIVITYNET = Protocol("activitynet", _steps(50, 95, 5), proposals=100)
EPIC = Protocol("epic", _steps(10, 50, 10))
EGO4D = Protocol("ego4d", _steps(10, 50, 10), multiples=(1, 5))
MULTITHUMOS = Protocol("multithumos", _steps(10, 90, 10))
CHARADES = Protocol("charades", _steps(10, 90, 10))

PROTOCOLS = {protocol.name: protocol for protocol in (THUMOS14, ACTIVITYNET, EPIC, EGO4D, MULTITHUMOS, CHARADES)}


@dataclass(frozen=True)
class Result:
    """The figures of one evaluation; what the protocol does not ask for is None. labels (C,): the classes that have
    instances, in the order of the last axis of `precision` and `multiples`."""

    protocol: Protocol
    labels: tuple[str, ...]
    precision: AveragePrecision
    multiples: MultipleRecall | None
    proposals: ProposalRecall | None

    @property
    def average(self) -> float:
        """The mean of the mAP over the thresholds."""
        return float(self.precision.means.mean())

    def summary(self) -> dict[str, Any]:
        """{"mAP": {"0.5": …}, "average": …}, with "recall" and "AR" where the protocol asks for them."""
        tious = self.protocol.tious
        summary: dict[str, Any] = {
            "mAP": {f"{tiou:g}": float(mean) for tiou, mean in zip(tious, self.precision.means, strict=True)},
            "average": self.average,
        }
        if self.multiples is not None:
            summary["recall"] = {
                f"{multiple}x": {f"{tiou:g}": float(mean) for tiou, mean in zip(tious, column, strict=True)}
                for multiple, column in zip(self.protocol.multiples, self.multiples.means.T, strict=True)
            }
        if self.proposals is not None:
            summary["AR"] = self._average_recalls() | {"AUC": self.proposals.area}
        return summary

    def by_class(self) -> dict[str, dict[str, float]]:
        """{label: {"0.5": AP, …}} for every class that has instances."""
        return {
            label: {f"{tiou:g}": float(value) for tiou, value in zip(self.protocol.tious, column, strict=True)}
            for label, column in zip(self.labels, self.precision.values.T, strict=True)
        }

    def table(self, *, classes: bool = False) -> str:
        """The figures in per cent as a text table, on demand with a row per class."""
        width = max([7, *(len(label) for label in self.labels)]) if classes else 7
        rows = [row("tIoU", [f"{tiou:g}" for tiou in self.protocol.tious] + ["average"], width)]
        if classes:
            values = zip(self.labels, self.precision.values.T, strict=True)
            rows += [row(label, per_cent([*column, column.mean()]), width) for label, column in values]
        rows.append(row("mAP", per_cent([*self.precision.means, self.average]), width))
        if self.multiples is not None:
            columns = zip(self.protocol.multiples, self.multiples.means.T, strict=True)
            rows += [row(f"R@{multiple}x", per_cent([*column, column.mean()]), width) for multiple, column in columns]
        if self.proposals is not None:
            figures = self._average_recalls()
            rows += ["", row("AR@AN", [*figures, "AUC"], width)]
            rows.append(row("AR", per_cent([*figures.values(), self.proposals.area]), width))
        return "\n".join(rows)

    def _average_recalls(self) -> dict[str, float]:
        """AR at the printed numbers of proposals; the curve has a point at every hundredth of the greatest number."""
        if self.proposals is None or self.protocol.proposals is None:
            return {}
        curve, most = self.proposals.averages, self.protocol.proposals
        points = {number: number * len(curve) / most for number in PROPOSALS if number <= most}
        return {str(number): float(curve[int(at) - 1]) for number, at in points.items() if at.is_integer()}


def evaluate(ground_truth: GroundTruth, predictions: Predictions, protocol: Protocol) -> Result:
    """The figures that the protocol asks for."""
    tious, strict, ties = protocol.tious, protocol.strict, protocol.ties
    truth, _ = split_ignored(ground_truth, protocol.ignored_label)
    precision = average_precision(
        ground_truth, predictions, tious, strict=strict, ties=ties, ignored_label=protocol.ignored_label
    )
    multiples = proposals = None
    if protocol.multiples:
        multiples = multiple_recall(truth, predictions, tious, multiples=protocol.multiples, strict=strict, ties=ties)
    if protocol.proposals is not None:
        proposals = proposal_recall(truth, predictions, tious, most=protocol.proposals, strict=strict, ties=ties)
    labels = tuple(ground_truth.labels[index] for index in precision.label_indices)
    return Result(protocol, labels, precision, multiples, proposals)
