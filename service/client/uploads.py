"""A video and what is wanted of it in; the body, headers and query of the request out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from service.errors import IncompleteUpload, VideoNotFound
from service.localization import DetectOptions

BLOCK_BYTES = 256 * 1024
# A table of our own: what Python's holds depends on the machine.
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".mts": "video/mp2t",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".3gp": "video/3gpp",
    ".flv": "video/x-flv",
    ".ogv": "video/ogg",
}
UNKNOWN_MEDIA = "application/octet-stream"

Query = list[tuple[str, str | int | float | bool | None]]


@dataclass(frozen=True)
class StoredVideo:
    """A video that the service already holds."""

    id: str


@dataclass(frozen=True)
class VideoUrl:
    """A video for the service to fetch."""

    url: str


VideoSource = Path | BinaryIO | StoredVideo | VideoUrl


@dataclass(frozen=True)
class Ask:
    """What is wanted of a video; None leaves it to the service. The same key twice makes one job."""

    model: str | None = None
    options: DetectOptions = DetectOptions()
    priority: str | None = None
    tags: tuple[str, ...] = ()
    timeout_s: float | None = None
    deadline_s: float | None = None
    idempotency_key: str = field(default_factory=lambda: str(uuid.uuid4()))
    webhook: str | None = None

    def query(self) -> Query:
        """For an upload, whose body is the video. Lists are repeated, since a label may hold a comma."""
        options = self.options
        single: dict[str, str | float | None] = {
            "model": self.model,
            "min_score": options.min_score,
            "top_k": options.top_k,
            "start_s": options.start_s,
            "end_s": options.end_s,
            "priority": self.priority,
            "timeout_s": self.timeout_s,
            "deadline_s": self.deadline_s,
            "webhook": self.webhook,
        }
        several = {"labels": options.labels or (), "include": options.include, "tag": self.tags}
        query: Query = [(name, value) for name, value in single.items() if value is not None]
        return query + [(name, value) for name, values in several.items() for value in values]

    def document(self, video: StoredVideo | VideoUrl) -> dict[str, Any]:
        options = {name: value for name, value in vars(self.options).items() if value not in {None, ()}}
        fields = {
            "video": vars(video),
            "model": self.model,
            "options": options,
            "priority": self.priority,
            "tags": list(self.tags),
            "timeout_s": self.timeout_s,
            "deadline_s": self.deadline_s,
            "webhook": self.webhook,
        }
        return {name: value for name, value in fields.items() if value not in (None, [], {})}


@dataclass(frozen=True)
class Upload:
    """A video's bytes, read in blocks as they are sent. A stream that cannot be rewound is sent once."""

    name: str
    size_bytes: int | None
    source: Path | BinaryIO
    start: int | None = None

    @property
    def repeatable(self) -> bool:
        return isinstance(self.source, Path) or self.start is not None

    @property
    def headers(self) -> dict[str, str]:
        length = {} if self.size_bytes is None else {"Content-Length": str(self.size_bytes)}
        return {
            "Content-Type": MEDIA_TYPES.get(Path(self.name).suffix.lower(), UNKNOWN_MEDIA),
            "Content-Disposition": _disposition(self.name),
            **length,
        }

    def blocks(self) -> Iterator[bytes]:
        sent = 0
        with self._opened() as file:
            while block := file.read(self._wanted(sent)):
                yield block
                sent += len(block)
        self._check(sent)

    async def blocks_async(self) -> AsyncIterator[bytes]:
        sent = 0
        with self._opened() as file:
            while block := await asyncio.to_thread(file.read, self._wanted(sent)):
                yield block
                sent += len(block)
        self._check(sent)

    def _wanted(self, sent: int) -> int:
        # A file that grows meanwhile is sent as long as was announced.
        return BLOCK_BYTES if self.size_bytes is None else min(BLOCK_BYTES, self.size_bytes - sent)

    def _check(self, sent: int) -> None:
        if self.size_bytes is not None and sent < self.size_bytes:
            raise IncompleteUpload(f"{self.name} ended after {sent} of {self.size_bytes} bytes while it was sent")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if isinstance(self.source, Path):
            try:
                file = self.source.open("rb")
            except OSError as error:
                raise VideoNotFound(f"{self.source}: {error.strerror or error}") from None
            with file:
                file.seek(self.start or 0)
                yield file
        else:
            if self.start is not None:
                self.source.seek(self.start)
            yield self.source


def prepare(source: Path | BinaryIO, name: str | None = None) -> Upload:
    if not isinstance(source, Path):
        start = source.tell() if source.seekable() else None
        return Upload(name or "video", None, source, start)
    try:
        if not source.is_file():
            raise VideoNotFound(f"{source}: {'a folder' if source.is_dir() else 'no such file'}; a video is needed")
        return Upload(name or source.name, source.stat().st_size, source)
    except OSError as error:
        raise VideoNotFound(f"{source}: {error.strerror or error}") from None


def _disposition(name: str) -> str:
    """RFC 6266: plain ASCII for old readers, and the name as it is, by RFC 5987, where it has more."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\' else "_" for c in name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'attachment; filename="{plain}"{exact}'
