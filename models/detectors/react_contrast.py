"""ReAct's contrast of snippets, ACE-enc (Shi et al., ECCV 2022): features of an action, of others, and of its parts in;
a loss out that draws actions of a class together and away from other classes and from mere parts of themselves.

Training only: nothing but `react_loss` imports this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checks import check_size
from models.detectors.roi_align import roi_align

BINS = 16  # over which a region is averaged
LONG = 0.75  # the share of a window from which on an action is long, and its parts are cut shorter
CUT_FROM_LONG, CUT_FROM_SHORT = (0.6, 0.9), (0.5, 0.8)  # how much of an action a part lacks


@dataclass(frozen=True)
class ContrastConfig:
    """`parts`: pieces of every anchor that count as negatives. `memory`: so many actions of earlier steps are kept to
    be drawn from, beside those of the batch."""

    parts: int = 1
    temperature: float = 0.07
    memory: int = 256

    def __post_init__(self) -> None:
        check_size("parts", self.parts)
        check_size("memory", self.memory)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; more than 0 is needed")


class Actions(NamedTuple):
    """Of one window: features (C, n) of its real snippets, spans (G, 2) of its actions in steps, labels (G,)."""

    features: Tensor
    spans: Tensor
    labels: Tensor


class _Pool(NamedTuple):
    """Actions to draw from: features (P, C), labels (P,), and which window of the batch each is of, −1 for none."""

    features: Tensor
    labels: Tensor
    windows: Tensor


class Contrast(nn.Module):
    """One action of every window is compared. Its positive is drawn from actions of its class in other windows, or
    else in its own; its negatives, which get no gradient, are an action of another class and parts of itself.

    The published loader draws both from another window of the training set; the batch and a memory of earlier ones
    stand in for it (a reconstruction). The memory keeps features as they come in, so it never grows stale: pooling and
    projecting are linear, and their order does not matter.
    """

    memory: Tensor
    memory_labels: Tensor
    remembered: Tensor

    def __init__(self, config: ContrastConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("memory", torch.zeros(config.memory, channels))
        self.register_buffer("memory_labels", torch.full((config.memory,), -1))
        self.register_buffer("remembered", torch.zeros((), dtype=torch.int64))

    def forward(self, windows: Sequence[Actions], project: nn.Linear) -> Tensor:
        """The mean over windows; 0 where no action of any window has another one of its class."""
        pooled = [pool(window.features, window.spans) for window in windows]
        others = self._others(windows, pooled)
        found = []
        for index, window in enumerate(windows):
            if not len(window.labels):
                continue
            at = _draw(torch.ones_like(window.labels, dtype=torch.bool))
            alike = others.labels == window.labels[at]
            another = alike & (others.features != pooled[index][at]).any(dim=1)
            elsewhere = another & (others.windows != index)
            positive = elsewhere if elsewhere.any() else another
            if not positive.any():
                continue
            negatives = pool(window.features, parts_of(window.spans[at], window.features.shape[1], self.config.parts))
            if not alike.all():
                negatives = torch.cat([others.features[_draw(~alike)][None], negatives])
            chosen = torch.stack([pooled[index][at], others.features[_draw(positive)]])
            found.append(info_nce(project(chosen), project(negatives), self.config.temperature))
        self._remember(others)
        return torch.stack(found).mean() if found else project.weight.sum() * 0

    def _others(self, windows: Sequence[Actions], pooled: Sequence[Tensor]) -> _Pool:
        known = self.memory_labels >= 0
        owners = [torch.full_like(window.labels, index) for index, window in enumerate(windows)]
        return _Pool(
            torch.cat([*pooled, self.memory[known]]),
            torch.cat([*(window.labels for window in windows), self.memory_labels[known]]),
            torch.cat([*owners, torch.full_like(self.memory_labels[known], -1)]),
        )

    @torch.no_grad()
    def _remember(self, others: _Pool) -> None:
        """The batch's actions take the places of the oldest ones."""
        new = (others.windows >= 0).nonzero()[:, 0][: self.config.memory]
        places = (int(self.remembered) + torch.arange(len(new), device=new.device)) % self.config.memory
        self.memory[places] = others.features[new]
        self.memory_labels[places] = others.labels[new]
        self.remembered += len(new)


def pool(features: Tensor, spans: Tensor) -> Tensor:
    """Features (C, T) in spans (N, 2) of steps, averaged: (N, C)."""
    if not len(spans):
        return features.new_zeros(0, len(features))
    return roi_align(features[None], spans[None].to(features.dtype), BINS)[0].mean(dim=2)


def parts_of(span: Tensor, window: int, count: int) -> Tensor:
    """Pieces (count, 2) of a span in a window of so many steps, each well below half of it, anywhere inside."""
    start, length = span[0], span[1] - span[0]
    least, most = CUT_FROM_LONG if length > LONG * window else CUT_FROM_SHORT
    lacking, where = torch.rand(2, count).to(span)
    kept = length * (1 - (least + (most - least) * lacking))
    starts = start + (length - kept) * where
    return torch.stack([starts, starts + kept], dim=1)


def info_nce(pair: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """How hard it is to tell the second of a pair (2, C) from negatives (N, C) by likeness to the first (van den Oord
    et al., 2018). The negatives get no gradient."""
    anchor, positive = F.normalize(pair, dim=1).unbind()
    likeness = torch.cat([positive[None], F.normalize(negatives.detach(), dim=1)]) @ anchor / temperature
    return -likeness.log_softmax(dim=0)[0]


def _draw(among: Tensor) -> int:
    """An index where the mask (N,) is true."""
    places = among.nonzero()[:, 0]
    return int(places[int(torch.randint(len(places), (1,)))])
