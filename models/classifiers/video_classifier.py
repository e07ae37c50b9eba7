"""Snippet features of a whole video in, which actions it holds out; learned from labels of videos alone.

Every snippet scores every class; a selection says how much each snippet counts. "soft" weighs snippets by a learned
attention, "hard" takes each class's best snippets (Wang et al., "UntrimmedNets for Weakly Supervised Action Recognition
and Detection", CVPR 2017), "average" takes all alike. Shapes: features (B, C, T), mask (B, T), video scores (B, K).

Reconstruction: the paper's selections stand on a video network that is trained with them; here they stand on features,
behind a shared layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checks import check_dropout, check_size

TINY = 1e-6  # what keeps logarithms of probabilities finite


@dataclass(frozen=True)
class ClassifierConfig:
    """`hidden`: channels of the shared layer. `scores`: classes of a video exclude each other ("softmax", as published:
    a video of two shares its label between them) or not ("sigmoid").

    `attention`: one for all classes, as published, or of each class its own, for videos that hold many actions.
    `best_share`: "hard" takes so many of a video's snippets per class.
    """

    input_channels: int
    num_classes: int
    selection: Literal["soft", "hard", "average"] = "soft"
    scores: Literal["softmax", "sigmoid"] = "softmax"
    attention: Literal["shared", "per_class"] = "shared"
    hidden: int = 256
    best_share: float = 0.125
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("input_channels", "num_classes", "hidden"):
            check_size(name, getattr(self, name))
        check_dropout("dropout", self.dropout)
        if not 0 < self.best_share <= 1:
            raise ValueError(f"best_share is {self.best_share}; a share above 0 and up to 1 is needed")


class VideoClassifier(nn.Module):
    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Conv1d(config.input_channels, config.hidden, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Conv1d(config.hidden, config.num_classes, 1)
        self.attend = None
        if config.selection == "soft":
            self.attend = nn.Conv1d(config.hidden, config.num_classes if config.attention == "per_class" else 1, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T), (B, T) → logarithms of probabilities ("softmax"), or logits ("sigmoid"): (B, K)."""
        x = features * mask[:, None].to(features.dtype)
        x = cast("Tensor", self.dropout(F.relu(self.shared(x))))
        scores = cast("Tensor", self.classify(x))
        weights = self._selected(x, scores, mask)
        if self.config.scores == "sigmoid":
            return (scores * weights).sum(dim=2)
        if self.config.selection == "hard":
            return (scores * weights).sum(dim=2).log_softmax(dim=1)
        shares = scores.softmax(dim=1) * weights
        return torch.log(shares.sum(dim=2) + TINY)

    def decode(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """What `forward` gave, as scores in [0, 1]; 0 where there is no snippet."""
        scores = outputs.sigmoid() if self.config.scores == "sigmoid" else outputs.exp().clamp(max=1)
        return scores * mask.any(dim=1, keepdim=True).to(scores.dtype)

    def _selected(self, x: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """How much each snippet counts: (B, 1 or K, T), summing to 1 over a video that has any."""
        there = mask[:, None].to(x.dtype)
        count = there.sum(dim=2, keepdim=True).clamp(min=1)
        if self.attend is not None:
            least = torch.finfo(x.dtype).min
            interest = cast("Tensor", self.attend(x))
            return interest.masked_fill(~mask[:, None], least).softmax(dim=2) * there
        if self.config.selection == "average":
            return there / count
        wanted = (count * self.config.best_share).ceil()
        rank = scores.masked_fill(~mask[:, None], -torch.inf).argsort(dim=2, descending=True).argsort(dim=2)
        return (rank < wanted).to(x.dtype) * there / wanted


def attention(input_channels: int = 2048, num_classes: int = 20) -> ClassifierConfig:
    return ClassifierConfig(input_channels, num_classes)


def best(input_channels: int = 2048, num_classes: int = 20) -> ClassifierConfig:
    return ClassifierConfig(input_channels, num_classes, selection="hard")


def average(input_channels: int = 2048, num_classes: int = 20) -> ClassifierConfig:
    return ClassifierConfig(input_channels, num_classes, selection="average")


def attention_many(input_channels: int = 2048, num_classes: int = 20) -> ClassifierConfig:
    """For videos that hold many actions: classes do not exclude each other, and each looks where it wants."""
    return ClassifierConfig(input_channels, num_classes, scores="sigmoid", attention="per_class")


def average_many(input_channels: int = 2048, num_classes: int = 20) -> ClassifierConfig:
    return ClassifierConfig(input_channels, num_classes, selection="average", scores="sigmoid")
