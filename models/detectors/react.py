"""ReAct (Shi et al., "ReAct: Temporal Action Detection with Relational Queries", ECCV 2022).

A deformable encoder over snippet features; a decoder whose queries first attend to each other, only along relations
that tell something (alike in features, apart in time), then to the snippets in and around their segment; after every
layer heads say which class, which segment, and how good the segment is. Shapes: features (B, C, T), mask (B, T),
queries (B, Q, C). Segments are (centre, width) in fractions of the snippets that are there.

Differences from the published code: fractions are of the window's real snippets, not of the padded window, so padding
changes nothing (`padded_positions` brings the published numbers of padded windows back); a norm that the published
encoder holds and never applies is left out; a query always relates to itself, also where it has no direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.detectors.deformable import DeformableAttention
from models.detectors.detector import Candidates, Detector, steps_of
from models.detectors.queries import Mlp, inverse_sigmoid, iou, to_ends
from models.detectors.react_config import ReActConfig

UNION_EPS = 1e-6  # what the published code adds to a union, decisive where two segments are all but empty
FIRST_WIDTH = -2.0  # the logit that widths start from


class Window(NamedTuple):
    """What the decoder looks at: memory (B, T, C) and its mask (B, T), and how fractions become places in it.

    `ratio` (B, 1, 1) turns fractions of real snippets into those that segments are compared in, `reach` (B, 1, 1) these
    into fractions of the memory; offsets are in units of `steps` (B, 1) of it.
    """

    memory: Tensor
    mask: Tensor
    ratio: Tensor
    reach: Tensor
    steps: Tensor


class ReActOutputs(NamedTuple):
    """Of every decoder layer, the last one last: class logits (L, B, Q, K), segments (L, B, Q, 2) as (centre, width),
    quality logits (L, B, Q, 2): overlap with an action, and nearness to its centre.

    The rest is for the loss: the features (B, C, T), zero where nothing is, their projection, the window, and the
    decoder itself, to be asked again for given segments (`ReAct.classify_at`).
    """

    logits: Tensor
    segments: Tensor
    quality: Tensor
    features: Tensor
    project: nn.Linear
    window: Window
    classify_at: Callable[[Window, Tensor], Tensor]


def related(query: Tensor, segments: Tensor, overlap_up_to: float, similarity_above: float) -> Tensor:
    """Which queries (B, Q, C) with segments (B, Q, 2) tell each other something new: (B, Q, Q).

    Those that are alike, but not about the same time; whether a query tells itself anything is not asked here.
    """
    ends = to_ends(segments.detach()).clamp(0, 1)
    direction = F.normalize(query.detach(), dim=2)
    apart = iou(ends[:, :, None], ends[:, None], UNION_EPS) <= overlap_up_to
    return apart & (direction @ direction.transpose(1, 2) > similarity_above)


class RelationalAttention(nn.Module):
    """Multi-head attention of queries to related queries, added to what came in; without a projection of the result."""

    itself: Tensor

    def __init__(self, config: ReActConfig) -> None:
        super().__init__()
        for name in ("query", "key", "value"):
            self.add_module(name, nn.Linear(config.channels, config.channels))
        self.config = config
        self.register_buffer("itself", torch.eye(config.queries, dtype=torch.bool), persistent=False)

    def forward(self, query: Tensor, segments: Tensor) -> Tensor:
        """Queries (B, Q, C); of segments (B, Q, 1) only centres are known yet, and every query is related to all."""
        queries, keys, values = (self._heads_of(name, query) for name in ("query", "key", "value"))
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        if self.config.relational and segments.shape[2] == 2:
            seen = related(query, segments, self.config.overlap_up_to, self.config.similarity_above) | self.itself
            scores = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min)
        heard = (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        return query + heard

    def _heads_of(self, name: str, x: Tensor) -> Tensor:
        projected = self.get_submodule(name)(x)
        return torch.unflatten(projected, 2, (self.config.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Every snippet gathers from a few places around it. Only the first of its two sums is normalised."""

    def __init__(self, config: ReActConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.channels, config.heads, config.encoder_points, align_corners=True)
        self.norm = nn.LayerNorm(config.channels)
        self.widen = nn.Linear(config.channels, config.feed_forward)
        self.narrow = nn.Linear(config.feed_forward, config.channels)

    def forward(self, window: Window, places: Tensor) -> Tensor:
        """The memory, refined; places (B, T, 1) of its steps in it."""
        x = window.memory
        x = self.norm(x + self.self_attn(x, places, x, window.mask, window.steps))
        return cast("Tensor", x + self.narrow(F.relu(self.widen(x))))


class DecoderLayer(nn.Module):
    """Queries learn from related queries, and what they have become so asks the snippets inside their segment."""

    def __init__(self, config: ReActConfig) -> None:
        super().__init__()
        self.self_attn = RelationalAttention(config)
        self.cross_attn = DeformableAttention(config.channels, config.heads, config.decoder_points, align_corners=True)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.channels) for _ in range(3))
        self.widen = nn.Linear(config.channels, config.feed_forward)
        self.narrow = nn.Linear(config.feed_forward, config.channels)

    def forward(self, query: Tensor, segments: Tensor, window: Window) -> Tensor:
        """Queries (B, Q, C) with segments (B, Q, 1 or 2) in fractions of the real snippets."""
        segments = segments * window.ratio
        told = self.self_attn(query, segments)
        seen = self.cross_attn(told, segments * window.reach, window.memory, window.mask, window.steps)
        query = self.norm2(self.norm1(query + told) + seen)
        return cast("Tensor", self.norm3(query + self.narrow(F.relu(self.widen(query)))))


