"""ActionFormer (Zhang, Wu, Li: "ActionFormer: Localizing Moments of Actions with Transformers", ECCV 2022).

A pyramid of transformer blocks over snippet features, each of which sees a local window; at every point of every
level, shared heads give class scores and the distances to the action's start and end. Shapes: features (B, C, T), mask
(B, T); level l has T / scale_factor^l points. Coordinates are grid positions throughout.

Differences from the published code, none of which changes a number at a real snippet of a given window: attention is
computed in chunks of any length, so T need only be a multiple of the coarsest stride; padded keys get the least finite
score rather than minus infinity, so that a window without any snippet gives zeros, not NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what every torch user calls it)

from models.detectors.actionformer_blocks import ChannelNorm, ConvNormRelu, MaskedConv, PositionEncoding, block_of
from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Candidates, Detector, steps_of


class PointAnswers(Protocol):
    """What decoding and the loss need of a network's outputs; see ActionFormerOutputs."""

    @property
    def logits(self) -> tuple[Tensor, ...]: ...

    @property
    def offsets(self) -> tuple[Tensor, ...]: ...

    @property
    def masks(self) -> tuple[Tensor, ...]: ...


class ActionFormerOutputs(NamedTuple):
    """Per level: class logits (B, T_l, K), distances to start and end (B, T_l, 2) in strides, mask (B, T_l)."""

    logits: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


class Pyramid(nn.Module):
    """Feature pyramid: coarse levels are added to finer ones on the way down."""

    def __init__(self, config: ActionFormerConfig) -> None:
        super().__init__()
        inputs, outputs, levels = config.channels, config.neck_channels, len(config.strides)
        groups, bias = outputs if config.pyramid_depthwise else 1, not config.neck_norm
        self.lateral_convs = nn.ModuleList(MaskedConv(inputs, outputs, 1, bias=bias) for _ in range(levels))
        self.fpn_convs = nn.ModuleList(MaskedConv(outputs, outputs, 3, groups=groups, bias=bias) for _ in range(levels))
        self.scale_factor = config.scale_factor

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        found = [conv(x, mask) for conv, x, mask in zip(self.lateral_convs, levels, masks, strict=True)]
        for index in range(len(found) - 1, 0, -1):
            found[index - 1] = found[index - 1] + _repeat_steps(found[index], self.scale_factor)
        return [conv(x, mask) for conv, x, mask in zip(self.fpn_convs, found, masks, strict=True)]


