"""A video file in; frames in presentation order, with times on its timeline, out. Two decoders, one protocol.

PyAV decodes everything. decord serves only files on its allow-list (`decord_refusal`): it reads ahead without bound,
hangs on sparse reads of MPEG-TS, knows no AV1, ignores edit lists, and counts time from the first frame.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from service.errors import CorruptVideo, FrameTooLarge
from service.pipeline.containers import VideoHeader, best_video_stream, open_container, packets_of
from service.pipeline.edit_lists import edit_lists_are_trivial
from service.pipeline.frame_views import Orientation, Pixels
from service.pipeline.seeking import seek_ticks

DecoderName = Literal["pyav", "decord"]

FASTER_DECODER: DecoderName = "pyav"  # the winner in benchmarks/results/decoders.json; a test compares
DECORD_BUDGET_BYTES = 512 * 1024 * 1024  # decord may hold every frame of the clip at once
_DECORD_CONTAINERS = {"mp4", "matroska"}
_DECORD_CODECS = {"h264", "hevc", "vp8", "vp9"}
_DECORD_PIXELS = {"yuv420p", "yuvj420p"}
_ROOM_PICTURES = 4  # what a decoder and a conversion hold at once
_CPP_PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: ")


@dataclass(frozen=True)
class TimedFrame:
    """One picture on the timeline; `to_rgb` is a call, so that a picture nobody samples costs no conversion."""

    time_s: float
    duration_s: float
    to_rgb: Callable[[], Pixels]


def _room_bytes() -> float:
    """Address space that was left at the tightest moment; without end where there is no limit or no telling."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        peak = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        peak = None
    return math.inf if limit == resource.RLIM_INFINITY or peak is None else limit - 1024 * int(peak[1])


class Decoder(Protocol):
    """`frames` ends at the first damage and says so in `warnings`; it raises where no frame came before it."""

    name: DecoderName
    warnings: list[str]

    def frames(self) -> Iterator[TimedFrame]: ...


