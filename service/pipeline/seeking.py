"""A video file and a moment in; a place to start decoding from that gives the same frames from then on, out.

Only containers that store a presentation time with every picture are trusted with it, and only after a trial. Wherever
anything is in doubt, decoding starts at the beginning and drops what comes before.
"""

from __future__ import annotations

import math
from pathlib import Path

import av

from service.pipeline.containers import VideoHeader, best_video_stream, open_container, packets_of
from service.pipeline.edit_lists import edit_lists_are_trivial

_CONTAINERS = {"mp4", "matroska"}
_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
_WORTH_IT_S = 5.0
_MARGIN_S = 1.0  # an index may go by decoding time, which runs ahead of what is shown


def seek_ticks(path: Path, header: VideoHeader, start_s: float) -> int | None:
    """Where to seek to for the frames from `start_s` on; None: decode from the beginning."""
    info = header.info
    if start_s - info.start_s < _WORTH_IT_S or info.container not in _CONTAINERS or info.codec not in _CODECS:
        return None
    if info.container == "mp4" and not edit_lists_are_trivial(path):
        return None
    ticks = header.origin_ticks + math.floor((start_s - _MARGIN_S) / float(header.time_base))
    first_s = _first_frame_s(path, header, ticks)
    return ticks if first_s is not None and first_s <= start_s else None


def _first_frame_s(path: Path, header: VideoHeader, ticks: int) -> float | None:
    """When the first frame after seeking is shown; None where it is damaged, untimed or not there."""
    try:
        with open_container(path) as container:
            stream = best_video_stream(container)
            container.seek(ticks, stream=stream)
            for packet in packets_of(container, stream):
                if packet.pts is None and packet.size:
                    return None
                for frame in packet.decode():
                    sound = frame.pts is not None and not frame.is_corrupt
                    return header.time_s(frame.pts) if sound and frame.pts is not None else None
    except MemoryError:
        raise
    except av.FFmpegError:
        return None
    return None
