"""A bundle's folder in, its graphs loaded and checked against its manifest out: all that is wrong is said here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import bundle as bundles
from models.bundle import Bundle, BundleError
from models.manifest import Classifier, Detector, Manifest, Stream, Whole, Windowing
from service.errors import InvalidBundle
from service.localization import ModelInfo
from service.runtime.feature_ops import DeviceOps, FeatureOps, HostOps
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Session, TensorSpec

RANKS = {"NTHWC": 5, "NCTHW": 5, "NTCHW": 5, "NHWC": 4, "NCHW": 4}
DTYPES = {"uint8": "uint8", "float32": "float"}


@dataclass(frozen=True)
class LoadedStream:
    """A stream, its graph, and what only the graph could tell: its input's name and batch size, if that is fixed."""

    stream: Stream
    session: Session
    input_name: str
    fixed_batch: int | None


@dataclass(frozen=True)
class LoadedGraph:
    """The graph of a detector or classifier; `fixed_batch` is None where it takes any number of windows."""

    session: Session
    fixed_batch: int | None


@dataclass(frozen=True)
class LoadedModel:
    """A bundle ready to run."""

    bundle: Bundle
    streams: tuple[LoadedStream, ...]
    detector: LoadedGraph | None
    classifier: LoadedGraph | None
    ops: FeatureOps

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def info(self) -> ModelInfo:
        providers = dict.fromkeys(stream.session.provider for stream in self.streams)
        return ModelInfo(self.manifest.name, self.manifest.version, self.bundle.sha256, "+".join(providers))


def load(folder: Path, options: OnnxOptions) -> LoadedModel:
    """Reads, verifies and loads a bundle; raises InvalidBundle or DeviceUnavailable."""
    try:
        bundle = bundles.read(folder)
        bundle.verify()
        sessions = {
            name: OnnxSession(bundle.read_file(name), options, name=f"{bundle.manifest.name}/{name}")
            for name in bundle.manifest.graphs
        }
    except BundleError as error:
        raise InvalidBundle(str(error)) from error
    return join(bundle, sessions, options)


def join(bundle: Bundle, sessions: Mapping[str, Session], options: OnnxOptions) -> LoadedModel:
    """Holds each graph against what the manifest says of it."""
    manifest = bundle.manifest
    streams = tuple(_load_stream(stream, sessions[stream.graph], manifest) for stream in manifest.streams)
    detector = classifier = None
    if manifest.detector:
        detector = _load_detector(manifest.detector, sessions[manifest.detector.graph], manifest)
    if manifest.classifier:
        classifier = _load_classifier(manifest.classifier, sessions[manifest.classifier.graph], manifest)
    on_device = all(session.keeps_on_device for session in sessions.values())
    ops: FeatureOps = DeviceOps(options) if on_device else HostOps()
    return LoadedModel(bundle, streams, detector, classifier, ops)


def _load_stream(stream: Stream, session: Session, manifest: Manifest) -> LoadedStream:
    where = f"stream {stream.name!r}"
    spec = _stream_input(stream, session, where)
    _check_input(stream, spec, where)
    for tensor in stream.state.tensors if stream.state else ():
        _find(session.inputs, tensor.input, f"{where}: state input")
        _find(session.outputs, tensor.output, f"{where}: state output")
    if stream.outputs.features is not None:
        _find(session.outputs, stream.outputs.features, f"{where}: features output")
    if stream.outputs.scores is not None:
        scores = _find(session.outputs, stream.outputs.scores, f"{where}: scores output")
        _check_labels(scores, len(manifest.labels), f"{where}: scores output")
    return LoadedStream(stream, session, spec.name, 1 if stream.state else spec.shape[0])


def _stream_input(stream: Stream, session: Session, where: str) -> TensorSpec:
    if stream.input.name is not None:
        return _find(session.inputs, stream.input.name, f"{where}: input")
    state = {tensor.input for tensor in stream.state.tensors} if stream.state else set()
    free = [spec for spec in session.inputs if spec.name not in state]
    if len(free) != 1:
        names = ", ".join(spec.name for spec in free)
        raise InvalidBundle(
            f"{where}: the graph has {len(free)} inputs that are no state ({names}); name one in input.name"
        )
    return free[0]


