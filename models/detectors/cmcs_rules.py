"""A preset of CMCS in; how serving windows videos for it and how its curves become segments out.

The rules are those of the published settings: a curve is stretched to [0, 1], brought to frames, cut at a share of its
mean and widened; a segment scores its inside less its surroundings, and a quarter of what the video scores.
"""

from __future__ import annotations

from typing import Any

from models.detectors.actionformer_rules import USEFUL
from models.detectors.detector import Lengths

GLOBAL_WEIGHT = 0.25
HIGHEST_SCORE = 1 + GLOBAL_WEIGHT  # all inside, nothing outside, and a video of this class alone
WIDENING = 1.25  # of the stride between snippets


def windowing(lengths: Lengths) -> dict[str, Any]:
    """A whole video, however long: nothing costs more than by its length."""
    return {"mode": "whole", "multiple_of": lengths.multiple_of}


def thumos() -> dict[str, Any]:
    return _presets(stride_frames=16, mean_share=1.0)


def thumos_untrimmednet() -> dict[str, Any]:
    return _presets(stride_frames=15, mean_share=1.0)


def activitynet() -> dict[str, Any]:
    """All but the lowest point of a curve is active, as published: a segment spans nearly the whole video."""
    return _presets(stride_frames=16, mean_share=1e-7)


def activitynet_untrimmednet() -> dict[str, Any]:
    return _presets(stride_frames=15, mean_share=1e-7)


def compact() -> dict[str, Any]:
    """For a snippet every other frame, as on Marionette."""
    return _presets(stride_frames=2, mean_share=1.0)


def _presets(*, stride_frames: int, mean_share: float) -> dict[str, Any]:
    grouping = {
        "normalise": "minmax",
        "ends": "cut",
        "threshold": {"kind": "mean", "values": [mean_share]},
        "dilation_frames": int(WIDENING * stride_frames),
        "score": "inner_outer",
        "outer_context": "cmcs",
        "global_weight": GLOBAL_WEIGHT,
        "min_video_score": 0.1,
    }
    use = {"grouping": grouping, "score_map": {"divide_by": HIGHEST_SCORE}, **USEFUL}
    return {"use": use, "evaluation": {"grouping": grouping, "score_map": None}}
