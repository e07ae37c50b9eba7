"""CMCS (Liu et al., "Completeness Modeling and Context Separation for Weakly Supervised Temporal Action Localization",
CVPR 2019).

Several branches classify every snippet, each looking for other parts of an action; their mean is the class activation.
Attention weighs the snippets into scores of the whole video, which is all that labels without times can teach. One
network sees all features side by side (early fusion), or each kind of feature has its own and their answers are
averaged (late fusion). Shapes: features (B, C, T), mask (B, T); C' = K classes, then background where there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.cmcs_config import CmcsConfig, Layers
from models.detectors.detector import Activations, Detector


class RunOutputs(NamedTuple):
    """Of one network: logits of its branches (B, P, T, C'), attention (B, T), of which a video's sums to 1, and logits
    of the whole video (B, C')."""

    branches: Tensor
    attention: Tensor
    video: Tensor


class CmcsOutputs(NamedTuple):
    """One run per network, and the mask (B, T) that they saw."""

    runs: tuple[RunOutputs, ...]
    mask: Tensor


class ReluConvs(nn.Module):
    """Convolutions, each with ReLU, that keep the length; 0 at padded places. The mask is (B, 1, T)."""

    def __init__(self, inputs: int, layers: Layers) -> None:
        super().__init__()
        widths = [inputs, *(channels for channels, _ in layers)]
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding=kernel // 2)
            for before, (after, kernel) in zip(widths[:-1], layers, strict=True)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x)) * mask
        return x


class Head(nn.Module):
    """Convolutions and a linear layer: (B, C, T) → (B, T, outputs)."""

    def __init__(self, inputs: int, layers: Layers, outputs: int) -> None:
        super().__init__()
        self.convs = ReluConvs(inputs, layers)
        self.linear = nn.Linear(layers[-1][0], outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        answer: Tensor = self.linear(self.convs(x, mask).transpose(1, 2))
        return answer


class CmcsNetwork(nn.Module):
    """What sees one kind of feature, or all of them at once."""

    def __init__(self, inputs: int, config: CmcsConfig) -> None:
        super().__init__()
        shared = config.shared_layers[-1][0]
        self.dropout = nn.Dropout1d(config.dropout)
        self.shared = ReluConvs(inputs, config.shared_layers)
        self.branches = nn.ModuleList(
            Head(shared, config.branch_layers, config.outputs) for _ in range(config.branches)
        )
        self.attention = Head(shared, config.attention_layers, 1) if config.pooling == "attention" else None

    def forward(self, features: Tensor, mask: Tensor) -> RunOutputs:
        """In training, drop-out silences a channel all through a video."""
        real = mask[:, None].to(features.dtype)
        shared = self.shared(self.dropout(features * real), real)
        branches = torch.stack([branch(shared, real) for branch in self.branches], dim=1)
        attention = self._attention(shared, mask, real)
        return RunOutputs(branches, attention, (attention[:, None] @ branches.mean(dim=1)).squeeze(1))

    def _attention(self, shared: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        if self.attention is None:
            return real[:, 0] / real[:, 0].sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.attention(shared, real).squeeze(2)
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=1) * real[:, 0]


class Cmcs(Detector):
    config: CmcsConfig

    def __init__(self, config: CmcsConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = list(config.input_channels) if config.fusion == "late" else [sum(config.input_channels)]
        self.networks = nn.ModuleList(CmcsNetwork(width, config) for width in self.widths)

    def forward(self, features: Tensor, mask: Tensor) -> CmcsOutputs:
        kinds = torch.split(features, self.widths, dim=1)
        runs = [network(kind, mask) for network, kind in zip(self.networks, kinds, strict=True)]
        return CmcsOutputs(tuple(runs), mask)

    def decode(self, outputs: CmcsOutputs) -> Activations:
        """Background takes its share of the probability and leaves."""
        mask, kept = outputs.mask, self.config.num_classes
        curves = _mean([run.branches.mean(dim=1) for run in outputs.runs]).softmax(dim=2)[..., :kept]
        video = _mean([run.video for run in outputs.runs]).softmax(dim=1)[:, :kept]
        return Activations(curves * mask[..., None], video * mask.any(dim=1, keepdim=True))


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).mean(dim=0)
