"""A preset of TadTR in; how serving windows videos for it and what it keeps of its candidates out.

Queries find an action once, so suppression only joins windows that overlap: per class, as the authors' evaluation does.
"""

from __future__ import annotations

from typing import Any

from models.detectors.actionformer_rules import USEFUL
from models.detectors.detector import Lengths

OVERLAP = 0.25
BEST_OF_WINDOW = 100
BEST_OF_VIDEO = 200


def windowing(lengths: Lengths) -> dict[str, Any]:
    """A detector with a length of training sees windows, one without sees the video resized.

    The last window ends with the video, as in training; the authors' evaluation lets it reach beyond.
    """
    if lengths.fixed is None:
        raise ValueError("TadTR takes windows of one length")
    if lengths.train_length is None:
        return {"mode": "resize", "length": lengths.fixed, "span": "clips", "offset_steps": 0.5}
    hop = max(1, round(lengths.fixed * (1 - OVERLAP)))
    return {"mode": "sliding", "length": lengths.fixed, "hop": hop, "tail": "shift"}


def thumos() -> dict[str, Any]:
    nms = {"kind": "hard", "iou_threshold": 0.4, "max_kept": BEST_OF_VIDEO, "quirks": {"inclusive": False}}
    return _presets({"top_k_per_window": BEST_OF_WINDOW, "nms": nms})


def activitynet() -> dict[str, Any]:
    """One window sees all of the video, and nothing is suppressed."""
    return _presets({"top_k_per_window": BEST_OF_WINDOW})


def _presets(rules: dict[str, Any]) -> dict[str, Any]:
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}
