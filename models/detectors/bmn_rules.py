"""A preset of BMN in; how serving windows videos for it and what it keeps of its candidates out.

Proposals are of no class. With the rules whose names end in "-fused" they get those of a classifier of whole videos,
which the bundle must hold. The evaluation rules are those of the published settings, number by number.
"""

from __future__ import annotations

from typing import Any

from models.detectors.actionformer_rules import QUIRKS, USEFUL
from models.detectors.detector import Lengths

FUSED = {"rule": "product", "classes": 2}


def windowing(lengths: Lengths) -> dict[str, Any]:
    """Windows that overlap by half, the last one moved back to the video's end; or the whole video resized: step i
    then begins at i of as many equal parts, counted over whole strides, as in the published data."""
    if lengths.train_length is None:
        return {"mode": "resize", "length": lengths.fixed, "span": "strides", "offset_steps": 0.0}
    return {"mode": "sliding", "length": lengths.fixed, "hop": max(1, lengths.train_length // 2), "tail": "shift"}


def thumos() -> dict[str, Any]:
    """OpenTAD's: Gaussian decay over all windows of a video, then voting."""
    nms = {"kind": "gaussian", "sigma": 0.3, "min_score": 1e-4, "max_kept": 200, "quirks": QUIRKS}
    return _presets({"nms": nms, "voting": {"iou_threshold": 0.95, "weight": "score"}})


def activitynet() -> dict[str, Any]:
    """The paper's: decay from an overlap on that rises with the length of the best span."""
    return _presets({"nms": {**BSN, "max_kept": 100}})


def thumos_fused() -> dict[str, Any]:
    return _fused(thumos())


def activitynet_fused() -> dict[str, Any]:
    return _fused(activitynet())


BSN = {
    "kind": "bsn",
    "t1": 0.5,
    "t2": 0.9,
    "sigma": 0.4,
    "width_unit": "normalised",
    "quirks": {"inclusive": False, "keep_last": False},
}


def _presets(rules: dict[str, Any]) -> dict[str, Any]:
    rules = {"class_agnostic": True, **rules}
    return {"use": {**rules, **USEFUL}, "evaluation": {**rules, "score_map": None}}


def _fused(presets: dict[str, Any]) -> dict[str, Any]:
    return {name: {**rules, "fusion": FUSED} for name, rules in presets.items()}
