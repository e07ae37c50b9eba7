"""ASL's outputs and annotated actions in, its loss out: ActionFormer's, weighted by how much each step matters, and two
terms of its own (Shao et al., ICCV 2023).

How much a step of an action matters is learned twice: per class, as Gaussians over its place in the action, and per
action, by small networks that predict from its features how good the detector's answers are. All of this trains here
and serves nowhere. Shapes: A actions in the batch, M steps in the crops of actions, P points of all levels.

Reconstructions: which levels an action is cropped from (those that answer for it), the activation between the
evaluator's convolutions (ReLU), that predicted quality weighs without being trained through the weight, the bound on
weights, `contrast_weight`; and the equations of the Gaussians and of the contrast, which were recalled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checks import check_size
from models.detectors.actionformer_blocks import MaskedConv
from models.detectors.actionformer_loss import ActionFormerLoss, ActionFormerLossConfig, Wanted, giou, ranges_of
from models.detectors.asl import AslOutputs
from models.detectors.asl_config import AslConfig
from models.detectors.detector import Losses, Targets

SMALLEST_VARIANCE = 1e-6
SHORTEST = 1e-6  # an action of no length is divided by this


@dataclass(frozen=True)
class AslLossConfig(ActionFormerLossConfig):
    """The three switches make the rows of the paper's ablation; with all off this is ActionFormer's loss, to the bit.

    `gaussian_form` "released" is the authors' challenge code: places are mirrored and flatten towards coarse levels,
    and the regression's weight is that of the class times the mean of both ends. `detach_quality`: predicted quality
    weighs a loss but is not trained by it, lest it learn to call hard steps unimportant. `least_weight` bounds weights
    from below. `reach`: of the contrast's windows, in shares of the action's steps.
    """

    class_sensitivity: bool = True
    instance_sensitivity: bool = True
    contrastive: bool = True
    gaussian_form: Literal["paper", "released"] = "paper"
    evaluator_layers: int = 2
    detach_quality: bool = True
    least_weight: float = 1e-3
    reach: float = 0.2
    temperature: float = 0.07
    contrast_weight: float = 0.3

    def __post_init__(self) -> None:
        check_size("evaluator_layers", self.evaluator_layers)
        if not 0 < self.reach <= 1:
            raise ValueError(f"reach is {self.reach}; a share of the action above 0, 1 at most, is needed")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be greater than 0")
        for name in ("least_weight", "contrast_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 or more is needed")


def thumos() -> AslLossConfig:
    return AslLossConfig(ranges_of(5))


def activitynet() -> AslLossConfig:
    return AslLossConfig(ranges_of(5), regression_weight=2.0, label_smoothing=0.1, initial_positives=200.0)


def epic_kitchens(label_smoothing: float = 0.0) -> AslLossConfig:
    """Verbs; nouns are trained with label_smoothing 0.1."""
    return AslLossConfig(ranges_of(5, overlapping=True), label_smoothing=label_smoothing, initial_positives=250.0)


def ego4d() -> AslLossConfig:
    return AslLossConfig(ranges_of(8, overlapping=True))


class Actions(NamedTuple):
    """All of a batch, video by video: spans (A, 2), labels (A,), and their number per video."""

    spans: Tensor
    labels: Tensor
    counts: Tensor

    @property
    def videos(self) -> Tensor:
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)


class Crops(NamedTuple):
    """Steps of actions (M,): of which action, at which point; of which crop, and where in it."""

    actions: Tensor
    points: Tensor
    crops: Tensor
    steps: Tensor


class Gaussians(nn.Module):
    """Per class, how much a place in an action matters: to name it, and to find its start and its end."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([0.0, -0.5, 0.5])[:, None].repeat(1, classes))
        self.spreads = nn.Parameter(torch.ones(3, classes))

    def forward(self, places: Tensor, labels: Tensor) -> Tensor:
        """Places and labels (…) → (3, …), each in (0, 1]."""
        variance = self.spreads[:, labels].square().clamp(min=SMALLEST_VARIANCE)
        return torch.exp(-(places - self.means[:, labels]).square() / (2 * variance))