class Head(nn.Module):
    """Convolutions that all levels share, and the last one, which answers."""

    def __init__(self, config: ActionFormerConfig, outputs: int) -> None:
        super().__init__()
        kernel, width = config.head_kernel, config.head_channels
        self.tower = nn.ModuleList(
            ConvNormRelu(
                config.neck_channels if index == 0 else width,
                width,
                kernel,
                norm=config.head_norm,
                eps=config.norm_eps,
                mask_again=config.mask_after_norm,
            )
            for index in range(config.head_layers - 1)
        )
        self.answer = MaskedConv(width if config.head_layers > 1 else config.neck_channels, outputs, kernel)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) → (B, T, outputs)."""
        for layer in self.tower:
            x = layer(x, mask)
        return cast("Tensor", self.answer(x, mask)).transpose(1, 2)


class ActionFormer(Detector):
    config: ActionFormerConfig

    def __init__(self, config: ActionFormerConfig) -> None:
        super().__init__()
        self.config = config
        kinds = zip(config.input_channels, config.projected_channels, strict=False)
        self.proj = nn.ModuleList(MaskedConv(inputs, outputs, 1) for inputs, outputs in kinds)
        self.input_dropout = nn.Dropout1d(config.input_dropout)
        first = sum(config.projected_channels) or config.input_channels[0]
        self.embed = nn.ModuleList(
            ConvNormRelu(
                first if index == 0 else config.channels,
                config.channels,
                config.embed_kernel,
                norm=config.embed_norm,
                eps=config.norm_eps,
                mask_again=config.mask_after_norm,
            )
            for index in range(config.embed_layers)
        )
        self.positions = PositionEncoding(config.channels, config.train_length) if config.position_encoding else None
        self.stem, self.branch = nn.ModuleList(self.stem_blocks()), nn.ModuleList(self.level_blocks())
        self.pyramid = Pyramid(config) if config.neck == "pyramid" else None
        norms = (
            ChannelNorm(config.neck_channels, config.norm_eps) if config.neck_norm else nn.Identity()
            for _ in config.strides
        )
        self.neck_norms = nn.ModuleList(norms)
        self.classify, self.regress = Head(config, config.num_classes), Head(config, 2)
        self.offset_scales = nn.ParameterList(torch.ones(()) for _ in config.strides)
        self._start_from_priors()

    def stem_blocks(self) -> Iterator[nn.Module]:
        """At full resolution, before the pyramid."""
        return (block_of(self.config, self.config.windows[0], 1) for _ in range(self.config.stem_blocks))

    def level_blocks(self) -> Iterator[nn.Module]:
        """Of the levels that have one."""
        return (block_of(self.config, window, self.config.scale_factor) for window in self.config.windows[1:])

    def forward(self, features: Tensor, mask: Tensor) -> PointAnswers:
        """Features (B, C, T) and mask (B, T) bool, T a multiple of the coarsest stride."""
        masks = self.level_masks(features, mask)
        return self.answers(self.backbone(features, masks), masks)

    def answers(self, levels: list[Tensor], masks: list[Tensor]) -> ActionFormerOutputs:
        """What neck and heads make of the feature maps of all levels."""
        levels = self.neck(levels, masks)
        masks = masks[self.config.first_level :]
        return ActionFormerOutputs(
            tuple(self.classify(x, level_mask) for x, level_mask in zip(levels, masks, strict=True)),
            tuple(
                F.relu(self.regress(x, level_mask) * scale)
                for x, level_mask, scale in zip(levels, masks, self.offset_scales, strict=True)
            ),
            tuple(level_mask[:, 0] > 0 for level_mask in masks),
        )

    def embedding(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features (B, C, T) and mask (B, 1, T) as the stem takes them."""
        x = features * mask  # whatever stands in padded places must not matter
        if len(self.proj):
            parts = torch.split(x, list(self.config.input_channels), dim=1)
            x = torch.cat([proj(part, mask) for proj, part in zip(self.proj, parts, strict=True)], dim=1)
        x = cast("Tensor", self.input_dropout(x))
        for layer in self.embed:
            x = layer(x, mask)
        return x if self.positions is None else x + self.positions(mask) * mask

    def backbone(self, features: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """One feature map per level, the finest first."""
        return self.levels(self.embedding(features, masks[0]), masks)

    def levels(self, x: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """The same, from embedded features on."""
        for block in self.stem:
            x = block(x, masks[0])
        levels = [x]
        for block, level_mask in zip(self.branch, masks[1:], strict=True):
            levels.append(block(levels[-1], level_mask))
        return levels

    def neck(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """Of the levels that have heads."""
        first = self.config.first_level
        levels = levels[first:]
        if self.pyramid is not None:
            levels = self.pyramid(levels, masks[first:])
        return [norm(x) for norm, x in zip(self.neck_norms, levels, strict=True)]

    def decode(self, outputs: PointAnswers) -> Candidates:
        """A candidate per point and level; a point that stands beside the video scores 0."""
        spans, groups = [], []
        for level, (offsets, mask, stride) in enumerate(
            zip(outputs.offsets, outputs.masks, self.config.strides, strict=True)
        ):
            points = steps_of(mask[0]) * stride
            spans.append(torch.stack([points - offsets[..., 0] * stride, points + offsets[..., 1] * stride], dim=-1))
            groups.append((points * 0).long() + level)
        scores = torch.cat(outputs.logits, dim=1).sigmoid() * torch.cat(outputs.masks, dim=1)[..., None]
        return Candidates(torch.cat(spans, dim=1), scores, torch.cat(groups))

    def level_masks(self, features: Tensor, mask: Tensor) -> list[Tensor]:
        """Per level (B, 1, T_l), 1 for real and 0 for padded points."""
        finest = mask[:, None].to(features.dtype)
        return [finest[..., :: self.config.scale_factor**level] for level in range(len(self.config.windows))]

    def _start_from_priors(self) -> None:
        """At first every class is as rare as actions are; a class without examples stays all but impossible."""
        bias = self.classify.answer.conv.bias
        if bias is None or self.config.prior_probability <= 0:
            return
        nn.init.constant_(bias, _logit(self.config.prior_probability))
        with torch.no_grad():
            bias[list(self.config.empty_classes)] = _logit(1e-6)


def _repeat_steps(x: Tensor, times: int) -> Tensor:
    """(B, C, T) → (B, C, T · times), every step repeated."""
    return x.unsqueeze(3).expand(-1, -1, -1, times).flatten(2)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
