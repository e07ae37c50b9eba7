"""Videos made on the fly, with pictures whose content is known at every moment."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Bright = Callable[[float], int | np.ndarray]


def flashes(*intervals_s: tuple[float, float]) -> Bright:
    """White inside the intervals, black outside."""
    return lambda t: 235 if any(start <= t < end for start, end in intervals_s) else 0


def write(path: Path, bright: Bright, *, duration_s: float, fps: int = 25, size_px: tuple[int, int] = (64, 48)) -> Path:
    """Frames of one grey level each, `bright(t)`, or of a picture (H, W, 1), in whatever container the ending names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix in (".avi", ".mov") else "libx264", rate=fps)
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for index in range(round(duration_s * fps)):
            picture = np.broadcast_to(np.asarray(bright(index / fps), np.uint8), (size_px[1], size_px[0], 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
