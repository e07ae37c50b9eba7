"""A preset of AFSD in; how serving windows videos for it and what it keeps of its candidates out.

The evaluation rules are those of the published test scripts, number by number.
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
    return _presets(min_candidate_score=0.01, sigma=0.5, min_score=0.001)


def activitynet() -> dict[str, Any]:
    return _presets(min_candidate_score=1e-9, sigma=0.85, min_score=1e-9)


def _presets(*, min_candidate_score: float, sigma: float, min_score: float) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "min_candidate_score": min_candidate_score,
        "nms": {
            "kind": "gaussian",
            "sigma": sigma,
            "min_score": min_score,
            "max_kept": 5000,
            "quirks": {"keep_last": False},
        },
    }
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}