def _check_input(stream: Stream, spec: TensorSpec, where: str) -> None:
    wanted = DTYPES["float32" if stream.kind == "flow" else stream.input.dtype]
    if spec.dtype != wanted:
        raise InvalidBundle(f"{where}: the manifest says input {wanted}, graph input {spec.name!r} takes {spec.dtype}")
    layout = stream.input.layout
    if len(spec.shape) != RANKS[layout]:
        raise InvalidBundle(f"{where}: layout {layout} does not fit graph input {spec.name!r} of shape {spec.shape}")
    frames = stream.state.step_frames if stream.state else stream.clip_frames
    known = {"T": frames, "C": 2 if stream.kind == "flow" else 3}
    if size_px := _frame_size(stream):
        known |= {"W": size_px[0], "H": size_px[1]}
    for axis, found in zip(layout, spec.shape, strict=True):
        if found is not None and known.get(axis, found) != found:
            raise InvalidBundle(
                f"{where}: graph input {spec.name!r} of shape {spec.shape} ({layout}) has {axis} = {found}, "
                f"the manifest gives {known[axis]}"
            )


def _frame_size(stream: Stream) -> tuple[int, int] | None:
    """(width, height) of a model's frame where it does not depend on the video."""
    if stream.crop_px is not None:
        return stream.crop_px
    return stream.resize.size_px if isinstance(stream.resize.size_px, tuple) else None


def _load_detector(detector: Detector, session: Session, manifest: Manifest) -> LoadedGraph:
    where = f"detector {detector.graph!r}"
    graph = _load_graph(session, detector.features, detector.mask, where)
    _check_window_length(_find(session.inputs, detector.features, where), manifest.windowing, where)
    names = [detector.activations, detector.video_scores]
    if manifest.output_kind == "candidates":
        names = [detector.spans, detector.scores, detector.groups]
    for name in names:
        if name is not None:
            _find(session.outputs, name, f"{where}: output")
    score_name = detector.scores if manifest.output_kind == "candidates" else detector.activations
    found = _find(session.outputs, score_name, where).shape[-1]
    if found == 1 and len(manifest.labels) > 1 and manifest.output_kind == "candidates":
        if manifest.postprocessing.use.fusion.rule == "none":
            raise InvalidBundle(
                f"{where}: output {score_name!r} gives one score per candidate and labels has {len(manifest.labels)} "
                "names, so postprocessing.use.fusion must say how video-level scores name the class"
            )
        return graph
    _check_labels(_find(session.outputs, score_name, where), len(manifest.labels), f"{where}: output")
    return graph


def _check_window_length(spec: TensorSpec, windowing: Windowing | None, where: str) -> None:
    fixed = spec.shape[2]
    if windowing is None or fixed is None:
        return
    lengths = {windowing.multiple_of, windowing.max_length} if isinstance(windowing, Whole) else {windowing.length}
    if lengths != {fixed}:
        given = ", ".join(str(length) for length in lengths)
        raise InvalidBundle(f"{where}: the graph takes windows of {fixed} steps, but windowing makes them {given} long")


def _load_classifier(classifier: Classifier, session: Session, manifest: Manifest) -> LoadedGraph:
    where = f"classifier {classifier.graph!r}"
    graph = _load_graph(session, classifier.features, classifier.mask, where)
    scores = _find(session.outputs, classifier.video_scores, f"{where}: output")
    _check_labels(scores, len(manifest.labels), f"{where}: output")
    return graph


def _load_graph(session: Session, features: str, mask: str | None, where: str) -> LoadedGraph:
    spec = _find(session.inputs, features, f"{where}: input")
    if len(spec.shape) != 3:
        raise InvalidBundle(f"{where}: input {features!r} has shape {spec.shape}; features are (B, C, T)")
    if mask is not None:
        _find(session.inputs, mask, f"{where}: input")
    return LoadedGraph(session, spec.shape[0])


def _find(specs: tuple[TensorSpec, ...], name: str, what: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise InvalidBundle(
        f"{what} {name!r} is not in the graph, which has {', '.join(repr(spec.name) for spec in specs)}"
    )


def _check_labels(spec: TensorSpec, num_labels: int, what: str) -> None:
    found = spec.shape[-1]
    if found is not None and found != num_labels:
        raise InvalidBundle(f"{what} {spec.name!r} gives {found} classes, but labels has {num_labels} names")
