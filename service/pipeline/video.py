"""A path in; what the video is, and its frames in batches with their presentation times, out.

All decoding happens in a child process (decode_child.py): a file that makes FFmpeg hang, crash or eat memory costs one
request. Frames come back through anonymous shared memory, at the sizes that the views ask for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service import errors
from service.localization import VideoInfo
from service.pipeline.decode_process import (
    CHILD_COMMAND,
    DecodeLimits,
    DecodeProcess,
    DecoderChoice,
    DecodeRequest,
    Message,
)
from service.pipeline.frame_ring import FrameRing, RingLayout, trust_memory
from service.pipeline.frame_views import FrameView, Pixels

__all__ = [
    "DecodeLimits",
    "DecodeSummary",
    "DecoderChoice",
    "FrameBatch",
    "FrameView",
    "VideoReader",
    "decode",
    "probe",
]

_NO_RETRY = (errors.VideoTooLong, errors.VideoTooLarge)  # a refusal, whichever decoder


@dataclass(frozen=True, repr=False)
class FrameBatch:
    """Consecutive frames: uint8 (N, H, W, 3) per view, and one time per frame on the container's timeline."""

    pixels: tuple[Pixels, ...]
    times_s: NDArray[np.float64]
    first_index: int

    def __post_init__(self) -> None:
        shapes = [view.shape for view in self.pixels]
        if not shapes or any(len(s) != 4 or s[3] != 3 or s[0] != len(self.times_s) for s in shapes):
            raise ValueError(f"views of shape {shapes} do not agree with {self.times_s.shape} times")

    def __repr__(self) -> str:
        shapes = ", ".join(str(view.shape) for view in self.pixels)
        return f"FrameBatch(pixels=({shapes}), times_s={self.times_s.shape}, first_index={self.first_index})"


@dataclass(frozen=True)
class DecodeSummary:
    """What the video turned out to be; `num_frames` counts decoded frames, sampled or not."""

    num_frames: int
    first_time_s: float
    last_time_s: float
    end_s: float
    fps: float
    is_vfr: bool
    decoder: str
    warnings: tuple[str, ...] = ()


class VideoReader:
    """Iterates over batches; use it as a context manager, or close it: closing ends the decoder at once.

    `info` is there from the start, `summary` once the frames are through. A decord that fails, hangs or dies is
    replaced by PyAV once, behind the frames that were delivered already. One thread reads; any thread may close, and
    the reading one then finds the video at its end.
    """

    def __init__(self, request: DecodeRequest, command: Sequence[str] = CHILD_COMMAND) -> None:
        self._request = request
        self._command = command
        self._notes: tuple[str, ...] = ()
        self._num_delivered = 0
        self._summary: DecodeSummary | None = None
        self._closed = False
        self._in_use = threading.RLock()
        self._process, self._ring, self.info, self._decoder = self._start(request)

    @property
    def bounds_s(self) -> tuple[float, float]:
        """From when to when frames are to be expected, by the header's word and the part that was asked for."""
        first_s, last_s = self.info.start_s, self.info.start_s + self.info.duration_s
        start_s, end_s = self._request.start_s, self._request.end_s
        return max(first_s, start_s or first_s), last_s if end_s is None else min(last_s, end_s)

    @property
    def summary(self) -> DecodeSummary:
        if self._summary is None:
            raise RuntimeError("the summary is there once every frame has been read")
        return self._summary

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FrameBatch:
        while not self._closed:
            try:
                with self._in_use:
                    batch = None if self._closed else self._next_batch()
            except BaseException as error:  # noqa: BLE001  # an interrupt, too, ends the child
                if not self._closed:
                    self._take_over(error)
                continue
            if batch is not None:
                self._num_delivered += len(batch.times_s)
                return batch
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._process.kill()  # which also ends the wait of a thread that reads
        with self._in_use:
            self._process.close()
            if self._ring is not None:
                self._ring.close()

    def _start(self, request: DecodeRequest) -> tuple[DecodeProcess, FrameRing | None, VideoInfo, str]:
        process = DecodeProcess(request, self._command)
        try:
            header = process.receive()
            layout = RingLayout(tuple((width, height) for width, height in header["sizes_px"]))
            ring = trust_memory(process.memory_fd, layout) if layout.sizes_px else None
            return process, ring, VideoInfo(**header["info"]), header["decoder"]
        except BaseException:
            process.close()
            raise

    def _take_over(self, error: BaseException) -> None:
        """PyAV's turn where decord failed; anything else is the caller's."""
        self.close()
        if self._decoder != "decord" or not isinstance(error, errors.VideoError) or isinstance(error, _NO_RETRY):
            raise error
        self._notes = (f"PyAV took over after {self._num_delivered} frames, since decord failed: {error}",)
        retry = replace(self._request, decoder="pyav", skip_samples=self._num_delivered)
        self._process, self._ring, self.info, self._decoder = self._start(retry)
        self._closed = False

    def _next_batch(self) -> FrameBatch | None:
        message = self._process.receive()
        if message["kind"] == "batch" and self._ring is not None:
            times_s = np.array(message["times_s"], dtype=np.float64)
            pixels = self._ring.copy(message["slot"], len(times_s))
            self._process.free_slot()
            return FrameBatch(pixels, times_s, message["first_index"])
        if message["kind"] == "end":
            self._summary = _summary(message, self._notes)
            self.close()
        return None


