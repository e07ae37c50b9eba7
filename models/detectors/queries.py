"""What detectors with learned queries share: spans as centre and width, their overlap, and small networks on queries.

Spans are (..., 2) in any one unit, most often fractions of a window.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def to_ends(spans: Tensor) -> Tensor:
    """(centre, width) → (start, end)."""
    centre, width = spans.unbind(dim=-1)
    return torch.stack([centre - 0.5 * width, centre + 0.5 * width], dim=-1)


def to_centres(spans: Tensor) -> Tensor:
    """(start, end) → (centre, width)."""
    start, end = spans.unbind(dim=-1)
    return torch.stack([0.5 * (start + end), end - start], dim=-1)


def iou(first: Tensor, second: Tensor, eps: float = 0.0) -> Tensor:
    """Intersection over union of (start, end) with (start, end), leading dimensions broadcast.

    Every a with every b: `iou(a[:, None], b[None])`. `eps` is added to the union; without it two empty spans give 0.
    """
    shared, union = _shared_and_union(first, second)
    return shared / (union + eps if eps else union.clamp(min=torch.finfo(union.dtype).tiny))


def giou(first: Tensor, second: Tensor, eps: float = 0.0) -> Tensor:
    """The same less the share of the enclosing span that neither covers (Rezatofighi et al., CVPR 2019)."""
    shared, union = _shared_and_union(first, second)
    tiny = torch.finfo(union.dtype).tiny
    enclosing = torch.maximum(first[..., 1], second[..., 1]) - torch.minimum(first[..., 0], second[..., 0])
    overlap = shared / (union + eps if eps else union.clamp(min=tiny))
    return overlap - (enclosing - union) / enclosing.clamp(min=tiny)


def inverse_sigmoid(share: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of a share in [0, 1], kept finite at both ends."""
    return torch.log(share.clamp(min=eps) / (1 - share).clamp(min=eps))


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return cast("Tensor", self.layers[-1](x))


def _shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    shared = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    shared = shared.clamp(min=0)
    return shared, (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - shared
