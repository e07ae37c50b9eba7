"""Spans of actions in, what a map of candidate spans is trained on out: labels and losses of BMN, G-TAD and RCL.

Lin et al., "BMN", ICCV 2019; Xu et al., "G-TAD", CVPR 2020. A map holds two answers per cell, each a cell's tIoU with
the nearest action: one classified (is it high?), one regressed. Two curves say where actions start and end. All
positions are in one unit, that of the caller's spans. Where published codes differ, an argument says how.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

REGION = 3.0  # steps around a start or an end in which a snippet is one
EPS = 1e-6  # of the published codes of BMN and G-TAD; OpenTAD has none


def best_overlaps(cells: Tensor, spans: Tensor) -> Tensor:
    """The greatest tIoU of each cell (N, 2) with any of the spans (G, 2), 0 where there is none: (N,)."""
    if not len(spans):
        return cells[:, 0] * 0
    start, end = cells[:, None].unbind(dim=2)
    shared = (torch.minimum(end, spans[:, 1]) - torch.maximum(start, spans[:, 0])).clamp(min=0)
    union = (end - start) + (spans[:, 1] - spans[:, 0]) - shared
    return (shared / union.clamp(min=1e-9)).amax(dim=1)


def boundary_labels(edges: Tensor, anchors: Tensor, region: float = REGION, *, whole: bool = False) -> Tensor:
    """Which share of each anchor (T, 2) lies within `region` around an edge (G,), at most over all edges: (T,).

    `whole`: anchors that do not lie in it altogether count nothing (OpenTAD, whose shares become integers).
    """
    if not len(edges):
        return anchors[:, 0] * 0
    start, end = anchors[:, None].unbind(dim=2)
    shared = (torch.minimum(end, edges + region / 2) - torch.maximum(start, edges - region / 2)).clamp(min=0)
    share = (shared / (end - start)).amax(dim=1)
    return share.floor() if whole else share


def balanced_cross_entropy(
    logits: Tensor, positive: Tensor, valid: Tensor | None = None, *, spare: float = 0.0, eps: float = 0.0
) -> Tensor:
    """Binary cross-entropy in which positives weigh as much as negatives: a number.

    `positive` and `valid` (None: all) are bool and broadcast to `logits`. `spare` is added to both counts (G-TAD on
    THUMOS14); without it a batch that lacks one kind counts it once, which published codes do not survive. `eps`: what
    keeps the logarithms of published codes finite.
    """
    there = torch.ones_like(logits) if valid is None else valid.to(logits.dtype).expand_as(logits)
    hits = positive.to(logits.dtype).expand_as(logits) * there
    misses = there - hits
    num_hits, num_misses = hits.sum() + spare, misses.sum() + spare
    num_all = num_hits + num_misses
    hit, miss = _logarithms(logits, eps)
    told_hits = hits * hit * num_all / num_hits.clamp(min=1)
    told_misses = misses * miss * num_all / num_misses.clamp(min=1)
    return -0.5 * (told_hits + told_misses).sum() / num_all.clamp(min=1)


def balanced_squares(
    found: Tensor,
    wanted: Tensor,
    valid: Tensor,
    draws: tuple[Tensor, Tensor],
    *,
    zero_is_low: bool = False,
    spill: bool = False,
    squared: bool = False,
) -> Tensor:
    """The mean square of (found - wanted) over cells of high overlap and about as many of middle and of low overlap.

    `draws`, uniform in [0, 1) and shaped like `wanted`, choose which of the middle and low ones. `zero_is_low`: cells
    that overlap nothing are low ones too (OpenTAD). `spill`: where the high ones outnumber a pool, every cell is taken,
    as in the published codes of BMN and G-TAD, rather than all of that pool. A cell that is taken twice or three times
    then weighs as much, or (`squared`, all but OpenTAD) the square of that.
    """
    high, middle = valid & (wanted > 0.7), valid & (wanted > 0.3) & (wanted <= 0.7)
    low = valid & (wanted <= 0.3) & ((wanted > 0) | zero_is_low)
    num_high = high.sum()
    weights = high.to(found.dtype)
    for pool, draw in zip((middle, low), draws, strict=True):
        share = num_high / pool.sum().clamp(min=1)
        taken = pool * draw > 1 - share
        weights = weights + (taken if spill else taken & pool).to(found.dtype)
    told = weights.square() if squared else weights
    return (told * (found - wanted).square()).sum() / weights.sum().clamp(min=1)


def _logarithms(logits: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Of the probability and of its complement; with `eps` step by step as published, since rounding shows."""
    if not eps:
        return F.logsigmoid(logits), F.logsigmoid(-logits)
    probability = logits.sigmoid()
    return torch.log(probability + eps), torch.log(1 - probability + eps)