class PyAvDecoder:
    name: DecoderName = "pyav"

    def __init__(self, path: Path, header: VideoHeader, *, threads: int, max_frame_px: int) -> None:
        self.warnings: list[str] = []
        self._path = path
        self._header = header
        self._threads = threads
        self._max_frame_px = max_frame_px
        self._reformatter = VideoReformatter()
        self._shown_px = header.stored_px
        self._damage = ""
        self._skipped_frames = 0
        self._seek_ticks: int | None = None
        self._end_s = math.inf

    def between(self, start_s: float | None, end_s: float | None) -> None:
        """Frames from `start_s` to `end_s` are enough: some before may be missing, and all after."""
        self._seek_ticks = None if start_s is None else seek_ticks(self._path, self._header, start_s)
        self._end_s = math.inf if end_s is None else end_s

    def frames(self) -> Iterator[TimedFrame]:
        end_s, num_frames = self._header.info.start_s, 0
        with _complaints() as first_complaint:
            for frame in self._place(self._sound_frames()):
                if frame.time_s >= self._end_s:
                    self._conclude_early(first_complaint())
                    return
                end_s, num_frames = frame.time_s + frame.duration_s, num_frames + 1
                yield frame
            self._conclude(end_s, num_frames, first_complaint())

    def _conclude(self, end_s: float, num_frames: int, complaint: str) -> None:
        damaged = self._damage or self._skipped_frames or complaint
        if damaged and _room_bytes() < _ROOM_PICTURES * 3 * math.prod(self._header.stored_px):
            raise MemoryError  # FFmpeg marks a picture damaged, too, that it found no memory for
        if num_frames == 0 and (self._damage or self._skipped_frames):
            raise CorruptVideo(f"{self._path.name} holds no frame that can be decoded: {self._damage or 'all damaged'}")
        announced_s = self._header.announced_end_s
        of_announced = f" of {announced_s:.3f} s announced" if announced_s else ""
        if self._skipped_frames:
            self.warnings.append(f"{self._skipped_frames} damaged frames before the first sound one were left out")
        if self._damage:
            self.warnings.append(f"damaged at {end_s:.3f} s{of_announced}; decoding stopped there: {self._damage}")
        elif announced_s and num_frames and announced_s - end_s > max(1.5 * self._header.frame_s, 0.05):
            self.warnings.append(f"the video ends at {end_s:.3f} s{of_announced}")
        elif self._header.ends_within_packet:
            self.warnings.append(f"the video ends at {end_s:.3f} s, where the file was cut within a packet")
        elif complaint:
            self.warnings.append(f"FFmpeg patched over damage, so some pictures may be wrong: {complaint}")

    def _conclude_early(self, complaint: str) -> None:
        """What lies behind the part that was asked for is not looked at."""
        if self._skipped_frames:
            self.warnings.append(f"{self._skipped_frames} damaged frames before the first sound one were left out")
        if complaint:
            self.warnings.append(f"FFmpeg patched over damage, so some pictures may be wrong: {complaint}")

    def _sound_frames(self) -> Iterator[av.VideoFrame]:
        """Frames before the first damage. Damaged ones at the very start are left out instead: a broadcast recording
        begins in the middle of a group of pictures."""
        any_sound = False
        for frame in self._decoded_frames():
            if not frame.is_corrupt:
                any_sound = True
                yield frame
            elif any_sound:
                self._damage = "a damaged picture"
                return
            else:
                self._skipped_frames += 1

    def _decoded_frames(self) -> Iterator[av.VideoFrame]:
        with open_container(self._path) as container:
            stream = best_video_stream(container)
            stream.codec_context.thread_type = "AUTO" if self._threads > 1 else "NONE"
            stream.codec_context.thread_count = self._threads
            if self._seek_ticks is not None:
                container.seek(self._seek_ticks, stream=stream)
            cut_is_known = container.format.name != "mpegts"  # whose flag may only mean a gap in a packet counter
            packets = packets_of(container, stream)
            while (packet := self._next_packet(packets)) is not None:
                if packet.is_corrupt and cut_is_known and packet.size:
                    self._damage = "the file ends within a picture"
                    break
                try:
                    decoded = packet.decode()
                except av.FFmpegError as error:
                    self._note_damage(error)
                    return  # what the decoder still holds may stand on the picture it refused
                yield from decoded
            if self._damage:
                yield from self._held_back(stream.codec_context)

    def _next_packet(self, packets: Iterator[Packet[VideoStream]]) -> Packet[VideoStream] | None:
        try:
            return next(packets, None)
        except av.FFmpegError as error:
            self._note_damage(error)
            return None

    def _held_back(self, codec: av.VideoCodecContext) -> list[av.VideoFrame]:
        """Sound pictures that wait in the decoder for their turn when the file, not the decoder, breaks off."""
        try:
            return codec.decode(None)
        except av.FFmpegError as error:
            self._note_damage(error)
            return []

    def _note_damage(self, error: av.FFmpegError) -> None:
        if isinstance(error, MemoryError):
            raise error
        self._damage = self._damage or error.strerror or str(error)

    def _place(self, frames: Iterator[av.VideoFrame]) -> Iterator[TimedFrame]:
        """On the container's timeline; missing timestamps follow the frame before, and time never goes back."""
        tick_s = float(self._header.time_base)
        next_s = latest_s = self._header.info.start_s
        went_back = False
        for index, frame in enumerate(frames):
            time_s = next_s if frame.pts is None else self._header.time_s(frame.pts)
            duration_s = (frame.duration or 0) * tick_s or self._header.frame_s
            duration_s = self._header.cut_to_end(time_s, duration_s)
            if index and time_s < latest_s:
                if not went_back:
                    self.warnings.append(f"timestamps go back from {latest_s:.3f} s to {time_s:.3f} s: time was held")
                went_back, time_s = True, latest_s
            latest_s, next_s = time_s, time_s + duration_s
            yield TimedFrame(time_s, duration_s, partial(self._to_rgb, frame))

    def _to_rgb(self, frame: av.VideoFrame) -> Pixels:
        if frame.width * frame.height > self._max_frame_px:
            raise FrameTooLarge(
                f"a frame is {frame.width}x{frame.height} px; accepted are up to {self._max_frame_px} pixels"
            )
        if (frame.width, frame.height) != self._shown_px:
            self._shown_px = (frame.width, frame.height)
            self.warnings.append(f"the picture changes to {frame.width}x{frame.height} px: brought to the first size")
        rgb = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return self._header.orientation.apply(np.asarray(rgb, dtype=np.uint8))


