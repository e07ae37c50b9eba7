"""A video's path and a loaded model in, a `Localization` out: the walk, on one screen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from models.manifest import Manifest
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions
from service.localization import Activations, DetectOptions, Localization, VideoInfo
from service.pipeline import class_curves, detection, extraction, feature_cache, segments, video
from service.pipeline.detection import Found
from service.pipeline.extraction import OnProgress, Watch
from service.pipeline.feature_cache import FeatureCache, VideoFeatures
from service.pipeline.features import FeatureSequence
from service.pipeline.video import DecodeLimits, DecoderChoice, VideoReader
from service.runtime.loaded_model import LoadedModel

Preset = Literal["use", "evaluation"]


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
    features: FeatureCache | None = None,
) -> Localization:
    """Which actions happen in the video at `path`, from when to when.

    `on_progress` hears of every step and may raise to end the work. With `features`, a video that was seen before by a
    model with the same backbone and grid is not decoded again.
    """
    watch = Watch(on_progress or extraction.tell_nobody)
    rules = check_request(model.manifest, options, preset)
    seen, source = _look(path, model, options, decoding, features, watch)
    return _answer(path.name, seen, source, (model, rules, options), watch)


def localize_features(
    name: str,
    sequence: FeatureSequence,
    model: LoadedModel,
    options: DetectOptions = DetectOptions(),
    *,
    preset: Preset = "use",
    warnings: tuple[str, ...] = (),
) -> Localization:
    """The same of features that were made before; what only a video's file could tell is 0 or empty."""
    if options.start_s or options.end_s is not None:
        raise InvalidOptions("start and end say which part of a video is looked at; features are taken as they are")
    rules = check_request(model.manifest, options, preset)
    watch = Watch(extraction.tell_nobody)
    return _answer(
        name, VideoFeatures(sequence, _known_of(sequence), "", warnings), "file", (model, rules, options), watch
    )


def _answer(
    name: str,
    seen: VideoFeatures,
    source: str | None,
    asked: tuple[LoadedModel, Postprocessing, DetectOptions],
    watch: Watch,
) -> Localization:
    """From features on, videos and files of features are alike."""
    model, rules, options = asked
    manifest = model.manifest
    watch.tell("localize", 0, 1)
    with watch.stopwatch.stage("localize"):
        found = detection.detect(seen.sequence, model, rules, watch)
    watch.tell("segments", 0, 1)
    with watch.stopwatch.stage("segments"):
        kept = segments.finalize(
            found.detections, found.grid, rules, manifest.segment_labels, options, found.video_scores
        )
        curves = _draw_curves(found, rules, manifest, options) if "activations" in options.include else None
    watch.tell("segments", 1, 1)
    return Localization(
        video_name=name,
        video=seen.info,
        model=model.info,
        segments=tuple(kept),
        timings_s=watch.stopwatch.read(),
        warnings=(*seen.warnings, *_halvings(watch)),
        details=_details(manifest, seen, source, watch),
        activations=curves,
    )


def check_request(manifest: Manifest, options: DetectOptions, preset: Preset) -> Postprocessing:
    """Refuses what this model cannot do for any video; gives the rules of the preset."""
    segments.check_options(options, manifest.segment_labels)
    rules = manifest.postprocessing.use if preset == "use" else manifest.postprocessing.evaluation
    if rules is None:
        raise InvalidOptions(f"model {manifest.name!r} has no preset {preset!r} for post-processing; it has 'use'")
    if rules.fusion.rule != "none" and manifest.classifier is None:
        raise InvalidOptions(segments.NO_VIDEO_SCORES)
    return rules


def _look(
    path: Path, model: LoadedModel, options: DetectOptions, decoding: Decoding, cache: FeatureCache | None, watch: Watch
) -> tuple[VideoFeatures, str | None]:
    """The video's features, and where they come from if a cache was offered."""
    if cache is None:
        return _extract(path, model, options, decoding, watch), None
    key = feature_cache.make_key(cache.video_key, model, options, decoding.decoder)
    known = cache.load(key)
    if known is not None:
        return known, "cached"
    seen = _extract(path, model, options, decoding, watch)
    return seen, cache.save(key, seen)


def _extract(path: Path, model: LoadedModel, options: DetectOptions, decoding: Decoding, watch: Watch) -> VideoFeatures:
    rate = model.manifest.grid.fps
    views = extraction.frame_views(model.manifest)
    watch.tell("probe", 0, 1)
    with watch.stopwatch.stage("probe"):
        reader = video.decode(
            path,
            views,
            fps=None if rate == "native" else rate,
            decoder=decoding.decoder,
            limits=decoding.limits,
            start_s=options.start_s or None,  # frames before 0, which few videos have, belong to an open start
            end_s=options.end_s,
        )
    with reader:
        watch.tell("probe", 1, 1)
        sequence = extraction.extract(reader, views, model, watch)
    is_whole = not options.start_s and options.end_s is None
    info = _describe(reader) if is_whole else reader.info
    return VideoFeatures(sequence, info, reader.summary.decoder, reader.summary.warnings)


def _describe(reader: VideoReader) -> VideoInfo:
    """What the container claimed, corrected by what was decoded."""
    summary = reader.summary
    return replace(
        reader.info,
        duration_s=summary.end_s - summary.first_time_s,
        num_frames=summary.num_frames,
        fps=summary.fps,
        is_vfr=summary.is_vfr,
        start_s=summary.first_time_s,
    )


def _known_of(sequence: FeatureSequence) -> VideoInfo:
    grid = sequence.grid
    length_s = grid.end_s - grid.start_s
    rate = grid.num_frames / length_s if length_s > 0 else 0.0
    return VideoInfo(length_s, grid.num_frames, rate, False, 0, 0, 0, "", "", grid.start_s)


def _draw_curves(found: Found, rules: Postprocessing, manifest: Manifest, options: DetectOptions) -> Activations:
    labels, grid = manifest.segment_labels, found.grid
    if found.curves is not None:
        values, positions = class_curves.of_activations(found.curves), len(found.curves)
    else:
        named = found.detections
        if rules.fusion.rule != "none":
            named = segments.fuse(named, found.video_scores, rules.fusion)
        values, positions = class_curves.of_candidates(named, grid, len(labels)), class_curves.num_positions(grid)
    return class_curves.as_answer(values, positions, grid, labels, options.labels)


def _halvings(watch: Watch) -> list[str]:
    return [
        f"memory ran out: {what} went on with batches of {limit.largest}"
        for what, limit in watch.batches.items()
        if limit.was_halved
    ]


def _details(manifest: Manifest, seen: VideoFeatures, source: str | None, watch: Watch) -> dict[str, Any]:
    algorithms = dict.fromkeys(stream.flow.algorithm for stream in manifest.streams if stream.flow)
    ran = {what: limit for what, limit in watch.batches.items() if limit.runs}
    halved = {what: limit.largest for what, limit in watch.batches.items() if limit.was_halved}
    return {
        **({"decoder": seen.decoder} if seen.decoder else {}),
        **({"flow": ", ".join(algorithms)} if algorithms else {}),
        **({"features": source} if source else {}),
        "batches": {what: {str(size): runs for size, runs in limit.runs.items()} for what, limit in ran.items()},
        **({"batch": halved} if halved else {}),
    }
