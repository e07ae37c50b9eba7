"""ReAct's outputs and annotated actions in, its loss out (Shi et al., ECCV 2022).

Every decoder layer is matched to the actions one to one and judged by itself. Two classification enhancements (ACE)
join: the decoder is asked once more with its queries held at the annotated segments, and snippets are contrasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer_loss import focal
from models.detectors.detector import Losses, Targets
from models.detectors.matching import assign
from models.detectors.queries import giou, iou, to_centres, to_ends
from models.detectors.react import UNION_EPS, ReActOutputs
from models.detectors.react_config import ReActConfig
from models.detectors.react_contrast import Actions, Contrast, ContrastConfig

PARTS = ("location", "overlap", "classification", "quality", "iou_decay", "ace_dec", "ace_enc")
HELD = 0.5  # where a query that answers for no action is held, centre and width


@dataclass(frozen=True)
class Matching:
    """What an unfit pair of query and action costs, term by term."""

    overlap: float = 5.0
    ends: float = 2.0
    classes: float = 1.0


@dataclass(frozen=True)
class ReActLossConfig:
    """Weights of the terms, each of which 0 takes out; `ace_dec` and `ace_enc` are the paper's enhancements.

    `iou_decay` keeps the queries' segments apart. Supplement and released configuration have it, but the released
    training leaves it out of its sum by the name it gave it; 0 is what that training did.
    `contrast_steps`: so many steps descend on `ace_enc` alone, which then rests, as in the released schedule (its first
    6 epochs); 0 keeps it beside the others throughout. For `warmup_steps` after that no class is asked for.
    """

    location: float = 5.0
    overlap: float = 2.0
    classification: float = 1.0
    quality: float = 1.0
    iou_decay: float = 1.0
    ace_dec: float = 1.0
    ace_enc: float = 0.1
    contrast_steps: int = 0
    warmup_steps: int = 25
    matching: Matching = field(default_factory=Matching)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)

    def __post_init__(self) -> None:
        for name in PARTS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a weight of 0 or more is needed")
        for name in ("contrast_steps", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 or more is needed")
        if self.contrast_steps and not self.ace_enc:
            raise ValueError(f"contrast_steps is {self.contrast_steps}, but ace_enc 0 leaves nothing to do in them")


def thumos() -> ReActLossConfig:
    return ReActLossConfig()


def activitynet() -> ReActLossConfig:
    """A reconstruction: no settings were published but the network's, so THUMOS14's stand here."""
    return ReActLossConfig()


class Wanted(NamedTuple):
    """The actions of one window: segments (G, 2) as (centre, width) in fractions of it, labels (G,)."""

    segments: Tensor
    labels: Tensor


class Pairs(NamedTuple):
    """Which query of which window answers for which action, all (M,): segments (M, 2) and labels (M,)."""

    windows: Tensor
    queries: Tensor
    segments: Tensor
    labels: Tensor


class ReActLoss(nn.Module):
    """Counts its steps, by which warm-up goes, and remembers actions to contrast with."""

    steps_taken: Tensor

    def __init__(self, config: ReActLossConfig, network: ReActConfig) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        self.contrast = Contrast(config.contrast, sum(network.input_channels)) if config.ace_enc else None

    def forward(self, outputs: ReActOutputs, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per window of the batch."""
        step = int(self.steps_taken)
        self.steps_taken += 1
        alone = step < self.config.contrast_steps
        wanted = [wanted_of(target, mask) for target, mask in zip(targets, outputs.window.mask, strict=True)]
        parts = {name: outputs.logits.new_zeros(()) for name in PARTS}
        if self.contrast is not None and (alone or not self.config.contrast_steps):
            parts["ace_enc"] = self.config.ace_enc * self.contrast(actions_of(outputs, wanted), outputs.project)
        if not alone:
            parts |= self.detection(outputs, wanted)
            if step < self.config.contrast_steps + self.config.warmup_steps:
                parts["classification"] = parts["classification"] * 0
        total = parts["ace_enc"] if alone else torch.stack(list(parts.values())).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def detection(self, outputs: ReActOutputs, wanted: Sequence[Wanted]) -> dict[str, Tensor]:
        """Everything but the contrast, weighted and summed over decoder layers."""
        pairs = [self.match(outputs, layer, wanted) for layer in range(len(outputs.logits))]
        count = max(sum(len(window.labels) for window in wanted), 1)
        layers = [self.layer(outputs, layer, wanted, found, count) for layer, found in enumerate(pairs)]
        parts = {name: torch.stack([each[name] for each in layers]).sum() for name in layers[0]}
        if self.config.ace_dec:
            parts["ace_dec"] = self.config.ace_dec * self.held(outputs, pairs[-1], count)
        return parts

    def layer(
        self, outputs: ReActOutputs, layer: int, wanted: Sequence[Wanted], pairs: Pairs, count: int
    ) -> dict[str, Tensor]:
        """The terms of one decoder layer, weighted. The overlap that quality is asked for is no constant: as published,
        that term moves segments too."""
        segments, quality = outputs.segments[layer], outputs.quality[layer]
        own, ends = segments[pairs.windows, pairs.queries], ends_of(segments)
        own_ends, wanted_ends = ends[pairs.windows, pairs.queries], ends_of(pairs.segments)
        classes = torch.zeros_like(outputs.logits[layer])
        classes[pairs.windows, pairs.queries, pairs.labels] = 1
        near = (-(own[:, 0] - pairs.segments[:, 0]).abs() / pairs.segments[:, 1]).exp().detach()
        centre = F.binary_cross_entropy_with_logits(quality[pairs.windows, pairs.queries, 1], near, reduction="sum")
        overlap = (quality[..., 0].sigmoid() - best_overlaps(ends, wanted)).abs().mean()
        weights = self.config
        return {
            "location": weights.location * (own - pairs.segments).abs().sum() / count,
            "overlap": weights.overlap * (1 - giou(own_ends, wanted_ends, UNION_EPS)).sum() / count,
            "classification": weights.classification * focal(outputs.logits[layer], classes).sum() / count,
            "quality": weights.quality * (centre / count + overlap),
            "iou_decay": weights.iou_decay * mutual_overlap(ends),
        }

    def held(self, outputs: ReActOutputs, pairs: Pairs, count: int) -> Tensor:
        """ACE-dec: the classes that the decoder sees in annotated segments, asked of those who answer for them."""
        segments = torch.full_like(outputs.segments[-1], HELD)
        segments[pairs.windows, pairs.queries] = pairs.segments
        logits = outputs.classify_at(outputs.window, segments)[:, pairs.windows, pairs.queries]
        classes = F.one_hot(pairs.labels, self.network.num_classes).to(logits.dtype)
        return focal(logits, classes.expand_as(logits)).sum() / count

    def match(self, outputs: ReActOutputs, layer: int, wanted: Sequence[Wanted]) -> Pairs:
        """The cheapest one-to-one assignment in every window."""
        found = []
        for index, window in enumerate(wanted):
            cost = self.cost(outputs.segments[layer, index], outputs.logits[layer, index], window)
            queries, actions = assign(cost)
            found.append(
                Pairs(torch.full_like(queries, index), queries, window.segments[actions], window.labels[actions])
            )
        return Pairs(*(torch.cat(column) for column in zip(*found, strict=True)))

    @torch.no_grad()
    def cost(self, segments: Tensor, logits: Tensor, window: Wanted) -> Tensor:
        """Segments (Q, 2) and class logits (Q, K) against G actions → (Q, G)."""
        own, theirs = ends_of(segments)[:, None], ends_of(window.segments)[None]
        weights = self.config.matching
        overlap = iou(own, theirs, UNION_EPS)
        classes = logits.softmax(dim=1)[:, window.labels]
        return weights.ends * (own - theirs).abs().sum(dim=2) - weights.overlap * overlap - weights.classes * classes


