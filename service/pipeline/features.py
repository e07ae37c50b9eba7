"""Frames of a video in, rows of features and class scores out: flow, clips, preprocessing and one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.manifest import InputFormat, Stream
from service.errors import InferenceFailed, VideoTooSmall
from service.pipeline.batch_limit import BatchLimit
from service.pipeline.flow import FlowRule, FlowStation
from service.pipeline.snippets import ClipRule, SnippetBatch, SnippetCutter, SnippetGrid
from service.runtime.feature_ops import FeatureOps, HostOps, RowPile
from service.runtime.loaded_model import LoadedStream
from service.runtime.session import Array, Tensor, to_numpy
from service.telemetry import Stopwatch

FRAMES_PER_BATCH = 32  # larger batches gain a CPU nothing and cost memory
BATCH_BYTES = 256 * 1024 * 1024
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSequence:
    """A whole video as a detector sees it: `values` (T, C), class `scores` (T, K), and the grid they stand on."""

    values: Tensor | None
    scores: Scores | None
    grid: SnippetGrid
    clip_span_frames: int

    def __post_init__(self) -> None:
        lengths = {part.shape[0] for part in (self.values, self.scores) if part is not None}
        if len(lengths) != 1:
            raise ValueError(f"a feature sequence needs values or scores of one length, found lengths {lengths}")

    @property
    def num_snippets(self) -> int:
        part = self.scores if self.values is None else self.values
        return 0 if part is None else int(part.shape[0])

    def __repr__(self) -> str:
        parts = {"values": self.values, "scores": self.scores}
        shapes = ", ".join(f"{name}={tuple(part.shape)}" for name, part in parts.items() if part is not None)
        return f"FeatureSequence({shapes}, grid={self.grid})"


class StreamExtractor:
    """One backbone at work on one video: frames are pushed in, rows of features and scores pile up."""

    def __init__(
        self,
        loaded: LoadedStream,
        rule: ClipRule,
        ops: FeatureOps,
        stopwatch: Stopwatch,
        limit: BatchLimit | None = None,
    ) -> None:
        self._limit = limit or BatchLimit(smallest=loaded.fixed_batch or 1)
        self.stream = loaded.stream
        self._loaded = loaded
        self._stopwatch = stopwatch
        self._cutter = SnippetCutter(rule, loaded.fixed_batch, FRAMES_PER_BATCH, BATCH_BYTES)
        self._flow = _flow_station(loaded.stream)
        self._features = RowPile(ops.join_rows)
        self._scores = RowPile(HostOps().join_rows)
        self._state: dict[str, Tensor] = {}

    def push(self, frames: NDArray[np.uint8]) -> None:
        """The next frames (N, H, W, 3) as this stream sees them; for flow they are cropped only afterwards."""
        if self._flow is None:
            self._run_all(self._cutter.push(frames))
            return
        with self._stopwatch.stage("flow"):
            fields = crop(self._flow.push(frames), self.stream.crop_px)
        self._run_all(self._cutter.push(fields))

    def finish(self) -> None:
        if self._flow is not None:
            self._run_all(self._cutter.push(crop(self._flow.finish(), self.stream.crop_px)))
        self._run_all(self._cutter.finish())

    def features(self) -> Tensor:
        return self._features.rows()

    def scores(self) -> Scores:
        return np.asarray(to_numpy(self._scores.rows()), np.float32)

    def _run_all(self, batches: Sequence[SnippetBatch]) -> None:
        with self._stopwatch.stage("features"):
            for batch in batches:
                for part, outputs in self._limit.each(len(batch.clips), partial(self._run_part, batch.clips)):
                    self._collect(outputs, part.stop - part.start)

    def _run_part(self, clips: Array, part: slice) -> dict[str, Tensor]:
        return self._run_steps(clips[part]) if self.stream.state else self._run_clips(clips[part])

    def _run_clips(self, clips: Array) -> dict[str, Tensor]:
        missing = (self._loaded.fixed_batch or len(clips)) - len(clips)
        if missing:
            clips = np.concatenate([clips, np.repeat(clips[-1:], missing, axis=0)])
        return self._run(clips, {}, set())

    def _run_steps(self, clips: Array) -> dict[str, Tensor]:
        """A streaming graph sees one clip as steps that follow each other; its last step speaks for the clip."""
        state = self.stream.state
        assert state is not None  # noqa: S101  (the caller asked)
        if state.reset == "window" or not self._state:
            self._state = {tensor.input: np.zeros(tensor.shape, tensor.dtype) for tensor in state.tensors}
        carried = {tensor.output for tensor in state.tensors}
        outputs: dict[str, Tensor] = {}
        for first in range(0, self.stream.clip_frames, state.step_frames):
            outputs = self._run(clips[:, first : first + state.step_frames], self._state, carried)
            self._state = {tensor.input: outputs[tensor.output] for tensor in state.tensors}
        return outputs

    def _run(self, clips: Array, state: dict[str, Tensor], carried: set[str]) -> dict[str, Tensor]:
        feeds = {self._loaded.input_name: prepare(clips, self.stream.input), **state}
        names = self.stream.outputs
        keep = carried | ({names.features} if names.features else set())
        want = keep | ({names.scores} if names.scores else set())
        return self._loaded.session.run(feeds, keep=keep, want=want)

    def _collect(self, outputs: dict[str, Tensor], count: int) -> None:
        names = self.stream.outputs
        if names.features is not None:
            features = outputs[names.features]
            if len(features.shape) != 2 or features.shape[0] != (self._loaded.fixed_batch or count):
                given = f"features {tuple(features.shape)} for {count} clips"
                raise InferenceFailed(f"stream {self.stream.name!r} gave {given}; (N, C) is needed")
            self._features.add(features if features.shape[0] == count else to_numpy(features)[:count])
        if names.scores is not None:
            rows = self._score_rows(to_numpy(outputs[names.scores]), count)
            self._scores.add(activate(rows, names.score_activation))

    def _score_rows(self, raw: Array, count: int) -> Array:
        """One row per clip and one column per label, whatever axes of length 1 the graph adds."""
        given, classes = self._loaded.fixed_batch or count, self._loaded.num_classes
        if (
            not raw.ndim
            or raw.shape[0] != given
            or raw.size != given * classes
            or max(raw.shape[1:], default=0) != classes
        ):
            raise InferenceFailed(
                f"stream {self.stream.name!r} gave scores {raw.shape} for {given} clips and {classes} labels; "
                f"({given}, {classes}) is needed"
            )
        return raw.reshape(given, classes)[:count]


def clip_rule(stream: Stream, stride_frames: int, reach_frames: int, tail: str) -> ClipRule:
    return ClipRule(
        stream.clip_frames, stream.frame_step, stride_frames, reach_frames, tail == "pad", stream.first_frame
    )


def prepare(clips: Array, wanted: InputFormat) -> Array:
    """Clips (N, T, H, W, C) as a graph's input tensor: channel order, scaling, type, layout."""
    if wanted.channel_order == "bgr":
        clips = clips[..., ::-1]
    if clips.dtype != np.dtype(wanted.dtype) or wanted.dtype == "float32":
        mean, std = np.asarray(wanted.mean, np.float32), np.asarray(wanted.std, np.float32)
        clips = (clips.astype(np.float32) * np.float32(wanted.scale) - mean) / std
    if len(wanted.layout) == 4:
        clips = clips[:, 0]
    source = "NTHWC" if clips.ndim == 5 else "NHWC"
    return np.ascontiguousarray(clips.transpose([source.index(axis) for axis in wanted.layout]))


