"""ResNet-50 (He et al., CVPR 2016) without its head: pictures (N, C, H, W) in, maps (N, 2048 · width, …) out.

Maps are H / 32 by W / 32, rounded up. The stride of a block stands on its 3x3 ("v1.5"), as in torchvision and in
MMAction2's PyTorch style.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what every torch user calls it)

from models.backbones.backbone import scaled

BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


class ConvUnit(nn.Module):
    """Convolution and batch norm; whether a ReLU follows is the block's affair."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class Bottleneck(nn.Module):
    """(N, C, H, W) → (N, 4 · channels, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * channels
        self.conv1 = ConvUnit(channels_in, channels, 1)
        self.conv2 = ConvUnit(channels, channels, 3, stride)
        self.conv3 = ConvUnit(channels, channels_out, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = ConvUnit(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(inner) + self.shortcut(x))


class ResNet50(nn.Sequential):
    """Stages by their usual names: `conv1` (with its ReLU and pool around it), `layer1` to `layer4`."""

    def __init__(self, channels_in: int, width: float = 1.0) -> None:
        channels = scaled(64, width)
        super().__init__()
        self.add_module("conv1", ConvUnit(channels_in, channels, 7, 2))
        self.add_module("relu", nn.ReLU())
        self.add_module("pool", nn.MaxPool2d(3, 2, 1))
        for level, blocks in enumerate(BLOCKS):
            inner = scaled(64 * 2**level, width)
            first = Bottleneck(channels, inner, 1 if level == 0 else 2)
            channels = EXPANSION * inner
            rest = (Bottleneck(channels, inner, 1) for _ in range(blocks - 1))
            self.add_module(f"layer{level + 1}", nn.Sequential(first, *rest))
        self.channels_out = channels
