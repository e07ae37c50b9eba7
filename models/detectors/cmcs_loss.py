"""CMCS's outputs and the labels of whole videos in, its loss out: no times are looked at.

Liu et al., CVPR 2019: the video's class scores against its label, and two regularisers that make branches look at
different parts of an action with equal strength. A video with several labels counts once for each, with a weight of one
over their number; videos are added up, as accumulating gradients over one after another does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.cmcs import CmcsOutputs, RunOutputs
from models.detectors.cmcs_config import CmcsConfig
from models.detectors.detector import Losses, Targets

SAFE = 1e-6  # published; keeps the cosine of a curve of zeros finite


@dataclass(frozen=True)
class CmcsLossConfig:
    """The weights of the two regularisers; 0 leaves one out."""

    diversity_weight: float = 0.2
    norm_weight: float = 0.2

    def __post_init__(self) -> None:
        for name in ("diversity_weight", "norm_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; no negative number is accepted")


class CmcsLoss(nn.Module):
    def __init__(self, config: CmcsLossConfig, network: CmcsConfig) -> None:
        super().__init__()
        self.config = config
        self.outputs = network.outputs

    def forward(self, outputs: CmcsOutputs, targets: Sequence[Targets]) -> Losses:
        """The networks of late fusion learn each by itself, so their losses are added."""
        wanted = torch.stack([self._shares(target, outputs.mask.device) for target in targets])
        weights = outputs.runs[0].video.new_tensor([target.weight for target in targets])
        runs = [_of_run(run, outputs.mask, wanted) for run in outputs.runs]
        label, diversity, norm = ((torch.stack(part).sum(dim=0) * weights).sum() for part in zip(*runs, strict=True))
        total = label + self.config.diversity_weight * diversity + self.config.norm_weight * norm
        return Losses(total, {"label": label, "diversity": diversity, "norm": norm})

    def _shares(self, target: Targets, device: torch.device) -> Tensor:
        """(C',): every label that the video has counts alike, however often its action happens."""
        there = torch.zeros(self.outputs, device=device)
        if len(target.labels) and int(target.labels.max()) >= self.outputs:
            raise ValueError(f"label {int(target.labels.max())} of a network with {self.outputs} outputs")
        there[target.labels] = 1.0
        return there / there.sum().clamp(min=1)


def _of_run(run: RunOutputs, mask: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per video (B,): classification, diversity, norm."""
    label = F.cross_entropy(run.video, wanted, reduction="none")
    return label, diversity(run.branches, mask), unequal_norms(run.branches, mask)


def diversity(branches: Tensor, mask: Tensor) -> Tensor:
    """(B,): how alike the branches (B, P, T, C') find their curves of class probability: cosines of pairs, the mean."""
    count = branches.shape[1]
    if count == 1:
        return torch.zeros_like(branches[:, 0, 0, 0])
    curves = branches.softmax(dim=3) * mask[:, None, :, None]
    lengths = torch.linalg.vector_norm(curves, dim=2)
    products = torch.einsum("bitc,bjtc->bijc", curves, curves)
    cosines = products / (lengths[:, :, None] * lengths[:, None] + SAFE)
    apart = 1 - torch.eye(count, device=branches.device)
    alike: Tensor = (cosines * apart[:, :, None]).sum(dim=(1, 2)).mean(dim=1) / (count * (count - 1))
    return alike


def unequal_norms(branches: Tensor, mask: Tensor) -> Tensor:
    """(B,): how far the mean strength |logit| of each branch is from that of all, over branches and classes."""
    steps = mask.sum(dim=1).clamp(min=1)[:, None, None]
    strengths = (branches.abs() * mask[:, None, :, None]).sum(dim=2) / steps
    return (strengths - strengths.mean(dim=1, keepdim=True)).abs().mean(dim=(1, 2))