def activate(raw: Array, activation: str) -> Scores:
    """Raw class scores (N, K) as probabilities."""
    values = np.asarray(raw, np.float32)
    if activation == "softmax":
        exponent = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)
    if activation == "sigmoid":
        # tanh neither overflows nor warns, whatever the logit.
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), np.float32)
    return values


def fuse_streams(scores: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Late fusion: the weighted mean of the streams' class scores."""
    total = sum(weight * stream for weight, stream in zip(weights, scores, strict=True))
    return np.asarray(total / sum(weights), np.float32)


def crop(fields: Array, crop_px: tuple[int, int] | None) -> Array:
    """The centre (width, height) of fields (N, H, W, C)."""
    if crop_px is None:
        return fields
    width, height = crop_px
    top, left = (fields.shape[1] - height) // 2, (fields.shape[2] - width) // 2
    if min(top, left) < 0:
        raise VideoTooSmall(
            f"crop_px {crop_px} is larger than the flow field of {fields.shape[2]}x{fields.shape[1]} px"
        )
    return fields[:, top : top + height, left : left + width]


def _flow_station(stream: Stream) -> FlowStation | None:
    if stream.flow is None:
        return None
    return FlowStation(FlowRule(stream.flow.algorithm, stream.flow.clip_px, stream.flow.quantised))
