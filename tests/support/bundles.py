"""Bundles made of the tiny graphs: a localizer of bright passages, in every output kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import bundle as bundles
from models.bundle import Bundle
from tests.support import graphs

GROUPING: dict[str, Any] = {"threshold": {"kind": "absolute", "values": [0.5]}, "support": "point"}


def manifest(**changes: Any) -> dict[str, Any]:
    """A sound manifest of the classifier kind: two labels, one RGB stream of single frames, native rate."""
    sound: dict[str, Any] = {
        "schema_version": 1,
        "name": "brightness",
        "version": "1.0.0",
        "licence": "Apache-2.0",
        "provenance": "made by the tests",
        "labels": ["bright", "dark"],
        "streams": [stream()],
        "grid": {"fps": "native", "stride_frames": 1, "offset_frames": 0, "tail": "pad"},
        "output_kind": "activations",
        "postprocessing": {"use": {"grouping": {**GROUPING, "support": "mean"}}},
    }
    return {**sound, **changes}


def stream(**changes: Any) -> dict[str, Any]:
    return {
        "name": "rgb",
        "graph": "features.rgb.onnx",
        "clip_frames": 1,
        "resize": {"mode": "exact", "size_px": [16, 16]},
        "outputs": {"scores": "scores"},
        **changes,
    }


def classifier(folder: Path, **changes: Any) -> Bundle:
    """Class scores of a backbone are the activations; no detector."""
    return bundles.write(folder, manifest(**changes), {"features.rgb.onnx": graphs.brightness_scores()})


def candidates(folder: Path, *, windowing: dict[str, Any] | None = None, **changes: Any) -> Bundle:
    """Backbone and detector: a candidate of one snippet wherever it is bright."""
    described = manifest(
        streams=[stream(outputs={"features": "features"}, clip_frames=4)],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 2, "tail": "drop"},
        output_kind="candidates",
        windowing=windowing or {"mode": "whole", "multiple_of": 4},
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {"min_candidate_score": 0.5, "nms": {"kind": "hard", "iou_threshold": 0.5}}},
    )
    files = {"features.rgb.onnx": graphs.brightness_features(), "detector.onnx": graphs.point_candidates()}
    return bundles.write(folder, {**described, **changes}, files)


def activations(folder: Path, **changes: Any) -> Bundle:
    """Backbone and detector whose output is a curve per class."""
    described = manifest(
        streams=[stream(outputs={"features": "features"}, clip_frames=2)],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 0, "tail": "drop"},
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx", "video_scores": "video_scores"},
        postprocessing={"use": {"grouping": GROUPING}},
    )
    files = {"features.rgb.onnx": graphs.brightness_features(), "detector.onnx": graphs.activation_detector()}
    return bundles.write(folder, {**described, **changes}, files)
