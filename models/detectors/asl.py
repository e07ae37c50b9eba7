"""Action Sensitivity Learning (Shao et al.: "Action Sensitivity Learning for Temporal Action Localization", ICCV 2023).

ActionFormer with two changes: in the blocks at full resolution, attention between channels stands beside attention
between steps; and the pyramid's first level, of stride 1, has a block of its own. What the paper is named for, how much
each step of an action matters, takes part in training alone (`asl_loss.py`); serving sees a plain detector.

Reconstructions: norm and activation of the embedding, which are ActionFormer's; projections around channel attention,
which are those of its attention between steps, and no heads in it, as the formula has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.detectors.actionformer import ActionFormer
from models.detectors.actionformer_blocks import TransformerBlock, pointwise
from models.detectors.asl_config import AslConfig


class AslOutputs(NamedTuple):
    """As ActionFormerOutputs, and the levels' feature maps (B, C, T_l), 0 at padded places, for the loss."""

    logits: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


class ChannelAttention(nn.Module):
    """Every channel is a token, and its values over time what it is known by: (B, C, T) → (B, C, T).

    Sums run over real steps alone and are scaled by their number, so padding changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (pointwise(channels, channels) for _ in range(3))
        self.proj = pointwise(channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (layer(x) * mask for layer in (self.query, self.key, self.value))
        scale = mask.sum(dim=2, keepdim=True).clamp(min=1).rsqrt()
        weights = (query @ key.transpose(1, 2) * scale).softmax(dim=-1)
        return cast("Tensor", self.proj(weights @ value)) * mask


class MixedBlock(TransformerBlock):
    """A block whose attention is between steps for the most part and between channels for `channel_share` of it."""

    def __init__(self, config: AslConfig, window: int) -> None:
        super().__init__(config, window, stride=1)
        self.channel_attn, self.share = ChannelAttention(config.channels), config.channel_share

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        between_channels = cast("Tensor", self.channel_attn(x, mask))
        return (1 - self.share) * super().attend(x, mask) + self.share * between_channels


class UnmaskedChannelAttention(nn.Module):
    """The authors' challenge code: by heads, from keys and values, applied to queries; (B, T, C), padded or not."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.unflatten(self.qkv(x).transpose(1, 2), 1, (3, self.heads, x.shape[2] // self.heads))
        query, key, value = parts.unbind(dim=1)
        weights = (key / math.sqrt(key.shape[2]) @ value.transpose(2, 3)).softmax(dim=-1)
        return cast("Tensor", self.proj((weights @ query).flatten(1, 2).transpose(1, 2)))


class ReleasedBlock(TransformerBlock):
    """The same code's block: a whole one between channels is mixed with a whole one between steps."""

    def __init__(self, config: AslConfig, window: int) -> None:
        super().__init__(config, window, stride=1)
        channels, self.share = config.channels, config.channel_share
        self.channel_attn = UnmaskedChannelAttention(channels, config.heads)
        self.channel_norm = nn.LayerNorm(channels)
        self.channel_mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        between_channels = self.across_channels(self.ln1(x))
        between_steps = super().forward(x, mask)
        return (1 - self.share) * between_steps + self.share * between_channels

    def across_channels(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = x + self.channel_attn(x)
        return cast("Tensor", x + self.channel_mlp(self.channel_norm(x))).transpose(1, 2)


class Asl(ActionFormer):
    config: AslConfig

    def stem_blocks(self) -> Iterator[nn.Module]:
        blocks = {"paper": MixedBlock, "released": ReleasedBlock}
        block = blocks.get(self.config.channel_attention)
        if block is None:
            return super().stem_blocks()
        return (block(self.config, self.config.windows[0]) for _ in range(self.config.stem_blocks))

    def level_blocks(self) -> Iterator[nn.Module]:
        yield TransformerBlock(self.config, self.config.windows[0], stride=1)
        yield from super().level_blocks()

    def forward(self, features: Tensor, mask: Tensor) -> AslOutputs:
        """Features (B, C, T) and mask (B, T) bool, T a multiple of the coarsest stride."""
        masks = self.level_masks(features, mask)
        levels = self.backbone(features, masks)
        answers = self.answers(levels, masks)
        return AslOutputs(answers.logits, answers.offsets, answers.masks, tuple(levels[self.config.first_level :]))

    def levels(self, x: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """One feature map per level from embedded features, the finest first."""
        for block in self.stem:
            x = block(x, masks[0])
        found = []
        for block, level_mask in zip(self.branch, masks, strict=True):
            x = block(x, level_mask)
            found.append(x)
        return found
