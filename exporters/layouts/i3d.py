"""I3D as its PyTorch port (piergiaj/pytorch-i3d) writes it down: configuration and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown
from models.backbones.backbone import CHANNELS
from models.backbones.i3d import I3d, I3dConfig
from service.errors import InvalidOptions

READ = ("in_channels", "num_classes", "width", "size_px", "clip_frames")
SIZES = {"T": "clip_frames", "size": "size_px"}  # what recorded numbers call them
# What a set of recorded numbers says about itself; the network does not depend on it.
DESCRIPTIVE = {
    *("system", "variant", "split", "seed", "recipe", "probes", "source", "patches", "tolerance"),
    *("torch", "numpy", "device", "threads", "dtype", "notes"),
}
# Parts of our names, and what they are called there; `trunk` has no counterpart.
PARTS = (
    *(("trunk.", ""), ("classifier", "logits.conv3d"), (".conv.", ".conv3d."), (".norm.", ".bn.")),
    *((".point.", ".b0."), (".first.0.", ".b1a."), (".first.1.", ".b1b.")),
    *((".second.0.", ".b2a."), (".second.1.", ".b2b."), (".pooled.1.", ".b3b.")),
)


def from_official(config: Mapping[str, Any], _state: State) -> I3d:
    config = {SIZES.get(key, key): value for key, value in config.items()}
    refuse_unknown({key: value for key, value in config.items() if key not in DESCRIPTIVE}, READ, "config")
    in_channels = config.get("in_channels", CHANNELS["rgb"])
    kind = next((kind for kind, channels in CHANNELS.items() if channels == in_channels), None)
    if kind is None:
        raise InvalidOptions(f"I3D: in_channels is {in_channels!r}; accepted are 3 (RGB) and 2 (flow)")
    sizes = {name: config[name] for name in READ if name != "in_channels" and name in config}
    return I3d(I3dConfig(kind=kind, **sizes))


def official_name(ours: str) -> str:
    """`trunk.Mixed_3b.first.0.conv.weight` is theirs as `Mixed_3b.b1a.conv3d.weight`."""
    for part, theirs in PARTS:
        ours = ours.replace(part, theirs)
    return ours


LAYOUTS: dict[str, Layout] = {"official": Layout(from_official, official_name)}
