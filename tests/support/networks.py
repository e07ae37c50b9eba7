"""Every network of the catalogue, small, with weights that let each part matter; its variants stand beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from models.backbones import i3d, tsn
from models.backbones.backbone import Backbone
from models.catalog import BACKBONES, DETECTORS
from models.detectors import actionformer_config, actionformer_loss
from models.detectors.detector import Detector, Targets

SMALL_BACKBONES: dict[str, dict[str, Any]] = {
    "i3d": {
        "rgb": replace(i3d.compact("rgb", 5, width=0.0625), size_px=32, clip_frames=8),
        "flow": replace(i3d.compact("flow", 5, width=0.0625), size_px=32, clip_frames=12),
    },
    "tsn": {
        "resnet50": replace(tsn.compact("rgb", 5, width=0.125), size_px=32, segments=2),
        "bn-inception flow": replace(tsn.bn_inception("flow", 5), size_px=64, width=0.125),
    },
}
LOCAL = actionformer_config.ActionFormerConfig(
    (6,), 3, channels=8, neck_channels=8, head_channels=8, heads=2, windows=(5, 5), train_length=64
)
SMALL_DETECTORS: dict[str, dict[str, Any]] = {
    "actionformer": {
        "local": LOCAL,
        "fixed length": replace(LOCAL, num_classes=1, windows=(5, 0), train_length=16, position_encoding=True),
        "pyramid, positions, several features": replace(
            LOCAL,
            input_channels=(4, 2),
            projected_channels=(5, 3),
            neck="pyramid",
            neck_channels=4,
            position_encoding=True,
            train_length=16,
        ),
    }
}
LOSSES: dict[str, Any] = {"actionformer": actionformer_loss.ActionFormerLossConfig(actionformer_loss.ranges_of(2))}


def backbone(name: str, variant: str) -> Backbone:
    return scattered(BACKBONES[name].network, SMALL_BACKBONES[name][variant])


def detector(name: str, variant: str) -> Detector:
    return scattered(DETECTORS[name].network, SMALL_DETECTORS[name][variant])


def scattered(network: Any, config: Any) -> Any:
    """At its start a network's residual branches are all but shut, and every class scores the same."""
    torch.manual_seed(1)
    made: nn.Module = network(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made.eval()


def clips(network: Backbone, count: int) -> torch.Tensor:
    form = network.clip_format
    torch.manual_seed(count)
    if form.kind == "flow":
        return 5 * torch.randn(count, form.clip_frames, form.size_px, form.size_px, 2)
    return torch.randint(0, 256, (count, form.clip_frames, form.size_px, form.size_px, 3), dtype=torch.uint8)


def window_length(network: Detector) -> int:
    lengths = network.config.lengths
    return lengths.fixed or 16 * lengths.multiple_of


def annotated(length: int, num_classes: int) -> Targets:
    """A short and a long action, so that fine and coarse levels answer for one."""
    spans = torch.tensor([[1.0, 4.5], [5.0, length - 1.0]])
    return Targets(spans, torch.tensor([0, num_classes - 1]))
