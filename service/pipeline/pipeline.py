"""A video's path and a loaded model in, a `Localization` out: the walk, on one screen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from models.manifest import Manifest
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions
from service.localization import DetectOptions, Localization, VideoInfo
from service.pipeline import detection, extraction, segments, video
from service.pipeline.extraction import OnProgress
from service.pipeline.video import DecodeLimits, DecoderChoice, VideoReader
from service.runtime.loaded_model import LoadedModel
from service.telemetry import Stopwatch

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
) -> Localization:
    """Which actions happen in the video at `path`, from when to when; `on_progress(done_s, duration_s)` on the way."""
    stopwatch = Stopwatch()
    manifest = model.manifest
    rules = check_request(manifest, options, preset)
    views = extraction.frame_views(manifest)
    fps = None if manifest.grid.fps == "native" else manifest.grid.fps
    with stopwatch.stage("probe"):
        reader = video.decode(path, views, fps=fps, decoder=decoding.decoder, limits=decoding.limits)
    with reader:
        sequence = extraction.extract(reader, views, model, stopwatch, on_progress)
    with stopwatch.stage("localize"):
        detections, grid, video_scores = detection.detect(sequence, model, rules)
    with stopwatch.stage("segments"):
        found = segments.finalize(detections, grid, rules, manifest.segment_labels, options, video_scores)
    return Localization(
        video_name=path.name,
        video=_describe(reader),
        model=model.info,
        segments=tuple(found),
        timings_s=stopwatch.read(),
        warnings=reader.summary.warnings,
        details=_details(manifest, reader),
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


def _details(manifest: Manifest, reader: VideoReader) -> dict[str, str]:
    algorithms = dict.fromkeys(stream.flow.algorithm for stream in manifest.streams if stream.flow)
    return {"decoder": reader.summary.decoder, **({"flow": ", ".join(algorithms)} if algorithms else {})}
