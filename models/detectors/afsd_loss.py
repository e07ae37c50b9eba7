"""AFSD's outputs and annotated actions in, its loss out: which points answer for which action, and how badly.

Terms, weights and assignment are those of the paper's code (Lin et al., CVPR 2021), for THUMOS14 and for ActivityNet;
boundary consistency is in `afsd_consistency_loss.py`. Actions are counted in frames of the frame-level map here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.afsd import AfsdOutputs, RunOutputs, corrected
from models.detectors.afsd_config import AfsdConfig
from models.detectors.afsd_consistency_loss import boundary_consistency
from models.detectors.detector import Losses, Targets

BACKGROUND_WEIGHT, CLASS_WEIGHT, FOCUS = 0.25, 0.75, 2.0
PROBABILITY_FLOOR = 1e-6  # added to probabilities, as published
SMALL = torch.finfo(torch.float32).eps
BOUNDARY_SHARE, SHORTEST_BOUNDARY_FRAMES = 0.1, 2.0  # of its action's length, how wide a boundary is


@dataclass(frozen=True)
class AfsdLossConfig:
    """`min_iou`: how well a proposal must fit for its refinement to be trained; with `relaxed` never more than the best
    of its video does. `ranges_frames`: per level, which distances to an action's farther end its points answer for;
    none takes all. `smooth` takes smooth L1 for corrections. Weights are as `Losses.parts` are named; `pooled_weight`
    is that of boundaries in the maps that proposals are pooled from, beside the frame-level one."""

    min_iou: float = 0.5
    relaxed: bool = False
    ranges_frames: tuple[tuple[float, float], ...] = ()
    smooth: bool = False
    location_weight: float = 10.0
    class_weight: float = 1.0
    boundary_weight: float = 1.0
    pooled_weight: float = 0.1
    consistency_weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1:
            raise ValueError(f"min_iou is {self.min_iou}; it lies between 0 and 1")
        for name in ("location_weight", "class_weight", "boundary_weight", "pooled_weight", "consistency_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; no negative number is accepted")


def thumos() -> AfsdLossConfig:
    return AfsdLossConfig()


def activitynet() -> AfsdLossConfig:
    ranges = ((0.0, 30.0), (15.0, 60.0), (30.0, 120.0), (60.0, 240.0), (96.0, 768.0), (256.0, 768.0))
    return AfsdLossConfig(min_iou=0.6, relaxed=True, ranges_frames=ranges, smooth=True, location_weight=1.0)


def compact() -> AfsdLossConfig:
    """ActivityNet's ranges for levels of half the stride, and no second look at altered windows, which is slow."""
    ranges = ((0.0, 15.0), (7.5, 30.0), (15.0, 60.0), (30.0, 120.0), (60.0, 240.0), (120.0, 512.0))
    return AfsdLossConfig(relaxed=True, ranges_frames=ranges, location_weight=1.0, consistency_weight=0.0)


class Assigned(NamedTuple):
    """What each of B · N points should answer: labels (B, N), 0 for background, before and after refinement; and
    distances (B, N, 2) in frames, which mean nothing for background."""

    labels: Tensor
    refined_labels: Tensor
    distances: Tensor


