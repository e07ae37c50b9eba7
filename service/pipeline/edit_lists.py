"""An MP4 file in; whether its edit lists leave the samples as stored out.

FFmpeg and most muxers write an edit list into every file with B-frames, only to move the first picture to time 0.
decord ignores edit lists, which is right for those and wrong for one that drops, delays, repeats or stretches samples.
Whatever cannot be read here counts as not trivial.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MOOV_LIMIT_BYTES = 64 * 1024 * 1024
_SAMPLES_LIMIT = 1_000_000
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


def edit_lists_are_trivial(path: Path) -> bool:
    try:
        moov = _read_moov(path)
        tracks = [dict(_leaves(body)) for kind, body in _boxes(moov) if kind == b"trak"]
        mvhd = dict(_boxes(moov))[b"mvhd"]
        movie_scale = struct.unpack_from(">I", mvhd, 20 if mvhd[0] == 1 else 12)[0]
        video = [track for track in tracks if track[b"hdlr"][8:12] == b"vide"]
        return bool(video) and all(_track_is_trivial(track, movie_scale) for track in video)
    except (OSError, KeyError, ValueError, struct.error):
        return False


def _track_is_trivial(track: dict[bytes, bytes], movie_scale: int) -> bool:
    if b"elst" not in track:
        return True
    entries = list(_edit_entries(track[b"elst"]))
    if len(entries) != 1:
        return False
    duration, media_time, rate = entries[0]
    scale = struct.unpack_from(">I", track[b"mdhd"], 20 if track[b"mdhd"][0] == 1 else 12)[0]
    times = _composition_times(track[b"stts"], track.get(b"ctts"))
    # The movie's clock is coarse, often 1/1000 s: one tick of it is rounding.
    shows_last = (times.max() - media_time) * movie_scale < (duration + 1) * scale
    return rate == 0x10000 and media_time == times.min() and bool(shows_last)


def _edit_entries(box: bytes) -> Iterator[tuple[int, int, int]]:
    """(duration on the movie's clock, first media time or -1 for a pause, rate as 16.16)"""
    version, count = box[0], struct.unpack_from(">I", box, 4)[0]
    layout = ">QqI" if version == 1 else ">IiI"
    for index in range(count):
        yield struct.unpack_from(layout, box, 8 + index * struct.calcsize(layout))


def _composition_times(stts: bytes, ctts: bytes | None) -> NDArray[np.int64]:
    """When each sample is shown, on the media's clock."""
    steps = _run_lengths(stts)
    starts = np.cumsum(steps) - steps
    return starts + _run_lengths(ctts) if ctts else starts


def _run_lengths(box: bytes) -> NDArray[np.int64]:
    count = struct.unpack_from(">I", box, 4)[0]
    pairs = np.frombuffer(box, dtype=">i4", count=2 * count, offset=8).reshape(-1, 2).astype(np.int64)
    if pairs[:, 0].clip(0).sum() > _SAMPLES_LIMIT:
        raise ValueError("too many samples")
    return np.repeat(pairs[:, 1], pairs[:, 0])


def _leaves(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, inner in _boxes(body):
        if kind in _CONTAINERS:
            yield from _leaves(inner)
        elif kind != b"hdlr" or inner[4:8] != b"dhlr":  # QuickTime's second one, about where the data lies
            yield kind, inner


def _boxes(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(body):
        size, kind = struct.unpack_from(">I4s", body, at)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", body, at + 8)[0], 16
        elif size == 0:
            size = len(body) - at
        if size < header or at + size > len(body):
            raise ValueError(f"box {kind!r} of {size} bytes does not fit")
        yield kind, body[at + header : at + size]
        at += size


def _read_moov(path: Path) -> bytes:
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            body_bytes = size - 8
            if size == 1:
                body_bytes = struct.unpack(">Q", file.read(8))[0] - 16
            if kind == b"moov" and 0 < body_bytes <= _MOOV_LIMIT_BYTES:
                return file.read(body_bytes)
            if body_bytes < 0:
                break
            file.seek(body_bytes, 1)
    raise ValueError("no moov box")
