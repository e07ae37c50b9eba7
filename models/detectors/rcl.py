"""RCL (Wang et al., "RCL: Recurrent Continuous Localization for Temporal Action Detection", CVPR 2022).

A BMN, or the graph layers of a G-TAD, reads a window of features. Spans of real-valued ends are asked for on a lattice
of lengths and starts. Each has the features of the nearest cell of a regular grid and its own coordinates, which a head
makes two logits of (continuous anchoring). A recurrent cell then corrects the map of logits step by step. Starts and
ends are told as BMN tells them, but only so that the features learn; scores are of the map alone. Spans are proposals,
of no class. Shapes: features (B, C, T), mask (B, T); maps (B, ·, D, T) over D lengths and T starts.

No code was published. The supplement tells the lattice's size, the number of sampled points, the two channels of
coordinates, the recurrent cell and its channels; what else stands here is a reconstruction (docs/models/rcl.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.actionformer_blocks import MaskedConv
from models.detectors.bmn import Base, BaseOutputs, Curves, MapHead
from models.detectors.boundary_matching import BoundaryMatching
from models.detectors.detector import Candidates, Detector
from models.detectors.gtad import GraphBlock
from models.detectors.rcl_config import HALF, LEVEL, SHORTEST, RclConfig
from models.detectors.refinement import Refinement

TINY = 1e-4  # steps


class RclOutputs(NamedTuple):
    """Logits of starts and ends (B, 2, T); of both answers (regressed tIoU, high tIoU) before and after every step of
    refinement (B, 2, D, T); spans (1 or B, D, T, 2) that were asked for; which of them count (B, D, T): 1 or 0; mask.
    """

    boundaries: Tensor
    answers: tuple[Tensor, ...]
    spans: Tensor
    present: Tensor
    mask: Tensor


class GtadBase(nn.Module):
    """The two graph layers of a G-TAD, with the starts and ends of a BMN."""

    def __init__(self, config: RclConfig) -> None:
        super().__init__()
        graph = config.gtad
        self.stem = MaskedConv(config.input_channels[0], config.channels, 3, groups=config.groups)
        self.first, self.second = GraphBlock(graph), GraphBlock(graph)
        self.curves = Curves(config.channels, config.groups)

    def forward(self, features: Tensor, mask: Tensor) -> BaseOutputs:
        real = mask[:, 0] > 0
        x = F.relu(self.stem(features * mask, mask))
        x = self.second(self.first(x, real)[0], real)[0]
        return BaseOutputs(x, self.curves(x, mask))


class Lattice(nn.Module):
    """Which spans are asked for, and where: `length` starts by `rows` lengths."""

    spans: Tensor
    sampled: Tensor
    place: Tensor
    coordinates: Tensor

    def __init__(self, config: RclConfig) -> None:
        super().__init__()
        self.config = config
        row, start = torch.meshgrid(torch.arange(config.rows), torch.arange(config.length), indexing="ij")
        spans = self._spans(row.float(), start.float())
        place, coordinates = self.anchor(spans)
        self.register_buffer("spans", spans[None], persistent=False)
        self.register_buffer("sampled", self._sampled(spans), persistent=False)
        self.register_buffer("place", place.flatten(), persistent=False)
        self.register_buffer("coordinates", coordinates.movedim(2, 0)[None], persistent=False)

    def drawn(self, batch: int) -> Tensor:
        """Every span somewhere in its cell, one lattice per member of the batch: (B, D, T, 2)."""
        size = (batch, self.config.rows, self.config.length)
        device = self.spans.device
        row = torch.arange(self.config.rows, device=device)[:, None] + torch.rand(size, device=device) - 0.5
        start = torch.arange(self.config.length, device=device) + torch.rand(size, device=device) - 0.5
        return self._spans(row, start.clamp(min=0))

    def anchor(self, spans: Tensor) -> tuple[Tensor, Tensor]:
        """Spans (…, 2) → which cell (…) of the flattened regular grid is nearest, and coordinates (…, 2)."""
        start, end = spans.unbind(dim=-1)
        steps = self.config.length
        duration = ((end - start).round() - 1).clamp(0, self.config.longest - 1)
        beyond = (end > steps + TINY).to(spans.dtype) * steps  # a span that fits must not get a cell that does not
        first = torch.minimum(start.round().clamp(0, steps - 1), steps - 1 - duration + beyond)
        if self.config.coordinates == "relative":
            coordinates = torch.stack([start - first, end - (first + duration + 1)], dim=-1)
        else:
            coordinates = torch.stack([(start + end) / 2, end - start], dim=-1) / steps
        return (duration * steps + first).long(), coordinates

    def present(self, spans: Tensor, mask: Tensor) -> Tensor:
        """Which spans lie within the real steps (B, T): 1 or 0 (B, D, T)."""
        real = mask.to(spans.dtype).sum(dim=1)[:, None, None]
        return (spans[..., 1] <= real + TINY).to(spans.dtype) * (real > 0).to(spans.dtype)

    def _spans(self, row: Tensor, start: Tensor) -> Tensor:
        longest, rows = self.config.longest, self.config.rows
        if self.config.sampling != "scale-invariant":
            length = (row + 1) * (longest / rows)
        else:
            length = SHORTEST * torch.exp(row * (math.log(longest / SHORTEST) / max(rows - 1, 1)))
        return torch.stack([start, start + length], dim=-1)

    def _sampled(self, spans: Tensor) -> Tensor:
        """Which cells are asked at all: those of longer spans at every second, fourth … start, or all: (D, T)."""
        share = (spans[..., 1] - spans[..., 0]) / self.config.longest
        level = torch.zeros_like(share)
        if self.config.sampling == "sparse-half":
            level = (share > HALF + TINY).float()
        if self.config.sampling == "sparse-levels":
            level = ((share - TINY) / LEVEL).floor().clamp(min=0)
        return (spans[..., 0] % 2**level == 0).float()


class Rcl(Detector):
    config: RclConfig

    def __init__(self, config: RclConfig) -> None:
        super().__init__()
        self.config = config
        inputs, head = config.input_channels[0], config.head_channels
        self.base: nn.Module = (
            Base(inputs, config.channels, config.groups) if config.host == "bmn" else GtadBase(config)
        )
        self.reduce = MaskedConv(config.channels, config.hidden_channels, 3)
        self.matching = BoundaryMatching(config.hidden_channels, config.cell_channels, config.shape)
        # One 1 x 1 convolution over features and coordinates, in two parts: the first is made once per grid cell.
        self.narrow = nn.Conv2d(config.cell_channels, head, 1, bias=False)
        self.locate = nn.Conv2d(2, head, 1)
        self.head = MapHead(head, head, config.head_layers)
        self.refine = (
            Refinement(head, config.memory_channels, config.context_channels, config.update)
            if config.iterations
            else None
        )
        self.lattice = Lattice(config)

    def forward(self, features: Tensor, mask: Tensor) -> RclOutputs:
        """Features (B, C, T) and mask (B, T), T the window length."""
        if self.training and self.config.jitter:
            return self.ask(features, mask, self.lattice.drawn(features.shape[0]))
        return self._answered(features, mask, self.lattice.spans, self.lattice.place, self.lattice.coordinates)

    def ask(self, features: Tensor, mask: Tensor, spans: Tensor) -> RclOutputs:
        """The same of other spans (B, D, T, 2), real-valued; neighbours in the lattice should be neighbours in time."""
        place, coordinates = self.lattice.anchor(spans)
        return self._answered(features, mask, spans, place.flatten(1), coordinates.movedim(3, 1))

    def _answered(
        self, features: Tensor, mask: Tensor, spans: Tensor, place: Tensor, coordinates: Tensor
    ) -> RclOutputs:
        finest = mask[:, None].to(features.dtype)
        base = cast("BaseOutputs", self.base(features, finest))
        grid = self.matching(F.relu(self.reduce(base.features, finest)), self._narrowed).flatten(2)
        if place.dim() == 1:
            found = grid.index_select(2, place)
        else:
            found = grid.gather(2, place[:, None].expand(-1, grid.shape[1], -1))
        cells = torch.unflatten(found, 2, (self.config.rows, self.config.length)) + self.locate(coordinates)
        seen = self.head.seen(F.relu(cells) * self.lattice.sampled)
        answers = [self.head.answer(seen)]
        if self.refine is not None:
            answers = self.refine(seen, answers[0], self._steps())
        present = self.lattice.present(spans, mask) * self.lattice.sampled
        return RclOutputs(base.boundaries, tuple(answers), spans, present, mask)

    def decode(self, outputs: RclOutputs) -> Candidates:
        """A candidate per span; one that reaches beyond the real steps scores 0."""
        score = (outputs.answers[-1].sigmoid().prod(dim=1) * outputs.present).flatten(1)
        spans = outputs.spans.flatten(1, 2).expand(score.shape[0], -1, -1)
        return Candidates(spans, score[..., None], self.lattice.place * 0)

    def _narrowed(self, cells: Tensor) -> Tensor:
        return cast("Tensor", self.narrow(F.relu(cells)))

    def _steps(self) -> int:
        chosen = self.config.inference_iterations
        return self.config.iterations if self.training or chosen is None else chosen
