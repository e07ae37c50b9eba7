"""A request's body in, as it comes; a video in the store, and the options that came with it, out."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.api.state import ApiState
from service.errors import IncompleteUpload, MalformedRequest, UploadTimeout, VideoTooLarge
from service.jobs.artifacts import Artifact

# What stays below this after the longest silence is ended: a trickle would hold its connection for days.
SLOWEST_BYTES_PER_S = 1024
OPTIONS_BYTES = 1024 * 1024
FORM_BYTES = OPTIONS_BYTES + 65536  # what a form may hold besides its video
JSON_BYTES = 1024 * 1024
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Upload:
    artifact: Artifact
    name: str
    options: bytes | None = None


def length_of(request: Request) -> int | None:
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise MalformedRequest(f"Content-Length {text[:50]!r} is no number of bytes")
    return int(text)


async def blocks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    """The body; raises UploadTimeout where nothing or too little comes, IncompleteUpload where it breaks off."""
    stream, began_s, received = aiter(request.stream()), time.monotonic(), 0
    while True:
        took_s = time.monotonic() - began_s
        if took_s > silence_s and received < took_s * SLOWEST_BYTES_PER_S:
            raise UploadTimeout(f"{received} bytes came in {took_s:.0f} s; {SLOWEST_BYTES_PER_S} a second are needed")
        try:
            with anyio.fail_after(silence_s):
                block = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UploadTimeout(f"nothing came for {silence_s:g} s") from None
        except ClientDisconnect:
            raise IncompleteUpload("the connection ended before the body did") from None
        if block:
            received += len(block)
            yield block


async def read_small(request: Request, silence_s: float) -> bytes:
    body = bytearray()
    async for block in blocks(request, silence_s):
        body += block
        if len(body) > JSON_BYTES:
            raise MalformedRequest(f"a JSON body has at most {JSON_BYTES} bytes")
    return bytes(body)


async def receive(request: Request, state: ApiState, form: bool) -> Upload:
    """The whole body, raw or as a form, with the video streamed into the store."""
    limit = state.config.max_video_mib * 1024 * 1024
    length = length_of(request)
    most = limit + (FORM_BYTES if form else 0)
    if length is not None and length > most:
        raise VideoTooLarge(f"the body has {length} bytes; a video has at most {limit}")
    parts = FormParts(request.headers["content-type"]) if form else None
    received = 0
    with state.store.writer("video", limit) as writer:
        async for block in blocks(request, state.config.upload_silence_s):
            data = parts.feed(block) if parts else block
            received += len(block)
            if received > most:
                raise VideoTooLarge(f"the body has more than {most} bytes; a video has at most {limit}")
            if data:
                await state.ask(writer.write, data)
            state.metrics.upload_bytes.inc(len(block))
        if length is not None and received != length:
            raise IncompleteUpload(f"{received} of {length} bytes came")
        name = parts.finish() if parts else raw_name(request)
        if writer.size_bytes == 0:
            raise MalformedRequest("the body is empty; a video is needed")
        artifact: Artifact = await state.ask(writer.commit)
    return Upload(artifact, name, bytes(parts.options) if parts and parts.options is not None else None)


def raw_name(request: Request) -> str:
    given = request.query_params.get("name")
    if given is None and (header := request.headers.get("content-disposition")):
        given = file_name(header.encode("latin-1"))
    return clean_name(given or "video")


def clean_name(name: str) -> str:
    """A file name without folders and control characters, whatever was sent."""
    last = PurePosixPath(CONTROL.sub("_", name).replace("\\", "/")).name
    return last.encode("utf-8", "replace").decode()[:255] or "video"


class FormParts:
    """Takes a multipart body in blocks and gives the video's bytes of each; the options are kept."""

    def __init__(self, content_type: str) -> None:
        self.options: bytearray | None = None
        self.name: str | None = None
        self._part = ""
        self._ended = False
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._video = bytearray()
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary_of(content_type), callbacks)

    def feed(self, block: bytes) -> bytes:
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise MalformedRequest(f"no multipart/form-data: {str(error)[:200]}") from None
        data, self._video = bytes(self._video), bytearray()
        return data

    def finish(self) -> str:
        """The video's name, once everything came."""
        if not self._ended:
            raise IncompleteUpload("the form ended before its last boundary")
        if self.name is None:
            raise MalformedRequest("the form has no part 'video'")
        return self.name

    def _begin(self) -> None:
        self._headers = {}

    def _keep_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _open(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, parameters = parse_options_header(disposition)
        self._part = parameters.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or self._part not in {"video", "options"}:
            raise MalformedRequest(f"unknown part {self._part[:50]!r}; accepted are 'video' and 'options'")
        if self._headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            raise MalformedRequest("a part may not be multipart itself")
        if (self.name if self._part == "video" else self.options) is not None:
            raise MalformedRequest(f"the part {self._part!r} stands twice")
        if self._part == "video":
            self.name = clean_name(file_name(disposition) or "video")
        else:
            self.options = bytearray()

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part == "video":
            self._video += data[start:end]
        elif self.options is not None:
            self.options += data[start:end]
            if len(self.options) > OPTIONS_BYTES:
                raise MalformedRequest(f"options have at most {OPTIONS_BYTES} bytes")

    def _end(self) -> None:
        self._ended = True


def boundary_of(content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary or len(boundary) > 200:
        raise MalformedRequest("multipart/form-data needs a boundary of 1 to 200 characters")
    return boundary


def file_name(disposition: bytes) -> str | None:
    """RFC 6266: the exact name where there is one, else the plain one."""
    if exact := re.search(rb"filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", disposition, re.IGNORECASE):
        return unquote(exact[1].decode("latin-1"), errors="replace")
    _, parameters = parse_options_header(disposition)
    name = parameters.get(b"filename")
    return None if name is None else name.decode("utf-8", "replace")
