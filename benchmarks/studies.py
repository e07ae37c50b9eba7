"""What is compared on Marionette, study by study: which runs, with which settings, and what the papers found.

A run is its network's Marionette preset with `changes`; its first row is what a study's other rows are held against.
`published` are the papers' figures, on their data, in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVERY_SEED = (0, 1, 2)
ONE_SEED = (0,)


@dataclass(frozen=True)
class Row:
    """`run` names the folder; rows of several studies may be the same run."""

    name: str
    network: str
    run: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ONE_SEED
    published: float | None = None


@dataclass(frozen=True)
class Study:
    """`about` says what is compared, and what `published` is a figure of."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]


def _detector(network: str, name: str) -> Row:
    return Row(name, network, network, seeds=EVERY_SEED)


def _asl(name: str, run: str, published: float | None, seeds: tuple[int, ...] = ONE_SEED, **loss: bool) -> Row:
    return Row(name, "asl", run, {"loss": {"options": loss}} if loss else {}, seeds, published)


def _amnet(name: str, run: str, published: float | None, seeds: tuple[int, ...] = ONE_SEED, **options: Any) -> Row:
    return Row(name, "amnet", run, {"detector": {"options": options}} if options else {}, seeds, published)


def _react(name: str, run: str, seeds: tuple[int, ...] = ONE_SEED, **changes: Any) -> Row:
    """Validated every second epoch, for the curves of `react_curves.py`."""
    return Row(name, "react", run, {"training": {"validate_every_epochs": 2}, **changes}, seeds)


def _width(channels: int) -> dict[str, int]:
    return {"channels": channels, "neck_channels": channels, "head_channels": channels}


DETECTORS = Study(
    "detectors",
    "Detectors",
    "Every detector on the features of the bundle that ships, with its Marionette preset.",
    (
        _detector("actionformer", "ActionFormer"),
        _detector("asl", "ASL"),
        _detector("amnet", "AMNet"),
        _react("ReAct", "react", EVERY_SEED),
        _detector("tadtr", "TadTR"),
        _detector("afsd", "AFSD"),
    ),
)

ASL_SENSITIVITY = Study(
    "asl-sensitivity",
    "ASL: what its evaluator and its contrastive loss add",
    "Published is Table c of the paper's supplement: average mAP on THUMOS14. The baseline is the same network under "
    "ActionFormer's loss; +Inst weighs its points by the instance-level evaluator, +Class by the class-level one, +ASL "
    "by both; +ASCL adds the contrastive loss.",
    (
        _asl(
            "baseline",
            "asl-baseline",
            66.08,
            EVERY_SEED,
            instance_sensitivity=False,
            class_sensitivity=False,
            contrastive=False,
        ),
        _asl("+Inst", "asl-instance", 66.96, class_sensitivity=False, contrastive=False),
        _asl("+Class", "asl-class", 67.12, EVERY_SEED, instance_sensitivity=False, contrastive=False),
        _asl("+ASL", "asl-both", 67.74, EVERY_SEED, contrastive=False),
        _asl("+ASCL", "asl", 67.88, EVERY_SEED),
        _asl("+ASCL, weights train the evaluator, too", "asl-undetached", None, detach_quality=False),
    ),
)

AMNET_WIDTH = Study(
    "amnet-width",
    "AMNet: embedding width",
    "Published is the paper's Table 1: average mAP on THUMOS14 with embeddings of 512, 256 and 128 channels. Ours have "
    "a quarter of them: 128, 64 and 32.",
    (
        _amnet("512 (ours 128)", "amnet", 63.3, EVERY_SEED),
        _amnet("256 (ours 64)", "amnet-64", 62.2, **_width(64)),
        _amnet("128 (ours 32)", "amnet-32", 56.8, **_width(32)),
    ),
)

AMNET_DEPTH = Study(
    "amnet-depth",
    "AMNet: layers and heads of group attention",
    "Published is the paper's Table 2: average mAP on THUMOS14. Two layers of eight heads did not fit its memory.",
    (
        _amnet("2 layers of 4 heads", "amnet", 63.3, EVERY_SEED),
        _amnet("1 layer of 4 heads", "amnet-1x4", 62.0, group_layers=1),
        _amnet("1 layer of 2 heads", "amnet-1x2", 63.2, group_layers=1, group_heads=2),
    ),
)

AMNET_MASK = Study(
    "amnet-mask",
    "AMNet: without its parts",
    "The mask held at one, or group attention left out; the paper tells no such figures.",
    (
        _amnet("AMNet", "amnet", None, EVERY_SEED),
        _amnet("mask off", "amnet-no-mask", None, mask="off"),
        _amnet("groups off", "amnet-no-groups", None, EVERY_SEED, groups="off"),
    ),
)

REACT_PARTS = Study(
    "react-parts",
    "ReAct: without its parts",
    "Plain focal loss is training without ACE-dec, as in the paper's Fig. 4; every query attends to every other where "
    "relations are off; and snippets are not contrasted where ACE-enc is off.",
    (
        _react("ReAct", "react", EVERY_SEED),
        _react("focal loss (no ACE-dec)", "react-focal", EVERY_SEED, loss={"options": {"ace_dec": 0.0}}),
        _react("relations off", "react-all-related", detector={"options": {"relational": False}}),
        _react("ACE-enc off", "react-no-contrast", loss={"options": {"ace_enc": 0.0}}),
    ),
)

STUDIES = (DETECTORS, ASL_SENSITIVITY, AMNET_WIDTH, AMNET_DEPTH, AMNET_MASK, REACT_PARTS)
