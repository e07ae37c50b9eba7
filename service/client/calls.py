"""What to ask of a service, and how often: requests and pauses out, answers in, whatever front sends them.

A call is a generator. The front sends each request that it yields and hands back the answer, or throws in what broke
the connection; so the synchronous and the asynchronous client share every decision.
"""

from __future__ import annotations

import itertools
import math
import random
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from service import formats
from service.client import uploads
from service.client.documents import Job, error_in, is_of_a_job, json_of, read_job
from service.client.uploads import Ask, Query, StoredVideo, Upload, VideoSource, VideoUrl
from service.errors import ServerUnreachable, UnexpectedAnswer, first_line
from service.localization import Localization

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
# A service that asks for a longer pause is told of instead.
PATIENCE_S = 120.0
BUSY = frozenset({429, 502, 503, 504})
NOT_FOUND = 404
# A service fetches a video from its URL before it answers.
DOWNLOAD_S = 900.0

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Query = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    silence_s: float = 0.0  # how long the answer may stay away, where that is longer than usual

    @property
    def repeatable(self) -> bool:
        return self.upload is None or self.upload.repeatable


@dataclass(frozen=True)
class Pause:
    seconds: float


Steps = Generator[Request | Pause, httpx.Response | None, T]


@dataclass(frozen=True)
class Calls:
    """The calls on one service; `retries` bounds how often a request is sent again."""

    base_url: str
    retries: int

    def submit(self, source: VideoSource, ask: Ask, name: str | None) -> Steps[Job]:
        headers = {"Prefer": "respond-async", "Idempotency-Key": ask.idempotency_key}
        if isinstance(source, StoredVideo | VideoUrl):
            silence_s = DOWNLOAD_S if isinstance(source, VideoUrl) else 0.0
            document = ask.document(source)
            request = Request("POST", "/v1/detections", headers=headers, json=document, silence_s=silence_s)
        else:
            upload = uploads.prepare(source, name)
            request = Request("POST", "/v1/detections", ask.query(), {**headers, **upload.headers}, upload=upload)
        document = json_of((yield from self.exchange(request)))
        if isinstance(document, dict) and "segments" in document:
            # A request sent again, whose job has meanwhile ended, is answered with its result.
            return (yield from self.job(str(document.get("id"))))
        return read_job(document)

    def job(self, job_id: str) -> Steps[Job]:
        answer = yield from self.exchange(Request("GET", job_path(job_id)))
        return read_job(json_of(answer))

    def page(self, query: Query, cursor: str | None) -> Steps[tuple[list[Job], str | None]]:
        wanted: Query = [*query, ("cursor", cursor)] if cursor else query
        document = json_of((yield from self.exchange(Request("GET", "/v1/jobs", wanted))))
        try:
            return [read_job(job) for job in document["jobs"]], document.get("next_cursor")
        except (KeyError, TypeError, AttributeError):
            raise UnexpectedAnswer(f"{self.base_url}: no page of jobs: {str(document)[:200]!r}") from None

    def result(self, job_id: str, form: str) -> Steps[str]:
        answer = yield from self.exchange(Request("GET", job_path(job_id, "result"), [("format", form)]))
        return answer.content.decode("utf-8")

    def localization(self, job_id: str) -> Steps[Localization]:
        answer = yield from self.exchange(Request("GET", job_path(job_id, "result"), [("format", "json")]))
        return _read_localization(json_of(answer))

    def cancel(self, job_id: str) -> Steps[Job]:
        answer = yield from self.exchange(Request("POST", job_path(job_id, "cancel")))
        return read_job(json_of(answer))

    def retry(self, job_id: str) -> Steps[Job]:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = yield from self.exchange(Request("POST", job_path(job_id, "retry"), headers=headers))
        return read_job(json_of(answer))

    def delete(self, job_id: str) -> Steps[None]:
        yield from self.exchange(Request("DELETE", job_path(job_id)))

    def models(self) -> Steps[list[dict[str, Any]]]:
        document = json_of((yield from self.exchange(Request("GET", "/v1/models"))))
        try:
            return list(document["models"])
        except (KeyError, TypeError):
            raise UnexpectedAnswer(f"{self.base_url}: no list of models: {str(document)[:200]!r}") from None

    def ready(self) -> Steps[bool]:
        """One question, without retries: the answer is the point."""
        try:
            answer = yield Request("GET", "/readyz")
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        return _given(answer).status_code == 200

    def exchange(self, request: Request, until_s: float = math.inf) -> Steps[httpx.Response]:
        """The answer, once it is one; what says no for good, or too often, or still at `until_s`, is raised."""
        lost = False
        for sent in itertools.count():
            last = sent >= self.retries or not request.repeatable
            pause_s = _backoff_s(sent)
            try:
                answer = _given((yield request))
            except httpx.RequestError as error:
                if last or time.monotonic() + pause_s >= until_s:
                    raise self._unreachable(error) from error
                lost = True
                yield Pause(pause_s)
                continue
            if lost and request.method == "DELETE" and answer.status_code == NOT_FOUND:
                return answer  # the request whose answer was lost had deleted it
            asked_s = _retry_after_s(answer)
            pause_s = pause_s if asked_s is None else asked_s
            if last or not _worth_another(answer, asked_s) or time.monotonic() + pause_s >= until_s:
                return _sound(answer)
            yield Pause(pause_s)
        raise AssertionError("counting does not end")

    def _unreachable(self, error: httpx.RequestError) -> ServerUnreachable:
        return ServerUnreachable(f"no service answers at {self.base_url}: {first_line(error)}")


def _read_localization(document: Any) -> Localization:
    try:
        return formats.from_document(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(f"no localization: {str(document)[:200]!r} ({error})") from None


def query_of(**wanted: str | None) -> Query:
    return [(name, value) for name, value in wanted.items() if value is not None]


def job_path(job_id: str, part: str = "") -> str:
    # An id is one path segment, whatever a caller passes.
    return "/".join(filter(None, ("/v1/jobs", quote(job_id, safe=""), part)))


def _given(answer: httpx.Response | None) -> httpx.Response:
    if answer is None:
        raise TypeError("a front answers every request")
    return answer


def _worth_another(answer: httpx.Response, pause_s: float | None) -> bool:
    """Whether the service is busy rather than of another opinion, and not for too long."""
    if is_of_a_job(answer):
        return False
    busy = answer.status_code in BUSY or (answer.status_code >= 400 and pause_s is not None)
    return busy and (pause_s or 0.0) <= PATIENCE_S


def _sound(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise error_in(answer)
    if answer.has_redirect_location:
        raise UnexpectedAnswer(f"{answer.url} points to {answer.headers['location']}; name that URL instead")
    return answer


def _backoff_s(sent: int) -> float:
    """Exponential, with chance, so that clients that failed together do not come back together."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**sent) * random.uniform(0.5, 1.0)  # noqa: S311


def _retry_after_s(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
