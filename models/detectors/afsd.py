"""AFSD (Lin et al., "Learning Salient Boundary Feature for Anchor-free Temporal Action Localization", CVPR 2021).

At every point of a pyramid, shared heads tell the distances to an action's start and end and its class; then features
are pooled around the two boundaries so proposed, and further heads correct distances and class and say how well the
proposal fits. Shapes: features (B, C, T), mask (B, T); level l has T / 2^l points. "Frames" are the places of the
frame-level map, `frames_per_step` to a step: step i is centred on frame (i + 0.5) · frames_per_step.

Statistics of group norms, pooling and heads know only real steps, so that a padded window gives what its steps are
worth; the published code pads with black frames and sees them. A full window gives the published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.afsd_config import AfsdConfig
from models.detectors.boundary_pooling import boundary_pool
from models.detectors.detector import Candidates, Detector, steps_of

LARGEST_LOG = 10.0  # of a distance in its level's unit: far beyond any window, and short of infinity
SPATIAL_SIZES = {1: (3,), 2: (6, 3)}  # of Mixed_4f and Mixed_5c on pictures of 96 pixels, by the levels of the stem


class BoundaryMaps(NamedTuple):
    """What boundaries are pooled from, first half of the channels for starts: frames (B, C, frames), and of the finest
    level for distances and for classes (B, 2C, T)."""

    frames: Tensor
    location: Tensor
    classes: Tensor


class RunOutputs(NamedTuple):
    """Of one network, at all N points of all levels, of which `valid` (B, N) are real and `points` (N,) are in frames.

    distances (B, N, 2) in frames, corrections (B, N, 2) of them in half lengths of the proposal, logits and refined
    logits (B, N, 1 + K), background first, and fits (B, N), a logit. `features` (B, C, T) and `mask` (B, T) are what
    the network saw; in training `look_again` gives the maps of others, for boundary consistency.
    """

    distances: Tensor
    logits: Tensor
    corrections: Tensor
    refined_logits: Tensor
    fits: Tensor
    points: Tensor
    valid: Tensor
    maps: BoundaryMaps
    features: Tensor
    mask: Tensor
    look_again: Callable[[Tensor, Tensor], BoundaryMaps] | None


class AfsdOutputs(NamedTuple):
    """One per network: one, or with late fusion one per kind of feature."""

    runs: tuple[RunOutputs, ...]


class FullGroupNorm(nn.GroupNorm):
    """Of windows that are full, as maps of I3D are; the sums in the published order."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        del mask
        return super().forward(x)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm of (B, C, T) whose mean and variance are those of real steps; mask (B, 1, T)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        grouped, share = torch.unflatten(x, 1, (self.num_groups, -1)), _share_of_steps(mask)[:, :, None]
        centred = grouped - (grouped.mean(dim=2, keepdim=True) * share).sum(dim=3, keepdim=True)
        variance = (centred.square().mean(dim=2, keepdim=True) * share).sum(dim=3, keepdim=True)
        normed = (centred * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        return torch.addcmul(self.bias[:, None], normed, self.weight[:, None])


class NormedConv(nn.Module):
    """Convolution, group norm, ReLU; 0 at padded places. With stride 2 the published padding is on the right alone."""

    def __init__(self, config: AfsdConfig, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)
        self.norm = _norm(config, outputs)
        padding = kernel - stride
        self.padding = (padding // 2, padding - padding // 2) if padding > 0 else (0, 0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The mask is that of the result."""
        x = self.norm(self.conv(F.pad(x, self.padding)), mask)
        return F.relu(x) * mask


class TemporalStem(nn.Module):
    """Snippet features (B, C, T) → the levels that are made of them directly, the finest first.

    One level is OpenTAD's way. Two, of which the coarser is repeated and added to the finer, are the published pyramid
    with a convolution of stride 2 in place of the backbone's own downsampling (reconstruction).
    """

    def __init__(self, inputs: int, config: AfsdConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            NormedConv(config, inputs, config.channels, 1 if level == 0 else 3, 2**level)
            for level in range(config.stem_levels)
        )

    def forward(self, features: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        levels = [level(features, mask) for level, mask in zip(self.levels, masks, strict=False)]
        return _joined(levels, masks)


class SpatialConv(nn.Module):
    """A map (B, C, T, S, S) whose every picture is one kernel in size → (B, C', T)."""

    def __init__(self, config: AfsdConfig, inputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, config.channels, (1, size, size))
        self.norm = _norm(config, config.channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = cast("Tensor", self.conv(x))[..., 0, 0]
        return F.relu(self.norm(x, mask)) * mask


class SpatialStem(nn.Module):
    """Maps of I3D (Mixed_4f and Mixed_5c, or the latter alone), as published."""

    def __init__(self, config: AfsdConfig) -> None:
        super().__init__()
        sizes = SPATIAL_SIZES[config.stem_levels]
        self.levels = nn.ModuleList(
            SpatialConv(config, inputs, size) for inputs, size in zip(config.input_channels, sizes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        levels = [level(x, mask) for level, x, mask in zip(self.levels, maps, masks, strict=False)]
        return _joined(levels, masks)


class Regions(NamedTuple):
    """Around the boundaries of each point's proposal (B, N, 4): in steps of its level, and in frames."""

    level: Tensor
    frames: Tensor


def around_boundaries(start: Tensor, end: Tensor, length: Tensor, *, whole: bool) -> Tensor:
    """(…) each → (…, 4): from a tenth of the length outside to a quarter inside either boundary, at least 1 each."""
    inside, outside = (length / 4).clamp(min=1), (length / 10).clamp(min=1)
    regions = torch.stack([start - outside, start + inside, end - inside, end + outside], dim=-1)
    return regions.round() if whole else regions


class ProposalBranch(nn.Module):
    """Features of a level and of frames, pooled around the boundaries of each point's proposal and joined."""

    def __init__(self, config: AfsdConfig) -> None:
        super().__init__()
        channels = config.channels
        self.point = NormedConv(config, channels, channels, 1)
        self.sides = NormedConv(config, channels, 2 * channels, 1)
        self.frame = NormedConv(config, channels, channels, 1)
        self.joined = NormedConv(config, 4 * channels, channels, 1)
        self.continuous = config.boundaries == "continuous"

    def forward(self, x: Tensor, of_frames: Tensor, regions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a level and of frames (B, C, T_l), the latter pooled already, regions (B, T_l, 4) → features of
        proposals (B, C, T_l), and the map (B, 2C, T_l) that those of the level were pooled from."""
        sides = self.sides(x, mask)
        near = boundary_pool(sides, regions, mask[:, 0].sum(dim=1), continuous=self.continuous)
        joined = torch.cat([self.frame(of_frames, mask), near, self.point(x, mask)], dim=1)
        return self.joined(joined * mask, mask), sides


class AfsdHeads(nn.Module):
    """Everything after the stem: the rest of the pyramid, the frame-level map, and the heads of both stages."""

    def __init__(self, config: AfsdConfig) -> None:
        super().__init__()
        self.config = config
        channels, classes = config.channels, config.num_classes + 1
        # Keyed by level, whichever of them the stem makes.
        further = range(config.stem_levels, config.levels)
        self.pyramid = nn.ModuleDict({str(level): NormedConv(config, channels, channels, 3, 2) for level in further})
        self.frame_tower = nn.ModuleList(NormedConv(config, channels, channels, kernel) for kernel in (3, 3, 1))
        self.location_tower = nn.ModuleList(NormedConv(config, channels, channels, 3) for _ in range(2))
        self.class_tower = nn.ModuleList(NormedConv(config, channels, channels, 3) for _ in range(2))
        self.locate = nn.Conv1d(channels, 2, 3, padding=1)
        self.classify = nn.Conv1d(channels, classes, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in range(config.levels))
        self.location_branch, self.class_branch = ProposalBranch(config), ProposalBranch(config)
        self.correct = nn.Conv1d(channels, 2, 1)
        self.reclassify = nn.Conv1d(channels, classes, 1)
        self.judge = nn.Conv1d(channels, 1, 3, padding=1)

    def forward(self, stem: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[dict[str, Tensor], BoundaryMaps]:
        """The levels of the stem, the finest first, and masks (B, 1, T_l) of all levels → what `RunOutputs` holds of
        all points, by name, and the maps."""
        levels = list(stem)
        for name, conv in self.pyramid.items():
            levels.append(conv(levels[-1], masks[int(name)]))
        frame_mask = masks[0].repeat_interleave(self.config.frames_per_step, dim=2)
        frames = self.frame_map(levels[0], frame_mask)
        near = [_through(self.location_tower, x, mask) for x, mask in zip(levels, masks, strict=True)]
        of_class = [_through(self.class_tower, x, mask) for x, mask in zip(levels, masks, strict=True)]
        found = [self._at_points(level, *parts) for level, parts in enumerate(zip(near, of_class, masks, strict=True))]
        regions = [self._regions(level, here["distances"].detach(), here["points"]) for level, here in enumerate(found)]
        of_frames = boundary_pool(
            frames,
            torch.cat([each.frames for each in regions], dim=1),
            frame_mask[:, 0].sum(dim=1),
            continuous=self.config.boundaries == "continuous",
        )
        pooled = torch.split(of_frames, [x.shape[2] for x in levels], dim=2)
        sides = []
        for level, (here, mask) in enumerate(zip(found, masks, strict=True)):
            given = pooled[level] * mask, regions[level].level, mask
            location, location_sides = self.location_branch(near[level], *given)
            classes, class_sides = self.class_branch(of_class[level], *given)
            sides.append((location_sides, class_sides))
            here["corrections"] = self.correct(location).transpose(1, 2)
            here["refined_logits"] = self.reclassify(classes).transpose(1, 2)
            here["fits"] = self.judge(location)[:, 0]
        joined = {
            name: torch.cat([here[name] for here in found], dim=0 if name == "points" else 1) for name in found[0]
        }
        return joined, BoundaryMaps(frames, *sides[0])

    def frame_map(self, finest: Tensor, frame_mask: Tensor) -> Tensor:
        frames = finest.repeat_interleave(self.config.frames_per_step, dim=2)
        return _through(self.frame_tower, frames, frame_mask)

    def boundary_maps(self, finest: Tensor, mask: Tensor) -> BoundaryMaps:
        frames = self.frame_map(finest, mask.repeat_interleave(self.config.frames_per_step, dim=2))
        near, of_class = _through(self.location_tower, finest, mask), _through(self.class_tower, finest, mask)
        return BoundaryMaps(frames, self.location_branch.sides(near, mask), self.class_branch.sides(of_class, mask))

    def _at_points(self, level: int, near: Tensor, of_class: Tensor, mask: Tensor) -> dict[str, Tensor]:
        logs = (self.locate(near) * self.scales[level]).clamp(max=LARGEST_LOG)
        spacing = 2**level * self.config.frames_per_step
        return {
            "distances": (logs.exp() * self.config.units_frames[level]).transpose(1, 2),
            "logits": self.classify(of_class).transpose(1, 2),
            "valid": mask[:, 0] > 0,
            "points": (steps_of(mask[0, 0]) + 0.5) * spacing,
        }

    def _regions(self, level: int, distances: Tensor, points: Tensor) -> Regions:
        """Of distances (B, T_l, 2) in frames; a proposal counts its last frame in, a span of steps does not."""
        whole = self.config.boundaries == "rounded"
        start, end = points - distances[..., 0], points + distances[..., 1]
        frames = around_boundaries(start, end, end - start + 1, whole=whole)
        spacing = 2**level * self.config.frames_per_step
        steps, center = distances / spacing, points / spacing - 0.5
        start, end = center - steps[..., 0], center + steps[..., 1]
        return Regions(around_boundaries(start, end, steps.sum(dim=2), whole=whole), frames)


class AfsdRun(nn.Module):
    """One network: a stem and what comes after it."""

    def __init__(self, stem: TemporalStem | SpatialStem, config: AfsdConfig) -> None:
        super().__init__()
        self.stem, self.heads = stem, AfsdHeads(config)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast("Tensor", module.bias))

    def forward(self, inputs: Tensor | Sequence[Tensor], mask: Tensor) -> RunOutputs:
        """What the stem takes, and a mask (B, T)."""
        masks = [mask[:, None, :: 2**level].float() for level in range(self.heads.config.levels)]
        inputs = inputs * masks[0] if isinstance(inputs, Tensor) else inputs
        found, maps = self.heads(self.stem(inputs, masks), masks)
        features = inputs if isinstance(inputs, Tensor) else inputs[0]
        again = self._look_again if self.training and isinstance(inputs, Tensor) else None
        return RunOutputs(**found, maps=maps, features=features, mask=mask, look_again=again)

    def _look_again(self, features: Tensor, mask: Tensor) -> BoundaryMaps:
        masks = [mask[:, None, :: 2**level].float() for level in range(self.heads.config.stem_levels)]
        return self.heads.boundary_maps(self.stem(features * masks[0], masks)[0], masks[0])


class Afsd(Detector):
    config: AfsdConfig

    def __init__(self, config: AfsdConfig) -> None:
        super().__init__()
        if config.stem != "temporal":
            raise ValueError(
                f"stem is {config.stem!r}; a detector takes snippet features through a temporal one "
                "(maps of I3D go into AfsdOfMaps)"
            )
        self.config = config
        self.runs = nn.ModuleList(AfsdRun(TemporalStem(inputs, config), config) for inputs in config.runs)

    def forward(self, features: Tensor, mask: Tensor) -> AfsdOutputs:
        """Features (B, C, T) and mask (B, T) bool, T exactly `config.length`, real steps first."""
        parts = torch.split(features, list(self.config.runs), dim=1)
        return AfsdOutputs(tuple(run(part, mask) for run, part in zip(self.runs, parts, strict=True)))

    def decode(self, outputs: AfsdOutputs) -> Candidates:
        """A candidate per point, the mean of what the networks say of it; a point beside the video scores 0."""
        each = [decode_run(run, self.config) for run in outputs.runs]
        spans = torch.stack([one.spans for one in each]).mean(dim=0)
        return Candidates(spans, torch.stack([one.scores for one in each]).mean(dim=0), each[0].groups)


class AfsdOfMaps(nn.Module):
    """The published network after its backbone: maps of I3D in, the same outputs out."""

    def __init__(self, config: AfsdConfig) -> None:
        super().__init__()
        if config.stem != "spatial":
            raise ValueError(f"stem is {config.stem!r}; maps of I3D need 'spatial'")
        self.config = config
        self.run = AfsdRun(SpatialStem(config), config)

    def forward(self, maps: Sequence[Tensor], mask: Tensor) -> AfsdOutputs:
        """Mixed_4f (B, C, T, 6, 6) and Mixed_5c (B, C, T / 2, 3, 3), or (B, C, T, 3, 3) alone; mask (B, T)."""
        return AfsdOutputs((self.run(maps, mask),))

    def decode(self, outputs: AfsdOutputs) -> Candidates:
        return decode_run(outputs.runs[0], self.config)


def decode_run(run: RunOutputs, config: AfsdConfig) -> Candidates:
    """Corrected spans, cut to the window; the mean of both stages' class probabilities times the fit."""
    distances = corrected(run.distances, run.corrections)
    ends_frames = torch.stack([run.points - distances[..., 0], run.points + distances[..., 1]], dim=-1)
    spans = ends_frames.clamp(0, config.num_frames) / config.frames_per_step - 0.5
    scores = (run.logits.softmax(dim=2) + run.refined_logits.softmax(dim=2))[..., 1:] / 2
    scores = scores * (run.fits.sigmoid() * run.valid)[..., None]
    none = (run.points * 0).long()
    counts = [config.length // 2**level for level in range(config.levels)]
    groups = [part + level for level, part in enumerate(torch.split(none, counts))]
    return Candidates(spans, scores, torch.cat(groups))


def corrected(distances: Tensor, corrections: Tensor) -> Tensor:
    """Distances (…, 2) moved by corrections (…, 2) in half lengths of the proposal."""
    return distances + 0.5 * distances.sum(dim=-1, keepdim=True) * corrections


def _norm(config: AfsdConfig, channels: int) -> nn.Module:
    return (MaskedGroupNorm if config.stem == "temporal" else FullGroupNorm)(config.groups, channels)


def _joined(levels: list[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """The coarser level of the stem, repeated, goes into the finer one."""
    if len(levels) == 1:
        return levels
    finest, coarser = levels
    return [finest + coarser.repeat_interleave(2, dim=2) * masks[0], coarser]


def _share_of_steps(mask: Tensor) -> Tensor:
    """What each of the steps counts in a mean over those that the mask (B, 1, T) holds."""
    return mask / mask.sum(dim=2, keepdim=True).clamp(min=1)


def _through(layers: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, mask)
    return x
