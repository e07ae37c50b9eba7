"""Features (B, C, T) in, features of every span of a window out: the boundary matching of BMN (Lin et al., ICCV 2019).

Cell (d, t) of the map stands for the span [t, t + d + 1), which snippets t to t + d fill. It sees `bins` averages of
samples that lie evenly over the span and its surroundings, and a convolution takes these as one vector.

Published codes multiply features with a matrix of T × (bins · T · T) numbers and convolve what comes out. Here the
convolution goes first: every step gives what each of the `bins` taps would make of it, and a cell adds up a few of
those. All cells of a row add them up alike, wherever they start, so a few neighbouring rows are one small convolution
along time over windows of steps, one window per tap. Neither that matrix nor what it samples ever exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from models.checks import check_size

Follow = Callable[[Tensor], Tensor]
ROWS_AT_ONCE = 16
TINY = 1e-6


@dataclass(frozen=True)
class MapShape:
    """A map of `durations` rows and `steps` columns. `context`: how far samples reach beyond both ends, in lengths of
    the span. They are laid from step t to step t + d, the last of the cell, or to the one `after` it (JJBOY's code)."""

    steps: int
    durations: int
    bins: int = 32
    samples_per_bin: int = 3
    context: float = 0.5
    after: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "durations", "bins", "samples_per_bin"):
            check_size(name, getattr(self, name))
        if self.durations > self.steps:
            raise ValueError(f"durations is {self.durations}; a window of {self.steps} steps has no longer spans")
        if self.bins * self.samples_per_bin < 2:
            raise ValueError("one bin of one sample has no extent; two samples or more are needed")
        if self.context < 0:
            raise ValueError(f"context is {self.context}; 0 or more is needed")

    def spans(self) -> Tensor:
        """What the cells stand for, in grid positions: (D, T, 2)."""
        duration, start = torch.meshgrid(torch.arange(self.durations), torch.arange(self.steps), indexing="ij")
        return torch.stack([start, start + duration + 1], dim=2).float()

    def last_steps(self) -> Tensor:
        """The last step that each cell covers, beyond the window for those that do not fit: (D, T) int64."""
        return torch.arange(self.durations)[:, None] + torch.arange(self.steps)

    def fits(self) -> Tensor:
        """Which cells lie within the window: (D, T)."""
        return self.last_steps() < self.steps


def shear(shape: MapShape) -> tuple[Tensor, Tensor]:
    """Where cells (start, last step) are among cells (duration, start), and the other way round: (T · T,) each.

    Cells that do not fit go around the edge, so that each has its place.
    """
    steps = torch.arange(shape.steps)
    rows, columns = steps[:, None], steps[None]
    there = (columns - rows) % shape.steps * shape.steps + rows
    back = columns * shape.steps + (columns + rows) % shape.steps
    return there.flatten(), back.flatten()


