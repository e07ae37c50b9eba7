"""BMN's outputs and annotated actions in, its loss out: where actions start and end, and how well cells cover them.

Labels and losses are those of the published codes (`map_targets`); where these differ, the configuration says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.detectors import map_targets
from models.detectors.bmn import BmnOutputs, Cells
from models.detectors.bmn_config import BmnConfig
from models.detectors.detector import Losses, Targets

BOUNDARY_SHARE = 0.5  # of a step that lies in the region of a start or an end


@dataclass(frozen=True)
class BmnLossConfig:
    """A step's own place, where it is told whether it is a start, begins `step_offset` steps before it: centred on it
    (-0.5) or after it (0, OpenTAD). With `whole_steps` it counts only where it lies in the region altogether (OpenTAD).

    `positive_above`: the tIoU of cells that are to be classified as high. `zero_is_low`: cells that overlap nothing are
    regressed, too (OpenTAD). `spill`: where cells of high overlap outnumber those of middle or low overlap, the
    published codes regress all cells "inside" the window (OpenTAD), or all of the map "everywhere" and by the squares
    of their weights (JJBOY), rather than all of these. `eps` keeps JJBOY's logarithms finite (1e-6).
    """

    regression_weight: float = 5.0
    classification_weight: float = 1.0
    boundary_weight: float = 1.0
    step_offset: float = -0.5
    whole_steps: bool = False
    positive_above: float = 0.9
    zero_is_low: bool = False
    spill: Literal["none", "inside", "everywhere"] = "none"
    eps: float = 0.0


def thumos() -> BmnLossConfig:
    """OpenTAD's."""
    return BmnLossConfig(step_offset=0.0, whole_steps=True, zero_is_low=True)


def activitynet() -> BmnLossConfig:
    """The paper's, as in JJBOY's code."""
    return BmnLossConfig()


class BoundaryLoss(nn.Module):
    """Logits of starts and ends (B, 2, T) and the mask (B, T) in."""

    def __init__(self, config: BmnLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, boundaries: Tensor, mask: Tensor, targets: Sequence[Targets]) -> Tensor:
        parts = []
        for side in range(2):
            wanted = torch.stack([self.labels(video.spans[:, side], boundaries.shape[2]) for video in targets])
            positive = wanted > BOUNDARY_SHARE
            parts.append(map_targets.balanced_cross_entropy(boundaries[:, side], positive, mask, eps=self.config.eps))
        return parts[0] + parts[1]

    def labels(self, edges: Tensor, length: int) -> Tensor:
        """How far each step lies in the region of an edge (G,): (T,)."""
        start = torch.arange(length, device=edges.device, dtype=edges.dtype) + self.config.step_offset
        anchors = torch.stack([start, start + 1], dim=1)
        return map_targets.boundary_labels(edges, anchors, whole=self.config.whole_steps)


class BmnLoss(nn.Module):
    def __init__(self, config: BmnLossConfig, network: BmnConfig) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.cells, self.boundaries = Cells(network.shape), BoundaryLoss(config)

    def forward(self, outputs: BmnOutputs, targets: Sequence[Targets]) -> Losses:
        overlaps = torch.stack([self.overlaps(video.spans) for video in targets])
        valid = self.cells.present(outputs.mask) > 0
        high = outputs.answers[:, self.network.classification_channel]
        regressed = outputs.answers[:, 1 - self.network.classification_channel].sigmoid()
        parts = {
            "boundary": self.boundaries(outputs.boundaries, outputs.mask, targets),
            "classification": map_targets.balanced_cross_entropy(
                high, overlaps > self.config.positive_above, valid, eps=self.config.eps
            ),
            "regression": self.regression(regressed, overlaps, valid),
        }
        weights = (self.config.boundary_weight, self.config.classification_weight, self.config.regression_weight)
        total = sum((w * part for w, part in zip(weights, parts.values(), strict=True)), start=overlaps.new_zeros(()))
        return Losses(total, parts)

    def overlaps(self, spans: Tensor) -> Tensor:
        """The greatest tIoU of every cell with an action (G, 2): (D, T), 0 for those that do not fit."""
        found = map_targets.best_overlaps(self.cells.spans, spans.to(self.cells.spans.dtype))
        return torch.unflatten(found, 0, self.cells.fits.shape) * self.cells.fits

    def regression(self, found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
        draws = self.draw(wanted), self.draw(wanted)
        if self.config.spill == "inside":
            found, wanted, draws = found[valid], wanted[valid], (draws[0][valid], draws[1][valid])
            valid = valid[valid]
        return map_targets.balanced_squares(
            found,
            wanted,
            valid,
            draws,
            zero_is_low=self.config.zero_is_low,
            spill=self.config.spill != "none",
            squared=self.config.spill == "everywhere",
        )

    def draw(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1): by these middle and low cells are chosen."""
        return torch.rand_like(like)
