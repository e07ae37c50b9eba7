"""A preset of G-TAD in; how serving windows videos for it and what it keeps of its candidates out.

The evaluation rules are those of the published scripts, number by number, but for the names of actions, which come of
a classifier or of scores of whole videos.
"""

from __future__ import annotations

from typing import Any

from models.detectors.actionformer_rules import USEFUL
from models.detectors.detector import Lengths


def windowing(lengths: Lengths) -> dict[str, Any]:
    """Windows that overlap by half, the last one moved back to the video's end; or the whole video resized."""
    if lengths.train_length is None:
        return {"mode": "resize", "length": lengths.fixed, "span": "video", "offset_steps": 0.5}
    return {"mode": "sliding", "length": lengths.fixed, "hop": max(1, lengths.train_length // 2), "tail": "shift"}


def thumos() -> dict[str, Any]:
    """Suppression in every window and once more in the video; 300 frames and more are no action."""
    nms = {"sigma": 0.46, "max_kept": 200, "quirks": {"keep_last": False, "zero_from_length": 60.0}}
    return _presets(nms, nms_scope="window_then_video")


def activitynet() -> dict[str, Any]:
    return _presets({"sigma": 0.8, "max_kept": 100, "quirks": {"keep_last": False}})


def compact() -> dict[str, Any]:
    """OpenTAD's for THUMOS14, without its voting."""
    return _presets({"sigma": 0.3, "max_kept": 200, "min_score": 1e-4})


def _presets(nms: dict[str, Any], **more: Any) -> dict[str, Any]:
    rules: dict[str, Any] = {"nms": {"kind": "gaussian", **nms}, "class_agnostic": True, **more}
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}
