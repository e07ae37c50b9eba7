"""AMNet (Kang, Lee, Jin, Lee: "Action-aware Masking Network with Group-based Attention for Temporal Action
Localization", WACV 2023) on top of ActionFormer's embedding, pyramid and heads.

An encoder tells action from background step by step and makes of it a mask that refines the features; then the steps
are seen by two groups, a short one and a long one, that attend to themselves and to each other.

No code was published, and neither formulas nor sizes of the two modules were to be found. That there is a positive and
a negative component, that the mask refines features, that a short and a long group use self- and cross-attention, the
widths, layers and heads are the paper's. All else in this file is a reconstruction: the layers inside both modules,
what the groups are, where they stand, and ActionFormer as the detector around them.

Shapes: features (B, C, T), masks (B, 1, T), 1 for real and 0 for padded steps. Padded steps are read by nothing here.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.detectors.actionformer import ActionFormer, ActionFormerOutputs
from models.detectors.actionformer_blocks import (
    ChannelNorm,
    ConvNormRelu,
    MaskedConv,
    attend_everywhere,
    feed_forward,
    pointwise,
    residual_path,
)
from models.detectors.amnet_config import AmnetConfig, MaskForm
from models.detectors.detector import Candidates, Detector


class AmnetOutputs(NamedTuple):
    """What ActionFormer gives; mask logits (B, 2, T), action then background, None without a mask; the embedded
    features (B, C, T) that the mask was made of; and which steps (B, T) are real."""

    detection: ActionFormerOutputs
    mask_logits: Tensor | None
    embedded: Tensor
    real: Tensor


def components_of(logits: Tensor, form: MaskForm) -> Tensor:
    """How far each step is of action and how far of background: (B, 2, T) in (0, 1)."""
    return logits.softmax(dim=1) if form == "softmax" else logits.sigmoid()


class MaskingEncoder(nn.Module):
    """Features in; features refined by the mask, and the logits of its positive and negative component, out.

    A step's mask M is one number, so a layer norm over channels would undo a mere product with it, E + M E as well.
    `projected`: LN(E + W(M E)), where W turns masked features, so that M decides on the direction of the sum.
    `scaled`: E (1 + M) without a norm; the mask lives in how large a step is beside its neighbours.
    """

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.form = config.mask_form
        for name in ("positive", "negative"):
            self.add_module(name, ConvNormRelu(channels, channels, 3, norm=True, eps=config.norm_eps, mask_again=True))
            self.add_module(f"{name}_answer", MaskedConv(channels, 1, 1))
        projected = config.refinement == "projected"
        self.project = MaskedConv(channels, channels, 1) if projected else None
        self.norm = ChannelNorm(channels) if projected else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x * mask
        logits = torch.cat([self._answer("positive", x, mask), self._answer("negative", x, mask)], dim=1)
        masked = x * components_of(logits, self.form)[:, :1]
        if self.project is None or self.norm is None:
            return x + masked, logits
        return self.norm(x + self.project(masked, mask)) * mask, logits

    def _answer(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.get_submodule(name)(x, mask)
        return cast("Tensor", self.get_submodule(f"{name}_answer")(hidden, mask))


class GroupAttention(nn.Module):
    """Multi-head attention of the steps of one group over the real steps of another, or over their own."""

    def __init__(self, config: AmnetConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.group_heads
        self.query, self.key = pointwise(channels, channels), pointwise(channels, channels)
        self.value, self.proj = pointwise(channels, channels), pointwise(channels, channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor, seen_mask: Tensor) -> Tensor:
        query, key, value = (self._heads_of(part) for part in (self.query(x), self.key(seen), self.value(seen)))
        found = attend_everywhere(query / math.sqrt(query.shape[3]), key, value, seen_mask)
        return cast("Tensor", self.dropout(self.proj(found.transpose(2, 3).flatten(1, 2)))) * mask

    def _heads_of(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.heads, x.shape[1] // self.heads)).transpose(2, 3)


class GroupBlock(nn.Module):
    """One group's share of a layer: it looks at itself, then at the other group, each normalised before."""

    def __init__(self, config: AmnetConfig, channels: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.other_norm, self.mlp_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.self_attn, self.cross_attn = GroupAttention(config, channels), GroupAttention(config, channels)
        self.mlp = feed_forward(config, channels)
        self.self_path, self.cross_path, self.mlp_path = (residual_path(config, channels) for _ in range(3))

    def look_inside(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.self_norm(x)
        return x + cast("Tensor", self.self_path(self.self_attn(normed, mask, normed, mask)))

    def exchange(self, x: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
        found = self.cross_attn(self.cross_norm(x), mask, self.other_norm(other), other_mask)
        x = x + cast("Tensor", self.cross_path(found))
        return x + cast("Tensor", self.mlp_path(self.mlp(self.mlp_norm(x)) * mask))


class GroupLayer(nn.Module):
    """Both groups look at themselves, then each at what the other was before it looked back."""

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__()
        self.short, self.long = (GroupBlock(config, config.group_channels) for _ in range(2))

    def forward(self, short: Tensor, short_mask: Tensor, long: Tensor, long_mask: Tensor) -> tuple[Tensor, Tensor]:
        short, long = self.short.look_inside(short, short_mask), self.long.look_inside(long, long_mask)
        return (
            self.short.exchange(short, short_mask, long, long_mask),
            self.long.exchange(long, long_mask, short, short_mask),
        )


class Groups(nn.Module):
    """The layers that every kind of group goes through."""

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GroupLayer(config) for _ in range(config.group_layers))

    def attend(self, short: Tensor, short_mask: Tensor, long: Tensor, long_mask: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            short, long = layer(short, short_mask, long, long_mask)
        return short, long


class TemporalGroups(Groups):
    """Short: every step; long: one token per `long_stride` steps, which saw the steps around it."""

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__(config)
        width, self.stride = config.group_channels, config.long_stride
        self.to_short = MaskedConv(config.channels, width, 1)
        self.to_long = MaskedConv(config.channels, width, self.stride + 1, stride=self.stride)
        self.fuse = MaskedConv(2 * width, config.channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, long_mask = x * mask, mask[..., :: self.stride]
        short, long = self.attend(self.to_short(x, mask), mask, self.to_long(x, long_mask), long_mask)
        spread = spread_tokens(long, long_mask, self.stride)
        return x + cast("Tensor", self.fuse(torch.cat([short, spread], dim=1), mask))


class ChannelGroups(Groups):
    """Short: the first half of the channels; long: the second half."""

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__(config)
        self.fuse = MaskedConv(config.channels, config.channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x * mask
        short, long = x.chunk(2, dim=1)
        return x + cast("Tensor", self.fuse(torch.cat(self.attend(short, mask, long, mask), dim=1), mask))


class LevelGroups(Groups):
    """Short: the points of the finer half of the levels, one after another; long: those of the coarser half."""

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__(config)
        self.fine = (len(config.windows) + 1) // 2
        self.fuse = MaskedConv(config.channels, config.channels, 1)

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        levels = [x * mask for x, mask in zip(levels, masks, strict=True)]
        joined = []
        for part in (slice(None, self.fine), slice(self.fine, None)):
            joined += [torch.cat(levels[part], dim=2), torch.cat(masks[part], dim=2)]
        short, long = self.attend(*joined)
        attended = [*_apart(short, levels[: self.fine]), *_apart(long, levels[self.fine :])]
        return [x + self.fuse(found, mask) for x, found, mask in zip(levels, attended, masks, strict=True)]


class Amnet(Detector):
    """`base` embeds features, makes levels of them and answers; mask and groups stand between."""

    config: AmnetConfig

    def __init__(self, config: AmnetConfig) -> None:
        super().__init__()
        self.config = config
        self.base = ActionFormer(config)
        self.masking = MaskingEncoder(config) if config.mask == "learned" else None
        steps = {"temporal": TemporalGroups, "channel": ChannelGroups}
        self.step_groups = steps[config.groups](config) if config.groups in steps else None
        self.level_groups = LevelGroups(config) if config.groups == "pyramid" else None

    def forward(self, features: Tensor, mask: Tensor) -> AmnetOutputs:
        """Features (B, C, T) and mask (B, T) bool; T as `config.lengths` says."""
        masks = self.base.level_masks(features, mask)
        x = embedded = self.base.embedding(features, masks[0])
        mask_logits = None
        if self.masking is not None:
            x, mask_logits = self.masking(x, masks[0])
        if self.step_groups is not None:
            x = self.step_groups(x, masks[0])
        levels = self.base.levels(x, masks)
        if self.level_groups is not None:
            levels = self.level_groups(levels, masks)
        return AmnetOutputs(self.base.answers(levels, masks), mask_logits, embedded, mask)

    def decode(self, outputs: AmnetOutputs) -> Candidates:
        return self.base.decode(outputs.detection)


def spread_tokens(x: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Tokens (B, C, N) that stand `stride` steps apart, the first at step 0 → (B, C, N · stride), linearly between
    them. Beyond the last real token its value is held, so that no padded one is read."""
    following = torch.cat([x[..., 1:], x[..., -1:]], dim=2)
    share = torch.cat([mask[..., 1:], mask[..., -1:] * 0], dim=2) / stride
    between = [x + (following - x) * (share * step) for step in range(stride)]
    return torch.stack(between, dim=3).flatten(2)


def _apart(joined: Tensor, like: list[Tensor]) -> list[Tensor]:
    """What `torch.cat` along the last axis made of tensors as long as these."""
    parts, start = [], 0
    for x in like:
        end = start + x.shape[2]
        parts.append(joined[..., start:end])
        start = end
    return parts
