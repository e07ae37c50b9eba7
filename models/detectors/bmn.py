"""BMN (Lin et al., "BMN: Boundary-Matching Network for Temporal Action Proposal Generation", ICCV 2019).

Convolutions read a window of features. Two curves say where actions start and end; a map says of every span how well
it covers an action. Spans are proposals, of no class. Shapes: features (B, C, T), mask (B, T); maps (B, ·, D, T), whose
cell (d, t) is the span [t, t + d + 1) in grid positions.

Differences from the published codes, none of which changes a number of a window without padding: padded steps are
masked after every convolution over time, and spans that reach into them score 0.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer_blocks import MaskedConv
from models.detectors.bmn_config import BmnConfig
from models.detectors.boundary_matching import BoundaryMatching, MapShape, shear
from models.detectors.detector import Candidates, Detector


class BaseOutputs(NamedTuple):
    """Features (B, C, T) that cells are made of, and logits (B, 2, T) of starts and ends."""

    features: Tensor
    boundaries: Tensor


class BmnOutputs(NamedTuple):
    """Logits of starts and ends (B, 2, T), of both answers of cells (B, 2, D, T), and the mask (B, T)."""

    boundaries: Tensor
    answers: Tensor
    mask: Tensor


class Curve(nn.Module):
    """One logit per step."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv, self.answer = MaskedConv(channels, channels, 3, groups=groups), MaskedConv(channels, 1, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast("Tensor", self.answer(F.relu(self.conv(x, mask)), mask))


class Curves(nn.Module):
    """Logits (B, 2, T) of starts and ends."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.start, self.end = Curve(channels, groups), Curve(channels, groups)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([self.start(x, mask), self.end(x, mask)], dim=1)


class Base(nn.Module):
    """Features and mask (B, 1, T) in; features and where actions start and end out."""

    def __init__(self, inputs: int, channels: int, groups: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            MaskedConv(inputs if index == 0 else channels, channels, 3, groups=groups) for index in range(2)
        )
        self.curves = Curves(channels, groups)

    def forward(self, features: Tensor, mask: Tensor) -> BaseOutputs:
        x = features * mask
        for conv in self.convs:
            x = F.relu(conv(x, mask))
        return BaseOutputs(x, self.curves(x, mask))


class MapHead(nn.Module):
    """Features of cells (B, C, D, T) in, two logits (B, 2, D, T) out: convolutions that see the cells around."""

    def __init__(self, inputs: int, channels: int, layers: int, kernel: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs if index == 0 else channels, channels, kernel, padding=kernel // 2)
            for index in range(layers)
        )
        self.answer = nn.Conv2d(channels if layers else inputs, 2, 1)

    def forward(self, cells: Tensor) -> Tensor:
        return cast("Tensor", self.answer(self.seen(cells)))

    def seen(self, cells: Tensor) -> Tensor:
        """What cells know once they have seen those around."""
        for conv in self.convs:
            cells = F.relu(conv(cells))
        return cells


class Bmn(Detector):
    config: BmnConfig
    there: Tensor
    back: Tensor

    def __init__(self, config: BmnConfig) -> None:
        super().__init__()
        self.config = config
        self.base = Base(config.input_channels[0], config.channels, config.groups)
        self.reduce = MaskedConv(config.channels, config.hidden_channels, 3)
        self.matching = BoundaryMatching(config.hidden_channels, config.cell_channels, config.shape)
        self.narrow = nn.Conv2d(config.cell_channels, config.head_channels, 1)
        self.head = MapHead(config.head_channels, config.head_channels, config.head_layers)
        self.cells = Cells(config.shape)
        if config.layout == "start-end":
            for name, places in zip(("there", "back"), shear(config.shape), strict=True):
                self.register_buffer(name, places, persistent=False)

    def forward(self, features: Tensor, mask: Tensor) -> BmnOutputs:
        """Features (B, C, T) and mask (B, T), T the window length."""
        finest = mask[:, None].to(features.dtype)
        base = self.base(features, finest)
        return BmnOutputs(base.boundaries, self.answers(self.map_features(base.features, finest)), mask)

    def map_features(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) → what the head takes of every cell."""
        return cast("Tensor", self.matching(F.relu(self.reduce(x, mask)), self._narrowed))

    def answers(self, cells: Tensor) -> Tensor:
        if self.config.layout == "duration-start":
            return cast("Tensor", self.head(cells))
        return _moved(self.head(_moved(cells, self.there)), self.back)

    def decode(self, outputs: BmnOutputs) -> Candidates:
        """A candidate per cell."""
        score = outputs.answers.sigmoid().prod(dim=1) * self.cells.present(outputs.mask)
        boundaries = outputs.boundaries.sigmoid() * outputs.mask[:, None].to(outputs.boundaries.dtype)
        after = self.config.scored_ends == "after"
        if self.config.boundary_scores or after:
            start, end = self.cells.at_ends(boundaries, after=after)
            score = score * (start * end if self.config.boundary_scores else (end > 0).to(score.dtype))
        if self.config.peak_filter:
            start, end = self.cells.at_ends(peaks(boundaries, outputs.mask), after=after)
            score = score * start * end
        return self.cells.candidates(score)

    def _narrowed(self, cells: Tensor) -> Tensor:
        return F.relu(self.narrow(F.relu(cells)))


