"""The configuration of a CMCS detector and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from models.checks import check_dropout, check_size
from models.detectors.detector import Lengths

Layers = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CmcsConfig:
    """Layers are (channels, kernel) each: those that branches and attention share, those of a branch, of attention.

    `fusion` late: a network for each of `input_channels`. `background`: a class of its own for what is no action, the
    last one, which hard negatives need. `pooling` average gives every snippet the same weight.
    """

    input_channels: tuple[int, ...]
    num_classes: int
    fusion: Literal["early", "late"] = "early"
    branches: int = 4
    shared_layers: Layers = ((32, 1),)
    branch_layers: Layers = ((16, 3),)
    attention_layers: Layers = ((16, 1),)
    pooling: Literal["attention", "average"] = "attention"
    background: bool = True
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if not self.input_channels:
            raise ValueError("input_channels is empty; the channels of each kind of feature are needed")
        for width in self.input_channels:
            check_size("input_channels", width)
        for name in ("num_classes", "branches"):
            check_size(name, getattr(self, name))
        if self.outputs < 2:
            raise ValueError("one class without background leaves nothing to tell apart; background is needed")
        for name in ("shared_layers", "branch_layers", "attention_layers"):
            _check_layers(name, getattr(self, name))
        check_dropout("dropout", self.dropout)

    @property
    def outputs(self) -> int:
        return self.num_classes + self.background

    @property
    def lengths(self) -> Lengths:
        return Lengths()


def thumos() -> CmcsConfig:
    """I3D features, 1024 channels of RGB, then as many of flow."""
    return CmcsConfig((1024, 1024), 20, fusion="late")


def thumos_untrimmednet() -> CmcsConfig:
    return CmcsConfig((1024, 1024), 20, dropout=0.8)


def activitynet() -> CmcsConfig:
    return _wide(CmcsConfig((1024, 1024), 200, fusion="late"), 256, 128)


def activitynet_untrimmednet() -> CmcsConfig:
    """Published for version 1.2, with its 100 classes."""
    return _wide(CmcsConfig((1024, 1024), 100, dropout=0.8), 128, 64)


def compact(input_channels: int, num_classes: int) -> CmcsConfig:
    """Our own, for small data: THUMOS14's network over one kind of feature."""
    return CmcsConfig((input_channels,), num_classes)


def _wide(config: CmcsConfig, shared: int, own: int) -> CmcsConfig:
    return replace(config, shared_layers=((shared, 1),), branch_layers=((own, 3),), attention_layers=((own, 1),))


def _check_layers(name: str, layers: Layers) -> None:
    if not layers:
        raise ValueError(f"{name} is empty; at least one (channels, kernel) is needed")
    for layer in layers:
        if len(layer) != 2:
            raise ValueError(f"{name} holds {layer}; (channels, kernel) is needed")
        check_size(f"{name}: channels", layer[0])
        check_size(f"{name}: kernel", layer[1])
        if layer[1] % 2 == 0:
            raise ValueError(f"{name}: kernel is {layer[1]}; an odd number is needed")