class _Rows(nn.Module):
    """Rows `first` to `last` − 1 of a map: which steps each tap looks at, and how much of each a cell takes.

    `places` (bins · L,) are steps of `bins` lists of T + 1, of which the last holds 0; `kernel` (R, bins, K);
    `edge` (bins, R · E): how much more of step 0 the first E cells take; `inside` (R, T − first): which cells fit.
    """

    places: Tensor
    kernel: Tensor
    edge: Tensor
    inside: Tensor

    def __init__(self, shape: MapShape, first: int, last: int) -> None:
        super().__init__()
        low, share = _samples(shape, first, last)
        columns = shape.steps - first
        begin = low.min(axis=(0, 2))
        width = int((low.max(axis=(0, 2)) + 1 - begin).max()) + 1
        steps = begin[:, None] + np.arange(columns + width - 1)
        steps = np.where((steps >= 0) & (steps < shape.steps), steps, shape.steps)
        places = steps + np.arange(shape.bins)[:, None] * (shape.steps + 1)
        self.register_buffer("places", torch.from_numpy(places.flatten()), persistent=False)
        self.register_buffer("kernel", _kernel(low - begin[:, None], share, width), persistent=False)
        self.register_buffer("edge", _edge(low, share, columns), persistent=False)
        self.register_buffer("inside", shape.fits()[first:last, :columns].float(), persistent=False)

    def forward(self, told: Tensor, at_start: Tensor) -> Tensor:
        """What taps make of the steps (B, O, bins · (T + 1)) and of step 0 (B, O, bins) → (B, O, R, T)."""
        outputs, (rows, bins, _), columns = told.shape[1], self.kernel.shape, self.inside.shape[1]
        windows = told.index_select(2, self.places).reshape(-1, bins, len(self.places) // bins)
        found = F.conv1d(windows, self.kernel).reshape(-1, outputs, rows, columns)
        edge = torch.unflatten(at_start @ self.edge, 2, (rows, self.edge.shape[1] // rows))
        found = (found + F.pad(edge, (0, columns - edge.shape[3]))) * self.inside
        return F.pad(found, (0, told.shape[2] // bins - 1 - columns))


class BoundaryMatching(nn.Conv1d):
    """A convolution over what cells see: (B, C, T) → (B, O, D, T), or what `follow` makes of it, a few rows at a time;
    cells that do not fit are the bias.

    Training keeps no more than the results of groups of rows, and does the rest again on its way back.
    """

    def __init__(self, inputs: int, outputs: int, shape: MapShape, rows_at_once: int = ROWS_AT_ONCE) -> None:
        super().__init__(inputs, outputs, shape.bins)
        self.shape = shape
        with torch.no_grad():
            cast("Tensor", self.bias).zero_()
        starts = range(0, shape.durations, rows_at_once)
        self.rows = nn.ModuleList(_Rows(shape, at, min(at + rows_at_once, shape.durations)) for at in starts)

    def forward(self, x: Tensor, follow: Follow | None = None) -> Tensor:
        """`follow` takes and gives (B, ·, R, T), cell by cell; what it gives is joined to one map."""
        (outputs, inputs, bins), bias = self.weight.shape, cast("Tensor", self.bias)
        told = F.conv1d(x, self.weight.transpose(1, 2).reshape(outputs * bins, inputs, 1))
        told = torch.unflatten(told, 1, (outputs, bins))
        at_start, told = told[..., 0], F.pad(told, (0, 1)).flatten(2)

        def part(rows: nn.Module, told: Tensor, at_start: Tensor) -> Tensor:
            found = cast("Tensor", rows(told, at_start)) + bias[:, None, None]
            return found if follow is None else follow(found)

        if self.training and torch.is_grad_enabled():
            return torch.cat([checkpoint(part, rows, told, at_start, use_reentrant=False) for rows in self.rows], dim=2)
        return torch.cat([part(rows, told, at_start) for rows in self.rows], dim=2)


def _samples(shape: MapShape, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of every sample of rows first … last − 1, the step below it, counted from t, and the share of the one above:
    (R, bins, samples) each. A sample on a step is the upper one.

    In the published codes a sample between −1 and 0 is step 0, one at −1 is nothing. Which of both it is can depend on
    how their sum is rounded, so the same sum is made for the start at which that happens.
    """
    duration = np.arange(first, last)[:, None] + (1.0 if shape.after else 0.0)
    reach = (duration + 1) * shape.context
    number = np.arange(shape.bins * shape.samples_per_bin)
    apart = (duration + 2 * reach) / (len(number) - 1)
    start = np.maximum(-1 - np.floor(apart * number - reach + TINY), 0)
    place = (start - reach) + apart * number
    low = np.ceil(place) - 1
    shaped = (last - first, shape.bins, shape.samples_per_bin)
    return (low - start).astype(np.int64).reshape(shaped), (place - low).reshape(shaped)


def _kernel(low: NDArray[np.int64], share: NDArray[np.float64], width: int) -> Tensor:
    """Places in windows and shares of the steps above (R, bins, samples) → (R, bins, width)."""
    kernel = np.zeros((*low.shape[:2], width))
    row, column = np.ogrid[: low.shape[0], : low.shape[1]]
    for sample in range(low.shape[2]):
        np.add.at(kernel, (row, column, low[..., sample]), (1 - share[..., sample]) / low.shape[2])
        np.add.at(kernel, (row, column, low[..., sample] + 1), share[..., sample] / low.shape[2])
    return torch.from_numpy(kernel).float()


def _edge(low: NDArray[np.int64], share: NDArray[np.float64], columns: int) -> Tensor:
    """What a sample between steps −1 and 0 would take of step −1, it takes of step 0: (bins, R · E)."""
    start = -1 - low
    rows, bins, count = low.shape
    here = (start >= 0) & (start < columns)
    edge = np.zeros((bins, rows, int(start[here].max(initial=0)) + 1))
    row, tap, _ = np.broadcast_arrays(*np.ogrid[:rows, :bins, :count])
    np.add.at(edge, (tap[here], row[here], start[here]), (1 - share[here]) / count)
    return torch.from_numpy(edge.reshape(bins, -1)).float()
