"""An MP4 file in; whether its edit lists leave the samples as stored out.

FFmpeg and most muxers write an edit list into every file with B-frames, only to move the first picture to time 0.
decord ignores edit lists, which is right for those and wrong for one that drops, delays, repeats or stretches samples.
Whatever cannot be read here counts as not trivial.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_MOOV_LIMIT_BYTES = 64 * 1024 * 1024
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


def edit_lists_are_trivial(path: Path) -> bool:
    try:
        moov = _read_moov(path)
        tracks = [dict(_leaves(body)) for kind, body in _boxes(moov) if kind == b"trak"]
        movie_scale = _time_scale_and_duration(dict(_boxes(moov))[b"mvhd"])[0]
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
    media_scale, media_duration = _time_scale_and_duration(track[b"mdhd"])
    if rate != 0x10000 or media_time != _first_composition_offset(track.get(b"ctts")):
        return False
    # The movie's clock is often 1/1000 s, so "to the end" is known only to two of its ticks.
    return (duration + 2) * media_scale >= (media_duration - 1) * movie_scale


def _edit_entries(box: bytes) -> Iterator[tuple[int, int, int]]:
    """(duration on the movie's clock, first media time or -1 for a pause, rate as 16.16)"""
    version, count = box[0], struct.unpack_from(">I", box, 4)[0]
    layout = ">QqI" if version == 1 else ">IiI"
    for index in range(count):
        yield struct.unpack_from(layout, box, 8 + index * struct.calcsize(layout))


def _first_composition_offset(box: bytes | None) -> int:
    if box is None or struct.unpack_from(">I", box, 4)[0] == 0:
        return 0
    return int(struct.unpack_from(">i", box, 12)[0])


def _time_scale_and_duration(box: bytes) -> tuple[int, int]:
    scale, duration = struct.unpack_from(">IQ", box, 20) if box[0] == 1 else struct.unpack_from(">II", box, 12)
    return scale, duration


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
