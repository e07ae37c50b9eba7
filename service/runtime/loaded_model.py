"""A bundle's folder in, its graphs loaded and checked against its manifest out: all that is wrong is said here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import bundle as bundles
from models.bundle import Bundle, BundleError
from models.manifest import Classifier, Detector, Manifest, StateTensor, Stream, Whole, Windowing
from service.errors import InvalidBundle
from service.localization import ModelInfo
from service.runtime.feature_ops import DeviceOps, FeatureOps, HostOps
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Session, TensorSpec
from service.runtime.torchscript_session import SUFFIX, TorchScriptSession

RANKS = {"NTHWC": 5, "NCTHW": 5, "NTCHW": 5, "NHWC": 4, "NCHW": 4}
DTYPES = {"uint8": "uint8", "float32": "float"}


@dataclass(frozen=True)
class LoadedStream:
    """A stream, its graph, and what only the graph could tell: its input's name and batch size, if that is fixed."""

    stream: Stream
    session: Session
    input_name: str
    fixed_batch: int | None
    num_classes: int


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


def load(folder: Path, options: OnnxOptions, *, trusted_torch: Collection[str] = ()) -> LoadedModel:
    """Reads, verifies and loads a bundle; raises InvalidBundle or DeviceUnavailable.

    `trusted_torch` holds the digests of the bundles that may run TorchScript graphs.
    """
    try:
        bundle = bundles.read(folder)
        _check_permission(bundle, trusted_torch)
        bundle.verify(except_for=bundle.manifest.graphs)
        sessions = {name: _open(bundle, name, options) for name in bundle.manifest.graphs}
    except BundleError as error:
        raise InvalidBundle(str(error)) from error
    return join(bundle, sessions, options)


def _check_permission(bundle: Bundle, trusted_torch: Collection[str]) -> None:
    """An archive runs code already while it is parsed, so the operator's word comes first."""
    archives = [name for name in bundle.manifest.graphs if name.endswith(SUFFIX)]
    if archives and bundle.sha256 not in trusted_torch:
        raise InvalidBundle(
            f"{bundle.manifest.name}: graph {archives[0]!r} is a TorchScript archive, which runs code of its maker; "
            f"if you trust this bundle, set TAL_ALLOW_TORCH_BUNDLES=1 and list its digest {bundle.sha256} in "
            "TAL_TRUSTED_TORCH_BUNDLES"
        )


def _open(bundle: Bundle, graph: str, options: OnnxOptions) -> Session:
    content, name = bundle.read_file(graph), f"{bundle.manifest.name}/{graph}"
    if graph.endswith(SUFFIX):
        return TorchScriptSession(content, options, name=name)
    return OnnxSession(content, options, name=name)


def join(bundle: Bundle, sessions: Mapping[str, Session], options: OnnxOptions) -> LoadedModel:
    """Holds each graph against what the manifest says of it."""
    manifest = bundle.manifest
    streams = tuple(_load_stream(stream, sessions[stream.graph], manifest) for stream in manifest.streams)
    detector = classifier = None
    if manifest.detector:
        detector = _load_detector(manifest.detector, sessions[manifest.detector.graph], manifest)
    if manifest.classifier:
        classifier = _load_classifier(manifest.classifier, sessions[manifest.classifier.graph], manifest)
    if manifest.detector:
        _check_channels(streams, detector, manifest.detector.features, f"detector {manifest.detector.graph!r}")
    if manifest.classifier:
        _check_channels(streams, classifier, manifest.classifier.features, f"classifier {manifest.classifier.graph!r}")
    on_device = all(session.keeps_on_device for session in sessions.values())
    ops: FeatureOps = DeviceOps(options) if on_device else HostOps()
    return LoadedModel(bundle, streams, detector, classifier, ops)


