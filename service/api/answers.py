"""The documents of the API's answers, as OpenAPI describes them; what is not named with `None` is always there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.api import examples
from service.jobs.job import Failure, Priority, State
from service.localization import Activations, Extra, ModelInfo, Progress, Segment, VideoInfo
from service.webhooks.message import Attempt, MessageState


class AskedOptions(TypedDict, total=False):
    """What was asked for, and nothing else."""

    min_score: float
    top_k: int
    labels: list[str]
    start_s: float
    end_s: float
    include: list[Extra]


class JobVideo(BaseModel):
    id: str = Field(description="The sha256 of its bytes; can be asked for again without another upload.")
    name: str
    size_bytes: int
    duration_s: float


class JobDocument(BaseModel):
    """A job; moments are Unix times in seconds."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.JOB]})

    id: str
    state: State
    done: bool
    model: str
    video: JobVideo
    options: AskedOptions
    priority: Priority
    tags: list[str]
    timeout_s: float
    deadline_at_s: float | None
    retry_of: str | None
    created_at_s: float
    updated_at_s: float
    started_at_s: float | None
    finished_at_s: float | None
    attempts: int
    progress: Progress | None
    failure: Failure | None
    dead_letter: bool
    webhook: str | None = Field(description="Is told of the job's end.")


class JobList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [examples.JOB], "next_cursor": None}]})

    jobs: list[JobDocument]
    next_cursor: str | None = Field(description="Gives the next page; null on the last one.")


class JobEvent(BaseModel):
    """The body that a webhook is sent; `data` is the job at its end and `result_path`, null without a result."""

    type: Literal["job.succeeded", "job.failed", "job.canceled", "job.expired"]
    timestamp: str = Field(description="Of the job's end, as RFC 3339 has it.")
    data: dict[str, Any]


class MessageDocument(BaseModel):
    """What a webhook is told of a job's end; moments are Unix times in seconds."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MESSAGE]})

    id: str = Field(description="The `webhook-id` of every attempt.")
    job_id: str
    url: str
    state: MessageState
    created_at_s: float
    expires_at_s: float = Field(description="When it is forgotten: a week after its last attempt.")
    next_attempt_at_s: float | None
    attempts: list[Attempt] = Field(description="The latest 50, oldest first.")
    event: JobEvent


class MessageList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"messages": [examples.MESSAGE], "next_cursor": None}]})

    messages: list[MessageDocument]
    next_cursor: str | None = Field(description="Gives the next page; null on the last one.")


@dataclass(frozen=True)
class ResultVideo(VideoInfo):
    """A video as it was decoded; `id` and `name` are the caller's."""

    id: str
    name: str


class ResultDocument(BaseModel):
    """What was found; `id` is the job's, times are seconds on the container's timeline, timings are seconds."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.RESULT]})

    id: str
    video: ResultVideo
    model: ModelInfo
    segments: list[Segment]
    timings: dict[str, float]
    warnings: list[str]
    details: dict[str, Any] = Field(default={}, description="How the answer came about; depends on the model.")
    activations: Activations | None = Field(default=None, description="Where `include` asks for them.")


class ModelDocument(BaseModel):
    """A worker that serves it tells more: `format`, `provider`, `streams`, `grid`, `output_kind`, `metrics`."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MODEL]})

    name: str
    version: str
    sha256: str
    licence: str
    labels: list[str]
    ready: bool = Field(description="Whether a worker would take a job for it now.")
    default: bool = Field(description="Whether it is used where none is named.")


class ModelList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"models": [examples.MODEL]}]})

    models: list[ModelDocument]


class Health(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok", "starting"]


class Readiness(BaseModel):
    """Each check is `ok` or says what is missing."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.READINESS]})

    status: Literal["ok", "unready"]
    checks: dict[str, str]
