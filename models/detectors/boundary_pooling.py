"""Feature maps and the regions around proposals' boundaries in; the strongest response in each region out.

The boundary pooling of AFSD (Lin et al., CVPR 2021) in plain tensor code: the first half of the channels looks for a
start, the second half for an end. A table of maxima over 1, 2, 4 … steps answers every region with two look-ups, so
cost and memory grow with steps times log(steps), not with regions times steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def boundary_pool(features: Tensor, regions: Tensor, counts: Tensor, *, continuous: bool = False) -> Tensor:
    """Features (B, C, T), regions (B, N, 4): where starts are looked for and where ends are; counts (B,) of real
    steps, the first ones → (B, C, N).

    As published, the four numbers are cut to whole steps (towards 0) and kept within the real steps, and a region that
    ends before it begins is its first step alone. Of equal maxima the first gets the gradient. `continuous` takes the
    regions as they are, and features between two steps as the straight line between them: the result then changes
    little when regions do.
    """
    last = (counts - 1).clamp(min=0)[:, None, None].to(regions.dtype)
    # Low and high ends (B, 2, N): of starts and of ends.
    low, high = (torch.minimum(regions.clamp(min=0), last).transpose(1, 2)[:, side::2] for side in range(2))
    sides = torch.unflatten(features, 1, (2, features.shape[1] // 2))
    return (max_over_line if continuous else max_over_steps)(sides, low, high).flatten(1, 2)


def max_over_steps(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values (B, S, C, T), ends (B, S, N) within 0 … T − 1 → (B, S, C, N): the maximum over whole steps."""
    first = low.long()
    return range_max(values, first, torch.maximum(high.long(), first))


def max_over_line(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The same over the line through all values: its maximum lies at an end, or at a step in between."""
    high = torch.maximum(low, high)
    first, last = low.ceil().long(), high.floor().long()
    ends = torch.maximum(_between(values, low), _between(values, high))
    inside = range_max(values, torch.minimum(first, last), torch.maximum(first, last))
    # Without a step inside, `inside` is of the steps around; they do not count.
    return torch.where((first <= last)[:, :, None], torch.maximum(inside, ends), ends)


def range_max(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Values (B, S, C, T), whole steps first ≤ last (B, S, N) → (B, S, C, N): the maximum, both included."""
    steps = values.shape[3]
    tables, width = [values], 1  # one after the other: maxima over 1, 2, 4 … steps from each on
    while 2 * width <= steps:
        tables.append(_greater(tables[-1][..., :-width], tables[-1][..., width:]))
        width *= 2
    everything = torch.cat(tables, dim=3)
    power = torch.log2((last - first).float() + 1.5).floor()  # one half more than the span, against rounding
    covered = torch.exp2(power).round().long()
    table = power.long() * (steps + 1) - covered + 1
    return _greater(_look_up(everything, table + first), _look_up(everything, table + last - covered + 1))


def _between(values: Tensor, place: Tensor) -> Tensor:
    below = place.floor()
    share = (place - below)[:, :, None]
    low = below.long()
    high = (low + 1).clamp(max=values.shape[3] - 1)
    return _look_up(values, low) * (1 - share) + _look_up(values, high) * share


def _look_up(values: Tensor, places: Tensor) -> Tensor:
    """Values (B, S, C, T), places (B, S, N) → (B, S, C, N)."""
    return values.gather(3, places[:, :, None].expand(-1, -1, values.shape[2], -1))


def _greater(earlier: Tensor, later: Tensor) -> Tensor:
    """The maximum, whose gradient goes to the earlier one where both are equal."""
    return torch.where(earlier >= later, earlier, later)
