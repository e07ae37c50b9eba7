"""The URL of a video in; the video in the store, as if it had been uploaded, or why its URL gave none, out."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from service import configured
from service.api import uploads
from service.api.state import ApiState
from service.egress.requests import Guard, UrlDeniedError, UrlFailedError, fetch
from service.errors import ArtifactNotFound, Unavailable, VideoUrlDenied, VideoUrlFailed
from service.jobs.artifacts import Artifact
from service.jobs.records import Record
from service.settings import MIB

DOWNLOAD_WAIT_S = 10.0
FETCHED = "fetched_video"


async def receive(state: ApiState, url: str, idempotency_key: str | None) -> uploads.Upload:
    """The whole of it is fetched before the answer, so that a job always has its video.

    Under one key a URL is fetched once, so that a repeated request means the same video whatever the URL gives by then.
    """
    guard = configured.video_url_guard(state.config)
    name = uploads.clean_name(_check(guard, url))
    record_id = _record_id(idempotency_key, url) if idempotency_key else None
    artifact = await state.ask(_recall, state, record_id) if record_id else None
    if artifact is None:
        artifact = await _fetched(state, url, guard)
        if record_id:
            await state.ask(_remember, state, record_id, artifact)
    return uploads.Upload(artifact, name)


async def _fetched(state: ApiState, url: str, guard: Guard) -> Artifact:
    state.check_looks()
    async with _download_slot(state):
        gone = threading.Event()
        try:
            artifact: Artifact = await state.ask(_download, state, url, guard, gone.is_set)
        finally:
            gone.set()  # a thread cannot be canceled: it has to be told that nobody waits any more
    state.metrics.upload_bytes.inc(artifact.size_bytes)
    return artifact


def _check(guard: Guard, url: str) -> str:
    """The file's name; no slot is taken for what is refused at sight."""
    if not guard.hosts:
        raise VideoUrlDenied("this server fetches no videos from URLs; upload the video instead")
    try:
        return guard.check(url).file_name
    except UrlDeniedError as error:
        raise VideoUrlDenied(str(error)) from None


@asynccontextmanager
async def _download_slot(state: ApiState) -> AsyncIterator[None]:
    with anyio.move_on_after(DOWNLOAD_WAIT_S) as waiting:
        await state.downloads.acquire()
    if waiting.cancelled_caught:
        raise Unavailable("too many videos are being fetched already; send it again later")
    try:
        yield
    finally:
        state.downloads.release()


def _download(state: ApiState, url: str, guard: Guard, stopped: Callable[[], bool]) -> Artifact:
    limit_bytes = state.config.max_video_mib * MIB
    with state.store.writer("video", limit_bytes) as writer:
        try:
            fetch(url, guard, writer.write, limit_bytes, state.config.video_url_timeout_s, stopped)
        except UrlDeniedError as error:
            raise VideoUrlDenied(str(error)) from None
        except UrlFailedError as error:
            raise VideoUrlFailed(str(error)) from None
        return writer.commit()


def _record_id(idempotency_key: str, url: str) -> str:
    return hashlib.sha256(f"{idempotency_key} {url}".encode()).hexdigest()


def _recall(state: ApiState, record_id: str) -> Artifact | None:
    record = state.records.get(FETCHED, record_id)
    if record is None:
        return None
    artifact = Artifact("video", record.body["key"], record.body["size_bytes"])
    try:
        state.store.touch("video", artifact.key)
    except ArtifactNotFound:
        return None
    return artifact


def _remember(state: ApiState, record_id: str, artifact: Artifact) -> None:
    body = {"key": artifact.key, "size_bytes": artifact.size_bytes}
    ends_at_s = time.time() + state.queue.policy.keep_idempotency_s
    state.records.create(Record(FETCHED, record_id, body, expires_at_s=ends_at_s))
