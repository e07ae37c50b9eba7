"""A small and a large video in; requests that end too early, or lie about where they end, out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from tests.fuzz.upload_requests import BLOCK_BYTES, FORM, RAW, Case, Clips, chunked, form, head, sized


def cut_at_blocks(clips: Clips, _: random.Random) -> Iterator[Case]:
    for body, kind in ((form(clips.large), FORM), (clips.large, RAW)):
        for at, by, ending in itertools.product(range(0, len(body), BLOCK_BYTES), (-1, 0, 1), ("close", "reset")):
            yield Case(sized(body[: max(0, at + by)], kind, length=len(body)), False, ending)


def cut_at_boundaries(clips: Clips, _: random.Random) -> Iterator[Case]:
    body = form(clips.small)
    first, last = body.index(clips.small), body.index(clips.small) + len(clips.small)
    for at in (*range(first + 1), *range(last, len(body))):
        yield Case(sized(body[:at], length=len(body)), False, "reset" if at % 2 else "close")


def cut_chunks(clips: Clips, _: random.Random) -> Iterator[Case]:
    """A form that is whole but for its last chunk, which nobody may take for whole, is among them."""
    data = chunked(form(clips.small), len(clips.small) // 4)
    sizes = [at for at in range(len(data)) if data[at : at + 2] == b"\r\n"]
    near = {at + by for at in sizes for by in range(-2, 4)} | set(range(len(data) - 60, len(data)))
    for at in sorted(one for one in near if 0 <= one < len(data)):
        yield Case(head(FORM, b"Transfer-Encoding: chunked") + data[:at], False, "reset" if at % 2 else "close")


def cut_in_head(clips: Clips, _: random.Random) -> Iterator[Case]:
    whole = sized(form(clips.small))
    for at in range(1, whole.index(b"\r\n\r\n") + 4, 2):
        yield Case(whole[:at], False, "reset" if at % 4 == 1 else "close")


def length_too_short(clips: Clips, _: random.Random) -> Iterator[Case]:
    body = form(clips.small)
    for by in (3, 4, 5, 20, 60, len(clips.small) // 2, len(body) - 1, len(body)):
        yield Case(sized(body, length=len(body) - by), False)
    yield Case(sized(body, length=len(body) - 2), True)  # without the line end that may follow the last boundary
    for by in (1, 7, len(clips.small) // 2, len(clips.small) - 1, len(clips.small)):
        yield Case(sized(clips.small, RAW, length=len(clips.small) - by), False if by == len(clips.small) else None)


def length_too_long(clips: Clips, _: random.Random) -> Iterator[Case]:
    for (body, kind), ending in itertools.product(((form(clips.small), FORM), (clips.small, RAW)), ("close", "reset")):
        for by in (1, 2, 3, 100, BLOCK_BYTES, 10**7, 10**9):
            yield Case(sized(body, kind, length=len(body) + by), False, ending)
    for digits in (12, 18, 30, 300, 5000):
        yield Case(head(RAW, b"Content-Length: " + b"9" * digits) + clips.small, False, "leave")


def length_is_odd(clips: Clips, _: random.Random) -> Iterator[Case]:
    right = b"%d" % len(clips.small)
    odd = [b"", b"-1", b"+" + right, b"0x10", b"1e3", b"abc", right + b".0", b" " + right, right + b" ", right + b", 1"]
    odd += [right + b", " + right, "²".encode(), "\u0661".encode(), b"0" * 30 + right, b"\x00", b"1_0"]
    for value in odd:
        yield Case(head(RAW, b"Content-Length: " + value) + clips.small, None, "leave")
    for second in (right, b"1", b"0"):
        lines = b"Content-Length: " + right, b"Content-Length: " + second
        yield Case(head(RAW, *lines) + clips.small, None, "leave")


def chunks_are_odd(clips: Clips, _: random.Random) -> Iterator[Case]:
    data = chunked(form(clips.small), 1000)
    odd = [b"zz\r\n", b"-1\r\n", b"\r\n", b"f" * 17 + b"\r\n", b"f" * 300, b"5;" + b"x" * 100_000 + b"\r\n", b"5\n"]
    for start in [*odd, b"", b" ", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"1\r\nab\r\n", b"2\r\na\r\n"]:
        yield Case(head(FORM, b"Transfer-Encoding: chunked") + start + data, None, "leave")
    for coding in (b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b"chunked\x00", b""):
        yield Case(head(FORM, b"Transfer-Encoding: " + coding) + data, None, "leave")
    both = b"Transfer-Encoding: chunked", b"Content-Length: 5"
    for lines in (both, both[::-1], (both[0], both[0])):
        yield Case(head(FORM, *lines) + data, None, "leave")
    for size in (1, 2, 7, 100, 100_000):
        yield Case(head(FORM, b"Transfer-Encoding: chunked") + chunked(form(clips.small), size), True)


def refused_before_the_body(clips: Clips, _: random.Random) -> Iterator[Case]:
    """What is wrong is in the head; who goes on sending is still to hear the answer."""
    kinds, queries = (FORM, RAW, b"x/y"), (b"?x=1", b"?top_k=0", b"?model=none", b"/none")
    for kind, query, times in itertools.product(kinds, queries, (1, 4, 16)):
        length = b"Content-Length: %d" % (times * len(clips.large))
        yield Case(head(kind, length, target=b"/v1/detections" + query) + times * clips.large, False)
