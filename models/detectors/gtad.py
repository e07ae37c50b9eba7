"""G-TAD (Xu et al., "G-TAD: Sub-Graph Localization for Temporal Action Detection", CVPR 2020).

Snippets are nodes of a graph. Edges join neighbours in time and, drawn anew in every layer, neighbours in feature
space. Every cell of a map, a start and a duration, is a sub-graph: its features and those of its semantic neighbours
are pooled into bins, and heads say how well it fits an action. It finds actions of any class; something else names
them. Shapes: features (B, C, T), mask (B, T), map (B, 2, D, T); cell (d, t) covers the steps t to t + d.

Differences from the published code, none of which changes a number of a full window: padded snippets are zero behind
every layer and nobody's neighbours, and cells are not read before they are projected (see `SubgraphAlign`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.detector import Candidates, Detector, steps_of
from models.detectors.gtad_config import GtadConfig
from models.detectors.roi_align import roi_weights

CHUNK = 1 << 23  # numbers of a pooling matrix that are in memory at once: 32 MiB
EXTENSION = 0.5  # of a cell's length, to either side
HALF = 0.5  # of the likeliest boundary: what is likelier is a candidate even where it is no peak


class GtadOutputs(NamedTuple):
    """Logits of the map's overlap and of its class "high overlap" (B, D, T), of starts and ends (B, T); mask (B, T)."""

    overlap: Tensor
    high: Tensor
    starts: Tensor
    ends: Tensor
    mask: Tensor


def nearest(x: Tensor, mask: Tensor, count: int) -> Tensor:
    """Of each snippet of (B, C, T) the nearest ones in feature space, itself among them: (B, T, count).

    Where there are not so many, itself again: what is padded is nobody's neighbour.
    """
    squares = x.square().sum(dim=1)
    distances = squares[:, :, None] + squares[:, None] - 2 * (x.transpose(1, 2) @ x)
    found = distances.masked_fill(~mask[:, None], torch.inf).topk(count, dim=2, largest=False).indices
    real = mask[:, None].expand(-1, x.shape[2], -1).gather(2, found)
    return torch.where(real, found, steps_of(mask[0]).long()[None, :, None])


def neighbours_of(x: Tensor, index: Tensor) -> Tensor:
    """(B, C, T) and (B, T, k) → (B, C, T, k)."""
    taken = x.gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return torch.unflatten(taken, 2, (x.shape[2], index.shape[2]))


