"""The body of a request in, as it comes; what came of it, kept as parts of an upload, out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import Request

from service.api import uploads
from service.api.state import ApiState
from service.api.tus_headers import Checksum, read_checksum
from service.errors import IncompleteUpload, UploadTimeout, VideoTooLarge
from service.jobs.artifacts import ArtifactWriter
from service.jobs.partial_uploads import PartialUpload, PartialUploads

# A crash of this process loses no more than came since the last cut.
CUT_BYTES, CUT_S = 64 * 1024 * 1024, 60.0


async def receive(request: Request, state: ApiState, partial: PartialUploads, upload: PartialUpload) -> PartialUpload:
    """What came is kept, also where the body breaks off; with a checksum, all of it or nothing."""
    length = uploads.length_of(request)
    if length is not None and length > upload.left_bytes:
        raise VideoTooLarge(f"{length} bytes are sent, and {upload.left_bytes} of the upload are left")
    intake = _Intake(partial, upload, read_checksum(request))
    with _interruptible(state, upload.id):
        try:
            async for block in uploads.blocks(request, state.config.upload_silence_s):
                await state.ask(intake.take, block)
                state.metrics.upload_bytes.inc(len(block))
            if length is not None and intake.received_bytes != length:
                raise IncompleteUpload(f"{intake.received_bytes} of {length} bytes came")
            return await state.ask(intake.end)
        except (IncompleteUpload, UploadTimeout, anyio.get_cancelled_exc_class()):
            await _break_off(state, intake)
            raise
        finally:
            intake.discard()
    raise IncompleteUpload("another request asked where the upload goes on, which ends this part")


async def _break_off(state: ApiState, intake: _Intake) -> None:
    if state.draining:
        intake.break_off()  # at once: a server that ends waits for no thread
        return
    with anyio.CancelScope(shield=True):
        await state.ask(intake.break_off)


async def interrupt(state: ApiState, upload_id: str) -> None:
    """Whoever asks where to go on has lost a connection, which may take long to show here: what came is kept now."""
    for scope, ended in list(state.intakes.get(upload_id, {}).items()):
        scope.cancel()
        await ended.wait()


@contextmanager
def _interruptible(state: ApiState, upload_id: str) -> Iterator[None]:
    running, ended = state.intakes.setdefault(upload_id, {}), anyio.Event()
    with anyio.CancelScope() as scope:
        running[scope] = ended
        try:
            yield
        finally:
            del running[scope]
            if not running:
                state.intakes.pop(upload_id, None)
            ended.set()


class _Intake:
    """Of one body. Without a checksum it is cut into parts that count at once.

    Of a request that is canceled a thread may still be at work here, hence the lock.
    """

    def __init__(self, partial: PartialUploads, upload: PartialUpload, checksum: Checksum | None) -> None:
        self.received_bytes = 0
        self._partial, self._upload, self._checksum = partial, upload, checksum
        self._hasher = checksum.hasher() if checksum else None
        self._writer: ArtifactWriter | None = None
        self._cut_at_s = 0.0
        self._lock = threading.Lock()

    def take(self, block: bytes) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = self._partial.part(self._upload)
                self._cut_at_s = time.monotonic() + CUT_S
            self._writer.write(block)
            self.received_bytes += len(block)
            if self._hasher:
                self._hasher.update(block)
            elif self._writer.size_bytes >= CUT_BYTES or time.monotonic() >= self._cut_at_s:
                self._keep()

    def end(self) -> PartialUpload:
        """Raises ChecksumMismatch, and OffsetMismatch where another request was faster."""
        with self._lock:
            if self._checksum:
                self._checksum.check(self._hasher)
            self._keep()
            return self._upload

    def break_off(self) -> None:
        with self._lock:
            if self._checksum is None:
                self._keep()

    def discard(self) -> None:
        """What is not kept by now."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.__exit__(None, None, None)

    def _keep(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with writer:
                part = writer.commit()
            self._upload = self._partial.append(self._upload, part)