class Evaluator(nn.Module):
    """Crops of features (N, C, S) with mask (N, 1, S) → how good the detector's answer at each step is (N, S)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(MaskedConv(channels, channels, 3) for _ in range(layers))
        self.answer = nn.Linear(channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x, mask))
        return cast("Tensor", self.answer(x.transpose(1, 2)))[..., 0].sigmoid()


class AslLoss(nn.Module):
    """Learns with the network: `gaussians`, `class_evaluator`, `extent_evaluator`, whichever the switches need."""

    def __init__(self, config: AslLossConfig, network: AslConfig) -> None:
        super().__init__()
        self.config, self.base = config, ActionFormerLoss(config, network)
        needs_gaussians = config.class_sensitivity or config.contrastive
        self.gaussians = Gaussians(network.num_classes) if needs_gaussians else None
        layers = config.evaluator_layers
        self.class_evaluator = Evaluator(network.channels, layers) if config.instance_sensitivity else None
        self.extent_evaluator = Evaluator(network.channels, layers) if config.instance_sensitivity else None

    def forward(self, outputs: AslOutputs, targets: Sequence[Targets]) -> Losses:
        """One `Targets` per video of the batch."""
        wanted, actions = self.base.wanted(outputs, targets), actions_of(targets)
        normaliser = self.base.count(wanted.positive)
        classification = self.base.classification(outputs, wanted)
        regression = self.base.regression(outputs, wanted)
        weights, parts = self._weights(outputs, wanted, actions)
        if weights is not None:
            class_weights, extent_weights = weights.clamp(min=self.config.least_weight)
            every = torch.ones_like(wanted.valid, dtype=weights.dtype).masked_scatter(wanted.positive, class_weights)
            classification = classification * every[wanted.valid][:, None]
            regression = regression * extent_weights
        found = self.base.combined(classification.sum() / normaliser, regression.sum() / normaliser)
        total = found.total
        if "quality" in parts:
            total = total + parts["quality"]
        if self.config.contrastive and self.gaussians is not None:
            parts["contrast"] = contrast(outputs, wanted, actions, self.gaussians, self.config)
            total = total + self.config.contrast_weight * parts["contrast"]
        return Losses(total, {**found.parts, **parts})

    def _weights(
        self, outputs: AslOutputs, wanted: Wanted, actions: Actions
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """How much each positive point matters (2, N), to name its action and to find its ends; None: all the same."""
        videos, points = wanted.positive.nonzero(as_tuple=True)
        owners = (actions.counts.cumsum(0) - actions.counts)[videos] + wanted.actions[wanted.positive]
        shares, parts = [], {}
        if self.config.class_sensitivity and self.gaussians is not None:
            shares.append(self._of_class(self.gaussians, wanted.points[points], owners, actions))
        if self.class_evaluator is not None and self.extent_evaluator is not None:
            crops = crops_of(outputs, wanted, actions, owners, points)
            quality = self._of_crops(outputs, crops, actions)
            parts["quality"] = _squared_gaps(quality, qualities(outputs, wanted, crops, actions))
            index = torch.zeros(len(actions.labels), len(wanted.points), dtype=torch.int64, device=points.device)
            index[crops.actions, crops.points] = torch.arange(len(crops.points), device=points.device)
            mine = quality[:, index[owners, points]]
            shares.append(mine.detach() if self.config.detach_quality else mine)
        return (sum(shares[1:], start=shares[0]) if shares else None), parts

    def _of_class(self, gaussians: Gaussians, points: Tensor, owners: Tensor, actions: Actions) -> Tensor:
        places, labels = _places(points[:, 0], actions.spans[owners]), actions.labels[owners]
        if self.config.gaussian_form == "released":
            naming, start, end = gaussians(-places / points[:, 3], labels)
            return torch.stack([naming, (start + end) / 2 * naming])
        naming, start, end = gaussians(places, labels)
        return torch.stack([naming, start + end])

    def _of_crops(self, outputs: AslOutputs, crops: Crops, actions: Actions) -> Tensor:
        """The evaluators' answers (2, M)."""
        features = torch.cat(outputs.features, dim=2).transpose(1, 2)[actions.videos[crops.actions], crops.points]
        size = (int(crops.crops.max()) + 1, int(crops.steps.max()) + 1) if len(features) else (1, 1)
        packed = features.new_zeros(*size, features.shape[1]).index_put((crops.crops, crops.steps), features)
        mask = features.new_zeros(size).index_put((crops.crops, crops.steps), features.new_ones(()))[:, None]
        answers = [
            cast("Tensor", evaluator(packed.transpose(1, 2), mask))[crops.crops, crops.steps]
            for evaluator in (self.class_evaluator, self.extent_evaluator)
            if evaluator is not None
        ]
        return torch.stack(answers)


def actions_of(targets: Sequence[Targets]) -> Actions:
    labels = torch.cat([video.labels for video in targets])
    counts = torch.tensor([len(video.labels) for video in targets], device=labels.device)
    return Actions(torch.cat([video.spans for video in targets]).float(), labels, counts)


def crops_of(outputs: AslOutputs, wanted: Wanted, actions: Actions, owners: Tensor, points: Tensor) -> Crops:
    """The steps of every action on the levels of which some positive point, with its owner among them, is the action's.

    Every such point is then within a crop.
    """
    lengths = torch.tensor([mask.shape[1] for mask in outputs.masks], device=points.device)
    levels = torch.arange(len(lengths), device=points.device).repeat_interleave(lengths)
    answered = torch.zeros(len(actions.labels), len(lengths), dtype=torch.bool, device=points.device)
    answered[owners, levels[points]] = True
    inside = _within(wanted.points[:, 0], actions) & wanted.valid[actions.videos] & answered[:, levels]
    which, steps_at = inside.nonzero(as_tuple=True)
    _, crops, sizes = torch.unique_consecutive(
        which * len(lengths) + levels[steps_at], return_inverse=True, return_counts=True
    )
    steps = torch.arange(len(which), device=points.device) - (sizes.cumsum(0) - sizes)[crops]
    return Crops(which, steps_at, crops, steps)


