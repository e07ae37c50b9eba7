"""JSON documents of the service in; jobs and typed errors out. Fields of later releases are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.errors import DeadlinePassed, JobNotFinished, ResultNotThere, TalError, UnexpectedAnswer
from service.localization import Progress

FINISHED = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(frozen=True)
class Video:
    """A video that the service holds; `id` can be asked for again without another upload."""

    id: str
    name: str
    size_bytes: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True)
class Failure:
    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True)
class Job:
    """A job as the service told it; `state` is a text, since a later release may know more of them."""

    id: str
    state: str
    model: str
    video: Video
    priority: str = "normal"
    tags: tuple[str, ...] = ()
    created_at_s: float = 0.0
    started_at_s: float | None = None
    finished_at_s: float | None = None
    attempts: int = 0
    progress: Progress | None = None
    failure: Failure | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    deadline_at_s: float | None = None
    retry_of: str | None = None
    dead_letter: bool = False
    webhook: str | None = None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    def require_success(self) -> None:
        """Raises what kept the job from a result, as the error that it would have been here."""
        if self.state == "succeeded":
            return
        if self.failure is not None:
            raise error_of(self.failure.code, self.failure.message)
        if self.state == "expired":
            raise DeadlinePassed(f"job {self.id} was not done by its deadline")
        if self.state == "canceled":
            raise ResultNotThere(f"job {self.id} was canceled, so it has no result")
        raise JobNotFinished(f"job {self.id} is {self.state}; a result comes once it has succeeded")


def read_job(document: Any) -> Job:
    try:
        known = _known(Job, document)
        progress, failure = document.get("progress"), document.get("failure")
        return Job(
            **{
                **known,
                "video": Video(**_known(Video, document["video"])),
                "tags": tuple(document.get("tags") or ()),
                "progress": Progress(**_known(Progress, progress)) if progress else None,
                "failure": Failure(**_known(Failure, failure)) if failure else None,
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UnexpectedAnswer(f"no job document: {str(document)[:200]!r} ({error})") from None


def json_of(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise UnexpectedAnswer(
            f"{answer.url} answered {answer.status_code} with no JSON: {answer.text[:200]!r}; is it the service's URL?",
            status=answer.status_code,
        ) from None


def error_of(code: str, message: str, status: int | None = None) -> TalError:
    """The class whose code it is; a code of a later release is told in words."""
    known = _by_code().get(code)
    return known(message) if known else UnexpectedAnswer(f"{message} ({code})", status=status, remote_code=code)


def error_in(answer: httpx.Response) -> TalError:
    """What an answer of 400 or more says, whether the service wrote it or a proxy before it."""
    try:
        problem = answer.json()
        return error_of(problem["code"], problem.get("detail") or problem.get("title") or "", answer.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = answer.text.strip().split("\n", 1)[0][:200]
        return UnexpectedAnswer(
            f"{answer.url} answered {answer.status_code} {answer.reason_phrase}: {said}", status=answer.status_code
        )


def is_of_a_job(answer: httpx.Response) -> bool:
    """Whether it tells how a job ended, which no other request changes."""
    try:
        return answer.status_code >= 400 and bool(answer.json().get("job_id"))
    except (ValueError, AttributeError):
        return False


def _known(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in kind.__dataclass_fields__ if name in document}  # type: ignore[attr-defined]


def _by_code() -> dict[str, type[TalError]]:
    found: dict[str, type[TalError]] = {}
    waiting: list[type[TalError]] = [TalError]
    while waiting:
        error = waiting.pop()
        found.setdefault(error.code, error)
        waiting.extend(error.__subclasses__())
    return found