def wanted_of(targets: Targets, mask: Tensor) -> Wanted:
    """Positions in a window with this mask (T,) as fractions of its real snippets; what lies beside is left out."""
    ends = ((targets.spans.to(torch.float32) + 0.5) / mask.sum().clamp(min=1)).clamp(0, 1)
    segments = to_centres(ends)
    there = segments[:, 1] > 0
    return Wanted(segments[there], targets.labels[there])


def actions_of(outputs: ReActOutputs, wanted: Sequence[Wanted]) -> list[Actions]:
    """What the contrast compares, on the windows' own steps: snippet i stands at step i."""
    found = []
    for features, mask, window in zip(outputs.features, outputs.window.mask, wanted, strict=True):
        real = int(mask.sum().clamp(min=1))
        found.append(Actions(features[:, :real], to_ends(window.segments) * real - 0.5, window.labels))
    return found


def ends_of(segments: Tensor) -> Tensor:
    """(centre, width) → (start, end), cut to the window."""
    return to_ends(segments).clamp(0, 1)


def best_overlaps(ends: Tensor, wanted: Sequence[Wanted]) -> Tensor:
    """How well every segment (B, Q, 2) overlaps the action of its window that it overlaps most: (B, Q)."""
    found = []
    for own, window in zip(ends, wanted, strict=True):
        overlaps = iou(own[:, None], ends_of(window.segments)[None], UNION_EPS)
        found.append(overlaps.amax(dim=1) if len(window.labels) else own.new_zeros(len(own)))
    return torch.stack(found)


def mutual_overlap(ends: Tensor) -> Tensor:
    """The sum of overlaps of segments (B, Q, 2) with later ones, per pair of any two, the mean over windows."""
    return iou(ends[:, :, None], ends[:, None], UNION_EPS).triu(diagonal=1).mean()
