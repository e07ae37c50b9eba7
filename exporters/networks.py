"""One network of a recipe in; the network with its weights, in evaluation mode, out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from exporters import published
from exporters.recipe import NetworkRecipe
from models.backbones.backbone import Backbone
from models.bundle import explain
from models.catalog import BACKBONES, CLASSIFIERS, DETECTORS, BackboneEntry, ClassifierEntry, DetectorEntry
from models.classifiers.video_classifier import VideoClassifier
from models.detectors.detector import Detector
from service.errors import InvalidOptions

AnyEntry = BackboneEntry | DetectorEntry | ClassifierEntry
Entry = TypeVar("Entry", BackboneEntry, DetectorEntry, ClassifierEntry)

SCATTER = 0.05  # how far scales and biases are moved


def backbone(wanted: NetworkRecipe, folder: Path, **known: Any) -> Backbone:
    network = _build(wanted, _entry(wanted, BACKBONES), folder, known)
    assert isinstance(network, Backbone)  # noqa: S101  (the catalogue's type, which published weights go round)
    return network


def detector(wanted: NetworkRecipe, folder: Path, **known: Any) -> Detector:
    network = _build(wanted, _entry(wanted, DETECTORS), folder, known)
    if not isinstance(network, Detector):
        raise InvalidOptions(
            f"{wanted.network}: the weights of layout {wanted.layout!r} make a {type(network).__name__}, which takes "
            f"no snippet features; docs/models/{wanted.network}.md says what they are good for"
        )
    return network


def classifier(wanted: NetworkRecipe, folder: Path, **known: Any) -> VideoClassifier:
    network = _build(wanted, _entry(wanted, CLASSIFIERS), folder, known)
    assert isinstance(network, VideoClassifier)  # noqa: S101  (the catalogue's type; nobody's published weights fit)
    return network


def _entry(wanted: NetworkRecipe, catalogue: Mapping[str, Entry]) -> Entry:
    entry = catalogue.get(wanted.network)
    if entry is None:
        raise InvalidOptions(f"network {wanted.network!r} is not known; accepted are {', '.join(catalogue)}")
    return entry


def _build(wanted: NetworkRecipe, entry: AnyEntry, folder: Path, known: Mapping[str, Any]) -> nn.Module:
    """`known` are options that follow from the rest of the recipe; weights are looked up from `folder`."""
    state = _weights(wanted, folder)
    if wanted.layout is not None and wanted.config is not None and state is not None:
        return published.load(wanted.network, wanted.layout, state, wanted.config)
    torch.manual_seed(wanted.seed)
    with published.told(wanted.network):
        network = entry.network(configure(entry, wanted, known))
    if state is not None:
        return published.fill(network, state, wanted.network)
    return scatter(network, wanted.seed).eval()


def _weights(wanted: NetworkRecipe, folder: Path) -> dict[str, Tensor] | None:
    match wanted.weights:
        case None:
            return None
        case str():
            return published.read(folder / wanted.weights)
    parts = {name: published.read(folder / path) for name, path in wanted.weights.items()}
    return {f"{name}/{weight}": value for name, part in parts.items() for weight, value in part.items()}


def configure(entry: AnyEntry, wanted: NetworkRecipe, known: Mapping[str, Any]) -> Any:
    """The preset's configuration with the recipe's options and what follows from the rest in their places."""
    name = wanted.preset or next(iter(entry.presets))
    if name not in entry.presets:
        raise InvalidOptions(f"{wanted.network} has no preset {name!r}; accepted are {', '.join(entry.presets)}")
    preset = entry.presets[name]()
    unknown = sorted(set(wanted.options) - {field.name for field in fields(preset)})
    if unknown:
        accepted = ", ".join(field.name for field in fields(preset))
        raise InvalidOptions(f"{wanted.network} has no option {', '.join(unknown)}; accepted are {accepted}")
    try:
        text = json.dumps({**asdict(preset), **known, **wanted.options})
        return TypeAdapter(type(preset)).validate_json(text, strict=True)
    except ValidationError as error:
        raise InvalidOptions(f"{wanted.network}: {explain(error, 'options')}") from None


def scatter(network: nn.Module, seed: int) -> nn.Module:
    """A network with random weights of its own instead of those that it starts training with.

    Those would hide a wrong graph: a fresh detector scores everything alike and keeps its residual branches all but
    shut, and in a deep backbone hardly a difference between clips arrives at the end. Kernels are drawn as wide as ReLU
    networks need to pass signals on (He et al., ICCV 2015); those that start at 0 refine something step by step, where
    great steps would make of every rounding another answer, so they stay near it.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=draw)
            is_kernel = weight.dim() > 1 and weight.numel() > max(weight.shape)
            if is_kernel:
                weight.copy_(noise * math.sqrt(2 / weight[0].numel()) * (1 if weight.any() else SCATTER))
            else:
                weight.add_(SCATTER * noise)
    return network
