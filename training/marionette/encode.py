"""Pictures with their times in, an encoded video file out: the same bytes for the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from training.marionette.render import Picture
from training.marionette.script import Script, Storage

TICKS_PER_S = 90_000
ENCODERS: Mapping[str, str] = {"h264": "libx264", "hevc": "libx265", "mpeg4": "mpeg4", "vp9": "libvpx-vp9"}
KEYFRAME_S = 4
DROPPED = 0.3  # share of frames that a variable rate leaves out


def times_s(script: Script) -> list[float]:
    """When each frame is shown. With a variable rate the first and the last frame stay, so that the duration does."""
    storage = script.storage
    count = int(script.duration_s * storage.fps)
    if not storage.variable_rate:
        return [number / storage.fps for number in range(count)]
    numbers = np.random.Generator(np.random.PCG64(script.picture_seed + 1))
    kept = numbers.random(count) >= DROPPED
    kept[[0, count - 1]] = True
    return [number / storage.fps for number in range(count) if kept[number]]


def duration_s(script: Script) -> float:
    return round(int(script.duration_s * script.storage.fps) / script.storage.fps, 3)


def encode(path: Path, storage: Storage, pictures: Iterable[Picture], shown_s: Iterable[float]) -> None:
    """A file at `path`; encoders run in one thread, since their slices follow the number of threads."""
    with av.open(path, "w", format=_MUXERS[storage.container], options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(ENCODERS[storage.codec], rate=storage.fps, options=_options(storage))
        assert isinstance(stream, VideoStream)  # noqa: S101  (each encoder named above gives pictures)
        stream.width, stream.height, stream.pix_fmt = storage.width_px, storage.height_px, "yuv420p"
        ticks = _ticks(storage)
        stream.codec_context.time_base = Fraction(1, ticks)
        stream.codec_context.thread_count = 1
        for picture, moment_s in zip(pictures, shown_s, strict=True):
            # Left to itself, the encoder's own conversion gives other bytes now and then.
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.time_base, frame.pts = Fraction(1, ticks), round(moment_s * ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


_MUXERS: Mapping[str, str] = {"mp4": "mp4", "mkv": "matroska", "webm": "webm", "avi": "avi"}


def _ticks(storage: Storage) -> int:
    """AVI has no times but the frame rate, and MPEG-4 counts in 16 bits."""
    return storage.fps if storage.codec == "mpeg4" else TICKS_PER_S


def _options(storage: Storage) -> dict[str, str]:
    key = str(KEYFRAME_S * storage.fps)
    quality = str(storage.quality)
    match storage.codec:
        case "h264":
            # Without these two x264 gives other bytes on other processors, and now and then on the same one.
            steady = "cpu-independent=1:no-mbtree=1"
            return {"preset": "veryfast", "crf": quality, "g": key, "x264-params": steady, "flags": "+bitexact"}
        case "hevc":
            quiet = "log-level=none:pools=none:frame-threads=1:wpp=0"
            return {"preset": "ultrafast", "crf": quality, "g": key, "x265-params": quiet, "flags": "+bitexact"}
        case "mpeg4":
            return {"qmin": quality, "qmax": quality, "g": key, "flags": "+bitexact"}
    return {"crf": quality, "b": "0", "deadline": "realtime", "cpu-used": "8", "g": key, "flags": "+bitexact"}