def _load_stream(stream: Stream, session: Session, manifest: Manifest) -> LoadedStream:
    where = f"stream {stream.name!r}"
    spec = _stream_input(stream, session, where)
    _check_input(stream, spec, where)
    for tensor in stream.state.tensors if stream.state else ():
        _check_state(tensor, _find(session.inputs, tensor.input, f"{where}: state input"), where)
        _find(session.outputs, tensor.output, f"{where}: state output")
    if stream.outputs.features is not None:
        features = _find(session.outputs, stream.outputs.features, f"{where}: features output")
        if features.dtype != "float":
            raise InvalidBundle(f"{where}: features output {features.name!r} gives {features.dtype}; float32 is needed")
    if stream.outputs.scores is not None:
        scores = _find(session.outputs, stream.outputs.scores, f"{where}: scores output")
        _check_labels(scores, len(manifest.labels), f"{where}: scores output")
    return LoadedStream(stream, session, spec.name, 1 if stream.state else spec.shape[0], len(manifest.labels))


def _check_state(tensor: StateTensor, spec: TensorSpec, where: str) -> None:
    wanted = DTYPES.get(tensor.dtype, tensor.dtype)
    fits = len(spec.shape) == len(tensor.shape) and all(
        found in (None, given) for found, given in zip(spec.shape, tensor.shape, strict=True)
    )
    if spec.dtype != wanted or not fits:
        raise InvalidBundle(
            f"{where}: state {tensor.input!r} is {wanted} {tensor.shape} in the manifest, "
            f"{spec.dtype} {spec.shape} in the graph"
        )


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
    if manifest.output_kind == "activations":
        _check_labels(_output(session, detector.activations, 3, where), len(manifest.labels), where)
        if detector.video_scores is not None:
            _check_labels(_output(session, detector.video_scores, 2, where), len(manifest.labels), where)
        return graph
    _output(session, detector.spans, 3, where)
    if detector.groups is not None:
        _output(session, detector.groups, 1, where)
    scores = _output(session, detector.scores, 3, where)
    if scores.shape[-1] != 1 or len(manifest.labels) == 1:
        _check_labels(scores, len(manifest.labels), where)
    elif any(preset.fusion.rule == "none" for preset in manifest.presets):
        raise InvalidBundle(
            f"{where}: output {scores.name!r} gives one score per candidate and labels has {len(manifest.labels)} "
            "names, so fusion must say in every preset how video-level scores name the class"
        )
    return graph


def _output(session: Session, name: str, rank: int, where: str) -> TensorSpec:
    spec = _find(session.outputs, name, f"{where}: output")
    if len(spec.shape) not in (0, rank):
        raise InvalidBundle(f"{where}: output {name!r} has shape {spec.shape}; {rank} dimensions are needed")
    return spec


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
    shape = _find(session.inputs, classifier.features, where).shape
    if shape[0] not in (None, 1) or shape[2] is not None:
        raise InvalidBundle(f"{where}: input {classifier.features!r} is {shape}; it takes one video of any length")
    _check_labels(_find(session.outputs, classifier.video_scores, f"{where}: output"), len(manifest.labels), where)
    return graph


def _load_graph(session: Session, features: str, mask: str | None, where: str) -> LoadedGraph:
    spec = _find(session.inputs, features, f"{where}: input")
    if len(spec.shape) != 3 or spec.dtype != "float":
        raise InvalidBundle(f"{where}: input {features!r} is {spec.dtype} {spec.shape}; features are float32 (B, C, T)")
    if mask is not None:
        mask_spec = _find(session.inputs, mask, f"{where}: input")
        if mask_spec.dtype not in ("bool", "float"):
            raise InvalidBundle(f"{where}: mask {mask!r} is {mask_spec.dtype}; bool and float can be fed")
    return LoadedGraph(session, spec.shape[0])


def _check_channels(streams: Sequence[LoadedStream], graph: LoadedGraph | None, features: str, where: str) -> None:
    """Features of all streams, side by side, are what the next graph takes; unknown widths pass."""
    if graph is None:
        return
    widths = [
        _find(loaded.session.outputs, loaded.stream.outputs.features or "", where).shape[-1] for loaded in streams
    ]
    wanted = _find(graph.session.inputs, features, where).shape[1]
    known = [width for width in widths if width is not None]
    if wanted is not None and len(known) == len(widths) and sum(known) != wanted:
        raise InvalidBundle(f"{where} takes {wanted} feature channels; the streams give {' + '.join(map(str, known))}")


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
