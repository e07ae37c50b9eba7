"""ActionFormer's outputs and annotated actions in, its loss out: which points answer for which action, and how badly.

Regression ranges, normaliser and weights are those of the paper's code (Zhang et al., ECCV 2022) and of OpenTAD, which
differ only in presets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer import PointAnswers
from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Losses, Targets

FAR = 10_000.0
SAME_LENGTH = 1e-3  # actions whose lengths differ by no more share a point's class label (CliffDiving within Diving)
Overlap = Literal["diou", "giou"]


@dataclass(frozen=True)
class ActionFormerLossConfig:
    """`ranges`: per level, which distances to an action's farther end its points answer for, in grid positions.

    `center_radius` keeps points within so many strides of an action's centre; None takes all inside it.
    `regression_weight` None balances both losses, which in effect is twice the classification loss.
    """

    ranges: tuple[tuple[float, float], ...]
    center_radius: float | None = 1.5
    regression: Overlap = "diou"
    regression_weight: float | None = 1.0
    label_smoothing: float = 0.0
    initial_positives: float = 100.0
    momentum: float = 0.9
    share_similar: bool = True


def ranges_of(levels: int, overlapping: bool = False) -> tuple[tuple[float, float], ...]:
    """0–4, 4–8, 8–16 … grid positions, the last without end; overlapping ones begin at half: 0–4, 2–8, 4–16 …"""
    ends = [4.0 * 2**level for level in range(levels - 1)] + [FAR]
    starts = [0.0] + [2.0 * 2**level if overlapping else 4.0 * 2**level for level in range(levels - 1)]
    return tuple(zip(starts, ends, strict=True))


def thumos() -> ActionFormerLossConfig:
    return ActionFormerLossConfig(ranges_of(6))


def activitynet() -> ActionFormerLossConfig:
    return ActionFormerLossConfig(ranges_of(6), regression_weight=2.0, label_smoothing=0.1, initial_positives=200.0)


def epic_kitchens(label_smoothing: float = 0.0) -> ActionFormerLossConfig:
    """Verbs; nouns are trained with label_smoothing 0.1."""
    return ActionFormerLossConfig(
        ranges_of(6, overlapping=True), label_smoothing=label_smoothing, initial_positives=250.0
    )


def ego4d() -> ActionFormerLossConfig:
    return ActionFormerLossConfig(ranges_of(7, overlapping=True))


def compact() -> ActionFormerLossConfig:
    return ActionFormerLossConfig(ranges_of(5))


class Wanted(NamedTuple):
    """What the points (P, 4) of a batch should answer: classes (B, P, K), distances (B, P, 2) in strides, and which of
    the video's actions (B, P) that is. Masks (B, P): valid ones are in their video, positive ones answer for an action.
    """

    points: Tensor
    classes: Tensor
    distances: Tensor
    actions: Tensor
    valid: Tensor
    positive: Tensor


class ActionFormerLoss(nn.Module):
    """Keeps a running mean of the number of positive points, by which both losses are divided."""

    normaliser: Tensor

    def __init__(self, config: ActionFormerLossConfig, network: ActionFormerConfig) -> None:
        super().__init__()
        if len(config.ranges) != len(network.strides):
            raise ValueError(f"{len(config.ranges)} regression ranges for {len(network.strides)} levels")
        self.config, self.network = config, network
        self.register_buffer("normaliser", torch.tensor(config.initial_positives, dtype=torch.float64))

    def forward(self, outputs: PointAnswers, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per video of the batch."""
        wanted = self.wanted(outputs, targets)
        normaliser = self.count(wanted.positive)
        classification = self.classification(outputs, wanted).sum() / normaliser
        regression = self.regression(outputs, wanted).sum() / normaliser
        return self.combined(classification, regression)

    def wanted(self, outputs: PointAnswers, targets: Sequence[Targets]) -> Wanted:
        points = self.points([offsets.shape[1] for offsets in outputs.offsets], outputs.offsets[0].device)
        matches = [self.match(points, video) for video in targets]
        classes, distances, actions = (torch.stack(parts) for parts in zip(*matches, strict=True))
        valid = torch.cat(outputs.masks, dim=1)
        return Wanted(points, classes, distances, actions, valid, valid & (classes.sum(dim=2) > 0))

    def count(self, positive: Tensor) -> float:
        """The running mean of the number of positive points, these included."""
        self.normaliser.lerp_(positive.sum().clamp(min=1).to(self.normaliser.dtype), 1 - self.config.momentum)
        return self.normaliser.item()

    def classification(self, outputs: PointAnswers, wanted: Wanted) -> Tensor:
        """Terms (V, K) of all valid points."""
        smooth = self.config.label_smoothing
        classes = wanted.classes[wanted.valid] * (1 - smooth) + smooth / (self.network.num_classes + 1)
        return focal(torch.cat(outputs.logits, dim=1)[wanted.valid], classes)

    def regression(self, outputs: PointAnswers, wanted: Wanted) -> Tensor:
        """Terms (N,) of the positive points."""
        overlap = diou if self.config.regression == "diou" else giou
        return overlap(torch.cat(outputs.offsets, dim=1)[wanted.positive], wanted.distances[wanted.positive])

    def combined(self, classification: Tensor, regression: Tensor) -> Losses:
        weight = self.config.regression_weight
        if weight is None:
            total = classification + regression * (classification.detach() / max(regression.item(), 0.01))
        else:
            total = classification + weight * regression
        return Losses(total, {"classification": classification, "regression": regression})

    def points(self, lengths: Sequence[int], device: torch.device) -> Tensor:
        """All points of all levels (P, 4): position, shortest and longest distance that they answer for, stride."""
        rows = []
        for length, stride, (least, most) in zip(lengths, self.network.strides, self.config.ranges, strict=True):
            position = torch.arange(length, device=device, dtype=torch.float32) * stride
            rest = torch.tensor([least, most, float(stride)], device=device).expand(length, 3)
            rows.append(torch.cat([position[:, None], rest], dim=1))
        return torch.cat(rows)

    def assign(self, points: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """What each point should answer: classes (P, K), several at times, and distances (P, 2) in strides."""
        classes, distances, _ = self.match(points, targets)
        return classes, distances

    @torch.no_grad()
    def match(self, points: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and which action (P,) that is.

        A point answers for the shortest action that it stands in, near enough to the centre, if the farther end lies
        in its level's range. Distances and actions of points that answer for none mean nothing.
        """
        num_points, num_classes = len(points), self.network.num_classes
        if len(targets.spans) == 0:
            none = torch.zeros(num_points, dtype=torch.int64, device=points.device)
            return points.new_zeros(num_points, num_classes), points.new_zeros(num_points, 2), none
        position, least, most, stride = (column[:, None] for column in points.unbind(dim=1))
        start, end = targets.spans.to(points.dtype).unbind(dim=1)
        distances = torch.stack([position - start, end - position], dim=2)
        low, high = start, end
        if self.config.center_radius is not None:
            centre = 0.5 * (start + end)
            low = torch.maximum(centre - stride * self.config.center_radius, start)
            high = torch.minimum(centre + stride * self.config.center_radius, end)
        farther = distances.amax(dim=2)
        answers = (position > low) & (position < high) & (farther >= least) & (farther <= most)
        lengths = torch.where(answers, (end - start).expand_as(answers), torch.inf)
        shortest, which = lengths.min(dim=1)
        chosen = answers & (lengths <= shortest[:, None] + SAME_LENGTH) if self.config.share_similar else answers
        one_hot = F.one_hot(targets.labels, num_classes).to(points.dtype)
        classes = (chosen.to(points.dtype) @ one_hot).clamp(max=1)
        return classes, distances[torch.arange(num_points, device=points.device), which] / stride, which


def focal(logits: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017), element by element."""
    probability = logits.sigmoid()
    right = probability * wanted + (1 - probability) * (1 - wanted)
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    return weight * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def giou(offsets: Tensor, wanted: Tensor) -> Tensor:
    """1 − tIoU of spans around the same point, (N, 2) distances each: they always overlap, so GIoU is no more."""
    shared = torch.minimum(offsets, wanted).sum(dim=1)
    union = offsets.sum(dim=1) + wanted.sum(dim=1) - shared
    return 1 - shared / union.clamp(min=1e-8)


def diou(offsets: Tensor, wanted: Tensor) -> Tensor:
    """The same, plus the squared distance of centres in lengths of the enclosing span (Zheng et al., AAAI 2020)."""
    enclosing = torch.maximum(offsets, wanted).sum(dim=1)
    apart = 0.5 * (offsets[:, 1] - offsets[:, 0] - wanted[:, 1] + wanted[:, 0])
    return giou(offsets, wanted) + (apart / enclosing.clamp(min=1e-8)) ** 2