class AfsdLoss(nn.Module):
    def __init__(self, config: AfsdLossConfig, network: AfsdConfig) -> None:
        super().__init__()
        if config.ranges_frames and len(config.ranges_frames) != network.levels:
            raise ValueError(f"{len(config.ranges_frames)} ranges_frames for {network.levels} levels")
        self.config, self.network = config, network

    def forward(self, outputs: AfsdOutputs, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per video of the batch. Networks that run side by side are trained each by itself."""
        in_frames = [self.in_frames(video) for video in targets]
        each = [self._of_run(run, in_frames) for run in outputs.runs]
        parts = {name: torch.stack([one[name] for one in each]).sum() for name in each[0]}
        return Losses(torch.stack(list(parts.values())).sum(), parts)

    def in_frames(self, targets: Targets) -> Targets:
        return Targets((targets.spans.float() + 0.5) * self.network.frames_per_step, targets.labels)

    def _of_run(self, run: RunOutputs, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Every part with its weight."""
        config = self.config
        frames = [boundary_frames(video.spans, self.network.num_frames) for video in targets]
        start, end = self.boundaries(run, torch.stack(frames))
        found = self.detection(run, self.assign(run, targets))
        found |= {"boundary": config.boundary_weight * (start + end)}
        if config.consistency_weight and run.look_again is not None:
            consistency = boundary_consistency(run, targets, self.network.frames_per_step)
            found["consistency"] = config.consistency_weight * consistency
        return found

    def detection(self, run: RunOutputs, wanted: Assigned) -> dict[str, Tensor]:
        """The parts of both stages, with their weights."""
        valid, positive, refined = run.valid, wanted.labels > 0, wanted.refined_labels > 0
        count, refined_count = positive.sum().clamp(min=1), refined.sum().clamp(min=1)
        proposed, right = run.distances[positive], wanted.distances[positive]
        fit = overlap(corrected(proposed, run.corrections[positive]), right).clamp(min=0)
        sure = F.binary_cross_entropy_with_logits(run.fits[positive], fit, reduction="sum")
        correct = F.smooth_l1_loss if self.config.smooth else F.l1_loss
        moved = correct(run.corrections[refined], self._corrections(run, wanted)[refined], reduction="sum")
        location, of_class = self.config.location_weight, self.config.class_weight
        return {
            "location": location * generalised_overlap_loss(proposed, right).sum() / count,
            "class": of_class * softmax_focal(run.logits[valid], wanted.labels[valid]).sum() / count,
            "refined_location": location * moved / refined_count,
            "refined_class": of_class
            * softmax_focal(run.refined_logits[valid], wanted.refined_labels[valid]).sum()
            / refined_count,
            "fit": of_class * sure / count,
        }

    def boundaries(self, run: RunOutputs, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """How badly the maps' mean responses tell starts and ends; wanted (B, 2, frames) is 1 at them."""
        per_step = self.network.frames_per_step
        of_frames, of_steps = run.mask.repeat_interleave(per_step, dim=1), run.mask
        found = []
        for side in range(2):
            fine = _response_loss(run.maps.frames, side, wanted[:, side], of_frames)
            pooled = [
                _response_loss(features, side, wanted[:, side, ::per_step], of_steps)
                for features in (run.maps.location, run.maps.classes)
            ]
            found.append(fine + self.config.pooled_weight * (pooled[0] + pooled[1]))
        return found[0], found[1]

    @torch.no_grad()
    def assign(self, run: RunOutputs, targets: Sequence[Targets]) -> Assigned:
        """A point answers for the shortest action that it stands in, if its level's range allows; its refinement only
        if the proposal fits well enough."""
        each = [self._assign(run.points, video) for video in targets]
        labels = torch.stack([video[0] for video in each]) * run.valid
        distances = torch.stack([video[1] for video in each])
        fit = overlap(run.distances, distances)
        enough = torch.full_like(fit[:, :1], self.config.min_iou)
        if self.config.relaxed:
            best = torch.where(labels > 0, fit, -torch.inf).amax(dim=1, keepdim=True)
            enough = torch.minimum(enough, best)
        return Assigned(labels, labels * (fit >= enough), distances)

    def _assign(self, points: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Labels (N,) and distances (N, 2) of one video, actions and points in frames."""
        if not len(targets.spans):
            return torch.zeros_like(points, dtype=torch.int64), points.new_zeros(len(points), 2)
        start, end = targets.spans.unbind(dim=1)
        distances = torch.stack([points[:, None] - start, end - points[:, None]], dim=2)
        answers = (distances >= 0).all(dim=2)
        if self.config.ranges_frames:
            farther = distances.amax(dim=2)
            least, most = self._ranges(points)
            answers &= (farther > least) & (farther <= most)
        lengths = torch.where(answers, distances.sum(dim=2), torch.inf)
        shortest, which = lengths.min(dim=1)
        labels = torch.where(shortest.isfinite(), targets.labels[which] + 1, 0)
        return labels, distances[torch.arange(len(points), device=points.device), which]

    def _ranges(self, points: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.tensor([self.network.length // 2**level for level in range(self.network.levels)])
        rows = torch.tensor(self.config.ranges_frames).repeat_interleave(counts, dim=0).to(points.device)
        return rows[:, :1], rows[:, 1:]

    @staticmethod
    @torch.no_grad()
    def _corrections(run: RunOutputs, wanted: Assigned) -> Tensor:
        return (wanted.distances - run.distances) / (0.5 * run.distances.sum(dim=2, keepdim=True))


def boundary_frames(spans: Tensor, num_frames: int) -> Tensor:
    """Spans (G, 2) in frames → (2, frames): 1 where an action starts, and where one ends, within a twentieth of its
    length or a frame."""
    frames = torch.arange(num_frames, device=spans.device)
    reach = (BOUNDARY_SHARE * (spans[:, 1] - spans[:, 0])).clamp(min=SHORTEST_BOUNDARY_FRAMES)[:, None] / 2
    low = (spans - reach).round().clamp(0, num_frames - 1)[..., None]
    high = (spans + reach).round().clamp(0, num_frames - 1)[..., None]
    return ((frames >= low) & (frames <= high)).any(dim=0).float()


def overlap(distances: Tensor, wanted: Tensor) -> Tensor:
    """tIoU of spans (…, 2) around the same point; below 0 where a wanted span does not hold the point."""
    shared = torch.minimum(distances, wanted).sum(dim=-1)
    return shared / (distances.sum(dim=-1) + wanted.sum(dim=-1) - shared).clamp(min=SMALL)


def generalised_overlap_loss(distances: Tensor, wanted: Tensor) -> Tensor:
    """1 − GIoU (Rezatofighi et al., CVPR 2019) of the same, element by element."""
    shared = torch.minimum(distances, wanted).sum(dim=-1)
    union = distances.sum(dim=-1) + wanted.sum(dim=-1) - shared
    hull = torch.maximum(distances, wanted).sum(dim=-1)
    return 1 - shared / union.clamp(min=SMALL) + (hull - union) / hull.clamp(min=SMALL)


def softmax_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of softmax: logits (M, 1 + K), labels (M,), 0 for background."""
    right = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0] + PROBABILITY_FLOOR
    weight = torch.where(labels > 0, CLASS_WEIGHT, BACKGROUND_WEIGHT)
    return -weight * (1 - right) ** FOCUS * right.log()


def _response_loss(features: Tensor, side: int, wanted: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of the mean response of a side's half of channels (B, 2C, T) to wanted (B, T), at real places."""
    half = features.chunk(2, dim=1)[side]
    response = half.tanh().mean(dim=1)[mask]
    if not len(response):
        return features.sum() * 0
    return F.binary_cross_entropy(response, wanted[mask])
