"""A preset of ActionFormer in; how serving windows videos for it and what it keeps of its candidates out.

The evaluation rules are those of the published settings (`test_cfg`), number by number.
"""

from __future__ import annotations

from typing import Any

from models.detectors.detector import Lengths

# Two hours at the pace of THUMOS fit into one window, which keeps memory below 4 GB; longer videos are cut.
LONGEST_WINDOW = 24 * 2304
# The published C++ suppression, to the letter.
QUIRKS = {"width_epsilon": 1e-6, "spare_first": True}
USEFUL = {"min_score": 0.1, "top_k": 100}


def windowing(lengths: Lengths, longest: int = LONGEST_WINDOW) -> dict[str, Any]:
    if lengths.fixed is not None:
        return {"mode": "resize", "length": lengths.fixed, "span": "clips", "offset_steps": 0.5}
    unit = lengths.beyond_multiple_of or lengths.multiple_of
    return {
        "mode": "whole",
        "multiple_of": lengths.multiple_of,
        "margin": lengths.margin,
        "train_length": lengths.train_length,
        "beyond_multiple_of": lengths.beyond_multiple_of,
        "max_length": max(1, longest // unit) * unit,
    }


def thumos() -> dict[str, Any]:
    return _presets(sigma=0.5, kept=200, per_level=2000)


def activitynet() -> dict[str, Any]:
    return _presets(sigma=0.75, kept=100, per_level=2000, min_length_steps=0.001, agnostic_voting=0.9)


def epic_kitchens() -> dict[str, Any]:
    return _presets(sigma=0.4, kept=2000, per_level=5000)


def ego4d() -> dict[str, Any]:
    return _presets(sigma=0.9, kept=2000, per_level=5000)


def _presets(
    *, sigma: float, kept: int, per_level: int, min_length_steps: float = 0.05, agnostic_voting: float | None = None
) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "min_candidate_score": 0.001,
        "top_k_per_group": per_level,
        "min_length_steps": min_length_steps,
        "nms": {"kind": "gaussian", "sigma": sigma, "min_score": 0.001, "max_kept": kept, "quirks": QUIRKS},
    }
    if agnostic_voting is not None:
        rules |= {"class_agnostic": True, "voting": {"iou_threshold": agnostic_voting}}
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}
