"""A video's path and a loaded model in, a `Localization` out: the walk, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest, Postprocessing, Stream
from service.errors import InferenceFailed, InvalidOptions
from service.localization import DetectOptions, Localization, VideoInfo
from service.pipeline import features as featuring
from service.pipeline import segments, video, windows
from service.pipeline.features import FeatureSequence, StreamExtractor
from service.pipeline.snippets import SnippetGrid
from service.pipeline.video import DecodeLimits, DecoderChoice, FrameBatch, FrameView, VideoReader
from service.pipeline.windows import CandidateLimits, Detections
from service.runtime.loaded_model import LoadedGraph, LoadedModel
from service.runtime.session import Array, Tensor, to_numpy
from service.telemetry import Stopwatch

WINDOWS_PER_BATCH = 8
TENSOR_TYPES = {"bool": np.bool_, "float": np.float32}

Preset = Literal["use", "evaluation"]
OnProgress = Callable[[float, float], None]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Decoding:
    """How videos are read: by which decoder, within which limits."""

    decoder: DecoderChoice = "auto"
    limits: DecodeLimits = field(default_factory=DecodeLimits)


def localize(
    path: Path,
    model: LoadedModel,
    options: DetectOptions = DetectOptions(),
    *,
    decoding: Decoding = Decoding(),
    preset: Preset = "use",
    on_progress: OnProgress | None = None,
) -> Localization:
    """Which actions happen in the video at `path`, from when to when; `on_progress(done_s, duration_s)` on the way."""
    stopwatch = Stopwatch()
    manifest = model.manifest
    rules = choose_rules(manifest, preset)
    segments.check_options(options, manifest.segment_labels)

    views = frame_views(manifest)
    fps = None if manifest.grid.fps == "native" else manifest.grid.fps
    with stopwatch.stage("probe"):
        reader = video.decode(path, views, fps=fps, decoder=decoding.decoder, limits=decoding.limits)
    with reader:
        sequence = extract(reader, views, model, stopwatch, on_progress)
        info, warnings = _describe(reader)

    with stopwatch.stage("localize"):
        detections, grid, video_scores = detect(sequence, model, rules)
    with stopwatch.stage("segments"):
        found = segments.finalize(detections, grid, rules, manifest.segment_labels, options, video_scores)
    return Localization(
        path.name, info, model.info, tuple(found), stopwatch.read(), warnings, _details(manifest, reader)
    )


def extract(
    reader: VideoReader,
    views: tuple[FrameView, ...],
    model: LoadedModel,
    stopwatch: Stopwatch,
    on_progress: OnProgress | None = None,
) -> FeatureSequence:
    """One pass over the video: every stream sees every frame once, and nothing but its own rows grows with time."""
    grid = model.manifest.grid
    reach_frames = max(stream.span_frames for stream in model.manifest.streams)
    extractors = [
        StreamExtractor(
            loaded, featuring.clip_rule(loaded.stream, grid.stride_frames, reach_frames, grid.tail), stopwatch
        )
        for loaded in model.streams
    ]
    view_of = [views.index(_view(loaded.stream)) for loaded in model.streams]
    times_s: list[NDArray[np.float64]] = []
    for batch in _timed(reader, stopwatch):
        times_s.append(batch.times_s)
        for extractor, view in zip(extractors, view_of, strict=True):
            extractor.push(batch.pixels[view])
        if on_progress:
            on_progress(float(batch.times_s[-1]) - reader.info.start_s, reader.info.duration_s)
    for extractor in extractors:
        extractor.finish()
    frame_grid = SnippetGrid(
        np.concatenate(times_s), reader.summary.end_s, float(grid.stride_frames), grid.offset_frames
    )
    return _join_streams(extractors, model, frame_grid, reach_frames)


def detect(
    sequence: FeatureSequence, model: LoadedModel, rules: Postprocessing
) -> tuple[Detections, SnippetGrid, Scores | None]:
    """Detections, the grid that their spans refer to, and the video's class scores where the model gives any."""
    video_scores = _classify(sequence, model)
    if model.detector is not None and model.manifest.output_kind == "candidates":
        detections, grid = _candidates(sequence, model, model.detector, rules)
        return detections, grid, video_scores
    if model.detector is not None:
        activations, own_scores, grid = _activations(sequence, model, model.detector)
    else:
        activations, grid = np.asarray(sequence.scores, np.float64), sequence.grid
        own_scores = activations.max(axis=0)
    assert rules.grouping is not None  # noqa: S101  (the schema asks for it beside activations)
    found = segments.from_activations(
        activations,
        own_scores if video_scores is None else video_scores,
        grid,
        sequence.clip_span_frames,
        model.manifest,
        rules.grouping,
    )
    return found, grid, video_scores


