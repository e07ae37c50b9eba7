"""A small and a large video in; every kind of request that no honest client sends, each with its cases, out."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

from tests.fuzz.upload_breaks import (
    chunks_are_odd,
    cut_at_blocks,
    cut_at_boundaries,
    cut_chunks,
    cut_in_head,
    length_is_odd,
    length_too_long,
    length_too_short,
    refused_before_the_body,
)
from tests.fuzz.upload_requests import BOUNDARY, FORM, OPTIONS, RAW, Case, Clips, Kind, end, form, head, part, sized


def forms_in_forms(clips: Clips, _: random.Random) -> Iterator[Case]:
    for kind in (b"multipart/mixed; boundary=inner", b"multipart/form-data; boundary=inner", b"Multipart/X"):
        inner = part(clips.small, boundary=b"inner") + end(b"inner")
        yield Case(sized(part(inner, b"video", b"Content-Type: " + kind) + end()), False)
        yield Case(sized(part(OPTIONS, b"options", b"Content-Type: " + kind) + part(clips.small) + end()), False)
    for depth in (2, 20, 500):
        body = clips.small
        for level in range(depth):
            body = part(body, boundary=b"b%d" % level) + end(b"b%d" % level)
        yield Case(sized(part(body) + end()), False)


def boundary_is_odd(clips: Clips, _: random.Random) -> Iterator[Case]:
    body = form(clips.small)
    kinds = [b"multipart/form-data" + rest for rest in (b"", b";", b"; boundary", b"; boundary=", b'; boundary=""')]
    kinds += [b"multipart/form-data; boundary=" + b"x" * size for size in (1, 70, 200, 201, 5000)]
    kinds += [b"multipart/form-data; boundary=" + odd for odd in (b"\xff\xfe", b'"unclosed', b"a b", b"--", b"\t")]
    for kind in [*kinds, b"multipart/form-data; boundary=" + BOUNDARY[:-1]]:
        yield Case(sized(body, kind), False)
    yield Case(sized(body, FORM + b"; boundary=other"), None)
    yield Case(sized(body, b'multipart/form-data; boundary="' + BOUNDARY + b'"'), True)
    yield Case(sized(body, b"Multipart/Form-Data; charset=utf-8; boundary=" + BOUNDARY), True)
    for between in (BOUNDARY, b"--" + BOUNDARY, b"\r\n--" + BOUNDARY[:-1], b"\r\n--", b"\r\n-", b"\r"):
        yield Case(sized(form(clips.small + between)), True)  # only a whole one, on a line of its own, ends a part


def headers_are_huge(clips: Clips, _: random.Random) -> Iterator[Case]:
    for size in (1000, 10_000, 100_000, 1_000_000, 8_000_000):
        filler = b"x" * size
        yield Case(sized(part(clips.small, b"video", b"X-Filler: " + filler) + end()))
        yield Case(sized(part(clips.small, b"video", filler + b": x") + end()))
        yield Case(sized(part(clips.small, filler) + end()), False)
        yield Case(sized(form(clips.small, b'{"model": "' + filler + b'"}')), False)
        if size <= 100_000:
            yield Case(sized(form(clips.small), FORM, b"X-Filler: " + filler))
    for count in (10, 1000, 30_000):
        yield Case(sized(part(clips.small, b"video", *(b"X-%d: y" % number for number in range(count))) + end()))
        yield Case(sized(form(clips.small), FORM, *(b"X-%d: y" % number for number in range(min(count, 3000)))))


def parts_are_many_or_none(clips: Clips, _: random.Random) -> Iterator[Case]:
    video, options = part(clips.small), part(OPTIONS, b"options")
    for body in (video + video, options + options + video, video + options + video, part(b"") + video, options):
        yield Case(sized(body + end()), False)
    yield Case(sized(video + options + end()), True)
    for count in (3, 1000, 20_000):
        yield Case(sized(options * count + video + end()), False)
        yield Case(sized(part(b"x", b"other") * count + video + end()), False)
    for body in (
        b"",
        end(),
        b"\r\n" + end(),
        b"--" + BOUNDARY,
        b"--" + BOUNDARY + b"\r\n",
        part(b""),
        part(b"") + end(),
    ):
        yield Case(sized(body), False)
    for preamble in (b"preamble\r\n", b"\r\n", b"\r\n" * 1000, b"x" * 100_000 + b"\r\n"):
        yield Case(sized(preamble + form(clips.small)), None)
    for epilogue in (b"epilogue", b"\r\n\r\n", form(clips.small), b"y" * 100_000):
        yield Case(sized(form(clips.small) + epilogue), None)


def types_are_wrong(clips: Clips, _: random.Random) -> Iterator[Case]:
    types = [
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/mixed; boundary=" + BOUNDARY,
        b"\xff",
    ]
    for kind in [
        *types,
        b"video",
        b"multipart/",
        b"/",
        b";",
        b"image/png",
        b"application/json, video/mp4",
        b"x" * 9000,
    ]:
        yield Case(sized(form(clips.small), kind), False)
    for kind, body in itertools.product(
        (FORM, RAW, b"application/octet-stream", b"application/json"), (b"", b"\0" * 9)
    ):
        yield Case(sized(body, kind), False)
    yield Case(sized(clips.small, FORM), False)
    yield Case(sized(clips.small, b"application/json"), False)
    for body in (
        form(clips.small),
        b"{}",
        b"GIF89a" + bytes(500),
        b"#!/bin/sh\n",
        b"ftypisom" * 100,
        b"RIFF" + bytes(99),
    ):
        yield Case(sized(body, RAW), False)
    for line in (b"name=other", b'name="\xff"', b"name", b"", b'name=""; name="video"', b"name*=utf-8''video"):
        body = b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + line + b"\r\n\r\n" + clips.small + b"\r\n"
        yield Case(sized(body + end()))
    for name in (b"../../etc/passwd", b"\0", b"\xff\xfe", b"a" * 5000, b"..", b"%00", b"C:\\x", b"\r\n", b"", b"/"):
        body = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="video"; filename="' + name
        yield Case(sized(body + b'"\r\n\r\n' + clips.small + b"\r\n" + end()))
        yield Case(sized(clips.small, RAW, b'Content-Disposition: attachment; filename="' + name + b'"'), None, "leave")


def options_are_odd(clips: Clips, _: random.Random) -> Iterator[Case]:
    odd = [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b"\xef\xbb\xbf{}", b"{}{}", b"NaN", b"[" * 200_000]
    odd += [
        b'{"top_k": %s}' % value for value in (b"0", b"-1", b"1e400", b"NaN", b"9" * 6000, b"null", b"true", b'"5"')
    ]
    odd += [b'{"labels": %s}' % value for value in (b'["\\ud800"]', b"[1]", b'"x"', b"[" * 5000 + b"]" * 5000, b"{}")]
    odd += [b'{"min_score": 2}', b'{"start_s": 1e308}', b'{"start_s": 9}', b'{"start_s": 5, "end_s": 1}', b'{"x": 1}']
    odd += [b'{"model": "../../etc"}', b'{"model": "\\u0000"}', b'{"model": "\\ud800"}', b'{"tags": ["\\ud800"]}']
    odd += [b'{"deadline_s": 1e400}', b'{"timeout_s": Infinity}', b"{" + b'"a":{' * 50_000]
    odd += [json.dumps({"labels": ["x" * 1000] * 900}).encode(), b" " * 1_048_577]
    for options in odd:
        yield Case(sized(form(clips.small, options)))
        yield Case(sized(options, b"application/json"), False)
    for video in (
        b"1",
        b"null",
        b'{"id": "x"}',
        b'{"id": "../../x"}',
        b'{"id": "\\ud800"}',
        b'{"url": "file:///x"}',
        b"{}",
    ):
        yield Case(sized(b'{"video": %s}' % video, b"application/json"), False)
    for query in (
        b"top_k=x",
        b"top_k=%00",
        b"tag=%FF",
        b"x=1",
        b"model=%ED%A0%80",
        b"name=%00%FF",
        b"tag=" + b"x" * 9000,
    ):
        for kind, body in ((RAW, clips.small), (FORM, form(clips.small))):
            sent = head(kind, b"Content-Length: %d" % len(body), target=b"/v1/detections?" + query) + body
            yield Case(sent)


def bytes_are_random(clips: Clips, chance: random.Random) -> Iterator[Case]:
    for number in range(160):
        noise = chance.randbytes(chance.choice([1, 10, 100, 1000, 100_000]))
        if number % 8 == 0:
            yield Case(noise, None, "leave")
        elif number % 8 == 1:
            yield Case(part(noise, b"video") + end(), None, "leave")
        else:
            kind = (FORM, RAW, b"application/json")[number % 3]
            yield Case(sized(noise if number % 2 else part(noise) + end(), kind), False)


def bodies_are_mutated(clips: Clips, chance: random.Random) -> Iterator[Case]:
    for _ in range(500):
        yield Case(sized(_mutated(form(clips.small), form(clips.small).index(clips.small), chance)))


def requests_are_mutated(clips: Clips, chance: random.Random) -> Iterator[Case]:
    whole = sized(form(clips.small))
    for _ in range(300):
        yield Case(_mutated(whole, whole.index(b"\r\n\r\n"), chance), None, "leave")


def pipelines_hold_garbage(clips: Clips, chance: random.Random) -> Iterator[Case]:
    whole = sized(form(clips.small))
    going_on = whole.replace(b"Connection: close\r\n", b"")
    for _ in range(8):
        noise = chance.randbytes(chance.choice([1, 50, 5000]))
        yield Case(going_on + noise, None, "leave")
        yield Case(whole + noise, None)
        yield Case(noise + b"\r\n" + going_on, None, "leave")
        yield Case(going_on + _mutated(whole, 200, chance), None, "leave")
    get = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"
    for data in (going_on * 3, get * 50, get + going_on + get, going_on + get * 20, b"\r\n" * 5 + going_on):
        yield Case(data, None, "leave")
        yield Case(data[:-3], None, "leave")
    yield Case(head(FORM, b"Expect: 100-continue", b"Content-Length: 10"), False, "leave")
    yield Case(head(FORM, b"Upgrade: websocket", b"Content-Length: 10"), False, "leave")


def _mutated(content: bytes, framing_bytes: int, chance: random.Random) -> bytes:
    """Mostly where the framing is; what is between is a video, which has a fuzzer of its own."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        near = chance.choice([framing_bytes, framing_bytes, len(changed)])
        at = chance.randrange(max(1, min(near, len(changed) - 1)))
        length = chance.choice([1, 2, 8, 64])
        inserted = [b"\r\n", b"\r", b"\n", b"--", b"\0", b"--" + BOUNDARY, b"--" + BOUNDARY + b"--", b'"', b";", b":"]
        match chance.randrange(5):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[max(0, at - length) : at]
            case 3:
                changed[at:at] = chance.choice(inserted)
            case _:
                changed[at : at + length] = chance.randbytes(length)
    return bytes(changed)


KINDS: dict[str, Kind] = {
    "cut at every 64 KiB": cut_at_blocks,
    "cut in boundaries and part headers": cut_at_boundaries,
    "cut in chunks": cut_chunks,
    "cut in the request's head": cut_in_head,
    "Content-Length too short": length_too_short,
    "Content-Length too long": length_too_long,
    "Content-Length odd": length_is_odd,
    "chunks odd": chunks_are_odd,
    "refused before a large body": refused_before_the_body,
    "forms in forms": forms_in_forms,
    "boundary odd": boundary_is_odd,
    "headers huge": headers_are_huge,
    "parts many or none": parts_are_many_or_none,
    "types and names wrong": types_are_wrong,
    "options odd": options_are_odd,
    "bytes random": bytes_are_random,
    "bodies mutated": bodies_are_mutated,
    "requests mutated": requests_are_mutated,
    "pipelined garbage": pipelines_hold_garbage,
}