class GraphBlock(nn.Module):
    """GCNeXt: what a snippet hears from its neighbours in time and from those in feature space, added to what it is."""

    def __init__(self, config: GtadConfig) -> None:
        super().__init__()
        channels, width, groups = config.channels, config.graph_width, config.graph_groups
        self.neighbours = config.neighbours
        self.temporal = nn.Sequential(
            nn.Conv1d(channels, width, 1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, groups=groups, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, channels, 1),
        )
        self.semantic = nn.Sequential(
            nn.Conv2d(2 * channels, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T), mask (B, T) → the same, and whom each snippet heard (B, T, k)."""
        index = nearest(x, mask, self.neighbours)
        others = neighbours_of(x, index)
        edges = torch.cat([others, x[..., None].expand(-1, -1, -1, self.neighbours)], dim=1)
        there = mask[:, None].to(x.dtype)
        near = self._in_time(x, there)
        return F.relu(near + x + self.semantic(edges).amax(dim=3)) * there, index

    def _in_time(self, x: Tensor, there: Tensor) -> Tensor:
        """Biases fill what is padded; the convolution over time must not see that."""
        narrow, act, over_time, *rest = self.temporal
        x = over_time(act(narrow(x)) * there)
        for layer in rest:
            x = layer(x)
        return x


class SubgraphAlign(nn.Module):
    """Every cell's pooled features, projected: (B, C, T) and its context → (B, H, D, T).

    Pooling takes a weighted sum over steps and projecting one over channels, so their order is free. Snippets are
    projected first, once per bin, and then pooled: the features of all cells and bins (gigabytes as published) never
    exist, and of the pooling matrix only a part at a time does.
    """

    spans: Tensor
    place: Tensor

    def __init__(self, config: GtadConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.channels * config.bins, config.pooled_channels)
        spans, place = cell_regions(config)
        self.chunks = tuple(_chunks(spans, CHUNK // (config.length * config.inner_bins)))
        self.register_buffer("spans", torch.from_numpy(spans), persistent=False)
        self.register_buffer("place", torch.from_numpy(place), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor) -> Tensor:
        pools = list(self._projected(x, context))
        # What hangs on an input is computed when the graph runs; a constant would be stored in it, and it is large.
        spans = self.spans + mask[:1, :1].to(self.spans.dtype) * 0
        found = []
        for first, last, longest in self.chunks:
            parts = []
            for bins, projected in pools:
                weights = roi_weights(spans[None, first:last], bins, self.config.length, longest)
                parts.append(projected @ weights[0].flatten(1).transpose(0, 1).to(projected.dtype))
            found.append(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        cells = torch.cat(found, dim=2).index_select(2, self.place) + self.project.bias[:, None]
        return torch.unflatten(cells, 2, (self.config.max_duration, self.config.length))

    def _projected(self, x: Tensor, context: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """How many bins, and snippets projected for each of them (B, H, bins * T); as one where both kinds agree."""
        inner_bins, context_bins = self.config.inner_bins, self.config.context_bins
        weight = torch.unflatten(self.project.weight, 1, (self.config.channels, self.config.bins))
        inner, around = weight[:, :, :inner_bins], weight[:, :, inner_bins:]
        if context is None:
            yield inner_bins, _by_bin(inner, x)
        elif inner_bins == context_bins:
            yield inner_bins, _by_bin(torch.cat([inner, around], dim=1), torch.cat([x, context], dim=1))
        else:
            yield inner_bins, _by_bin(inner, x)
            yield context_bins, _by_bin(around, context)


class BoundaryHead(nn.Module):
    """A graph layer and one logit per snippet."""

    def __init__(self, config: GtadConfig) -> None:
        super().__init__()
        self.graph = GraphBlock(config)
        self.answer = nn.Conv1d(config.channels, 1, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast("Tensor", self.answer(self.graph(x, mask)[0]))[:, 0]


class Gtad(Detector):
    config: GtadConfig
    cells: Tensor
    allowed: Tensor

    def __init__(self, config: GtadConfig) -> None:
        super().__init__()
        self.config = config
        channels, hidden, kernel = config.channels, config.head_channels, config.head_kernel
        self.stem = nn.Conv1d(config.input_channels[0], channels, 3, padding=1, groups=config.stem_groups)
        self.first, self.second = GraphBlock(config), GraphBlock(config)
        self.find_starts, self.find_ends = BoundaryHead(config), BoundaryHead(config)
        self.align = SubgraphAlign(config)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(config.pooled_channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, 2, 1),
        )
        self.register_buffer("cells", torch.from_numpy(cell_steps(config)), persistent=False)

    def forward(self, features: Tensor, mask: Tensor) -> GtadOutputs:
        there = mask[:, None].to(features.dtype)
        x = F.relu(self.stem(features * there)) * there
        base, heard = self.first(x, mask)
        top, heard_next = self.second(base, mask)
        pooled = self.align(top, self._context(top, [heard, heard_next], mask), mask)
        overlap, high = self.head(pooled).unbind(dim=1)
        if self.config.classification_first:
            overlap, high = high, overlap
        return GtadOutputs(overlap, high, self.find_starts(base, mask), self.find_ends(base, mask), mask)

    def decode(self, outputs: GtadOutputs) -> Candidates:
        """A candidate per cell; one that is not in the video scores 0."""
        config, mask = self.config, outputs.mask
        start, end = self.cells.unbind(dim=1)
        there = end <= mask.sum(dim=1, keepdim=True)
        if config.ends_inside:
            there = there & (end < config.length)
        if config.boundary_filter is not None:
            there = there & self._bounded(outputs)
        scores = (outputs.overlap.sigmoid() * outputs.high.sigmoid()).flatten(1) * there.to(outputs.overlap.dtype)
        spans = self.cells.to(scores.dtype) + config.cell_start
        return Candidates(spans.expand(mask.shape[0], -1, -1), scores[..., None], start * 0)

    def _context(self, top: Tensor, heard: list[Tensor], mask: Tensor) -> Tensor | None:
        """The mean of each snippet's neighbours, zero where it is padded: (B, C, T)."""
        if self.config.context == "none":
            return None
        index = nearest(top, mask, self.config.neighbours) if self.config.context == "last" else torch.cat(heard, dim=2)
        return neighbours_of(top, index).mean(dim=3) * mask[:, None].to(top.dtype)

    def _bounded(self, outputs: GtadOutputs) -> Tensor:
        """Which cells begin and end where something does: (B, D * T)."""
        mask = outputs.mask
        step, count = steps_of(mask[0]), outputs.mask.sum(dim=1, keepdim=True)
        after = self.config.boundary_filter == "after"
        outside = 2.0 if after else 0.0  # what is beside the window is likelier than anything, or than nothing
        starts = _candidates(outputs.starts, mask, outside) | (step == 0)
        ends = _candidates(outputs.ends, mask, outside) | (step >= count - 1)
        start, end = self.cells.unbind(dim=1)
        read = (end if after else end - 1).clamp(max=self.config.length - 1)
        return starts.index_select(1, start) & ends.index_select(1, read)


def cell_steps(config: GtadConfig) -> NDArray[np.int64]:
    """Where each cell begins and ends, in steps, whether the window holds it or not: (D * T, 2)."""
    duration, start = np.divmod(np.arange(config.max_duration * config.length), config.length)
    return np.stack([start, start + duration + 1], axis=1)


def cell_regions(config: GtadConfig) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What the cells in the window look at (V, 2), short ones first, and for every cell which of these is its own.

    The last one is for all cells that reach beyond the window: its first step, as published.
    """
    cells = cell_steps(config)
    inside = cells[:, 1] <= config.length
    start, end = cells[inside].T
    reach = EXTENSION * (end - start)
    regions = np.stack([start - reach, end + reach - (0 if config.exclusive_ends else 1)], axis=1)
    place = np.full(len(cells), len(regions))
    place[inside] = np.arange(len(regions))
    return np.concatenate([regions, np.zeros((1, 2))]).astype(np.float32), place.astype(np.int64)


def _chunks(spans: NDArray[np.float32], most: int) -> Iterator[tuple[int, int, int]]:
    """First and last of at most so many spans, and how many steps the longest of them has."""
    for first in range(0, len(spans), max(most, 1)):
        part = spans[first : first + max(most, 1)]
        yield first, first + len(part), int(np.ceil((part[:, 1] - part[:, 0]).max(initial=1)))


def _by_bin(weight: Tensor, x: Tensor) -> Tensor:
    """Weights (H, C, bins) over snippets (B, C, T) → (B, H, bins * T)."""
    return torch.unflatten(weight.transpose(1, 2).flatten(0, 1) @ x, 1, (weight.shape[0], -1)).flatten(2)


def _candidates(logits: Tensor, mask: Tensor, outside: float) -> Tensor:
    """Where a boundary is likelier than at both neighbours, or than half of the likeliest: (B, T)."""
    likely = logits.sigmoid() * mask.to(logits.dtype)
    beside = F.pad(likely, (1, 1), value=outside)
    peak = (likely > beside[:, :-2]) & (likely > beside[:, 2:])
    return peak | (likely > HALF * likely.amax(dim=1, keepdim=True))