def probe(path: str | Path, limits: DecodeLimits = DecodeLimits()) -> VideoInfo:  # noqa: B008  # frozen
    """The header's word; num_frames is 0 where the container does not say."""
    with VideoReader(DecodeRequest(_checked_path(path, limits), limits=limits, header_only=True)) as reader:
        return reader.info


def check_rate(fps: float | None) -> None:
    if fps is not None and not 0 < fps <= 1000:
        raise errors.InvalidOptions(f"the sampling rate is {fps}; accepted are rates above 0 up to 1000 a second")


def decode(
    path: str | Path,
    views: Sequence[FrameView],
    *,
    fps: float | None = None,
    decoder: DecoderChoice = "auto",
    limits: DecodeLimits = DecodeLimits(),  # noqa: B008  # frozen
    start_s: float | None = None,
    end_s: float | None = None,
) -> VideoReader:
    """Frames of the best video stream, each as every view shows it: all of them, or `fps` of them a second.

    With `fps`, sample k is the frame on screen k / fps after the first one, and its time is that moment. With bounds,
    the video is what begins in [start_s, end_s): its first frame is the first one there, and its end is at the bound.
    """
    if not views:
        raise errors.InvalidOptions("no view is asked for; accepted are one or more")
    check_rate(fps)
    if decoder not in {"auto", "pyav", "decord"}:
        raise errors.InvalidOptions(f"the decoder is {decoder!r}; accepted are 'auto', 'pyav' and 'decord'")
    return VideoReader(
        DecodeRequest(_checked_path(path, limits), tuple(views), fps, decoder, limits, start_s=start_s, end_s=end_s)
    )


def _summary(message: Message, notes: tuple[str, ...]) -> DecodeSummary:
    fields = {name: value for name, value in message.items() if name not in {"kind", "warnings"}}
    return DecodeSummary(**fields, warnings=(*notes, *message["warnings"]))


def _checked_path(path: str | Path, limits: DecodeLimits) -> str:
    """What the file system alone can tell."""
    path = Path(path).absolute()
    if not path.is_file():
        raise errors.VideoNotFound(f"{path.name} is not a file")
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise errors.CorruptVideo(f"{path.name} is empty (0 bytes)")
    if size_bytes > limits.max_file_bytes:
        raise errors.VideoTooLarge(f"{path.name} is {size_bytes} bytes; accepted are up to {limits.max_file_bytes}")
    return str(path)
