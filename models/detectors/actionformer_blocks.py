"""What ActionFormer is built of, and ASL and AMNet with it: masked convolutions, norms, local and global attention.

After Zhang et al., ECCV 2022. Shapes: x (B, C, T), mask (B, 1, T), 1 for real and 0 for padded points.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what every torch user calls it)

from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import steps_of

SMALLEST_CHUNK = 8


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


def block_of(config: ActionFormerConfig, window: int, stride: int) -> nn.Module:
    """The kind of block that the configuration names."""
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
