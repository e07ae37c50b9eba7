"""A timing and a format in; a video file whose every picture shows its own number out. Made with PyAV alone.

The number is drawn as twelve black or white columns, so it survives any codec, resize or chroma loss, and a test can
ask a decoded picture which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 12
_QUICK = {
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "1000000"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "0", "b": "1000000"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}


@dataclass(frozen=True)
class Sample:
    """How a file is made; `times_s` are the presentation times that a decoder has to give back."""

    times_s: Sequence[float]
    codec: str = "libx264"
    size_px: tuple[int, int] = (96, 64)
    pixel_format: str = "yuv420p"
    b_frames: int = 0
    gop_frames: int = 12
    ticks_per_s: int = 90_000
    pixel_aspect: Fraction | None = None
    rotation_deg: int = 0
    mirrored: bool = False
    full_range: bool = False
    container: str | None = None
    container_options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)


def steady(num_frames: int, fps: float = 25.0, start_s: float = 0.0) -> list[float]:
    return [start_s + index / fps for index in range(num_frames)]


def write(path: Path, sample: Sample) -> Path:
    with av.open(str(path), "w", format=sample.container, options=sample.container_options) as container:
        stream = add_stream(container, sample)
        for index, time_s in enumerate(sample.times_s):
            container.mux(stream.encode(picture(sample, index, time_s)))
        container.mux(stream.encode(None))
    return path


def add_stream(container: av.container.OutputContainer, sample: Sample) -> av.video.stream.VideoStream:
    stream = container.add_stream(sample.codec, rate=_rate(sample.times_s))
    stream.width, stream.height = sample.size_px
    stream.pix_fmt = sample.pixel_format
    stream.codec_context.time_base = Fraction(1, sample.ticks_per_s)
    stream.codec_context.max_b_frames = sample.b_frames
    stream.codec_context.gop_size = sample.gop_frames
    stream.codec_context.thread_count = 1
    stream.options = {**_QUICK.get(sample.codec, {}), **sample.codec_options}
    if sample.b_frames and sample.codec == "libx264":
        stream.options = {"preset": "veryfast", "bf": str(sample.b_frames), **sample.codec_options}
    if sample.pixel_aspect:
        stream.codec_context.sample_aspect_ratio = sample.pixel_aspect
    if sample.full_range:
        stream.codec_context.color_range = 2
    if sample.rotation_deg or sample.mirrored:
        stream.set_display_rotation(sample.rotation_deg, hflip=sample.mirrored)
    return stream


def picture(sample: Sample, index: int, time_s: float) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(drawing(index, sample.size_px), format="rgb24")
    frame = frame.reformat(format=sample.pixel_format, dst_color_range=2 if sample.full_range else 1)
    frame.pts = round(time_s * sample.ticks_per_s)
    frame.time_base = Fraction(1, sample.ticks_per_s)
    return frame


def drawing(index: int, size_px: tuple[int, int]) -> np.ndarray:
    """Columns for the number above, and a grey ramp below that tells left from right and up from down."""
    width, height = size_px
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    columns = np.arange(width) * BITS // width
    pixels[: height // 2] = np.where(index >> columns & 1, 235, 20)[None, :, None]
    pixels[height // 2 :] = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    return pixels


def read_number(pixels: np.ndarray) -> int:
    """The number that a picture shows, whatever size it was brought to."""
    height, width = pixels.shape[:2]
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    levels = pixels[height // 8 : height * 3 // 8, centres].mean(axis=(0, 2))
    return sum(1 << bit for bit, level in enumerate(levels) if level > 128)


def _rate(times_s: Sequence[float]) -> Fraction:
    if len(times_s) < 2:
        return Fraction(25)
    return Fraction((len(times_s) - 1) / (times_s[-1] - times_s[0])).limit_denominator(1001)
