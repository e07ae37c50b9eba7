"""AMNet's outputs and annotated actions in, its loss out: ActionFormer's, and how well the mask tells action from not.

Reconstruction: the paper's terms are not known. The mask answers for a balanced cross-entropy step by step; what it
calls action and what it calls background, each averaged over a video, are to differ, and the former is to resemble the
average of the annotated steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer_loss import ActionFormerLoss, ActionFormerLossConfig, ranges_of
from models.detectors.amnet import AmnetOutputs, components_of
from models.detectors.amnet_config import AmnetConfig
from models.detectors.detector import Losses, Targets


@dataclass(frozen=True)
class AmnetLossConfig(ActionFormerLossConfig):
    """The average of background may be as similar to that of action, by cosine, as `contrast_margin`."""

    mask_weight: float = 1.0
    contrast_weight: float = 0.1
    contrast_margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mask_weight", "contrast_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a number from 0 on is needed")
        if not -1 <= self.contrast_margin <= 1:
            raise ValueError(f"contrast_margin is {self.contrast_margin}; a cosine, -1 to 1, is needed")


def thumos() -> AmnetLossConfig:
    return AmnetLossConfig(ranges_of(6))


def activitynet() -> AmnetLossConfig:
    return AmnetLossConfig(ranges_of(6), regression_weight=2.0, label_smoothing=0.1, initial_positives=200.0)


def compact() -> AmnetLossConfig:
    return AmnetLossConfig(ranges_of(5))


class AmnetLoss(nn.Module):
    """Without a mask it is ActionFormer's loss."""

    def __init__(self, config: AmnetLossConfig, network: AmnetConfig) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.detection = ActionFormerLoss(config, network)

    def forward(self, outputs: AmnetOutputs, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per video of the batch."""
        found = self.detection(outputs.detection, targets)
        if outputs.mask_logits is None:
            return Losses(found.total, found.parts)
        real = outputs.real
        acting = torch.stack([action_steps(target.spans, real.shape[1]) for target in targets]) & real
        mask = self._mask_loss(outputs.mask_logits, acting, real)
        contrast = self._contrast(outputs.embedded, outputs.mask_logits, acting, real)
        total = found.total + self.config.mask_weight * mask + self.config.contrast_weight * contrast
        return Losses(total, {**found.parts, "mask": mask, "contrast": contrast})

    def _mask_loss(self, logits: Tensor, acting: Tensor, real: Tensor) -> Tensor:
        if self.network.mask_form == "softmax":
            return balanced_cross_entropy(logits[:, 0] - logits[:, 1], acting, real)
        positive = balanced_cross_entropy(logits[:, 0], acting, real)
        return 0.5 * (positive + balanced_cross_entropy(logits[:, 1], real & ~acting, real))

    def _contrast(self, features: Tensor, logits: Tensor, acting: Tensor, real: Tensor) -> Tensor:
        """Mean over the videos that show action."""
        weights = components_of(logits, self.network.mask_form) * real[:, None]
        action, background = (_mean_over(features, weights[:, part]) for part in (0, 1))
        truth = _mean_over(features, acting.to(weights.dtype))
        alike = (F.cosine_similarity(action, background) - self.config.contrast_margin).clamp(min=0)
        apart = 1 - F.cosine_similarity(action, truth)
        shows = acting.any(dim=1).to(weights.dtype)
        return ((alike + apart) * shows).sum() / shows.sum().clamp(min=1)


def action_steps(spans: Tensor, length: int) -> Tensor:
    """Spans (G, 2) in grid positions → which of the steps 0 to length - 1 stand in any of them."""
    steps = torch.arange(length, device=spans.device)[:, None]
    return ((steps >= spans[:, 0]) & (steps <= spans[:, 1])).any(dim=1)


def balanced_cross_entropy(logits: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Mean over real steps, where those that are wanted and those that are not weigh as much together."""
    terms = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    sides = [terms[side].sum() / side.sum().clamp(min=1) for side in (real & wanted, real & ~wanted)]
    return 0.5 * (sides[0] + sides[1])


def _mean_over(features: Tensor, weights: Tensor) -> Tensor:
    """Features (B, C, T) and weights (B, T) → their mean (B, C)."""
    return (features * weights[:, None]).sum(dim=2) / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
