"""A video file in; its header, timeline and orientation out, or a typed refusal. Runs in the child.

The lists of formats and protocols are closed: some of FFmpeg's demuxers open whatever other files and addresses their
input names (hls, dash, concat, image sequences), and an upload must never choose what this machine opens.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.stream import VideoStream

from service.errors import CorruptVideo, NoVideoStream, UnsupportedMedia, VideoNotFound
from service.localization import VideoInfo
from service.pipeline.frame_views import Orientation, SizePx

_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,m4v,ivf,obu,rm,wtv,nut,"
    "mp3,aac,flac,wav,aiff,ac3,amr"  # sound only: opened to say so
)
# Their clocks start anywhere (a recording of a running broadcast), so the container's start is the timeline's zero.
_ARBITRARY_START = {"mpegts", "mpeg"}
_SHORT_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_SCAN_PACKETS = 512
_LONGEST_UNANNOUNCED_S = 10.0
_SIGNATURES = (
    (4, (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp")),
    (0, (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"DKIF", b"0&\xb2u\x8ef\xcf\x11", b".RMF", b"\x06\x0e+4")),
    (0, (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x00\x00\x00\x01", b"\x00\x00\x01")),
    (8, (b"AVI ",)),
)


@dataclass(frozen=True)
class VideoHeader:
    """The best video stream as announced; `origin_ticks` is subtracted from every presentation timestamp."""

    info: VideoInfo
    time_base: Fraction
    origin_ticks: int
    start_ticks: int
    frame_s: float
    announced_end_s: float | None
    stored_px: SizePx
    orientation: Orientation
    pixel_format: str
    is_interlaced: bool
    num_video_streams: int
    ends_within_packet: bool
    warnings: tuple[str, ...] = ()

    def time_s(self, ticks: int) -> float:
        return (ticks - self.origin_ticks) * self.time_base.numerator / self.time_base.denominator

    def cut_to_end(self, time_s: float, duration_s: float) -> float:
        """FFmpeg gives durations in decoding order: with B-frames the last picture may carry another one's.

        Where nothing announces the end, a damaged or lying file could make its last picture stand for years.
        """
        if self.announced_end_s is None:
            return min(duration_s, max(_LONGEST_UNANNOUNCED_S, 10 * self.frame_s))
        left_s = self.announced_end_s - time_s
        return min(duration_s, left_s) if left_s > 0 else duration_s

    @property
    def display_px(self) -> SizePx:
        return self.info.width_px, self.info.height_px


def open_container(path: Path) -> InputContainer:
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise VideoNotFound(f"{path.name} cannot be opened: {error.strerror}") from error
    except av.FFmpegError as error:
        if _has_known_signature(path):
            raise CorruptVideo(f"{path.name} is damaged beyond opening: {error.strerror}") from error
        raise UnsupportedMedia(f"{path.name} is not a video container that can be read here") from error


def best_video_stream(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise NoVideoStream(f"{_name(container)} holds no video stream, only {_kinds(container)}")
    if stream.codec_context is None:
        raise UnsupportedMedia(f"{_name(container)} has a video stream in a codec that is not known here")
    return stream


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets, and an empty one that asks the decoder for what it holds."""
    try:
        yield from container.demux(stream)
    except IndexError:
        # PyAV stumbles, once ours is through, over a stream that appeared after the file was opened.
        return


def read_header(path: Path) -> VideoHeader:
    with open_container(path) as container:
        stream = best_video_stream(container)
        if stream.codec_context.width < 1 or stream.codec_context.height < 1:
            raise CorruptVideo(f"{path.name} gives no picture size: nothing in its video stream can be decoded")
        ticks, first = _scan(container, stream)
        return _describe(container, stream, ticks, first)


def _describe(
    container: InputContainer, stream: VideoStream, ticks: list[int], first: av.VideoFrame | None
) -> VideoHeader:
    time_base = stream.time_base or Fraction(1, 1000)
    rebased = container.format.name in _ARBITRARY_START and container.start_time is not None
    origin = round(Fraction(container.start_time or 0, av.time_base) / time_base) if rebased else 0
    start = ticks[0] if ticks else (stream.start_time or origin)
    orientation, rotation_deg, turned = _orientation(_display_matrix(first) if first is not None else ())
    stored = (stream.codec_context.width, stream.codec_context.height)
    width, height = orientation.size(_square_pixels(stored, stream.sample_aspect_ratio))
    irregular = _is_irregular(ticks, time_base)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    fps = _mean_rate(ticks, time_base) if irregular else float(rate or 0)
    start_s = float((start - origin) * time_base)
    end_s, exact = _announced_end(container, stream, time_base, origin)
    info = VideoInfo(
        duration_s=max(0.0, end_s - start_s),
        num_frames=max(0, stream.frames),
        fps=fps,
        is_vfr=irregular,
        width_px=width,
        height_px=height,
        rotation_deg=rotation_deg,
        codec=stream.codec_context.codec.canonical_name,
        container=_SHORT_NAMES.get(container.format.name, container.format.name),
        start_s=start_s,
    )
    return VideoHeader(
        info=info,
        time_base=time_base,
        origin_ticks=origin,
        start_ticks=start,
        frame_s=1 / fps if fps > 0 else 0.04,
        announced_end_s=end_s if exact and end_s > 0 else None,
        stored_px=stored,
        orientation=orientation,
        pixel_format=stream.codec_context.pix_fmt or "",
        is_interlaced=first is not None and bool(first.interlaced_frame),
        num_video_streams=sum(not s.disposition & Disposition.attached_pic for s in container.streams.video),
        ends_within_packet=container.format.name == "mpegts" and _ends_within_packet(Path(container.name[5:])),
        warnings=turned,
    )


