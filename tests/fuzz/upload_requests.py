"""A small and a large video in; a request to the service, sound or not, as the bytes of a connection out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

BOUNDARY = b"a-boundary-of-the-fuzzer"
FORM = b"multipart/form-data; boundary=" + BOUNDARY
RAW = b"video/mp4"
BLOCK_BYTES = 64 * 1024
OPTIONS = b'{"top_k": 5}'
Ending = Literal["wait", "leave", "close", "reset"]


@dataclass(frozen=True)
class Case:
    """`accepted` is what has to become of it; None where either is right.

    The ending: wait for an answer, wait for a moment only, end the sending half at once, or reset the connection.
    """

    data: bytes
    accepted: bool | None = None
    ending: Ending = "wait"


@dataclass(frozen=True)
class Clips:
    small: bytes
    large: bytes


Kind = Callable[[Clips, random.Random], Iterator[Case]]


def head(content_type: bytes = FORM, *more: bytes, target: bytes = b"/v1/detections") -> bytes:
    typed = (b"Content-Type: " + content_type,) if content_type else ()
    lines = (b"POST " + target + b" HTTP/1.1", b"Host: service", b"Connection: close", b"Prefer: respond-async")
    return b"\r\n".join([*lines, *typed, *more, b"", b""])


def sized(body: bytes, content_type: bytes = FORM, *more: bytes, length: int | None = None) -> bytes:
    return head(content_type, b"Content-Length: %d" % (len(body) if length is None else length), *more) + body


def part(data: bytes, name: bytes = b"video", *headers: bytes, boundary: bytes = BOUNDARY) -> bytes:
    disposition = b'Content-Disposition: form-data; name="' + name + b'"; filename="clip.mp4"'
    return b"\r\n".join([b"--" + boundary, disposition, *headers, b"", data, b""])


def end(boundary: bytes = BOUNDARY) -> bytes:
    return b"--" + boundary + b"--\r\n"


def form(video: bytes, options: bytes = OPTIONS) -> bytes:
    return part(options, b"options", b"Content-Type: application/json") + part(video) + end()


def chunked(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in parts) + b"0\r\n\r\n"


def sound(clips: Clips) -> Case:
    return Case(sized(form(clips.small)), accepted=True)
