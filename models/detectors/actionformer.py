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

from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Candidates, Detector

SMALLEST_CHUNK = 8


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


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, T)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), self.weight.shape, self.weight, self.bias, self.eps).transpose(1, 2)


class MaskedConv(nn.Module):
    """A convolution of odd kernel whose result is 0 at padded places; the mask is that of the result."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast("Tensor", self.conv(x)) * mask


class ConvNormRelu(nn.Module):
    """Convolution, layer norm, ReLU. After the norm a padded place holds its bias, unless it is masked once more."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, norm: bool, eps: float, mask_again: bool) -> None:
        super().__init__()
        self.conv = MaskedConv(inputs, outputs, kernel, bias=not norm)
        self.norm: nn.Module = ChannelNorm(outputs, eps) if norm else nn.Identity()
        self.mask_again = mask_again

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x, mask)))
        return x * mask if self.mask_again else x


class ResidualScale(nn.Module):
    """Learnable scale per channel, then stochastic depth: in training a sample loses the whole branch at times."""

    def __init__(self, channels: int, drop_probability: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1), 1e-4))
        self.drop_probability = drop_probability

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * x
        if not self.training or self.drop_probability == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.drop_probability
        return x * kept / (1 - self.drop_probability)


def attend_everywhere(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Queries, keys, values (B, H, T, D), mask (B, 1, T) → (B, H, T, D)."""
    scores = query @ key.transpose(2, 3)
    return scores.masked_fill(mask[:, :, None] == 0, torch.finfo(scores.dtype).min).softmax(dim=-1) @ value


def chunk_distances(reach: int) -> Tensor:
    """How far each key that a chunk meets is from each of the chunk's queries: (size, 3 size)."""
    size = max(reach, SMALLEST_CHUNK)
    return torch.arange(3 * size) - size - torch.arange(size)[:, None]


def attend_nearby(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    reach: int,
    distances: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The same, but a query sees the keys at most `reach` steps away; bias (H, 2 reach + 1) is by distance.

    Queries are cut into chunks, each of which meets the keys of its own and of both neighbouring chunks, so cost and
    memory grow with T, not with its square.
    """
    batch, heads, steps, width = query.shape
    size = len(distances)
    chunks = (steps + size - 1) // size
    tail = chunks * size - steps

    def with_neighbours(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, size, size + tail)).reshape(batch, x.shape[1], chunks + 2, size, x.shape[3])
        return torch.cat([padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:]], dim=3)

    queries = F.pad(query, (0, 0, 0, tail)).reshape(batch, heads, chunks, size, width)
    scores = queries @ with_neighbours(key).transpose(3, 4)
    if bias is not None:
        scores = scores + bias[:, (distances + reach).clamp(0, 2 * reach)][:, None]
    seen = (with_neighbours(mask[..., None]).transpose(3, 4) > 0) & (distances.abs() <= reach)
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(dim=-1)
    found = (weights @ with_neighbours(value)).reshape(batch, heads, chunks * size, width)
    return found[:, :, :steps]


class ConvAttention(nn.Module):
    """Multi-head attention whose queries, keys and values come from depthwise convolutions, which also downsample."""

    distances: Tensor

    def __init__(self, config: ActionFormerConfig, window: int, stride: int) -> None:
        super().__init__()
        channels, kernel = config.channels, stride + 1 if stride > 1 else 3
        for name in ("query", "key", "value"):
            conv = MaskedConv(channels, channels, kernel, stride=stride, groups=channels, bias=False)
            self.add_module(f"{name}_conv", conv)
            self.add_module(f"{name}_norm", ChannelNorm(channels))
            self.add_module(name, pointwise(channels, channels))
        self.proj = pointwise(channels, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.heads, self.reach = config.heads, window // 2 if window > 1 else None
        if self.reach is not None:
            self.register_buffer("distances", chunk_distances(self.reach), persistent=False)
        self.bias = None
        if config.relative_positions and self.reach is not None:
            self.bias = nn.Parameter(torch.empty(config.heads, window))
            nn.init.trunc_normal_(self.bias, std=math.sqrt(2 / channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._heads_of(name, x, mask) for name in ("query", "key", "value"))
        query = query / math.sqrt(query.shape[3])
        if self.reach is None:
            found = attend_everywhere(query, key, value, mask)
        else:
            found = attend_nearby(query, key, value, mask, self.reach, self.distances, self.bias)
        joined = found.transpose(2, 3).flatten(1, 2)
        return cast("Tensor", self.dropout(self.proj(joined))) * mask

    def _heads_of(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        x = self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(x, mask))
        x = self.get_submodule(name)(x)
        return torch.unflatten(x, 1, (self.heads, x.shape[1] // self.heads)).transpose(2, 3)


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each normalised before and added to what comes in; pools where it strides."""

    def __init__(self, config: ActionFormerConfig, window: int, stride: int) -> None:
        super().__init__()
        channels, self.stride = config.channels, stride
        self.ln1, self.ln2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attn = ConvAttention(config, window, stride)
        self.mlp = feed_forward(config, channels)
        self.attn_path, self.mlp_path = residual_path(config, channels), residual_path(config, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = x if self.stride == 1 else F.max_pool1d(x, self.stride + 1, self.stride, (self.stride + 1) // 2)
        x = kept * mask + self.attn_path(self.attend(self.ln1(x), mask))
        return x + cast("Tensor", self.mlp_path(self.mlp(self.ln2(x)) * mask))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        return cast("Tensor", self.attn(x, mask))


class ConvolutionBlock(nn.Module):
    """The ablation without attention: a residual block of two convolutions."""

    def __init__(self, config: ActionFormerConfig, stride: int) -> None:
        super().__init__()
        channels = config.channels
        self.conv1 = MaskedConv(channels, 2 * channels, 3, stride=stride)
        self.conv2 = MaskedConv(2 * channels, channels, 3)
        self.downsample = MaskedConv(channels, channels, 1, stride=stride) if stride > 1 else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x, mask)
        return F.relu(self.conv2(F.relu(self.conv1(x, mask)), mask) + kept)


class PositionEncoding(nn.Module):
    """Sines and cosines of the position (C, L); a window longer than the training's stretches them to its length."""

    table: Tensor

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        rate = torch.pow(10000.0, -2 * (torch.arange(channels, dtype=torch.float64) // 2) / channels)
        angle = rate[:, None] * torch.arange(length, dtype=torch.float64)
        table = torch.where((torch.arange(channels) % 2 == 0)[:, None], angle.sin(), angle.cos())
        self.register_buffer("table", (table / math.sqrt(channels)).float(), persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """(1, C, T) for a mask (B, 1, T); without a branch on T, so that one graph serves every length."""
        length = self.table.shape[1]
        count = steps_of(mask[0, 0]) + 1
        place = ((count - 0.5) * (length / count[-1:].clamp(min=length)) - 0.5).clamp(0, length - 1)
        low = place.floor()
        high = (low + 1).clamp(max=length - 1)
        share = place - low
        return (self.table[:, low.long()] * (1 - share) + self.table[:, high.long()] * share)[None]


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
        return (_block(self.config, self.config.windows[0], 1) for _ in range(self.config.stem_blocks))

    def level_blocks(self) -> Iterator[nn.Module]:
        """Of the levels that have one."""
        return (_block(self.config, window, self.config.scale_factor) for window in self.config.windows[1:])

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


def _block(config: ActionFormerConfig, window: int, stride: int) -> nn.Module:
    if config.blocks == "convolution":
        return ConvolutionBlock(config, stride)
    return TransformerBlock(config, window, stride)


def feed_forward(config: ActionFormerConfig, channels: int) -> nn.Sequential:
    """The two layers that follow attention in a block."""
    return nn.Sequential(
        pointwise(channels, 4 * channels),
        nn.GELU(),
        nn.Dropout(config.dropout),
        pointwise(4 * channels, channels),
        nn.Dropout(config.dropout),
    )


def residual_path(config: ActionFormerConfig, channels: int) -> nn.Module:
    """What a branch goes through before it is added to what came in."""
    return ResidualScale(channels, config.drop_path) if config.residual_scale else nn.Identity()


def pointwise(inputs: int, outputs: int) -> nn.Conv1d:
    conv = nn.Conv1d(inputs, outputs, 1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def steps_of(mask: Tensor) -> Tensor:
    """0, 1, 2 … for a mask (T,), in float32; a trace would tie `arange` to the device that it was made on."""
    return (mask.to(torch.float32) * 0 + 1).cumsum(0) - 1


def _repeat_steps(x: Tensor, times: int) -> Tensor:
    """(B, C, T) → (B, C, T · times), every step repeated."""
    return x.unsqueeze(3).expand(-1, -1, -1, times).flatten(2)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