def spread_is_irregular(shortest_s: float, longest_s: float, time_base: Fraction) -> bool:
    """Whether frame intervals differ by more than a container's rounding (Matroska rounds to 1/1000 s)."""
    return longest_s - shortest_s > max(2 * float(time_base), 0.0015)


def _is_irregular(ticks: list[int], time_base: Fraction) -> bool:
    steps_s = [float((after - before) * time_base) for before, after in pairwise(ticks)]
    return bool(steps_s) and spread_is_irregular(min(steps_s), max(steps_s), time_base)


def _scan(container: InputContainer, stream: VideoStream) -> tuple[list[int], av.VideoFrame | None]:
    """Presentation ticks of the first packets, in order, and the first frame that can be decoded."""
    packets = list(islice(_readable(container, stream), _SCAN_PACKETS))
    ticks = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
    if len(packets) == _SCAN_PACKETS:
        ticks = ticks[: -_SCAN_PACKETS // 16]  # the last ones may lack neighbours that are stored later
    for packet in packets:
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError:
            break
        if frames:
            return ticks, frames[0]
    return ticks, None


def _readable(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        yield from packets_of(container, stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _display_matrix(frame: av.VideoFrame) -> tuple[float, ...]:
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return ()
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    return a, b, c, d


def _orientation(matrix: tuple[float, ...]) -> tuple[Orientation, int, tuple[str, ...]]:
    """From the map (x, y) -> (a·x + c·y, b·x + d·y); rotation_deg is clockwise."""
    if not any(matrix):
        return Orientation(), 0, ()
    largest = max(map(abs, matrix))
    a, b, c, d = (round(value / largest) for value in matrix)
    degrees = math.degrees(math.atan2(matrix[1], matrix[0])) % 360
    if abs(a * d - b * c) != 1 or (a and b) or max(abs(v / largest - round(v / largest)) for v in matrix) > 0.01:
        return (
            Orientation(),
            0,
            (f"the file asks for a rotation by {degrees:.1f}°, which is not a quarter turn: ignored",),
        )
    if a * d - b * c < 0:  # mirrored as well: the angle is that of the picture mirrored back
        degrees = math.degrees(math.atan2(b, -a)) % 360
    return Orientation(not a, (d or b) < 0, (a or c) < 0), round(degrees), ()


def _square_pixels(stored_px: SizePx, aspect: Fraction | None) -> SizePx:
    """Aspects beyond 1:16 are garbage from a damaged header."""
    if not aspect or not Fraction(1, 16) <= aspect <= 16:
        return stored_px
    return max(1, round(stored_px[0] * aspect)), stored_px[1]


def _mean_rate(ticks: list[int], time_base: Fraction) -> float:
    return float((len(ticks) - 1) / ((ticks[-1] - ticks[0]) * time_base))


def _announced_end(
    container: InputContainer, stream: VideoStream, time_base: Fraction, origin: int
) -> tuple[float, bool]:
    """The end on the timeline (0 = not said), and whether it is about this stream rather than the whole file."""
    if stream.duration:
        return float(((stream.start_time or origin) - origin + stream.duration) * time_base), True
    tagged = _clock_s(stream.metadata.get("DURATION", ""))
    if tagged:
        return tagged, True
    return (container.duration or 0) / av.time_base, len(container.streams) == 1


def _clock_s(text: str) -> float:
    parts = text.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds


def _has_known_signature(path: Path) -> bool:
    head = _head(path)
    return _transport_packet_bytes(head) > 0 or any(head[at:].startswith(marks) for at, marks in _SIGNATURES)


def _transport_packet_bytes(head: bytes) -> int:
    """188; 192 with a time code before each packet; 204 with a checksum after it; 0: no transport stream."""
    found = (size for size, at in ((188, 0), (192, 4), (204, 0)) if head[at : at + 3 * size : size] == b"GGG")
    return next(found, 0)


def _ends_within_packet(path: Path) -> bool:
    """The one sign of a cut that a transport stream gives: it announces no length."""
    packet_bytes = _transport_packet_bytes(_head(path))
    return packet_bytes > 0 and path.stat().st_size % packet_bytes > 0


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def _name(container: InputContainer) -> str:
    return Path(container.name).name


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