def qualities(outputs: AslOutputs, wanted: Wanted, crops: Crops, actions: Actions) -> Tensor:
    """How good the answers of steps (2, M) are: the probability of the action's class, the overlap with the action."""
    videos, labels = actions.videos[crops.actions], actions.labels[crops.actions]
    probability = torch.cat(outputs.logits, dim=1)[videos, crops.points, labels].sigmoid()
    start, end = actions.spans[crops.actions].unbind(dim=1)
    position, stride = wanted.points[crops.points][:, 0], wanted.points[crops.points][:, 3]
    distances = torch.stack([position - start, end - position], dim=1) / stride[:, None]
    overlap = 1 - giou(torch.cat(outputs.offsets, dim=1)[videos, crops.points], distances)
    return torch.stack([probability, overlap]).detach()


def contrast(
    outputs: AslOutputs, wanted: Wanted, actions: Actions, gaussians: Gaussians, config: AslLossConfig
) -> Tensor:
    """Features of an action where it matters most draw near those of its class, and away from others and background."""
    features, places = outputs.features[0], wanted.points[: outputs.features[0].shape[2]]
    weights, backed = _windows(places, outputs.masks[0], actions, gaussians, config.reach)
    shares = torch.split(weights, actions.counts.tolist(), dim=0)
    means = [share @ video.transpose(0, 1) for share, video in zip(shares, features, strict=True)]
    naming, ends, background = F.normalize(torch.cat(means), dim=2).unbind(dim=1)
    seen = weights[:, 0].detach().any(dim=1)
    anchors, labels = torch.cat([naming[seen], ends[seen]]), actions.labels[seen].repeat(2)
    if not len(anchors):
        return features.sum() * 0
    near = anchors @ torch.cat([anchors, background[backed]]).transpose(0, 1) / config.temperature
    itself = torch.eye(len(anchors), near.shape[1], dtype=torch.bool, device=near.device)
    positive = F.pad(labels[:, None] == labels, (0, near.shape[1] - len(anchors))) & ~itself
    everything = near.masked_fill(itself, -torch.inf).logsumexp(dim=1)
    return (everything - near.masked_fill(~positive, -torch.inf).logsumexp(dim=1)).mean()


def _windows(
    points: Tensor, valid: Tensor, actions: Actions, gaussians: Gaussians, reach: float
) -> tuple[Tensor, Tensor]:
    """Weights of the finest level's steps (A, 3, T): around the place that matters most to name the action, around
    those that matter most to find its ends, and beside it; and which actions (A,) have a step beside them."""
    position, stride = points[:, 0], points[0, 3]
    real, (start, end) = valid[actions.videos], torch.split(actions.spans, 1, dim=1)
    inside = _within(position, actions) & real
    radius = reach * inside.sum(dim=1, keepdim=True) * stride
    places = _places(position, actions.spans[:, None])
    matter = gaussians(places, actions.labels[:, None].expand_as(places))
    peaks = position[matter.detach().masked_fill(~inside, -1).argmax(dim=2)]
    near = ((position - peaks[..., None]).abs() <= radius) & inside
    beside = real & (position >= start - radius) & (position <= end + radius) & ~inside
    parts = [
        _mean_weights(matter[0], near[0]),
        _mean_weights(matter[1] + matter[2], near[1] | near[2]),
        _mean_weights(torch.ones_like(places), beside),
    ]
    return torch.stack(parts, dim=1), beside.any(dim=1)


def _mean_weights(values: Tensor, where: Tensor) -> Tensor:
    return values * where / where.sum(dim=1, keepdim=True).clamp(min=1)


def _places(positions: Tensor, spans: Tensor) -> Tensor:
    """Of positions in actions (…, 2): -0.5 at the start, 0 at the centre, 0.5 at the end."""
    start, end = spans.unbind(dim=-1)
    return (positions - 0.5 * (start + end)) / (end - start).clamp(min=SHORTEST)


def _within(positions: Tensor, actions: Actions) -> Tensor:
    """Which positions (P,) each action covers, its ends included: (A, P)."""
    return (positions >= actions.spans[:, :1]) & (positions <= actions.spans[:, 1:])


def _squared_gaps(found: Tensor, expected: Tensor) -> Tensor:
    """Mean over steps, summed over both qualities; 0 without a step."""
    return (found - expected).square().sum() / max(found.shape[1], 1)
