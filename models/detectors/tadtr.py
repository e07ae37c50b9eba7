"""TadTR (Liu et al., "End-to-end Temporal Action Detection with Transformer", IEEE TIP 2022).

A deformable encoder reads a window of features; a fixed number of learned queries then look, layer by layer, at a few
places around a segment that each of them refines. A class and, from the features inside the segment, an actionness give
its score. Shapes: features (B, C, T), mask (B, T); segments are (centre, width) in fractions of the window.

Where windows are padded with "masked" steps, the published code takes features inside fractions of the padded window
for the actionness, and so does this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.deformable import DeformableAttention
from models.detectors.detector import Candidates, Detector, steps_of
from models.detectors.queries import Mlp, inverse_sigmoid, to_ends
from models.detectors.roi_align import roi_align
from models.detectors.tadtr_config import Activation, TadTRConfig

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
}


class TadTROutputs(NamedTuple):
    """Of L decoder layers: class logits (L, B, Q, K) and segments (L, B, Q, 2), centre and width.

    Of the last one: actionness (B, Q). `steps` (B,): so many steps are one, the unit of segments; `empty` (B,): windows
    without a snippet.
    """

    logits: Tensor
    segments: Tensor
    actionness: Tensor
    steps: Tensor
    empty: Tensor


class Scene(NamedTuple):
    """What queries look at: memory (B, T, C), mask (B, T), T as a tensor, and which share of T is real (B, 1, 1)."""

    memory: Tensor
    mask: Tensor
    steps: Tensor
    share: Tensor


class PositionEncoding(nn.Module):
    """Sines and cosines of the position as an angle, which goes once around from a window's first step to its last."""

    rate: Tensor
    even: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        channel = torch.arange(channels)
        rate = torch.pow(10000.0, -2 * (channel // 2).double() / channels)
        self.register_buffer("rate", rate.float(), persistent=False)
        self.register_buffer("even", channel % 2 == 0, persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Mask (B, T) → (B, T, C)."""
        count = mask.to(self.rate.dtype).cumsum(dim=1)
        angle = (2 * math.pi * count / (count[:, -1:] + 1e-6))[..., None] * self.rate
        return torch.where(self.even, angle.sin(), angle.cos())


class FeedForward(nn.Module):
    """A two-layer network, added to what comes in and normalised after."""

    def __init__(self, channels: int, hidden: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.expand, self.contract = _linear(channels, hidden), _linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.expand(x)))
        return cast("Tensor", self.norm(x + self.dropout(self.contract(hidden))))


class SelfAttention(nn.Module):
    """Multi-head attention among queries; where they stand decides who hears whom, not what is said."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.in_proj, self.out_proj = _linear(channels, 3 * channels), _linear(channels, channels)
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Contents and positions (B, Q, C) → (B, Q, C)."""
        inputs = (x + positions, x + positions, x)
        layers = zip(inputs, self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3), strict=True)
        query, key, value = (self._by_head(F.linear(part, weight, bias)) for part, weight, bias in layers)
        weights = (query / math.sqrt(query.shape[3]) @ key.transpose(2, 3)).softmax(dim=-1)
        found = cast("Tensor", self.dropout(weights)) @ value
        return cast("Tensor", self.out_proj(found.transpose(1, 2).flatten(2)))

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.heads, x.shape[2] // self.heads)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Each step looks at a few others around it."""

    def __init__(self, config: TadTRConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(config.channels, config.heads, config.encoder_points, align_corners=False)
        self.attention_norm = nn.LayerNorm(config.channels)
        self.feed = FeedForward(config.channels, config.feedforward_channels, config.activation, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(B, T, C), positions of the same shape or 0, mask (B, T)."""
        step = steps_of(mask[0])
        steps = step[-1:] + 1
        reference = ((step + 0.5) / steps)[None, :, None]
        found = self.attention(x + positions, reference, x, mask, steps)
        return cast("Tensor", self.feed(self.attention_norm(x + self.dropout(found))))


class DecoderLayer(nn.Module):
    """Queries agree with each other, then each looks at the memory around its reference."""

    def __init__(self, config: TadTRConfig) -> None:
        super().__init__()
        channels = config.channels
        self.self_attention = SelfAttention(channels, config.heads, config.dropout) if config.query_attention else None
        self.self_norm = nn.LayerNorm(channels) if config.query_attention else None
        self.cross_attention = DeformableAttention(channels, config.heads, config.decoder_points, align_corners=False)
        self.cross_norm = nn.LayerNorm(channels)
        self.feed = FeedForward(channels, config.feedforward_channels, config.activation, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, scene: Scene) -> Tensor:
        """Queries (B, Q, C), their positions, references (B, Q, 1 or 2) in fractions of what is real."""
        if self.self_attention is not None and self.self_norm is not None:
            x = self.self_norm(x + self.dropout(self.self_attention(x, positions)))
        found = self.cross_attention(x + positions, reference * scene.share, scene.memory, scene.mask, scene.steps)
        return cast("Tensor", self.feed(self.cross_norm(x + self.dropout(found))))


class TadTR(Detector):
    config: TadTRConfig

    def __init__(self, config: TadTRConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.project = _projection(config)
        self.positions = PositionEncoding(channels) if config.positions else None
        self.level_embed = nn.Parameter(torch.randn(channels)) if config.positions else None
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.queries = nn.Parameter(torch.randn(config.queries, 2 * channels))
        self.reference_points = _linear(channels, 1)
        nn.init.zeros_(self.reference_points.bias)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.classify = self._per_layer(lambda _: _classifier(config))
        self.locate = self._per_layer(lambda at: _locator(channels, at))
        self.judge = Mlp(config.bins * channels, channels, 1, layers=3) if config.actionness else None

    def forward(self, features: Tensor, mask: Tensor) -> TadTROutputs:
        seen = mask | ~mask if self.config.padding == "zeros" else mask
        scene = self.scene(features, mask, seen)
        layers = [(self.classify[at](x), segments) for at, (x, segments) in enumerate(self.decoded(scene))]
        segments = layers[-1][1]
        actionness = self.actionness(scene, segments)
        return TadTROutputs(
            torch.stack([logits for logits, _ in layers]),
            torch.stack([found for _, found in layers]),
            actionness,
            seen.sum(dim=1).to(segments.dtype),
            ~mask.any(dim=1),
        )

    def scene(self, features: Tensor, mask: Tensor, seen: Tensor) -> Scene:
        """The encoded window; `seen` (B, T) are the steps that count."""
        x = self.project(features * mask[:, None].to(features.dtype)).transpose(1, 2)
        positions: Tensor | float = 0.0
        if self.positions is not None and self.level_embed is not None:
            positions = (self.positions(seen) + self.level_embed).to(x.dtype)
        for layer in self.encoder:
            x = layer(x, positions, seen)
        steps = steps_of(seen[0])[-1:] + 1
        return Scene(x, seen, steps, (seen.sum(dim=1) / steps)[:, None, None])

    def decoded(self, scene: Scene) -> Iterator[tuple[Tensor, Tensor]]:
        """Layer by layer: queries (B, Q, C) and the segments (B, Q, 2) that they have come to, in full precision."""
        positions, x = (part.expand(scene.memory.shape[0], -1, -1) for part in self.queries.chunk(2, dim=1))
        reference = self.reference_points(positions).to(self.queries.dtype).sigmoid()
        for layer, locate in zip(self.decoder, self.locate, strict=True):
            x = layer(x, positions, reference, scene)
            known = inverse_sigmoid(reference)
            known = F.pad(known, (0, 1)) if known.shape[2] == 1 else known
            segments = (locate(x).to(self.queries.dtype) + known).sigmoid()
            yield x, segments
            if self.config.refine:
                reference = segments.detach()

    def actionness(self, scene: Scene, segments: Tensor) -> Tensor:
        """How well segments (B, Q, 2) fit an action, (B, Q), by the features in and a little around them."""
        if self.judge is None:
            return segments[..., 0] * 0 + 1
        pooled = roi_align(scene.memory.transpose(1, 2), self.regions(scene, segments), self.config.bins)
        return cast("Tensor", self.judge(pooled.flatten(2)))[..., 0].sigmoid()

    def regions(self, scene: Scene, segments: Tensor) -> Tensor:
        """Segments (B, Q, 2) with what is around them, as spans of the memory's steps, cut where it ends."""
        centre, width = segments.unbind(dim=-1)
        around = to_ends(torch.stack([centre, width * self.config.roi_scale], dim=-1)) * scene.steps
        return torch.minimum(around.clamp(min=0), scene.steps)

    def decode(self, outputs: TadTROutputs) -> Candidates:
        """A candidate per query of the last layer."""
        spans = to_ends(outputs.segments[-1]) * outputs.steps[:, None, None] - 0.5
        there = (~outputs.empty).to(spans.dtype)[:, None, None]
        scores = outputs.logits[-1].sigmoid() * outputs.actionness[..., None] * there
        return Candidates(spans, scores, (scores[0, :, 0] * 0).long())

    def _per_layer(self, make: Callable[[int], nn.Module]) -> nn.ModuleList:
        """A head for every layer of the decoder, or one that all share."""
        count = self.config.decoder_layers
        return nn.ModuleList([make(at) for at in range(count)] if self.config.refine else [make(0)] * count)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def _projection(config: TadTRConfig) -> nn.Sequential:
    conv = nn.Conv1d(config.input_channels[0], config.channels, 1)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(config.norm_groups, config.channels))


def _classifier(config: TadTRConfig) -> nn.Linear:
    """At first every class is as rare as actions are."""
    layer = nn.Linear(config.channels, config.num_classes)
    nn.init.constant_(layer.bias, math.log(config.prior_probability / (1 - config.prior_probability)))
    return layer


def _locator(channels: int, at: int) -> Mlp:
    """At first every query proposes a short segment where it stands, and later layers leave it as it is."""
    made = Mlp(channels, channels, 2, layers=3)
    last = cast("nn.Linear", made.layers[-1])
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, -2.0 if at == 0 else 0.0]))
    return made
