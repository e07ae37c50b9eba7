"""Deformable attention over time (Zhu et al., "Deformable DETR", ICLR 2021, in the one dimension of TadTR and ReAct).

Queries and a memory in, what each query found at a few places of the memory out. Places are fractions of the memory's
length. Only products, gathering and linear interpolation are used, so that it exports to any engine.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn


def sample_steps(values: Tensor, locations: Tensor, align_corners: bool) -> Tensor:
    """Values (B, H, T, D) between the steps that locations (B, H, Q, P) name, linearly → (B, H, Q, P, D).

    Location p stands at step p·(T − 1) with `align_corners`, at p·T − 0.5 without. A neighbour beyond either end counts
    as 0, so values fade out over one step there. Gradients reach both values and locations.
    """
    steps, width = values.shape[2], values.shape[3]
    # By way of [−1, 1], as published samplers go: a place is rounded as theirs is, and layers amplify any difference.
    between = 2 * locations - 1
    position = (between + 1) * 0.5 * (steps - 1) if align_corners else locations * steps - 0.5
    low = position.floor()
    share = position - low
    batch, heads, queries, points = locations.shape

    def at(place: Tensor, weight: Tensor) -> Tensor:
        inside = (place >= 0) & (place <= steps - 1)
        index = place.clamp(0, steps - 1).long().reshape(batch, heads, queries * points, 1)
        found = values.gather(2, index.expand(-1, -1, -1, width)).reshape(batch, heads, queries, points, width)
        return found * (weight * inside).unsqueeze(-1)

    return at(low, 1 - share) + at(low + 1, share)


class DeformableAttention(nn.Module):
    """Each head looks at `points` places around a query's reference; the query says where, and how much each counts."""

    def __init__(self, channels: int, heads: int, points: int, align_corners: bool) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels {channels} are no multiple of heads {heads}")
        self.heads, self.points, self.align_corners = heads, points, align_corners
        self.sampling_offsets = nn.Linear(channels, heads * points)
        self.attention_weights = nn.Linear(channels, heads * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._look_to_both_sides()

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, mask: Tensor, steps: Tensor) -> Tensor:
        """Query (B, Q, C), memory (B, T, C) and its mask (B, T) → (B, Q, C).

        Reference (B, Q, 1) is a centre, and offsets are divided by `steps`, (B, 1) or a single number; or (B, Q, 2) is
        centre and width, and the farthest of all points, by one unit of offset each, lies half a width away.
        """
        values = self.value_proj(memory) * mask[..., None].to(memory.dtype)
        values = self._by_head(values, values.shape[2] // self.heads)
        offsets = self._by_head(self.sampling_offsets(query), self.points)
        weights = self._by_head(self.attention_weights(query), self.points).softmax(dim=-1)
        centre = reference[:, None, :, :1]
        if reference.shape[2] == 1:
            locations = centre + offsets / steps.reshape(-1, 1, 1, 1)
        else:
            locations = centre + offsets / self.points * reference[:, None, :, 1:] * 0.5
        found = sample_steps(values, locations, self.align_corners)
        joined = (found * weights[..., None]).sum(dim=3).transpose(1, 2).flatten(2)
        return cast("Tensor", self.output_proj(joined))

    def _by_head(self, x: Tensor, width: int) -> Tensor:
        """(B, Q, H · width) → (B, H, Q, width)."""
        return torch.unflatten(x, 2, (self.heads, width)).transpose(1, 2)

    def _look_to_both_sides(self) -> None:
        """At first heads look ahead, here, behind and here again, the k-th point k steps away, whatever the query."""
        nn.init.zeros_(self.sampling_offsets.weight)
        towards = torch.cos(torch.arange(self.heads) * (4 * math.pi / self.heads))
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((towards[:, None] * torch.arange(1, self.points + 1)).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
