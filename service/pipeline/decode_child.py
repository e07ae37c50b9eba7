"""A decode request on a pipe in; the video's header, then frames in shared memory, out. A process of its own.

Whatever a hostile file does to FFmpeg happens here: the process has memory and CPU limits, it ends when its parent
does, and the parent kills it when it falls silent. The pipe from the parent carries the request and then one byte per
ring slot that is free again; the pipe to the parent carries JSON messages, each after its length.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av.logging

from service.errors import (
    DecodeOutOfMemory,
    DecoderCrashed,
    FrameTooLarge,
    InvalidOptions,
    TalError,
    VideoTooLong,
    ZeroFrames,
)
from service.pipeline.containers import VideoHeader, read_header, spread_is_irregular
from service.pipeline.decode_process import DecodeLimits, DecodeRequest
from service.pipeline.decoders import FASTER_DECODER, Decoder, DecordDecoder, PyAvDecoder, TimedFrame, decord_refusal
from service.pipeline.frame_ring import FrameRing, RingLayout, size_memory
from service.pipeline.frame_views import FrameView, Pixels, show

_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY_S = 1.0


class Parent:
    """The two pipes; the end of file on the control pipe ends this process at once, whatever else it is doing."""

    def __init__(self, control_fd: int, message_fd: int) -> None:
        self._control = os.fdopen(control_fd, "rb", buffering=0)
        self._message_fd = message_fd
        self._sent_at_s = time.monotonic()
        self.free_slots = threading.Semaphore(0)

    def request(self) -> DecodeRequest:
        line = b""
        # Nothing but the request is sent before its answer, so a read never takes a slot's byte with it.
        while not line.endswith(b"\n"):
            line += self._control.read(65536) or os._exit(0)
        threading.Thread(target=self._watch, daemon=True).start()
        return DecodeRequest.from_json(line.decode())

    def send(self, kind: str, **body: Any) -> None:  # whatever JSON can say
        message = json.dumps({"kind": kind, **body}).encode()
        rest = memoryview(struct.pack("=I", len(message)) + message)
        while rest:
            rest = rest[os.write(self._message_fd, rest) :]
        self._sent_at_s = time.monotonic()

    def send_progress(self, time_s: float) -> None:
        """Frames that nobody sampled are work too: only silence means a decoder that hangs."""
        if time.monotonic() - self._sent_at_s > _PROGRESS_EVERY_S:
            self.send("progress", time_s=time_s)

    def _watch(self) -> None:
        while freed := self._control.read(64):
            self.free_slots.release(len(freed))
        os._exit(0)


class BatchWriter:
    """Fills slots in turn; a slot is written again once the parent freed it, so memory stays flat."""

    def __init__(self, parent: Parent, ring: FrameRing, first_index: int) -> None:
        self._parent = parent
        self._ring = ring
        self._slot = 0
        self._index = first_index
        self._times_s: list[float] = []
        parent.free_slots.release(ring.layout.num_slots)

    def write(self, time_s: float, shown: list[Pixels]) -> None:
        if not self._times_s:
            self._parent.free_slots.acquire()
        self._ring.write(self._slot, len(self._times_s), shown)
        self._times_s.append(time_s)
        if len(self._times_s) == self._ring.layout.slot_frames:
            self.flush()

    def flush(self) -> None:
        if self._times_s:
            self._parent.send("batch", slot=self._slot, first_index=self._index, times_s=self._times_s)
            self._index += len(self._times_s)
            self._slot = (self._slot + 1) % self._ring.layout.num_slots
            self._times_s = []


class FrameCount:
    """What was decoded, as opposed to what the header announced."""

    def __init__(self, header: VideoHeader) -> None:
        self._header = header
        self.num_frames = 0
        self.first_s = self.last_s = self.end_s = header.info.start_s
        self._shortest_s, self._longest_s = math.inf, 0.0

    def add(self, frame: TimedFrame) -> None:
        if self.num_frames:
            step_s = frame.time_s - self.last_s
            self._shortest_s, self._longest_s = min(self._shortest_s, step_s), max(self._longest_s, step_s)
        else:
            self.first_s = frame.time_s
        self.num_frames += 1
        self.last_s, self.end_s = frame.time_s, frame.time_s + frame.duration_s

    def summary(self, decoder: Decoder, notes: list[str]) -> dict[str, Any]:
        length_s = self.last_s - self.first_s
        return {
            "num_frames": self.num_frames,
            "first_time_s": self.first_s,
            "last_time_s": self.last_s,
            "end_s": self.end_s,
            "fps": (self.num_frames - 1) / length_s if length_s > 0 else self._header.info.fps,
            "is_vfr": spread_is_irregular(self._shortest_s, self._longest_s, self._header.time_base),
            "decoder": decoder.name,
            "warnings": [*self._header.warnings, *notes, *decoder.warnings],
        }


def sample_frames(frames: Iterator[TimedFrame], fps: float | None, tick_s: float) -> Iterator[tuple[float, TimedFrame]]:
    """Every frame at its own time, or at each k/fps after the first the frame that is on screen then.

    A timestamp is rounded to its container's tick, so a frame may begin one tick (at most 1 ms) late and still count.
    """
    tolerance_s = min(tick_s, 0.001) + 1e-9
    start_s = next_s = end_s = 0.0
    shown: TimedFrame | None = None
    index = 0
    for frame in frames:
        if fps is None:
            yield frame.time_s, frame
            continue
        if shown is None:
            start_s = next_s = frame.time_s
        while shown is not None and next_s + tolerance_s < frame.time_s:
            yield next_s, shown
            index += 1
            next_s = start_s + index / fps
        shown, end_s = frame, frame.time_s + frame.duration_s
    while shown is not None and fps is not None and (index == 0 or next_s + 1e-6 < end_s):
        yield next_s, shown
        index += 1
        next_s = start_s + index / fps


def serve(parent: Parent, request: DecodeRequest, ring_fd: int) -> None:
    path = Path(request.path)
    header = read_header(path)
    _refuse_oversized(header, request.limits)
    _limit_cpu(request.limits, header.info.duration_s or request.limits.max_duration_s)
    if request.header_only:
        parent.send("header", info=asdict(header.info), decoder="pyav", sizes_px=[])
        return
    _refuse_late_start(request, header.announced_end_s)
    decoder, notes = _choose_decoder(request, path, header)
    layout = RingLayout(tuple(_output_size(view, header, request.limits) for view in request.views))
    ring = size_memory(ring_fd, layout)
    parent.send("header", info=asdict(header.info), decoder=decoder.name, sizes_px=layout.sizes_px)
    count = _deliver(parent, request, header, decoder, BatchWriter(parent, ring, request.skip_samples))
    if count.num_frames == 0:
        raise ZeroFrames(f"{path.name} has a {header.info.codec} video stream without a single frame")
    parent.send("end", **count.summary(decoder, notes))


def _deliver(
    parent: Parent, request: DecodeRequest, header: VideoHeader, decoder: Decoder, writer: BatchWriter
) -> FrameCount:
    count = FrameCount(header)
    watched = _watch_frames(_part(decoder.frames(), request, parent), count, parent, request.limits)
    samples = sample_frames(watched, request.fps, float(header.time_base))
    converted: TimedFrame | None = None
    shown: list[Pixels] = []
    for index, (time_s, frame) in enumerate(samples):
        if index < request.skip_samples:
            continue
        if frame is not converted:
            rgb = frame.to_rgb()
            converted, shown = frame, [show(rgb, view, header.display_px) for view in request.views]
        writer.write(time_s, shown)
    writer.flush()
    return count


def _part(frames: Iterator[TimedFrame], request: DecodeRequest, parent: Parent) -> Iterator[TimedFrame]:
    """The frames that begin in the part asked for; nothing after it is decoded."""
    start_s = -math.inf if request.start_s is None else request.start_s
    end_s = math.inf if request.end_s is None else request.end_s
    any_frame, is_past, latest_s = False, False, None
    for frame in frames:
        is_past = frame.time_s >= end_s
        if is_past:
            break
        latest_s = frame.time_s + frame.duration_s
        if frame.time_s >= start_s:
            any_frame = True
            yield frame if latest_s <= end_s else replace(frame, duration_s=end_s - frame.time_s)
        else:
            parent.send_progress(frame.time_s)
    if any_frame or (latest_s is None and not is_past):
        return
    if not is_past:
        _refuse_late_start(request, latest_s)
    until = f"{end_s:g} s" if math.isfinite(end_s) else "the end"
    raise InvalidOptions(f"no frame of the video begins between {request.start_s or 0:g} s and {until}")


def _refuse_late_start(request: DecodeRequest, end_s: float | None) -> None:
    if request.start_s is not None and end_s is not None and request.start_s >= end_s:
        raise InvalidOptions(f"start_s is {request.start_s:g}, but the video lasts until {end_s:.3f} s")


def _watch_frames(
    frames: Iterator[TimedFrame], count: FrameCount, parent: Parent, limits: DecodeLimits
) -> Iterator[TimedFrame]:
    for frame in frames:
        count.add(frame)
        if count.end_s - count.first_s > limits.max_duration_s:
            raise VideoTooLong(f"the video goes on after {limits.max_duration_s:.0f} s, the longest that is accepted")
        parent.send_progress(frame.time_s)
        yield frame


def _choose_decoder(request: DecodeRequest, path: Path, header: VideoHeader) -> tuple[Decoder, list[str]]:
    wanted = FASTER_DECODER if request.decoder == "auto" else request.decoder
    refusal = decord_refusal(path, header) if wanted == "decord" else None
    if wanted == "decord" and refusal is None:
        return DecordDecoder(path, header), []
    decoder = PyAvDecoder(path, header, threads=request.limits.threads, max_frame_px=request.limits.max_frame_px)
    decoder.between(request.start_s, request.end_s)
    notes = [f"decoded with PyAV: decord does not serve this file ({refusal})"] if request.decoder == "decord" else []
    return decoder, notes


def _refuse_oversized(header: VideoHeader, limits: DecodeLimits) -> None:
    if header.info.duration_s > limits.max_duration_s:
        raise VideoTooLong(
            f"the video lasts {header.info.duration_s:.1f} s; accepted are up to {limits.max_duration_s:.0f} s"
        )
    for width, height in (header.stored_px, header.display_px):
        if width * height > limits.max_frame_px:
            raise FrameTooLarge(f"a frame is {width}x{height} px; accepted are up to {limits.max_frame_px} pixels")


def _output_size(view: FrameView, header: VideoHeader, limits: DecodeLimits) -> tuple[int, int]:
    for width, height in (view.scaled_size(header.display_px), view.output_size(header.display_px)):
        if width * height > limits.max_frame_px:
            raise FrameTooLarge(
                f"the model's view of the video is {width}x{height} px; accepted are up to {limits.max_frame_px} pixels"
            )
    return view.output_size(header.display_px)


def _end_with_parent(parent_pid: int) -> None:
    """At once on Linux, even while a C library holds the interpreter; elsewhere the pipe's end of file must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def _limit(what: int, value: int) -> None:
    """As far as the system lets one: macOS refuses to bound address space, and the other limits still hold there."""
    hard = resource.getrlimit(what)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _limit_cpu(limits: DecodeLimits, duration_s: float) -> None:
    _limit(resource.RLIMIT_CPU, math.ceil(limits.cpu_base_s + limits.cpu_s_per_video_s * duration_s))


def _error_code(error: Exception) -> str:
    if isinstance(error, TalError):
        return error.code
    full = any(
        sign in str(error) for sign in ("failed to map segment", "Insufficient memory")
    )  # the loader's, OpenCV's
    if full or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return DecodeOutOfMemory.code
    return DecoderCrashed.code


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, TalError) else f"{type(error).__name__}: {error}"


def main(parent_pid: int, control_fd: int, message_fd: int, ring_fd: int) -> None:
    _end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides what it means
    av.logging.restore_default_callback()  # the one that calls into Python deadlocks with FFmpeg's threads
    av.logging.set_libav_level(av.logging.ERROR)
    parent = Parent(control_fd, message_fd)
    request = parent.request()
    _limit(resource.RLIMIT_CORE, 0)
    _limit_cpu(request.limits, 0.0)
    _limit(resource.RLIMIT_AS, request.limits.memory_bytes)
    try:
        serve(parent, request, ring_fd)
    except Exception as error:  # noqa: BLE001  # libraries raise classes of their own; the parent decides about each
        parent.send("error", code=_error_code(error), message=_error_text(error))
    os._exit(0)  # decord's threads may never join
