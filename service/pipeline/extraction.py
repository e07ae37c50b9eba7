"""A reader of frames and a loaded model in, one `FeatureSequence` out: every stream in one pass over the video."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from models.manifest import Manifest, Stream
from service.errors import InferenceFailed, ZeroFrames
from service.localization import Progress
from service.pipeline import features
from service.pipeline.batch_limit import BatchLimit
from service.pipeline.features import FeatureSequence, StreamExtractor
from service.pipeline.snippets import SnippetGrid
from service.pipeline.video import FrameBatch, FrameView, VideoReader
from service.runtime.loaded_model import LoadedModel
from service.runtime.session import Tensor
from service.telemetry import Stopwatch

OnProgress = Callable[[Progress], None]


def tell_nobody(progress: Progress) -> None:
    """Where no one wants to know."""


@dataclass
class Watch:
    """What is learnt on the way: seconds per stage, how far it is (told at once), and in which batches models ran."""

    on_progress: OnProgress = tell_nobody
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    batches: dict[str, BatchLimit] = field(default_factory=dict)

    def limit(self, what: str, largest: int | None = None, smallest: int = 1) -> BatchLimit:
        return self.batches.setdefault(what, BatchLimit(largest, smallest))

    def tell(self, stage: str, done: float, total: float) -> None:
        self.on_progress(Progress(stage, done, total))


def extract(reader: VideoReader, views: tuple[FrameView, ...], model: LoadedModel, watch: Watch) -> FeatureSequence:
    """Every stream sees every frame once, and nothing but its own rows grows with the video."""
    extractors = _extractors(model, watch)
    view_of = [views.index(_view(extractor.stream)) for extractor in extractors]
    times_s = array("d")
    start_s, end_s = reader.bounds_s
    for batch in _timed(reader, watch.stopwatch):
        times_s.frombytes(batch.times_s.tobytes())
        for extractor, view in zip(extractors, view_of, strict=True):
            extractor.push(batch.pixels[view])
        done_s = float(batch.times_s[-1]) - start_s
        watch.tell("decode", done_s, max(done_s, end_s - start_s))
    for extractor in extractors:
        extractor.finish()
    if not times_s:
        raise ZeroFrames("the video gave no frame")
    rule = model.manifest.grid
    grid = SnippetGrid(
        np.asarray(times_s),
        reader.summary.end_s,
        float(rule.stride_frames),
        rule.offset_frames,
        None if rule.fps == "native" else 1 / rule.fps,
    )
    return _join_streams(extractors, model, grid)


def frame_views(manifest: Manifest) -> tuple[FrameView, ...]:
    """The distinct sizes in which the streams want their frames; streams that agree share one."""
    return tuple(dict.fromkeys(_view(stream) for stream in manifest.streams))


def _view(stream: Stream) -> FrameView:
    # Flow is computed before the crop, so that what moves in from the side is seen.
    crop_px = None if stream.kind == "flow" else stream.crop_px
    return FrameView(stream.resize.mode, stream.resize.size_px, stream.resize.interpolation, crop_px)


def _extractors(model: LoadedModel, watch: Watch) -> list[StreamExtractor]:
    grid = model.manifest.grid
    reach_frames = model.manifest.reach_frames
    return [
        StreamExtractor(
            loaded,
            features.clip_rule(loaded.stream, grid.stride_frames, reach_frames, grid.tail),
            model.ops,
            watch.stopwatch,
            watch.limit(f"stream {loaded.stream.name}", smallest=loaded.fixed_batch or 1),
        )
        for loaded in model.streams
    ]


def _timed(reader: VideoReader, stopwatch: Stopwatch) -> Iterator[FrameBatch]:
    """The reader's batches; the time spent waiting for them is the time that decoding costs."""
    batches = iter(reader)
    while True:
        with stopwatch.stage("decode"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _join_streams(extractors: list[StreamExtractor], model: LoadedModel, grid: SnippetGrid) -> FeatureSequence:
    values: Tensor | None = None
    scores = None
    if all(extractor.stream.outputs.features for extractor in extractors):
        values = model.ops.join_columns([extractor.features() for extractor in extractors])
    if all(extractor.stream.outputs.scores for extractor in extractors):
        weights = [extractor.stream.fusion_weight for extractor in extractors]
        scores = features.fuse_streams([extractor.scores() for extractor in extractors], weights)
        if not np.isfinite(scores).all():
            raise InferenceFailed("a backbone gave class scores that are not finite numbers (NaN or infinity)")
    return FeatureSequence(values, scores, grid, model.manifest.reach_frames)
