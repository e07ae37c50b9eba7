"""A detector network in; a model that the serving pipeline runs as if it were a bundle, and its predictions, out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import bundle as bundles
from models.bundle import Bundle, BundleError
from models.catalog import DetectorEntry
from models.detectors.detector import OUTPUTS, Detector, OutputKind
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions
from service.localization import DetectOptions, Segment
from service.pipeline import detection, segments
from service.pipeline.features import FeatureSequence
from service.runtime.feature_ops import HostOps
from service.runtime.loaded_model import LoadedGraph, LoadedModel
from service.runtime.session import Session, Tensor, TensorSpec, to_numpy
from training.plan import merged

# Nothing but the detector is run; a manifest needs a stream all the same.
STREAM = {"name": "features", "graph": "features", "clip_frames": 1, "outputs": {"features": "features"}}


class DetectorSession:
    """A detector network, on whatever device it is, behind the protocol of a graph."""

    provider = "PyTorch"
    keeps_on_device = False

    def __init__(self, network: Detector, kind: OutputKind) -> None:
        config = network.config
        self._network = network
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec("features", (None, sum(config.input_channels), config.lengths.fixed), "float"),
            TensorSpec("mask", (None, config.lengths.fixed), "bool"),
        )
        shapes: dict[str, tuple[int | None, ...]] = {
            "spans": (None, None, 2),
            "scores": (None, None, config.num_classes),
            "groups": (None,),
            "activations": (None, config.lengths.fixed, config.num_classes),
            "video_scores": (None, config.num_classes),
        }
        self.outputs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(name, shapes[name], "int64" if name == "groups" else "float") for name in OUTPUTS[kind]
        )

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        del keep
        device = next(self._network.parameters()).device
        given = [torch.from_numpy(np.ascontiguousarray(to_numpy(feeds[spec.name]))).to(device) for spec in self.inputs]
        with torch.inference_mode():
            found = self._network.decode(self._network(*given))
        named = zip(self.outputs, found, strict=True)
        return {spec.name: value.cpu().numpy() for spec, value in named if not want or spec.name in want}


class HushedSession:
    """A detector of activations, of which those at the given steps of the one window that it sees are 0."""

    keeps_on_device = False

    def __init__(self, session: Session, silent: NDArray[np.bool_]) -> None:
        self._session, self._silent = session, silent
        self.provider, self.inputs, self.outputs = session.provider, session.inputs, session.outputs

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        found = self._session.run(feeds, keep=keep, want=want)
        curves = to_numpy(found["activations"])
        if curves.shape[:2] != (1, len(self._silent)):
            raise InvalidOptions(
                f"static snippets can be silenced where one window holds the video; found {curves.shape[0]} of "
                f"{curves.shape[1]} steps for {len(self._silent)} snippets"
            )
        return {**found, "activations": np.where(self._silent[None, :, None], np.float32(0), curves)}


def load(
    network: Detector,
    entry: DetectorEntry,
    rules: str,
    labels: tuple[str, ...],
    changes: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The network in evaluation mode as a loaded bundle, with the windowing and the named rules of its catalogue.

    `changes` replace keys of both presets of these rules.
    """
    presets = {name: merged(preset, changes or {}) for name, preset in entry.rules[rules]().items()}
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
        "detector": {"graph": "detector", **{name: name for name in OUTPUTS[entry.output_kind]}},
        "postprocessing": presets,
    }
    try:
        manifest = bundles.parse_manifest(bundles.compose(draft, {"features": b"", "detector": b""}))
    except BundleError as error:
        raise InvalidOptions(f"detector.postprocessing: {error}") from None
    session = DetectorSession(network.eval(), entry.output_kind)
    return LoadedModel(Bundle(Path(), manifest, ""), (), LoadedGraph(session, None), None, HostOps())


def hushed(model: LoadedModel, silent: NDArray[np.bool_]) -> LoadedModel:
    if model.detector is None or model.manifest.output_kind != "activations":
        raise InvalidOptions("static snippets are silenced in curves of activation; this detector gives candidates")
    return replace(model, detector=LoadedGraph(HushedSession(model.detector.session, silent), None))


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
    model: LoadedModel,
    videos: Iterable[tuple[str, float]],
    load_features: Callable[[str], FeatureSequence],
    silent: Callable[[str, FeatureSequence], NDArray[np.bool_]] | None = None,
) -> dict[str, Any]:
    """Videos with their durations in seconds (NaN: unknown) in, ActivityNet's form of predictions out."""
    results = {}
    for video, duration_s in videos:
        sequence = load_features(video)
        judged = model if silent is None else hushed(model, silent(video, sequence))
        results[video] = _within(localize(sequence, judged), duration_s)
    return {"version": "1.3", "results": results, "external_data": {}}


def _within(found: Iterable[Segment], duration_s: float) -> list[dict[str, Any]]:
    """Annotations may end a video earlier than its frames do."""
    end_s = np.inf if np.isnan(duration_s) else duration_s
    return [
        {"label": segment.label, "segment": [segment.start_s, min(segment.end_s, end_s)], "score": segment.score}
        for segment in found
        if segment.start_s < end_s
    ]
