"""What a caller asked for and what became of it: the record of a job, its states, and its JSON form."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from service.errors import TalError, first_line
from service.localization import DetectOptions, Progress

# Workers of the release before this one read this form: fields are added with a default, never renamed or removed.
SCHEMA = 1
# Of a video that does not tell its length, such as a live recording: a megabit per second.
GUESSED_BYTES_PER_S = 125_000
# How reading a record of another form fails.
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)

State = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled", "expired"]
STATES: tuple[State, ...] = ("queued", "running", "succeeded", "failed", "canceling", "canceled", "expired")
FINISHED: frozenset[State] = frozenset({"succeeded", "failed", "canceled", "expired"})
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass(frozen=True)
class StoredVideo:
    """A video in the artifact store: its key there (the sha256 of its bytes), and what was known when it came."""

    key: str
    name: str
    size_bytes: int
    duration_s: float


@dataclass(frozen=True)
class JobRequest:
    """Everything a worker needs to know. `deadline_at_s` is a moment (Unix time), `timeout_s` a time of running.

    `owner` is whoever asked (the id of an API key, or nothing where none are needed); `webhook` is told of the end.
    """

    video: StoredVideo
    model: str
    options: DetectOptions = DetectOptions()
    priority: Priority = "normal"
    tags: tuple[str, ...] = ()
    timeout_s: float = 3600.0
    deadline_at_s: float | None = None
    retry_of: str | None = None
    owner: str = ""
    webhook: str | None = None

    @property
    def video_s(self) -> float:
        """Seconds of video to work through, which is what admission counts; guessed where a video does not tell."""
        video_s = self.video.duration_s or self.video.size_bytes / GUESSED_BYTES_PER_S
        end_s = video_s if self.options.end_s is None else self.options.end_s
        return max(0.0, min(end_s, video_s) - (self.options.start_s or 0.0))


@dataclass(frozen=True)
class Failure:
    """Why a job did not succeed; `code` is one of the error tree's."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    `delivery` counts how often it was handed out and fences: who holds an older one can change nothing. `attempts` are
    the deliveries that count against the limit, which one that was handed back does not. `version` grows with every
    change that a caller can see.
    """

    id: str
    request: JobRequest
    state: State
    created_at_s: float
    updated_at_s: float
    started_at_s: float | None = None
    finished_at_s: float | None = None
    version: int = 1
    delivery: int = 0
    attempts: int = 0
    worker: str | None = None
    progress: Progress | None = None
    failure: Failure | None = None
    dead_letter: bool = False

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class Event:
    """One change of a job; `id` grows, so a reader goes on after the last one that it saw."""

    id: str
    kind: Literal["state", "progress"]
    at_s: float
    data: dict[str, Any] = field(default_factory=dict)


def new_id() -> str:
    """Ids sort by the moment of their making: 12 hexadecimal digits of milliseconds, 20 of chance."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def request_to_dict(request: JobRequest) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(request)}


def request_from_dict(fields: dict[str, Any]) -> JobRequest:
    """Fields that a later release added are passed over, so that releases can run side by side."""
    known = known_fields(JobRequest, fields)
    options = known_fields(DetectOptions, fields["options"])
    tuples = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    return JobRequest(
        **{
            **known,
            "video": StoredVideo(**known_fields(StoredVideo, fields["video"])),
            "options": DetectOptions(**{**options, **tuples}),
            "tags": tuple(known.get("tags", ())),
        }
    )


def request_from(text: str, otherwise: JobRequest) -> JobRequest:
    """`otherwise` is what the rest of a record tells, so that one that cannot be read hides no other from a caller."""
    try:
        return request_from_dict(json.loads(text))
    except _UNREADABLE:
        return otherwise


def unreadable(request: str) -> Failure | None:
    """Why a job can only fail whose request no worker of this release can read."""
    try:
        request_from_dict(json.loads(request))
    except _UNREADABLE as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        return Failure(TalError.code, f"This release cannot read the job's record ({why}); submit it again")
    return None


def known_fields(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    """What this release knows of a record that a later one may have written."""
    names: dict[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: fields[name] for name in names if name in fields}


def failure_from(text: str) -> Failure:
    try:
        return Failure(**known_fields(Failure, json.loads(text)))
    except _UNREADABLE:
        return Failure(TalError.code, "This release cannot read how the job failed")


def progress_from(text: str) -> Progress | None:
    try:
        return Progress(**known_fields(Progress, json.loads(text)))
    except _UNREADABLE:
        return None
