"""Outputs of a G-TAD and annotated actions in, the numbers that training descends out.

Each cell of the map is asked for its overlap with the nearest action, as a number and as a class ("above 0.9"); two
curves, which only make better features where no filter reads them, say where actions start and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.detectors.detector import Losses, Targets
from models.detectors.gtad import GtadOutputs, cell_steps
from models.detectors.gtad_config import GtadConfig
from models.detectors.map_targets import (
    EPS,
    balanced_cross_entropy,
    balanced_squares,
    best_overlaps,
    boundary_labels,
)

BOUNDARY, HIGH = 0.5, 0.9  # a label above this is a boundary, an overlap above that a high one
# How far each snippet reaches to either side of its step where it is asked whether an action starts or ends there.
ANCHORS: dict[str, tuple[float, float]] = {"own": (-0.5, 0.5), "wide": (-1.0, 1.0), "whole": (-0.5, 0.5)}


@dataclass(frozen=True)
class GtadLossConfig:
    """`boundaries`: a snippet is labelled by the half step around it, a whole step ("wide", as the authors for
    ActivityNet), or only where that half step lies in a boundary's region altogether ("whole", OpenTAD).

    `map_start`: the grid position where the first cell begins, if not where the network's answers say. `spare`, `eps`,
    `zero_is_low`, `spill`, `squared`: see `map_targets`.
    """

    regression_weight: float = 10.0
    classification_weight: float = 1.0
    boundaries: Literal["own", "wide", "whole"] = "own"
    map_start: float | None = None
    spare: float = 0.0
    eps: float = 0.0
    zero_is_low: bool = False
    spill: bool = False
    squared: bool = False

    def __post_init__(self) -> None:
        for name in ("regression_weight", "classification_weight", "spare", "eps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a number from 0 on is needed")


def thumos() -> GtadLossConfig:
    """The authors' branch `master`: the weights of both terms are the other way round."""
    return GtadLossConfig(1.0, 10.0, spare=10.0, eps=EPS, spill=True, squared=True)


def activitynet() -> GtadLossConfig:
    """The authors' branch `anet`."""
    return GtadLossConfig(boundaries="wide", eps=EPS, spill=True, squared=True)


def opentad() -> GtadLossConfig:
    return GtadLossConfig(boundaries="whole", zero_is_low=True)


class MapLabels(NamedTuple):
    """Overlaps (B, D, T) of cells with the nearest action; starts and ends (B, T): shares in which a snippet is one."""

    overlaps: Tensor
    starts: Tensor
    ends: Tensor


class GtadLoss(nn.Module):
    cells: Tensor
    anchors: Tensor

    def __init__(self, config: GtadLossConfig, network: GtadConfig) -> None:
        super().__init__()
        self.config, self.network = config, network
        start = network.cell_start if config.map_start is None else config.map_start
        before, after = ANCHORS[config.boundaries]
        step = torch.arange(network.length, dtype=torch.float32)
        self.register_buffer("cells", torch.from_numpy(cell_steps(network)) + start, persistent=False)
        self.register_buffer("anchors", torch.stack([step + before, step + after], dim=1), persistent=False)
        self.window = (start, start + network.length)

    def forward(self, outputs: GtadOutputs, targets: Sequence[Targets]) -> Losses:
        labels = self.labels(targets)
        return self.losses(outputs, labels, tuple(torch.rand_like(labels.overlaps) for _ in range(2)))

    def labels(self, targets: Sequence[Targets]) -> MapLabels:
        """Of the overlaps only those in the video count; `losses` knows which these are."""
        shape = (self.network.max_duration, self.network.length)
        whole = self.config.boundaries == "whole"
        overlaps = [best_overlaps(self.cells, target.spans.clamp(*self.window)).view(shape) for target in targets]
        starts, ends = (
            torch.stack([boundary_labels(target.spans[:, side], self.anchors, whole=whole) for target in targets])
            for side in (0, 1)
        )
        return MapLabels(torch.stack(overlaps), starts, ends)

    def losses(self, outputs: GtadOutputs, labels: MapLabels, draws: tuple[Tensor, ...]) -> Losses:
        """`draws` (B, D, T), two of them, choose which cells of middle and of low overlap are regressed."""
        config, mask = self.config, outputs.mask
        valid = self._in_video(mask)
        overlaps = labels.overlaps * valid
        boundary = sum(
            (
                balanced_cross_entropy(logits, share > BOUNDARY, mask, eps=config.eps)
                for logits, share in ((outputs.starts, labels.starts), (outputs.ends, labels.ends))
            ),
            start=mask.new_zeros((), dtype=overlaps.dtype),
        )
        high = balanced_cross_entropy(outputs.high, overlaps > HIGH, valid, spare=config.spare, eps=config.eps)
        squares = balanced_squares(
            outputs.overlap.sigmoid(),
            overlaps,
            valid,
            (draws[0], draws[1]),
            zero_is_low=config.zero_is_low,
            spill=config.spill,
            squared=config.squared,
        )
        regression = 0.5 * squares
        total = boundary + config.regression_weight * regression + config.classification_weight * high
        return Losses(total, {"boundary": boundary, "regression": regression, "classification": high})

    def _in_video(self, mask: Tensor) -> Tensor:
        """Which cells end with the video or before: (B, D, T)."""
        end = (self.cells[:, 1] - self.window[0]).round()
        inside = end <= mask.sum(dim=1, keepdim=True)
        return inside.view(-1, self.network.max_duration, self.network.length)
