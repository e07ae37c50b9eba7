"""What a request may ask in, checked; documents of jobs out."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from service.api import examples
from service.errors import InvalidOptions, MalformedRequest
from service.jobs.job import Job, Priority
from service.localization import DetectOptions, Extra

T = TypeVar("T", bound=BaseModel)
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,64}$")]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Duration = Annotated[float, Field(gt=0, le=1e9)]
Webhook = Annotated[str, Field(min_length=1, max_length=2048, description="A URL that is told of the job's end.")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Options(Strict):
    """What is wanted of a video; everything may be left out."""

    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    labels: Annotated[tuple[str, ...], Field(max_length=10_000)] | None = None
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    include: tuple[Extra, ...] | None = None
    priority: Priority | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] | None = None
    timeout_s: Duration | None = Field(default=None, description="How long one attempt may run.")
    deadline_s: Duration | None = Field(default=None, description="From now on; a job that is not done then expires.")
    webhook: Webhook | None = None

    def detect_options(self) -> DetectOptions:
        return DetectOptions(
            self.min_score, self.top_k, self.labels, self.start_s, self.end_s, tuple(dict.fromkeys(self.include or ()))
        )


class OptionsAndModel(Options):
    model: str | None = None


class VideoReference(Strict):
    """Exactly one of the two: the id of a video that is stored here, or a URL, where those are fetched."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    url: Annotated[str, Field(max_length=4096)] | None = None


class DetectionBody(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [examples.BODY]})
    video: VideoReference
    model: str | None = None
    options: Options = Options()
    priority: Priority | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] | None = None
    timeout_s: Duration | None = None
    deadline_s: Duration | None = None
    webhook: Webhook | None = None


MOST_FINDINGS = 100
SEVERAL = {"labels": "labels", "include": "include", "tag": "tags"}
SINGLE = ("model", "min_score", "top_k", "start_s", "end_s", "priority", "timeout_s", "deadline_s", "webhook")


def read_body(text: bytes) -> tuple[VideoReference, dict[str, Any]]:
    return read_detection(parse_json(text))


def read_detection(document: Any) -> tuple[VideoReference, dict[str, Any]]:
    body = _checked(DetectionBody, document)
    outer = body.model_dump(exclude_none=True, exclude={"video", "options"})
    return body.video, merge(body.options.model_dump(exclude_none=True), outer)


def read_options(text: bytes) -> dict[str, Any]:
    return _checked(OptionsAndModel, parse_json(text)).model_dump(exclude_none=True)


def read_query(query: QueryParams) -> dict[str, Any]:
    unknown = set(query) - set(SINGLE) - set(SEVERAL) - {"name"}
    if unknown:
        raise InvalidOptions(f"unknown query parameters: {', '.join(sorted(unknown))}")
    for name in SINGLE:
        if len(values := query.getlist(name)) > 1:
            raise InvalidOptions(f"{name} is given {len(values)} times, as {', '.join(values)[:200]}; once is enough")
    given: dict[str, Any] = {name: query[name] for name in SINGLE if name in query}
    for name, field in SEVERAL.items():
        if name in query:
            given[field] = query.getlist(name)
    return _checked(OptionsAndModel, given, strict=False).model_dump(exclude_none=True)


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What is asked for in two places has to be the same."""
    for name in first.keys() & second.keys():
        if first[name] != second[name]:
            raise InvalidOptions(f"{name} is given twice, as {first[name]!r} and as {second[name]!r}")
    return {**first, **second}


def job_document(job: Job) -> dict[str, Any]:
    request = job.request
    options = {name: value for name, value in asdict(request.options).items() if value not in (None, ())}
    return {
        "id": job.id,
        "state": job.state,
        "done": job.finished,
        "model": request.model,
        "video": {
            "id": request.video.key,
            "name": request.video.name,
            "size_bytes": request.video.size_bytes,
            "duration_s": request.video.duration_s,
        },
        "options": options,
        "priority": request.priority,
        "tags": list(request.tags),
        "timeout_s": request.timeout_s,
        "deadline_at_s": request.deadline_at_s,
        "retry_of": request.retry_of,
        "created_at_s": job.created_at_s,
        "updated_at_s": job.updated_at_s,
        "started_at_s": job.started_at_s,
        "finished_at_s": job.finished_at_s,
        "attempts": job.attempts,
        "progress": asdict(job.progress) if job.progress else None,
        "failure": asdict(job.failure) if job.failure else None,
        "dead_letter": job.dead_letter,
        "webhook": request.webhook,
    }


def parse_json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"no JSON: {str(error)[:200]}") from None


def _checked(kind: type[T], given: Any, strict: bool | None = None) -> T:
    try:
        return kind.model_validate(given, strict=strict)
    except ValidationError as error:
        found = [{"where": list(one["loc"]), "message": one["msg"]} for one in error.errors(include_url=False)]
        said = (f"{'.'.join(map(str, one['where']))}: {one['message']}" for one in found)
        raise InvalidOptions("; ".join(said)[:2000], found[:MOST_FINDINGS]) from None
