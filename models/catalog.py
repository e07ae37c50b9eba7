"""THE list of networks, by name: presets of their configuration, losses to train them, rules to serve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from models.backbones import i3d, tsn
from models.backbones.backbone import Backbone
from models.detectors import actionformer, actionformer_config, actionformer_loss, actionformer_rules
from models.detectors.detector import Detector, Lengths


@dataclass(frozen=True)
class BackboneEntry:
    """`presets`: configurations that need no argument; every field of one can be replaced."""

    network: Callable[[Any], Backbone]
    presets: Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class DetectorEntry:
    """`losses` and `rules` are named as the presets that they belong to."""

    network: Callable[[Any], Detector]
    presets: Mapping[str, Callable[[], Any]]
    loss: Callable[[Any, Any], nn.Module]
    losses: Mapping[str, Callable[[], Any]]
    output_kind: Literal["candidates", "activations"]
    windowing: Callable[[Lengths], dict[str, Any]]
    rules: Mapping[str, Callable[[], dict[str, Any]]]


BACKBONES: Mapping[str, BackboneEntry] = {
    "i3d": BackboneEntry(
        i3d.I3d,
        {
            "rgb": i3d.rgb,
            "flow": i3d.flow,
            "compact-rgb": lambda: i3d.compact("rgb", 400),
            "compact-flow": lambda: i3d.compact("flow", 400),
        },
    ),
    "tsn": BackboneEntry(
        tsn.Tsn,
        {
            "resnet50-rgb": lambda: tsn.resnet50("rgb"),
            "resnet50-flow": lambda: tsn.resnet50("flow"),
            "bn-inception-rgb": lambda: tsn.bn_inception("rgb"),
            "bn-inception-flow": lambda: tsn.bn_inception("flow"),
            "compact-rgb": lambda: tsn.compact("rgb", 400),
            "compact-flow": lambda: tsn.compact("flow", 400),
        },
    ),
}

DETECTORS: Mapping[str, DetectorEntry] = {
    "actionformer": DetectorEntry(
        network=actionformer.ActionFormer,
        presets={
            "thumos": actionformer_config.thumos,
            "activitynet": actionformer_config.activitynet,
            "epic-kitchens": actionformer_config.epic_kitchens,
            "ego4d": actionformer_config.ego4d,
            "compact": lambda: actionformer_config.compact(2048, 20),
        },
        loss=actionformer_loss.ActionFormerLoss,
        losses={
            "thumos": actionformer_loss.thumos,
            "activitynet": actionformer_loss.activitynet,
            "epic-kitchens": actionformer_loss.epic_kitchens,
            "ego4d": actionformer_loss.ego4d,
            "compact": actionformer_loss.compact,
        },
        output_kind="candidates",
        windowing=actionformer_rules.windowing,
        rules={
            "thumos": actionformer_rules.thumos,
            "activitynet": actionformer_rules.activitynet,
            "epic-kitchens": actionformer_rules.epic_kitchens,
            "ego4d": actionformer_rules.ego4d,
            "compact": actionformer_rules.thumos,
        },
    ),
}
