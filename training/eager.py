"""A detector network in; a model that the serving pipeline runs as if it were a bundle, and its predictions, out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import bundle as bundles
from models.bundle import Bundle
from models.catalog import DetectorEntry
from models.detectors.detector import Detector
from models.postprocessing import Postprocessing
from service.localization import DetectOptions, Segment
from service.pipeline import detection, segments
from service.pipeline.features import FeatureSequence
from service.runtime.feature_ops import HostOps
from service.runtime.loaded_model import LoadedGraph, LoadedModel
from service.runtime.session import Tensor, TensorSpec, to_numpy

OUTPUTS = ("spans", "scores", "groups")
# Nothing but the detector is run; a manifest needs a stream all the same.
STREAM = {"name": "features", "graph": "features", "clip_frames": 1, "outputs": {"features": "features"}}


class DetectorSession:
    """A detector network, on whatever device it is, behind the protocol of a graph."""

    provider = "PyTorch"
    keeps_on_device = False

    def __init__(self, network: Detector) -> None:
        config = network.config
        self._network = network
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec("features", (None, sum(config.input_channels), config.lengths.fixed), "float"),
            TensorSpec("mask", (None, config.lengths.fixed), "bool"),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("spans", (None, None, 2), "float"),
            TensorSpec("scores", (None, None, config.num_classes), "float"),
            TensorSpec("groups", (None,), "int64"),
        )

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        del keep
        device = next(self._network.parameters()).device
        given = [torch.from_numpy(np.ascontiguousarray(to_numpy(feeds[spec.name]))).to(device) for spec in self.inputs]
        with torch.inference_mode():
            found = self._network.decode(self._network(*given))
        named = zip(OUTPUTS, found, strict=True)
        return {name: value.cpu().numpy() for name, value in named if not want or name in want}


def load(network: Detector, entry: DetectorEntry, rules: str, labels: tuple[str, ...]) -> LoadedModel:
    """The network in evaluation mode as a loaded bundle, with the windowing and the named rules of its catalogue."""
    draft = {
        "name": "in-training",
        "version": "0",
        "licence": "",
        "provenance": "",
        "labels": list(labels),
        "streams": [STREAM],
        "grid": {"fps": "native", "stride_frames": 1, "offset_frames": 0},  # each feature sequence brings its own
        "output_kind": entry.output_kind,
        "windowing": entry.windowing(network.config.lengths),
        "detector": {"graph": "detector", "groups": "groups"},
        "postprocessing": entry.rules[rules](),
    }
    manifest = bundles.parse_manifest(bundles.compose(draft, {"features": b"", "detector": b""}))
    session = DetectorSession(network.eval())
    return LoadedModel(Bundle(Path(), manifest, ""), (), LoadedGraph(session, None), None, HostOps())


def localize(sequence: FeatureSequence, model: LoadedModel) -> list[Segment]:
    """All segments, with the rules that are for evaluation."""
    rules = evaluation_rules(model)
    found = detection.detect(sequence, model, rules)
    labels = model.manifest.segment_labels
    return segments.finalize(
        found.detections, found.grid, rules, labels, DetectOptions(min_score=0.0), found.video_scores
    )


def evaluation_rules(model: LoadedModel) -> Postprocessing:
    presets = model.manifest.postprocessing
    return presets.use if presets.evaluation is None else presets.evaluation


def predict(
    model: LoadedModel, videos: Iterable[tuple[str, float]], load_features: Callable[[str], FeatureSequence]
) -> dict[str, Any]:
    """Videos with their durations in seconds (NaN: unknown) in, ActivityNet's form of predictions out."""
    results = {video: _within(localize(load_features(video), model), duration_s) for video, duration_s in videos}
    return {"version": "1.3", "results": results, "external_data": {}}


def _within(found: Iterable[Segment], duration_s: float) -> list[dict[str, Any]]:
    """Annotations may end a video earlier than its frames do."""
    end_s = np.inf if np.isnan(duration_s) else duration_s
    return [
        {"label": segment.label, "segment": [segment.start_s, min(segment.end_s, end_s)], "score": segment.score}
        for segment in found
        if segment.start_s < end_s
    ]
