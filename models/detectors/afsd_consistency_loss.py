"""AFSD's boundary consistency: a window with background put into an action in, how alike the cut's two sides are out.

After the paper's code (Lin et al., CVPR 2021): where background is put into the middle of an action, what precedes the
hole should look like the end of the very thing that goes on behind it, and not like the start of background.
Reconstruction in two points: the published code moves frames before the backbone sees them, here steps of features are
moved; and its piece of background is as long as the video's shortest action, here as the window's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.detectors.afsd import BoundaryMaps, RunOutputs, around_boundaries
from models.detectors.boundary_pooling import boundary_pool
from models.detectors.detector import Targets

MAP_WEIGHTS = (1.0, 0.1, 0.1)  # of frames, of the finest level for distances and for classes


class Cut(NamedTuple):
    """`order` (T,): which step stands where, once background was put into an action. `pieces` (3, 2) in steps: the
    action before the hole, the action behind it, and the background in it."""

    order: Tensor
    pieces: Tensor


def boundary_consistency(run: RunOutputs, targets: Sequence[Targets], frames_per_step: int) -> Tensor:
    """Targets in frames. 0 where no window of the batch has an action long enough and background beside it."""
    cuts = [
        _cut(video.spans.cpu() / frames_per_step, int(mask.sum()))
        for video, mask in zip(targets, run.mask, strict=True)
    ]
    chosen = [index for index, cut in enumerate(cuts) if cut is not None]
    found = [cut for cut in cuts if cut is not None]
    if not found or run.look_again is None:
        return run.fits.sum() * 0
    features = torch.stack(
        [run.features[index][:, _padded(cut.order, run)] for index, cut in zip(chosen, found, strict=True)]
    )
    pieces_frames = torch.stack([cut.pieces for cut in found]).to(features.device) * frames_per_step
    # The hole is background from its second frame to its last but one.
    pieces_frames[:, 2] += torch.tensor([1.0, -1.0], device=features.device)
    mask = run.mask[chosen]
    return triplet(run.look_again(features, mask), pieces_frames, mask.sum(dim=1), frames_per_step)


def triplet(maps: BoundaryMaps, pieces_frames: Tensor, steps: Tensor, frames_per_step: int) -> Tensor:
    """Maps of altered windows (B, …), pieces (B, 3, 2) in frames as in `Cut`, real steps of each window (B,)."""
    start, end = pieces_frames.unbind(dim=2)
    regions = around_boundaries(start, end, end - start + 1, whole=True)
    total = pieces_frames.new_zeros(())
    for features, per_step, weight in zip(maps, (1, frames_per_step, frames_per_step), MAP_WEIGHTS, strict=True):
        pooled = boundary_pool(features, regions / per_step, steps * (frames_per_step // per_step))
        starts, ends = pooled.chunk(2, dim=1)
        total = total + weight * F.triplet_margin_loss(ends[:, :, 0], starts[:, :, 1], starts[:, :, 2])
    return total


def _cut(spans: Tensor, steps: int) -> Cut | None:
    """Spans (G, 2) in steps, from the start of the first; drawn from torch's generator on the host."""
    if not len(spans):
        return None
    lengths = spans[:, 1] - spans[:, 0]
    hole = max(1, math.ceil(float(lengths.min())))
    long_enough = (lengths > 2 * hole).nonzero()[:, 0]
    homes = _homes_of_background(spans, steps, hole)
    if not len(long_enough) or not len(homes):
        return None
    start, end = spans[_draw(long_enough)].tolist()
    low, high = math.ceil(start) + hole, math.ceil(end) - hole
    place = low if high <= low else int(torch.randint(low, high, ()))
    begin = int(_draw(homes))
    return _with_hole(torch.arange(steps), (start, end), place, begin, hole)


def _with_hole(order: Tensor, action: tuple[float, float], place: int, begin: int, hole: int) -> Cut:
    """The `hole` steps from `begin` on are moved to `place` in the action, and what lies between makes room."""
    start, end = action
    moved = order[begin : begin + hole]
    if begin >= place:
        order = torch.cat([order[:place], moved, order[place:begin], order[begin + hole :]])
        pieces = [[start, place], [place + hole, end + hole], [place, place + hole]]
    else:
        order = torch.cat([order[:begin], order[begin + hole : place], moved, order[place:]])
        pieces = [[start - hole, place - hole], [place, end], [place - hole, place]]
    return Cut(order, torch.tensor(pieces, dtype=torch.float32))


def _homes_of_background(spans: Tensor, steps: int, hole: int) -> Tensor:
    """Steps from which on `hole` of them hold no action."""
    at = torch.arange(max(steps - hole + 1, 0))[:, None]
    return (~((at < spans[:, 1]) & (at + hole > spans[:, 0])).any(dim=1)).nonzero()[:, 0]


def _draw(among: Tensor) -> Tensor:
    return among[torch.randint(len(among), ())]


def _padded(order: Tensor, run: RunOutputs) -> Tensor:
    """With the padded steps behind, where they were."""
    total = run.features.shape[2]
    return torch.cat([order, torch.arange(len(order), total)]).to(run.features.device)
