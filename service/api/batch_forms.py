"""A batch's body in, as lines of JSON or as a form with files; its items, kept in chunks, out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api import grants, schemas, uploads
from service.api.batch_records import CHUNK_BYTES, CHUNK_ITEMS, BatchShelf, Chunk, Item
from service.api.state import ApiState
from service.errors import IncompleteUpload, InvalidOptions, MalformedRequest, TalError
from service.jobs.artifacts import ArtifactWriter
from service.jobs.job import StoredVideo

MOST_LINES, MOST_FILES = 50_000, 1000
BODY_BYTES, LINE_BYTES = 200 * 1000 * 1000, 64 * 1024
LONGEST_ID = 256


class Intake:
    """Takes a batch's items in their order; memory holds one chunk of them, and all ids."""

    def __init__(self, shelf: BatchShelf, batch_id: str, owner: str) -> None:
        self._shelf, self._batch_id, self.owner = shelf, batch_id, owner
        self._items: list[Item] = []
        self._size_bytes = 0
        self._lines = 0
        self.ids: set[str] = set()
        self.chunks = 0

    @property
    def total(self) -> int:
        return len(self.ids)

    def take_lines(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._lines += 1
            if len(line) > LINE_BYTES:
                raise MalformedRequest(f"line {self._lines} has more than {LINE_BYTES} bytes")
            if line.strip():
                self.add(read_line(self.total, str(self._lines), line), len(line))

    def add(self, item: Item, size_bytes: int) -> None:
        if self.total >= MOST_LINES:
            raise MalformedRequest(f"a batch has at most {MOST_LINES} lines")
        if item.custom_id in self.ids:
            raise InvalidOptions(f"custom_id {item.custom_id!r} stands twice; each line needs one of its own")
        self.ids.add(item.custom_id)
        self._items.append(item)
        self._size_bytes += size_bytes
        if len(self._items) >= CHUNK_ITEMS or self._size_bytes >= CHUNK_BYTES:
            self._keep()

    def finish(self) -> None:
        if self.total == 0:
            raise MalformedRequest("the batch is empty; a line or a file is needed")
        if self._items:
            self._keep()

    def _keep(self) -> None:
        self._shelf.add_chunk(Chunk(self._batch_id, self.chunks, self.owner, tuple(self._items)))
        self.chunks += 1
        self._items, self._size_bytes = [], 0


def read_line(number: int, custom_id: str, line: bytes) -> Item:
    """A line that cannot be read is an item that has failed."""
    try:
        document = schemas.parse_json(line)
        if isinstance(document, dict) and "custom_id" in document:
            custom_id = _checked_id(document.pop("custom_id"))
        video, given = schemas.read_detection(document)
        if (video.id is None) == (video.url is None):
            raise InvalidOptions("video names either the id of a stored video or a url")
    except TalError as error:
        return Item(number, custom_id).failed(error.code, str(error))
    return Item(number, custom_id, {"video": video.model_dump(exclude_none=True), "given": given})


def _checked_id(given: Any) -> str:
    if not isinstance(given, str) or not 1 <= len(given) <= LONGEST_ID or uploads.CONTROL.search(given):
        raise InvalidOptions(
            f"custom_id {str(given)[:50]!r}; a text of 1 to {LONGEST_ID} printable characters is needed"
        )
    if given != given.encode("utf-8", "replace").decode():
        raise InvalidOptions("custom_id holds half of a character")
    return given


async def receive_lines(request: Request, state: ApiState, intake: Intake) -> str:
    """Gives a digest of the body."""
    length, digest, received, rest = uploads.length_of(request), hashlib.sha256(), 0, b""
    if length is not None and length > BODY_BYTES:
        raise MalformedRequest(f"the body has {length} bytes; a batch has at most {BODY_BYTES}")
    async for block in uploads.blocks(request, state.config.upload_silence_s):
        received += len(block)
        if received > BODY_BYTES:
            raise MalformedRequest(f"the body has more than {BODY_BYTES} bytes, the most that a batch may have")
        digest.update(block)
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise MalformedRequest(f"a line has more than {LINE_BYTES} bytes")
        await state.ask(intake.take_lines, lines)
    if length is not None and received != length:
        raise IncompleteUpload(f"{received} of {length} bytes came")
    await state.ask(intake.take_lines, [rest])
    await state.ask(intake.finish)
    return digest.hexdigest()


@dataclass
class Form:
    """What a form gave: its options, and a digest of what it held."""

    options: dict[str, Any] | None
    digest: str


class FormReceiver:
    """Takes a form with any number of videos, each of which goes into the store and becomes an item."""

    def __init__(self, state: ApiState, intake: Intake) -> None:
        self._state, self._intake = state, intake
        self._limit = state.config.max_video_mib * 1024 * 1024
        self._writer: ArtifactWriter | None = None
        self._name = ""
        self._digest = hashlib.sha256()

    async def receive(self, request: Request) -> Form:
        parts = VideoParts(request.headers["content-type"])
        with ExitStack() as held:
            async for block in uploads.blocks(request, self._state.config.upload_silence_s):
                for kind, data in parts.feed(block):
                    await self._take(held, kind, data)
                self._state.metrics.upload_bytes.inc(len(block))
        parts.finish()
        await self._state.ask(self._intake.finish)
        options = None if parts.options is None else schemas.read_options(bytes(parts.options))
        return Form(options, self._digest.hexdigest())

    async def _take(self, held: ExitStack, kind: str, data: bytes) -> None:
        if kind == "begin":
            if self._intake.total >= MOST_FILES:
                raise MalformedRequest(f"a form has at most {MOST_FILES} videos; name more of them in lines of JSON")
            self._name = data.decode()
            self._writer = held.enter_context(self._state.store.writer("video", self._limit))
        elif self._writer is not None and kind == "data":
            await self._state.ask(self._writer.write, data)
        elif self._writer is not None:
            if stored := await self._state.ask(self._commit, self._writer):
                # At once: its bytes may be another owner's too, who may remove them before its turn.
                await grants.give_owner(self._state, self._intake.owner, stored)
            held.close()
            self._writer = None

    def _commit(self, writer: ArtifactWriter) -> StoredVideo | None:
        custom_id, key = _distinct(self._name, self._intake.ids), ""
        if writer.size_bytes == 0:
            item = Item(self._intake.total, custom_id).failed("malformed_request", f"{self._name} is empty")
        else:
            key = writer.commit().key
            ask = {"video": {"id": key}, "given": {}, "name": self._name}
            item = Item(self._intake.total, custom_id, ask)
        self._digest.update(f"{self._name}\n{key}\n".encode())
        self._intake.add(item, len(self._name))
        return StoredVideo(key, self._name, writer.size_bytes, 0.0) if key else None


def _distinct(name: str, taken: set[str]) -> str:
    custom_id, count = name[:LONGEST_ID], 1
    while custom_id in taken:
        count += 1
        custom_id = f"{name[:240]} ({count})"
    return custom_id


@dataclass
class VideoParts:
    """Takes a multipart body in blocks; gives ("begin", name), ("data", bytes) and ("end", b"") of its videos."""

    content_type: str
    options: bytearray | None = None
    _events: list[tuple[str, bytes]] = field(default_factory=list)
    _part: str = ""
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _ended: bool = False

    def __post_init__(self) -> None:
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_part_end": self._close,
            "on_end": self._end,
        }
        self._parser = MultipartParser(uploads.boundary_of(self.content_type), callbacks)

    def feed(self, block: bytes) -> Iterator[tuple[str, bytes]]:
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise MalformedRequest(f"no multipart/form-data: {str(error)[:200]}") from None
        events, self._events = self._events, []
        yield from events

    def finish(self) -> None:
        if not self._ended:
            raise IncompleteUpload("the form ended before its last boundary")

    def _keep_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, parameters = parse_options_header(disposition)
        self._part = parameters.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or self._part not in {"video", "options"}:
            raise MalformedRequest(f"unknown part {self._part[:50]!r}; accepted are 'video', repeated, and 'options'")
        if self._part == "video":
            name = uploads.clean_name(uploads.file_name(disposition) or "video")
            self._events.append(("begin", name.encode()))
        elif self.options is not None:
            raise MalformedRequest("the part 'options' stands twice")
        else:
            self.options = bytearray()

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part == "video":
            self._events.append(("data", data[start:end]))
        elif self.options is not None:
            self.options += data[start:end]
            if len(self.options) > uploads.OPTIONS_BYTES:
                raise MalformedRequest(f"options have at most {uploads.OPTIONS_BYTES} bytes")

    def _close(self) -> None:
        if self._part == "video":
            self._events.append(("end", b""))

    def _end(self) -> None:
        self._ended = True
