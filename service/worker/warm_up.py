"""A loaded model in; every graph of it has run once on grey pictures when this returns."""

from __future__ import annotations

import numpy as np

from models.manifest import Stream
from service.pipeline import detection, features
from service.pipeline.extraction import Watch
from service.pipeline.features import FeatureSequence, StreamExtractor
from service.pipeline.snippets import SnippetGrid
from service.runtime.loaded_model import LoadedModel

_DISPLAY_PX = (320, 240)


def warm_up(model: LoadedModel) -> None:
    """What only shows when a graph runs (memory, a missing kernel) shows here, and not with the first caller."""
    rule = model.manifest.grid
    reach_frames = model.manifest.reach_frames
    count = 2 * (reach_frames + rule.stride_frames)
    extractors, watch = [], Watch()
    for loaded in model.streams:
        cutting = features.clip_rule(loaded.stream, rule.stride_frames, reach_frames, rule.tail)
        limit = watch.limit(f"stream {loaded.stream.name}", smallest=loaded.fixed_batch or 1)
        extractor = StreamExtractor(loaded, cutting, model.ops, watch.stopwatch, limit)
        extractor.push(_pictures(loaded.stream, count))
        extractor.finish()
        extractors.append(extractor)
    times_s = np.arange(count) / 25.0
    grid = SnippetGrid(times_s, count / 25.0, float(rule.stride_frames), rule.offset_frames)
    values = scores = None
    if all(extractor.stream.outputs.features for extractor in extractors):
        values = model.ops.join_columns([extractor.features() for extractor in extractors])
    if all(extractor.stream.outputs.scores for extractor in extractors):
        weights = [extractor.stream.fusion_weight for extractor in extractors]
        scores = features.fuse_streams([extractor.scores() for extractor in extractors], weights)
    sequence = FeatureSequence(values, scores, grid, reach_frames)
    detection.detect(sequence, model, model.manifest.postprocessing.use, watch)


def _pictures(stream: Stream, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    width_px, height_px = _size_px(stream)
    return np.full((count, height_px, width_px, 3), 128, np.uint8)


def _size_px(stream: Stream) -> tuple[int, int]:
    crop_px = None if stream.kind == "flow" else stream.crop_px
    if crop_px is not None:
        return crop_px
    size_px = stream.resize.size_px
    if isinstance(size_px, tuple):
        return size_px
    if size_px is None:
        return stream.crop_px or _DISPLAY_PX
    return size_px * _DISPLAY_PX[0] // _DISPLAY_PX[1], size_px
