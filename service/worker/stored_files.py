"""A job's video out of the artifact store, and its result into it; whatever goes wrong is a TalError."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from service.errors import TalError, Unavailable, first_line
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import StoredVideo
from service.jobs.queue import INLINE_RESULT_BYTES, StoredResult

T = TypeVar("T")
log = logging.getLogger("tal.worker")


def find_video(store: ArtifactStore, video: StoredVideo) -> Path:
    return _ask(lambda: store.path("video", video.key))


def keep_result(store: ArtifactStore, text: str) -> StoredResult:
    """A long result goes to the store, a short one goes with the outcome."""
    data = text.encode()
    if len(data) <= INLINE_RESULT_BYTES:
        return StoredResult(text=text)
    return StoredResult(key=_ask(lambda: store.put("result", data).key))


def _ask(call: Callable[[], T]) -> T:
    try:
        return call()
    except TalError:
        raise
    except Exception as error:
        log.exception("the artifact store failed in a way that nobody foresaw")
        raise Unavailable(f"The artifact store failed: {first_line(error)}") from error
