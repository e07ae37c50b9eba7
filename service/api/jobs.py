"""Jobs by their ids in; what became of them, their results and their events out."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api import cursors, examples
from service.api.access import Caller, caller_of
from service.api.answers import JobDocument, JobList
from service.api.detections import RETRY_AFTER_S, fingerprint, read_key
from service.api.models import known_models, require
from service.api.problem_documents import problems
from service.api.results import MEDIA_TYPES, RESULT_FORMS, chosen_format, read_result, written
from service.api.schemas import job_document
from service.api.state import ApiState, state_of
from service.api.submission_forms import IDEMPOTENCY_KEY, JOB_HEADERS
from service.errors import (
    ArtifactNotFound,
    InvalidOptions,
    JobNotFinished,
    JobNotFound,
    MalformedRequest,
    QueueUnavailable,
    VideoNotFound,
)
from service.jobs.job import Event, Job, State
from service.jobs.queue import Idempotency, JobFilter

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
KEEP_ALIVE_S = 15.0
MOST_JOBS = 1000
LIST_PARAMETERS = {"state", "model", "tag", "limit", "cursor"}
EVENTS_AT_ONCE = 100
EVENT_ID = re.compile(r"^[0-9]{1,18}(-[0-9]{1,18})?$")
Filter = Annotated[str | None, Query(min_length=1, max_length=128)]
# What is no id names no job: 404, so the pattern is for the document alone.
JobId = Annotated[str, Path(json_schema_extra={"pattern": f"^{cursors.JOB_ID.pattern}$"}, examples=[examples.JOB_ID])]
UNCHANGED = {"description": "As it was when the `ETag` was given that stands in `If-None-Match`."}
RETRY_PROBLEMS = (
    *("malformed_request", "job_not_found", "model_not_found", "video_not_found", "job_not_finished"),
    *("video_too_long", "idempotency_mismatch", "queue_full", "storage_full", "draining"),
)
FORMAT = {"name": "format", "in": "query", "schema": {"enum": list(MEDIA_TYPES)}, "example": "json"}
LAST_EVENT_ID = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string", "pattern": EVENT_ID.pattern}}
TEXT = {"type": "string"}
EVENT = {
    "type": "object",
    "description": "One of the events; `data` is JSON: `at_s` and, by kind, the job's state or its progress.",
    "required": ["id", "event", "data"],
    "properties": {"id": TEXT, "event": {"enum": ["state", "progress"]}, "data": TEXT},
}
EVENTS = {"text/event-stream": {"schema": EVENT, "example": examples.EVENT}}


@router.get(
    "",
    operation_id="list_jobs",
    summary="Jobs, newest first",
    response_class=Response,
    responses={200: {"model": JobList, "description": "A page."}, **problems("malformed_request", "invalid_options")},
)
async def list_jobs(
    request: Request,
    state: Annotated[list[State] | None, Query()] = None,
    model: Filter = None,
    tag: Filter = None,
    limit: Annotated[int, Query(ge=1, description=f"A page holds at most {MOST_JOBS}.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    api, caller = state_of(request), await caller_of(request, "read")
    if unknown := set(request.query_params) - LIST_PARAMETERS:
        known = ", ".join(sorted(LIST_PARAMETERS))
        raise InvalidOptions(f"unknown query parameters: {', '.join(sorted(unknown))[:200]}; there are: {known}")
    limit = min(limit, MOST_JOBS)
    before = cursors.open_cursor(cursor) if cursor else None
    wanted = JobFilter(tuple(state or ()), model, tag, caller.seen_owner)
    found = await api.ask(api.queue.find, wanted, limit + 1, before)
    page = found[:limit]
    more = cursors.seal(page[-1].id) if len(found) > limit else None
    return JSONResponse({"jobs": [job_document(job) for job in page], "next_cursor": more})


@router.get(
    "/{job_id}",
    operation_id="get_job",
    name="get_job",
    summary="A job as it stands",
    response_class=Response,
    responses={200: {"model": JobDocument, "description": "The job."}, 304: UNCHANGED, **problems("job_not_found")},
)
async def get_job(job_id: JobId, request: Request) -> Response:
    job = await _find(state_of(request), job_id, await caller_of(request, "read"))
    etag = f'"{job.version}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache" if job.finished else "no-store"}
    if not job.finished:
        headers["Retry-After"] = RETRY_AFTER_S
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_document(job), headers=headers)


@router.get(
    "/{job_id}/result",
    operation_id="get_result",
    summary="What was found, in one of several forms",
    description="The form is named by `format`, else by `Accept`, else it is JSON.",
    response_class=Response,
    openapi_extra={"parameters": [FORMAT]},
    responses={
        200: {"description": "The result.", "content": RESULT_FORMS},
        304: UNCHANGED,
        **problems("job_not_found", "result_not_there", "not_acceptable", "job_not_finished"),
    },
)
async def get_result(job_id: JobId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "read")
    form = chosen_format(request)
    job = await _find(state, job_id, caller)
    headers = {"ETag": f'"{job.version}-{form}"', "Cache-Control": "no-cache", "Vary": "Accept"}
    document = await state.ask(read_result, state, job)
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(await state.ask(written, document, form), 200, headers, MEDIA_TYPES[form])


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    status_code=202,
    summary="Ends a job; twice is no error",
    description="A waiting job is `canceled` at once, a running one `canceling` first; a finished one stays as it is.",
    response_class=Response,
    responses={202: {"model": JobDocument, "description": "The job."}, **problems("job_not_found", "storage_full")},
)
async def cancel_job(job_id: JobId, request: Request) -> Response:
    state = state_of(request)
    await _find(state, job_id, await caller_of(request, "submit"))
    return JSONResponse(job_document(await state.ask(state.queue.cancel, job_id)), 202)


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    status_code=202,
    summary="The same request as a new job",
    description="Of a job that ended without success. A deadline is not taken over.",
    response_class=Response,
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
    responses={
        202: {"model": JobDocument, "description": "The new job.", "headers": JOB_HEADERS},
        **problems(*RETRY_PROBLEMS),
    },
)
async def retry_job(job_id: JobId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    key = caller.own_key(read_key(request))
    await state.admit(key)
    job = await _find(state, job_id, caller)
    if not job.finished or job.state == "succeeded":
        raise JobNotFinished(f"job {job_id} is {job.state}; a job that ended without success can be retried")
    require(await state.ask(known_models, state), job.request.model)
    try:
        await state.ask(state.store.touch, "video", job.request.video.key)
    except ArtifactNotFound:
        raise VideoNotFound(f"the video of job {job_id} is no longer kept; upload it again") from None
    again = replace(job.request, retry_of=job_id, deadline_at_s=None)
    idempotency = Idempotency(key, fingerprint(again.video, {"retry_of": job_id})) if key else None
    submission = await state.submit(again, idempotency)
    url = request.app.url_path_for("get_job", job_id=submission.job.id).make_absolute_url(request.base_url)
    replayed = {"Idempotency-Replayed": "true"} if submission.replayed else {}
    return JSONResponse(
        job_document(submission.job), 202, {"Location": str(url), "Retry-After": RETRY_AFTER_S, **replayed}
    )


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    status_code=204,
    summary="Forgets a finished job",
    responses=problems("job_not_found", "job_not_finished", "storage_full"),
)
async def delete_job(job_id: JobId, request: Request) -> Response:
    state = state_of(request)
    await _find(state, job_id, await caller_of(request, "submit"))
    await state.ask(state.queue.delete, job_id)
    return Response(status_code=204)


@router.get(
    "/{job_id}/events",
    operation_id="job_events",
    summary="A job's changes as they happen (SSE)",
    description="Ends with the job; of a finished job all events come at once. A comment comes every 15 s of silence.",
    response_class=Response,
    openapi_extra={"parameters": [LAST_EVENT_ID]},
    responses={
        200: {"description": "Events.", "content": EVENTS},
        **problems("malformed_request", "job_not_found", "invalid_options"),
    },
)
async def job_events(job_id: JobId, request: Request) -> StreamingResponse:
    state, caller = state_of(request), await caller_of(request, "read")
    after = request.headers.get("last-event-id") or None
    if after is not None and not EVENT_ID.fullmatch(after):
        raise MalformedRequest(f"Last-Event-ID {after[:50]!r} is none that this service gave")
    job = await _find(state, job_id, caller)
    first = await state.ask(_events, state, job_id, after)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(state, job, first, after), headers=headers, media_type="text/event-stream")


async def _stream(state: ApiState, job: Job, events: list[Event], after: str | None) -> AsyncIterator[str]:
    """The job is read before its events, so that what is finished has told all of them."""
    yield ": open\n\n"
    while True:
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps({'at_s': event.at_s, **event.data})}\n\n"
        if len(events) < EVENTS_AT_ONCE:
            if job.finished or state.draining:
                return
            if not await state.watch.changed(job.id, job.version, KEEP_ALIVE_S):
                yield ": alive\n\n"
        try:
            job = await state.ask(state.queue.get, job.id)
            events = await state.ask(_events, state, job.id, after)
        except (JobNotFound, QueueUnavailable):  # who asks again, goes on behind the last event
            return


def _events(state: ApiState, job_id: str, after: str | None) -> list[Event]:
    try:
        return state.queue.events(job_id, after, EVENTS_AT_ONCE)
    except ValueError:
        raise InvalidOptions(f"Last-Event-ID {after!r} is none of this job's") from None


def matches(given: str | None, etag: str) -> bool:
    tags = [one.strip().removeprefix("W/") for one in (given or "").split(",")]
    return etag in tags or "*" in tags


async def _find(state: ApiState, job_id: str, caller: Caller) -> Job:
    """Another's is as one that never was."""
    missing = JobNotFound(f"no job {job_id[:64]!r}; it was deleted, is too old, or never was")
    if not cursors.JOB_ID.fullmatch(job_id):
        raise missing
    try:
        job = await state.ask(state.queue.get, job_id)
    except JobNotFound:
        raise missing from None
    if not caller.sees(job.request.owner):
        raise missing
    return job
