"""A preset of ReAct in; how serving windows videos for it and what it keeps of its candidates out.

The evaluation rules of THUMOS14 are those of the released code, number by number. None were published for ActivityNet;
its rules are a reconstruction from THUMOS14's and from what others do there.
"""

from __future__ import annotations

from typing import Any

from models.detectors.actionformer_rules import USEFUL
from models.detectors.detector import Lengths

HOPS_PER_WINDOW = 4
LIKELY_CLASSES = 2  # per video, as is usual with video-level scores on ActivityNet


def windowing(lengths: Lengths) -> dict[str, Any]:
    """Windows of the length of training that begin every quarter of it, or a video resized to one."""
    if lengths.train_length is None:
        return {"mode": "resize", "length": lengths.fixed, "span": "clips", "offset_steps": 0.5}
    hop = max(1, lengths.train_length // HOPS_PER_WINDOW)
    return {"mode": "sliding", "length": lengths.train_length, "hop": hop, "tail": "pad"}


def thumos() -> dict[str, Any]:
    return _presets(kept=1000)


def activitynet() -> dict[str, Any]:
    """Reconstruction: by its own classes."""
    return _presets(kept=100)


def activitynet_fused() -> dict[str, Any]:
    """Reconstruction: how good a segment is, times how likely the video's likeliest classes are. The supplement fuses
    with UntrimmedNet's video-level scores and does not say how. The bundle needs a classifier of whole videos."""
    fusion = {"rule": "product", "classes": LIKELY_CLASSES, "detector_score": "max_over_classes"}
    return _presets(kept=100, fusion=fusion)


def _presets(kept: int, **more: Any) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "max_classes_per_candidate": 1,
        "nms": {"kind": "gaussian", "sigma": 0.4, "min_score": 1e-6, "max_kept": kept},
        "class_agnostic": True,
        **more,
    }
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}