class Cells(nn.Module):
    """The spans of a map's cells, and what belongs to them."""

    spans: Tensor
    groups: Tensor
    last: Tensor
    fits: Tensor

    def __init__(self, shape: MapShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("spans", shape.spans().flatten(0, 1), persistent=False)
        self.register_buffer("groups", torch.zeros(shape.durations * shape.steps, dtype=torch.int64), persistent=False)
        self.register_buffer("last", shape.last_steps().clamp(max=shape.steps).flatten(), persistent=False)
        self.register_buffer("fits", shape.fits(), persistent=False)

    def present(self, mask: Tensor) -> Tensor:
        """Which cells lie within the real steps (B, T), the first ones: 1 or 0 (B, D, T)."""
        return self._ending(mask.to(torch.float32), 0)

    def at_ends(self, curves: Tensor, *, after: bool) -> tuple[Tensor, Tensor]:
        """Of curves (B, 2, T), the first where a cell starts (B, 1, T), and the second at its last step, or `after` it
        (B, D, T), 0 beyond the window."""
        return curves[:, :1], self._ending(curves[:, 1], 1 if after else 0)

    def candidates(self, score: Tensor) -> Candidates:
        """Scores (B, D, T) of all cells."""
        flat = score.flatten(1)
        return Candidates(self.spans.expand(flat.shape[0], -1, -1), flat[..., None], self.groups)

    def _ending(self, curve: Tensor, later: int) -> Tensor:
        found = F.pad(curve[:, later:], (0, 1 + later)).index_select(1, self.last)
        return torch.unflatten(found, 1, (self.shape.durations, self.shape.steps))


def peaks(curves: Tensor, mask: Tensor) -> Tensor:
    """1 where a curve (B, 2, T), 0 at padded steps, is no lower than beside it, or exceeds half of its maximum; also at
    the first start and the last end. Else 0."""
    high = curves > 0.5 * curves.amax(dim=2, keepdim=True)
    peak = curves >= F.max_pool1d(curves, 3, 1, 1)
    first = mask & ~F.pad(mask, (1, 0))[:, :-1]
    last = mask & ~F.pad(mask, (0, 1))[:, 1:]
    return (high | peak | torch.stack([first, last], dim=1)).to(curves.dtype)


def _moved(cells: Tensor, places: Tensor) -> Tensor:
    """(B, C, D, T) with the cells in another order, those of a flattened map."""
    return torch.unflatten(cells.flatten(2).index_select(2, places), 2, (cells.shape[2], cells.shape[3]))
