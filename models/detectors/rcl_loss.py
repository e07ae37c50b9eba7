"""RCL's outputs and annotated actions in, its loss out: how well spans cover actions, asked after every refinement.

BMN's loss for every map, the later ones weighing more, as RAFT weighs its steps; and BMN's loss of starts and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.detectors import map_targets
from models.detectors.bmn_loss import BmnLossConfig, BoundaryLoss
from models.detectors.detector import Losses, Targets
from models.detectors.rcl import RclOutputs
from models.detectors.rcl_config import SHORTEST, RclConfig


@dataclass(frozen=True)
class RclLossConfig:
    """`discount`: by so much each map weighs less than the one after it. `thin`: of a scale-invariant lattice, longer
    spans are asked at fewer starts, chosen at random, in inverse proportion to their length. The rest is BMN's."""

    discount: float = 0.8
    thin: bool = True
    regression_weight: float = 5.0
    classification_weight: float = 1.0
    boundary_weight: float = 1.0
    step_offset: float = -0.5
    whole_steps: bool = False
    positive_above: float = 0.9
    zero_is_low: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount is {self.discount}; more than 0 and at most 1 is needed")

    @property
    def boundaries(self) -> BmnLossConfig:
        return BmnLossConfig(step_offset=self.step_offset, whole_steps=self.whole_steps)


def thumos() -> RclLossConfig:
    """Labels as OpenTAD's BMN."""
    return RclLossConfig(step_offset=0.0, whole_steps=True, zero_is_low=True)


def activitynet() -> RclLossConfig:
    return RclLossConfig()


def compact() -> RclLossConfig:
    """A short training needs every span: at 308 steps on Marionette thinning left the validation's average mAP at 29
    per cent half-way, and without it that was 53."""
    return RclLossConfig(thin=False)


class Asked(NamedTuple):
    """Of every span (B, D, T): its greatest tIoU with an action, whether it counts, and two draws."""

    overlaps: Tensor
    valid: Tensor
    draws: tuple[Tensor, Tensor]


class RclLoss(nn.Module):
    def __init__(self, config: RclLossConfig, network: RclConfig) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.boundaries = BoundaryLoss(config.boundaries)

    def forward(self, outputs: RclOutputs, targets: Sequence[Targets]) -> Losses:
        asked = self.asked(outputs, targets)
        maps = [self.map_loss(answers, asked) for answers in outputs.answers]
        weights = [self.config.discount ** (len(maps) - 1 - number) for number in range(len(maps))]
        boundary = self.boundaries(outputs.boundaries, outputs.mask, targets)
        refined = torch.stack([weight * loss for weight, loss in zip(weights, maps, strict=True)]).sum()
        parts = {"boundary": boundary, "first map": maps[0], "last map": maps[-1]}
        return Losses(self.config.boundary_weight * boundary + refined, parts)

    @torch.no_grad()
    def asked(self, outputs: RclOutputs, targets: Sequence[Targets]) -> Asked:
        spans = outputs.spans.float().expand(len(targets), -1, -1, -1)
        overlaps = torch.stack(
            [
                map_targets.best_overlaps(cells.flatten(0, 1), video.spans.float()).view(cells.shape[:2])
                for cells, video in zip(spans, targets, strict=True)
            ]
        )
        valid = outputs.present > 0
        if self.config.thin and self.network.sampling == "scale-invariant":
            valid = valid & (torch.rand_like(overlaps) * (spans[..., 1] - spans[..., 0]) < SHORTEST)
        return Asked(overlaps, valid, (torch.rand_like(overlaps), torch.rand_like(overlaps)))

    def map_loss(self, answers: Tensor, asked: Asked) -> Tensor:
        regressed, high = answers.unbind(dim=1)
        classification = map_targets.balanced_cross_entropy(
            high, asked.overlaps > self.config.positive_above, asked.valid
        )
        squares = map_targets.balanced_squares(
            regressed.sigmoid(), asked.overlaps, asked.valid, asked.draws, zero_is_low=self.config.zero_is_low
        )
        return self.config.classification_weight * classification + self.config.regression_weight * squares
