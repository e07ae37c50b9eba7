"""TadTR's outputs and annotated actions in, its loss out: which query answers for which action, and how badly.

Liu et al., IEEE Transactions on Image Processing 2022: a one-to-one assignment per decoder layer, then focal loss on
classes, L1 and IoU on segments, and L1 between actionness and the IoU that a segment has reached. Weights are those of
the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer_loss import focal
from models.detectors.detector import Losses, Targets
from models.detectors.matching import assign
from models.detectors.queries import iou, to_centres, to_ends
from models.detectors.tadtr import TadTROutputs
from models.detectors.tadtr_config import TadTRConfig


@dataclass(frozen=True)
class TadTRLossConfig:
    """Weights of the loss, and of the costs by which queries and actions are matched.

    `actionness_over_batch` measures a segment by the actions of all windows of the batch, as the published code does;
    by default by those of its own.
    """

    class_weight: float = 2.0
    segment_weight: float = 5.0
    iou_weight: float = 2.0
    actionness_weight: float = 4.0
    class_cost: float = 6.0
    segment_cost: float = 5.0
    iou_cost: float = 2.0
    alpha: float = 0.25
    actionness_over_batch: bool = False

    def __post_init__(self) -> None:
        for name in ("class", "segment", "iou"):
            for kind in ("weight", "cost"):
                if getattr(self, f"{name}_{kind}") < 0:
                    raise ValueError(
                        f"{name}_{kind} is {getattr(self, f'{name}_{kind}')}; no negative number is accepted"
                    )
        if self.actionness_weight < 0:
            raise ValueError(f"actionness_weight is {self.actionness_weight}; no negative number is accepted")


class Wanted(NamedTuple):
    """The actions of a window: (centre, width) in fractions of it (G, 2), and labels (G,)."""

    segments: Tensor
    labels: Tensor


class TadTRLoss(nn.Module):
    def __init__(self, config: TadTRLossConfig, network: TadTRConfig) -> None:
        super().__init__()
        self.config, self.network = config, network

    def forward(self, outputs: TadTROutputs, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per window of the batch; the parts are those of the last decoder layer, unweighted."""
        wanted = [fractions(target, steps) for target, steps in zip(targets, outputs.steps, strict=True)]
        layers = [
            self.of_layer(logits, segments, wanted)
            for logits, segments in zip(outputs.logits, outputs.segments, strict=True)
        ]
        weights = {
            "classification": self.config.class_weight,
            "segments": self.config.segment_weight,
            "iou": self.config.iou_weight,
        }
        total = torch.stack([weights[name] * part for layer in layers for name, part in layer.items()]).sum()
        parts = layers[-1]
        if self.network.actionness:
            parts["actionness"] = self.of_actionness(outputs.segments[-1], outputs.actionness, wanted)
            total = total + self.config.actionness_weight * parts["actionness"]
        return Losses(total, parts)

    def of_layer(self, logits: Tensor, segments: Tensor, wanted: Sequence[Wanted]) -> dict[str, Tensor]:
        """Of one layer's logits (B, Q, K) and segments (B, Q, 2), each divided by the number of actions."""
        count = max(1, sum(len(window.labels) for window in wanted))
        classes, found, sought = torch.zeros_like(logits), [], []
        for at, window in enumerate(wanted):
            queries, actions = assign(self.cost(logits[at], segments[at], window))
            classes[at, queries, window.labels[actions]] = 1
            found.append(segments[at, queries])
            sought.append(window.segments[actions])
        matched, truth = torch.cat(found), torch.cat(sought)
        return {
            "classification": focal(logits, classes, self.config.alpha).sum() / count,
            "segments": (matched - truth).abs().sum() / count,
            "iou": (1 - iou(to_ends(matched), to_ends(truth))).sum() / count,
        }

    @torch.no_grad()
    def cost(self, logits: Tensor, segments: Tensor, window: Wanted) -> Tensor:
        """What it costs that each query (Q, K), (Q, 2) answers for each action: (Q, G)."""
        probability = logits.sigmoid()
        missed = 0.25 * (1 - probability) ** 2 * -(probability + 1e-8).log()
        invented = 0.75 * probability**2 * -(1 - probability + 1e-8).log()
        apart = (segments[:, None] - window.segments).abs().sum(dim=2)
        overlap = iou(to_ends(segments)[:, None], to_ends(window.segments))
        return (
            self.config.segment_cost * apart
            + self.config.class_cost * (missed - invented)[:, window.labels]
            - self.config.iou_cost * overlap
        )

    def of_actionness(self, segments: Tensor, actionness: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        """Mean distance of actionness (B, Q) to the greatest overlap of segments (B, Q, 2) with an action."""
        actions = [window.segments for window in wanted]
        if self.config.actionness_over_batch:
            actions = [torch.cat(actions)] * len(actions)
        reached = [_best_overlap(found, truth) for found, truth in zip(segments.detach(), actions, strict=True)]
        return F.l1_loss(actionness, torch.stack(reached))


def fractions(target: Targets, steps: Tensor) -> Wanted:
    """Step i of n is the i-th n-th of a window, its position the middle of that."""
    spans = (target.spans.to(steps.dtype) + 0.5) / steps
    return Wanted(to_centres(spans), target.labels)


def _best_overlap(segments: Tensor, actions: Tensor) -> Tensor:
    """Segments (Q, 2), actions (G, 2) → (Q,); 0 where there is no action."""
    if not len(actions):
        return segments.new_zeros(len(segments))
    return iou(to_ends(segments)[:, None], to_ends(actions)).amax(dim=1)
