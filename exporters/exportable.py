"""A network in; the module that becomes a graph, with names and sizes of its inputs and outputs, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from models.backbones.backbone import CHANNELS, Backbone
from models.classifiers.video_classifier import VideoClassifier
from models.detectors.detector import OUTPUTS, Detector, OutputKind
from service.runtime.session import TensorSpec

BATCHES = (1, 2, 3)
UNITS = (1, 3, 8, 21)


@dataclass(frozen=True)
class Axis:
    """A size that may change from call to call, a multiple of `multiple_of`; parity asks about those in `tried`."""

    name: str
    tried: tuple[int, ...] = BATCHES
    multiple_of: int = 1

    @property
    def example(self) -> int:
        """What a graph is exported with; not 1, which torch.export takes for a constant."""
        return self.tried[1]


@dataclass(frozen=True)
class Port:
    """An input or output. A size is a number, an `Axis` where it is free, None where it follows from others."""

    name: str
    dtype: str
    sizes: tuple[int | Axis | None, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, tuple(size if isinstance(size, int) else None for size in self.sizes), self.dtype)


@dataclass(frozen=True)
class Exportable:
    """`module` takes one tensor per input and gives a tuple of one per output; it is in evaluation mode."""

    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def axes(self) -> dict[str, Axis]:
        return {size.name: size for port in self.inputs for size in port.sizes if isinstance(size, Axis)}

    def examples(self, lengths: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of one size per free axis; a mask holds real steps first, at least one, then padded ones."""
        draw = torch.Generator().manual_seed(seed)
        found = []
        for port in self.inputs:
            shape = [lengths[size.name] if isinstance(size, Axis) else cast("int", size) for size in port.sizes]
            if port.dtype == "uint8":
                found.append(torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw))
            elif port.dtype == "bool":
                real = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=draw)
                found.append(torch.arange(shape[1]) < real)
            else:
                found.append(torch.randn(shape, generator=draw))
        return tuple(found)


class _BackboneGraph(nn.Module):
    def __init__(self, network: Backbone, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(clips)
        return tuple(getattr(outputs, name) for name in self.names)


class _DetectorGraph(nn.Module):
    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.decode(self.network(features, mask)))


class _ClassifierGraph(nn.Module):
    def __init__(self, network: VideoClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return (self.network.decode(self.network(features, mask), mask),)


def from_backbone(network: Backbone, output: Literal["features", "scores"] = "features") -> Exportable:
    """Frames as they were decoded in; features, or class scores, out."""
    form, count = network.clip_format, Axis("N")
    dtype = "float" if form.kind == "flow" else "uint8"
    clips = Port("clips", dtype, (count, form.clip_frames, form.size_px, form.size_px, CHANNELS[form.kind]))
    width = network.feature_channels if output == "features" else network.config.num_classes
    graph = _BackboneGraph(network, (output,)).eval()
    return Exportable(graph, (clips,), (Port(output, "float", (count, width)),))


def from_detector(network: Detector, kind: OutputKind = "candidates") -> Exportable:
    """Features and mask in, candidates or activations out."""
    config = network.config
    lengths = config.lengths
    unit = lengths.multiple_of
    length = lengths.fixed if lengths.fixed is not None else Axis("T", tuple(unit * n for n in UNITS), unit)
    windows = Axis("B")
    inputs = (
        Port("features", "float", (windows, sum(config.input_channels), length)),
        Port("mask", "bool", (windows, length)),
    )
    sizes: dict[str, tuple[int | Axis | None, ...]] = {
        "spans": (windows, None, 2),
        "scores": (windows, None, config.num_classes),
        "groups": (None,),
        "activations": (windows, length, config.num_classes),
        "video_scores": (windows, config.num_classes),
    }
    outputs = tuple(Port(name, "int64" if name == "groups" else "float", sizes[name]) for name in OUTPUTS[kind])
    return Exportable(_DetectorGraph(network).eval(), inputs, outputs)


def from_classifier(network: VideoClassifier) -> Exportable:
    """Features of whole videos and mask in, scores of every class out."""
    videos, length = Axis("B"), Axis("T", UNITS)
    inputs = (
        Port("features", "float", (videos, network.config.input_channels, length)),
        Port("mask", "bool", (videos, length)),
    )
    outputs = (Port("video_scores", "float", (videos, network.config.num_classes)),)
    return Exportable(_ClassifierGraph(network).eval(), inputs, outputs)