class DecordDecoder:
    name: DecoderName = "decord"

    def __init__(self, path: Path, header: VideoHeader) -> None:
        self.warnings: list[str] = []
        self._path = path
        self._header = header

    def frames(self) -> Iterator[TimedFrame]:
        import decord  # noqa: PLC0415  # has no wheel for every platform

        try:
            with _complaints() as first_complaint:
                reader = decord.VideoReader(str(self._path), ctx=decord.cpu(0), num_threads=1)
                # It holds the whole clip in memory in any case; read to its end, damage shows before a frame is out.
                pictures = [reader.next() for _ in range(len(reader))]
                spans_s = reader.get_frame_timestamp(range(len(reader))).astype(float).tolist()
                complaint = first_complaint()
        except (RuntimeError, decord.DECORDError) as error:
            raise CorruptVideo(f"decord: {_CPP_PLACE.sub('', str(error)).strip().splitlines()[0]}") from error
        self._refuse_damage(len(pictures), complaint)
        self._refuse_odd_times([start_s for start_s, _ in spans_s])
        for (start_s, end_s), picture in zip(spans_s, pictures, strict=True):
            time_s = self._header.time_s(self._header.start_ticks + self._ticks(start_s))
            duration_s = self._ticks(end_s - start_s) * float(self._header.time_base) or self._header.frame_s
            yield TimedFrame(time_s, self._header.cut_to_end(time_s, duration_s), picture.asnumpy)

    def _refuse_damage(self, num_frames: int, complaint: str) -> None:
        announced = self._header.info.num_frames
        if announced not in {0, num_frames}:
            raise CorruptVideo(f"decord finds {num_frames} of {announced} frames")
        if complaint:  # decord passes on pictures that FFmpeg patched up; only FFmpeg's log tells
            raise CorruptVideo(f"decord's FFmpeg reports damage: {complaint}")

    def _refuse_odd_times(self, starts_s: list[float]) -> None:
        """In very short Matroska files decord gives out FFmpeg's mark for "no timestamp" as one."""
        times = np.array([*starts_s, math.inf])
        tick_s = float(self._header.time_base)
        if not np.isfinite(times[:-1]).all() or abs(times[0]) > tick_s or (np.diff(times) <= 0).any():
            raise CorruptVideo("decord: its timestamps do not begin at 0 and rise")

    def _ticks(self, seconds: float) -> int:
        """decord counts from the first frame and in single precision: back to whole ticks."""
        return round(seconds / float(self._header.time_base))


def decord_refusal(path: Path, header: VideoHeader) -> str | None:
    """Why decord may not serve this file; None where it gives the same pixels and times as PyAV."""
    info = header.info
    frames = info.num_frames or info.duration_s * info.fps * 1.25
    checks = {
        "decord is not installed": importlib.util.find_spec("decord") is not None,
        f"container {info.container}": info.container in _DECORD_CONTAINERS,
        f"codec {info.codec}": info.codec in _DECORD_CODECS,
        f"pixel format {header.pixel_format}": header.pixel_format in _DECORD_PIXELS,
        "it is rotated": header.orientation == Orientation(),
        "it is interlaced": not header.is_interlaced,
        "its width or height is odd": not (header.stored_px[0] % 2 or header.stored_px[1] % 2),
        f"it holds {header.num_video_streams} video streams": header.num_video_streams == 1,
        "its number of frames is not known": frames > 0 and (info.num_frames > 0 or info.container != "mp4"),
        "its frames exceed decord's memory budget": frames * math.prod(header.stored_px) * 3 <= DECORD_BUDGET_BYTES,
    }
    refused = [reason for reason, passed in checks.items() if not passed]
    if not refused and info.container == "mp4" and not edit_lists_are_trivial(path):
        refused = ["its edit list changes the samples"]
    if not refused and not _keeps_its_size(path, header):
        refused = ["its picture changes size"]
    return refused[0] if refused else None


def _keeps_its_size(path: Path, header: VideoHeader) -> bool:
    """Whether every key frame has the size that the header announces; only those are decoded."""
    try:
        with open_container(path) as container:
            stream = best_video_stream(container)
            stream.codec_context.skip_frame = "NONKEY"
            stream.codec_context.thread_type = "NONE"
            frames = (frame for packet in packets_of(container, stream) for frame in packet.decode())
            return all((frame.width, frame.height) == header.stored_px for frame in frames)
    except MemoryError:
        raise
    except av.FFmpegError:
        return False


@contextmanager
def _complaints() -> Iterator[Callable[[], str]]:
    """What FFmpeg prints meanwhile, first line only; a full pipe drops the rest, however long it complains."""
    reader, writer, real = *os.pipe(), os.dup(2)
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    os.dup2(writer, 2)
    try:
        yield partial(_first_line, reader)
    finally:
        os.dup2(real, 2)
        for fd in (reader, writer, real):
            os.close(fd)


def _first_line(fd: int) -> str:
    """Without the address that each of FFmpeg's complaints begins with."""
    try:
        lines = os.read(fd, 4096).decode(errors="replace").splitlines()
    except BlockingIOError:
        return ""
    return re.sub(r"\s*@ 0x[0-9a-f]+", "", lines[0]) if lines else ""