def choose_rules(manifest: Manifest, preset: Preset) -> Postprocessing:
    rules = manifest.postprocessing.use if preset == "use" else manifest.postprocessing.evaluation
    if rules is None:
        raise InvalidOptions(f"model {manifest.name!r} has no preset {preset!r} for post-processing; it has 'use'")
    return rules


def frame_views(manifest: Manifest) -> tuple[FrameView, ...]:
    """The distinct sizes in which the streams want their frames; streams that agree share one."""
    return tuple(dict.fromkeys(_view(stream) for stream in manifest.streams))


def _view(stream: Stream) -> FrameView:
    # Flow is computed before the crop, so that what moves in from the side is seen.
    crop_px = None if stream.kind == "flow" else stream.crop_px
    return FrameView(stream.resize.mode, stream.resize.size_px, stream.resize.interpolation, crop_px)


def _timed(reader: VideoReader, stopwatch: Stopwatch) -> Iterator[FrameBatch]:
    """The reader's batches; the time spent waiting for them is the time that decoding costs."""
    batches = iter(reader)
    while True:
        with stopwatch.stage("decode"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _join_streams(
    extractors: list[StreamExtractor], model: LoadedModel, grid: SnippetGrid, reach_frames: int
) -> FeatureSequence:
    values: Tensor | None = None
    scores = None
    if all(extractor.stream.outputs.features for extractor in extractors):
        values = model.ops.join_columns([extractor.features(model.ops) for extractor in extractors])
    if all(extractor.stream.outputs.scores for extractor in extractors):
        weights = [extractor.stream.fusion_weight for extractor in extractors]
        scores = featuring.fuse_streams([extractor.scores() for extractor in extractors], weights)
        if not np.isfinite(scores).all():
            raise InferenceFailed("a backbone gave class scores that are not finite numbers (NaN or infinity)")
    return FeatureSequence(values, scores, grid, reach_frames)


def _classify(sequence: FeatureSequence, model: LoadedModel) -> Scores | None:
    """The classifier's view of the whole video, padded only if its graph has a fixed length."""
    spec = model.manifest.classifier
    if spec is None or model.classifier is None or sequence.values is None:
        return None
    layout = windows.plan(sequence.num_snippets, windows.WHOLE_VIDEO)
    batch = next(windows.batches(sequence.values, layout, model.ops, 1))
    feeds = _feeds(model.classifier, spec.features, spec.mask, batch)
    raw = to_numpy(model.classifier.session.run(feeds, want=[spec.video_scores])[spec.video_scores])
    return np.asarray(featuring.activate(raw.reshape(1, -1), spec.activation)[0], np.float64)


def _candidates(
    sequence: FeatureSequence, model: LoadedModel, detector: LoadedGraph, rules: Postprocessing
) -> tuple[Detections, SnippetGrid]:
    spec = model.manifest.detector
    assert spec is not None  # noqa: S101  (its graph is loaded)
    max_classes = 1 if rules.fusion.detector_score == "max_over_classes" else rules.max_classes_per_candidate
    limits = CandidateLimits(rules.min_candidate_score, rules.top_k_per_group, rules.top_k_per_window, max_classes)
    want = [name for name in (spec.spans, spec.scores, spec.groups) if name]
    found: list[Detections] = []
    first_window = 0
    layout, grid = _layout(sequence, model, detector)
    for batch, outputs in _run_windows(sequence, model, detector, layout, want):
        raw = (outputs[spec.spans], outputs[spec.scores], outputs[spec.groups] if spec.groups else None)
        found.append(windows.place_on_grid(raw, batch, limits, first_window))
        first_window += len(batch.first_snippet)
    return windows.join(found), grid


def _activations(
    sequence: FeatureSequence, model: LoadedModel, detector: LoadedGraph
) -> tuple[Scores, Scores, SnippetGrid]:
    """Class activations over the whole grid, and the video's class scores: the highest of any window."""
    spec = model.manifest.detector
    assert spec is not None  # noqa: S101  (its graph is loaded)
    want = [name for name in (spec.activations, spec.video_scores) if name]
    layout, grid = _layout(sequence, model, detector)
    runs = [outputs for _, outputs in _run_windows(sequence, model, detector, layout, want)]
    positions = layout.mask.shape[1] if grid is not sequence.grid else sequence.num_snippets
    merged = windows.merge_activations([run[spec.activations] for run in runs], layout, positions)
    if not np.isfinite(merged).all():
        raise InferenceFailed("the detector gave activations that are not finite numbers (NaN or infinity)")
    if spec.video_scores is None:
        return merged, merged.max(axis=0), grid
    per_window = np.concatenate([run[spec.video_scores] for run in runs]).astype(np.float64)
    return merged, per_window[layout.mask.any(axis=1)].max(axis=0), grid


def _layout(
    sequence: FeatureSequence, model: LoadedModel, detector: LoadedGraph
) -> tuple[windows.WindowPlan, SnippetGrid]:
    windowing = model.manifest.windowing
    assert windowing is not None  # noqa: S101  (the schema asks for it beside a detector)
    layout = windows.pad_plan(windows.plan(sequence.num_snippets, windowing), detector.fixed_batch or 1)
    grid = windows.window_grid(sequence.grid, sequence.num_snippets, sequence.clip_span_frames, windowing)
    return layout, grid


def _run_windows(
    sequence: FeatureSequence, model: LoadedModel, detector: LoadedGraph, layout: windows.WindowPlan, want: list[str]
) -> Iterator[tuple[windows.WindowBatch, dict[str, Array]]]:
    spec = model.manifest.detector
    assert spec is not None  # noqa: S101  (its graph is loaded)
    assert sequence.values is not None  # noqa: S101  (the schema asks for features beside a detector)
    size = detector.fixed_batch or WINDOWS_PER_BATCH
    for batch in windows.batches(sequence.values, layout, model.ops, size):
        feeds = _feeds(detector, spec.features, spec.mask, batch)
        outputs = detector.session.run(feeds, want=want)
        yield batch, {name: to_numpy(outputs[name]) for name in want}


def _feeds(graph: LoadedGraph, features: str, mask: str | None, batch: windows.WindowBatch) -> dict[str, Tensor]:
    feeds: dict[str, Tensor] = {features: batch.features}
    if mask is not None:
        dtype = next(spec.dtype for spec in graph.session.inputs if spec.name == mask)
        feeds[mask] = batch.mask.astype(TENSOR_TYPES[dtype])
    return feeds


def _describe(reader: VideoReader) -> tuple[VideoInfo, tuple[str, ...]]:
    """What the container claimed, corrected by what was decoded."""
    summary = reader.summary
    info = replace(
        reader.info,
        duration_s=summary.end_s - summary.first_time_s,
        num_frames=summary.num_frames,
        fps=summary.fps,
        is_vfr=summary.is_vfr,
        start_s=summary.first_time_s,
    )
    return info, summary.warnings


def _details(manifest: Manifest, reader: VideoReader) -> dict[str, str]:
    algorithms = [stream.flow.algorithm for stream in manifest.streams if stream.flow]
    return {"decoder": reader.summary.decoder, **({"flow": algorithms[0]} if algorithms else {})}
