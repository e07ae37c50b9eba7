"""Features and spans in, a fixed number of bins per span out: RoI align in one dimension (G-TAD, ReAct, TadTR).

Xu et al., "G-TAD", CVPR 2020. A bin is the mean of evenly spread samples, at most a step apart, each between two steps.
What a bin takes of each step is a matrix, so pooling is one product, and spans that never change can keep theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def roi_align(features: Tensor, spans: Tensor, bins: int, longest: int | None = None) -> Tensor:
    """Features (B, C, T) and spans (B, N, 2) in grid positions → (B, N, C, bins); `longest` as in `roi_weights`."""
    weights = roi_weights(spans, bins, features.shape[2], longest).to(features.dtype)
    pooled = features @ weights.flatten(1, 2).transpose(1, 2)
    return torch.unflatten(pooled, 2, (weights.shape[1], bins)).transpose(1, 2)


def roi_weights(spans: Tensor, bins: int, steps: int, longest: int | None = None) -> Tensor:
    """What each bin of spans (B, N, 2) takes of each of `steps` steps: (B, N, bins, steps).

    A span shorter than a step counts as one step long. A bin of length l is the mean of ceil(l) samples. Samples before
    −1 or after `steps` are 0, those between there and the nearest step are that step's value. `longest`, by default
    `steps`, is the greatest length of a span; of a longer one some samples would be missing.
    """
    spans = spans.detach()
    start, end = spans[..., None, None].unbind(dim=2)
    width = (end - start).clamp(min=1) / bins
    count = width.ceil()
    first, sample = _count(spans, bins)[:, None], _count(spans, ((longest or steps) + bins - 1) // bins)
    position = start + first * width + (sample + 0.5) * width / count  # (B, N, bins, samples)
    taken = ((sample < count) & (position >= -1) & (position <= steps)).to(spans.dtype) / count
    position = position.clamp(0, steps - 1)
    low = position.floor()
    share = position - low
    nothing = (taken[..., :1] * 0).expand(-1, -1, -1, steps)
    weights = nothing.scatter_add(3, low.long(), (1 - share) * taken)
    return weights.scatter_add(3, (low + 1).clamp(max=steps - 1).long(), share * taken)


def _count(like: Tensor, number: int) -> Tensor:
    """0, 1, 2 … in the type and on the device of a tensor, which a trace would tie `arange` to."""
    one = like.flatten()[0] * 0 + 1
    return one.expand(number).cumsum(0) - 1
