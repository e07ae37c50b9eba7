"""TSN as MMAction2, torchvision and tsn-pytorch write its networks down: weight names against ours.

None of their configurations is one that we could read as it is, so the configuration is one of `TsnConfig`'s fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.backbones.tsn import Architecture, Tsn, TsnConfig
from service.errors import InvalidOptions

ACCEPTED = tuple(field.name for field in fields(TsnConfig))

# Our names, rewritten rule by rule; the first that matches wins.
Rules = tuple[tuple[str, str], ...]
MMACTION: Rules = (
    (r"classifier\.(\w+)", r"cls_head.fc_cls.\1"),
    (r"trunk\.(.+)\.shortcut\.conv\.(\w+)", r"backbone.\1.downsample.conv.\2"),
    (r"trunk\.(.+)\.shortcut\.norm\.(\w+)", r"backbone.\1.downsample.bn.\2"),
    (r"trunk\.(.+)\.conv\.(\w+)", r"backbone.\1.conv.\2"),
    (r"trunk\.(.+)\.norm\.(\w+)", r"backbone.\1.bn.\2"),
)
TORCHVISION: Rules = (
    (r"classifier\.(\w+)", r"fc.\1"),
    (r"trunk\.(.+)\.shortcut\.conv\.(\w+)", r"\1.downsample.0.\2"),
    (r"trunk\.(.+)\.shortcut\.norm\.(\w+)", r"\1.downsample.1.\2"),
    (r"trunk\.(.*)conv(\d)\.conv\.(\w+)", r"\1conv\2.\3"),
    (r"trunk\.(.*)conv(\d)\.norm\.(\w+)", r"\1bn\2.\3"),
)
BRANCHES = {
    r"point": "1x1",
    r"first\.0": "3x3_reduce",
    r"first\.1": "3x3",
    r"second\.0": "double_3x3_reduce",
    r"second\.1": "double_3x3_1",
    r"second\.2": "double_3x3_2",
    r"pooled\.1": "pool_proj",
}
TSN_PYTORCH: Rules = (
    (r"classifier\.(\w+)", r"new_fc.\1"),
    *((rf"trunk\.(\w+)\.{ours}\.conv\.(\w+)", rf"base_model.\1_{theirs}.\2") for ours, theirs in BRANCHES.items()),
    *((rf"trunk\.(\w+)\.{ours}\.norm\.(\w+)", rf"base_model.\1_{theirs}_bn.\2") for ours, theirs in BRANCHES.items()),
    (r"trunk\.(\w+)\.conv\.(\w+)", r"base_model.\1.\2"),
    (r"trunk\.(\w+)\.norm\.(\w+)", r"base_model.\1_bn.\2"),
)


def _layout(architecture: Architecture, rules: Rules) -> Layout:
    def build(config: Mapping[str, Any], _state: State) -> Tsn:
        refuse_unknown(config, ACCEPTED, "config")
        if config.get("architecture", architecture) != architecture:
            given = config["architecture"]
            raise InvalidOptions(f"TSN: architecture is {given!r}; the accepted one of this layout is {architecture}")
        return Tsn(TsnConfig(**{"architecture": architecture, **config}))

    return Layout(build, renamed(rules))


LAYOUTS: dict[str, Layout] = {
    "mmaction": _layout("resnet50", MMACTION),
    "torchvision": _layout("resnet50", TORCHVISION),
    "tsn-pytorch": _layout("bn_inception", TSN_PYTORCH),
}