class ReAct(Detector):
    config: ReActConfig

    def __init__(self, config: ReActConfig) -> None:
        super().__init__()
        self.config = config
        channels, layers = config.channels, range(config.decoder_layers)
        self.project = nn.Linear(config.input_channels[0], channels)
        self.queries = nn.Embedding(config.queries, 2 * channels)  # what a query is at first, and what places it
        self.first_centre = nn.Linear(channels, 1)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in layers)
        self.last_norm = nn.LayerNorm(channels)
        self.classify = nn.ModuleList(nn.Linear(channels, config.num_classes) for _ in layers)
        self.move = nn.ModuleList(Mlp(channels, channels, 2, 3) for _ in layers)
        self.overlap, self.centredness = nn.Linear(channels, 1), nn.Linear(channels, 1)
        self._start_from_priors()

    def forward(self, features: Tensor, mask: Tensor) -> ReActOutputs:
        features = features * mask[:, None].to(features.dtype)  # whatever stands in padded places must not matter
        window = self.encode(self.project(features.transpose(1, 2)), mask)
        states, segments = self.refine(window)
        return ReActOutputs(
            self._classes(states),
            torch.stack(segments),
            torch.stack([torch.cat([self.overlap(state), self.centredness(state)], dim=2) for state in states]),
            features,
            self.project,
            window,
            self.classify_at,
        )

    def encode(self, projected: Tensor, mask: Tensor) -> Window:
        """Snippets (B, T, C) → the window that the decoder looks at."""
        window = self._window(projected, mask)
        whole = _count(mask | ~mask) if self.config.padded_positions else _count(mask)
        places = (steps_of(mask[0])[None, :, None] + 0.5) / whole * window.reach
        for layer in self.encoder:
            window = window._replace(memory=layer(window, places))
        return window

    def refine(self, window: Window) -> tuple[list[Tensor], list[Tensor]]:
        """Queries (B, Q, C) and their segments (B, Q, 2) after every layer; each begins where the one before ended."""
        query, placing = self._first_queries(window)
        reference = self.first_centre(placing).sigmoid()
        states, segments = [], []
        for index, (layer, move) in enumerate(zip(self.decoder, self.move, strict=True)):
            query = layer(query, reference, window)
            states.append(query if index + 1 < len(self.decoder) else self.last_norm(query))
            segments.append(_moved(reference, move(states[-1])))
            reference = segments[-1].detach()
        return states, segments

    def classify_at(self, window: Window, segments: Tensor) -> Tensor:
        """Class logits (L, B, Q, K) of queries that are held at these segments (B, Q, 2) through all layers."""
        query, _ = self._first_queries(window)
        states = []
        for layer in self.decoder:
            query = layer(query, segments, window)
            states.append(query)
        return self._classes([*states[:-1], self.last_norm(states[-1])])

    def decode(self, outputs: ReActOutputs) -> Candidates:
        """A candidate per query, cut to the real snippets; class, overlap and centre together make its score."""
        mask = outputs.window.mask
        spans = to_ends(outputs.segments[-1]).clamp(0, 1) * _count(mask) - 0.5
        quality = outputs.quality[-1].sigmoid().prod(dim=2, keepdim=True)
        scores = outputs.logits[-1].sigmoid() * quality * mask.any(dim=1)[:, None, None]
        return Candidates(spans, scores, self.queries.weight[:, 0].long() * 0)

    def _window(self, memory: Tensor, mask: Tensor) -> Window:
        real, length = _count(mask), _count(mask | ~mask)
        if self.config.padded_positions:
            return Window(memory, mask, real / length, real / real, real[:, 0])
        # The last real snippet, not the last step, is where fraction 1 samples.
        reach = (real - 1) / (length - 1).clamp(min=1)
        return Window(memory, mask, real / real, reach, real[:, 0] / reach[:, 0].clamp(min=1e-9))

    def _first_queries(self, window: Window) -> tuple[Tensor, Tensor]:
        content, placing = self.queries.weight.expand(window.memory.shape[0], -1, -1).chunk(2, dim=2)
        return content, placing

    def _classes(self, states: list[Tensor]) -> Tensor:
        return torch.stack([classify(state) for classify, state in zip(self.classify, states, strict=True)])

    def _start_from_priors(self) -> None:
        """At first every class is as rare as actions are, segments are short, and no layer moves them."""
        prior = self.config.prior_probability
        for classify in self.classify:
            nn.init.constant_(cast("nn.Linear", classify).bias, math.log(prior / (1 - prior)))
        answers = [cast("nn.Linear", cast("Mlp", move).layers[-1]) for move in self.move]
        for answer in answers:
            nn.init.zeros_(answer.weight)
            nn.init.zeros_(answer.bias)
        with torch.no_grad():
            answers[0].bias[1] = FIRST_WIDTH


def _moved(reference: Tensor, by: Tensor) -> Tensor:
    """A segment (B, Q, 2), moved by logits; or the first one around a centre (B, Q, 1)."""
    start = inverse_sigmoid(reference)
    if reference.shape[2] == 1:
        start = F.pad(start, (0, 1))
    return (start + by).sigmoid()


def _count(mask: Tensor) -> Tensor:
    """How many steps of a mask (B, T) are real, at least 1, as (B, 1, 1)."""
    return mask.sum(dim=1).clamp(min=1).to(torch.float32)[:, None, None]
