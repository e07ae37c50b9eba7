"""Many videos in one request in; a batch, how far it is, and all that was found, out."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated

import anyio
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api import batch_documents, cursors, examples, schemas
from service.api.access import Caller, caller_of
from service.api.batch_acceptance import RECEIVE_S, Asked, accept, admit
from service.api.batch_documents import JSON_LINES, REQUEST, BatchDocument, BatchList, batch_document
from service.api.batch_forms import FormReceiver, Intake, receive_lines
from service.api.batch_records import Batch, BatchShelf, ItemState
from service.api.detections import RETRY_AFTER_S, check, read_key
from service.api.problem_documents import problems
from service.api.state import ApiState, state_of
from service.api.submission_forms import REPLAYED
from service.errors import (
    BatchNotFound,
    InvalidOptions,
    JobNotFinished,
    UnsupportedMedia,
)
from service.jobs.job import new_id

router = APIRouter(prefix="/v1/batches", tags=["batches"])
LINES = {"application/jsonl", JSON_LINES}
FORM = "multipart/form-data"
LONGEST_NAME = 200
BatchId = Annotated[str, Path(json_schema_extra={"pattern": f"^{cursors.JOB_ID.pattern}$"}, examples=[examples.JOB_ID])]
CREATE_PROBLEMS = (
    *("malformed_request", "incomplete_upload", "upload_timeout", "unsupported_media", "invalid_options"),
    *(
        "model_not_found",
        "idempotency_mismatch",
        "video_too_large",
        "storage_full",
        "queue_full",
        "draining",
        "unavailable",
    ),
)
LOCATION = {"description": "The batch's URL.", "schema": {"type": "string", "format": "uri"}}
PAUSE = {"description": "When to ask for the batch, in seconds.", "schema": {"type": "integer"}}


@router.post(
    "",
    operation_id="create_batch",
    status_code=202,
    summary="Many videos in one request",
    description="Lines of JSON, each the body of a detection with a `custom_id`, or a form with several videos. A line "
    "that makes no sense is an item that fails, and keeps no other from its turn.",
    openapi_extra=REQUEST,
    responses={
        202: {
            "model": BatchDocument,
            "description": "The batch, which goes on.",
            "headers": {"Location": LOCATION, "Retry-After": PAUSE, "Idempotency-Replayed": REPLAYED},
        },
        **problems(*CREATE_PROBLEMS),
    },
    response_class=Response,
)
async def create_batch(request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    name = request.query_params.get("name", "")[:LONGEST_NAME]
    asked = Asked(caller, read_key(request), name, schemas.read_query(request.query_params))
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != FORM and kind not in LINES:
        raise UnsupportedMedia(f"a body of type {kind[:100]!r}; accepted: {', '.join(sorted(LINES))}, {FORM}")
    await admit(state, asked)
    shelf, now_s = BatchShelf(state.records), time.time()
    batch = Batch(new_id(), caller.owner, name, "receiving", now_s, asked.wanted)
    batch = await state.ask(shelf.create, batch, now_s + RECEIVE_S)
    try:
        received, digest = await _receive(request, state, batch, asked, form=kind == FORM)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await state.ask(shelf.forget, batch)
        raise
    accepted, replayed = await state.ask(accept, state, received, asked, digest)
    told = batch_document(accepted, links_of(request, accepted))
    headers = {"Location": told["links"]["self"], "Retry-After": RETRY_AFTER_S}
    return JSONResponse(told, 202, {**headers, "Idempotency-Replayed": "true"} if replayed else headers)


async def _receive(request: Request, state: ApiState, batch: Batch, asked: Asked, *, form: bool) -> tuple[Batch, str]:
    intake = Intake(BatchShelf(state.records), batch.id, batch.owner)
    if form:
        await check(state, asked.wanted)
        given = await FormReceiver(state, intake).receive(request)
        batch = replace(batch, defaults=schemas.merge(given.options or {}, asked.wanted))
        await check(state, dict(batch.defaults))
        digest = f"{given.digest} {json.dumps(given.options, sort_keys=True)}"
    else:
        digest = await receive_lines(request, state, intake)
    return replace(batch, total=intake.total, chunks=intake.chunks), digest


@router.get(
    "",
    operation_id="list_batches",
    summary="Batches, newest first",
    description="Of one owner after the other where there are several.",
    response_class=Response,
    responses={200: {"model": BatchList, "description": "A page."}, **problems("malformed_request", "invalid_options")},
)
async def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
) -> Response:
    state, caller = state_of(request), await caller_of(request, "read")
    if unknown := set(request.query_params) - {"limit", "cursor"}:
        raise InvalidOptions(f"unknown query parameters: {', '.join(sorted(unknown))[:200]}; there are: cursor, limit")
    beyond = cursors.open_record(cursor) if cursor else None
    found = await state.ask(BatchShelf(state.records).page, caller.seen_owner, beyond, limit + 1)
    page = found[:limit]
    more = cursors.seal_record(page[-1].record_id) if len(found) > limit else None
    told = [batch_document(one, links_of(request, one)) for one in page if one.state != "receiving"]
    return JSONResponse({"batches": told, "next_cursor": more})


@router.get(
    "/{batch_id}",
    operation_id="get_batch",
    name="get_batch",
    summary="A batch as it stands",
    response_class=Response,
    responses={200: {"model": BatchDocument, "description": "The batch."}, **problems("batch_not_found")},
)
async def get_batch(batch_id: BatchId, request: Request) -> Response:
    batch = await _find(request, batch_id, await caller_of(request, "read"))
    headers = {"Cache-Control": "no-store"} if batch.finished else {"Retry-After": RETRY_AFTER_S}
    return JSONResponse(batch_document(batch, links_of(request, batch)), headers=headers)


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancel_batch",
    name="cancel_batch",
    status_code=202,
    summary="Ends a batch and its jobs; twice is no error",
    description="What was found until then stays; a finished batch stays as it is.",
    response_class=Response,
    responses={
        202: {"model": BatchDocument, "description": "The batch."},
        **problems("batch_not_found", "unavailable"),
    },
)
async def cancel_batch(batch_id: BatchId, request: Request) -> Response:
    state = state_of(request)
    batch = await _find(request, batch_id, await caller_of(request, "submit"))

    def called_off(batch: Batch) -> Batch | None:
        return replace(batch, state="canceling") if batch.state == "in_progress" else None

    changed = await state.ask(BatchShelf(state.records).change, batch.record_id, called_off, time.time())
    return JSONResponse(batch_document(changed, links_of(request, changed)), 202)


@router.get(
    "/{batch_id}/output",
    operation_id="batch_output",
    name="batch_output",
    summary="What was found, a line of JSON for each item, in the order in which they came",
    description="Of those that have succeeded by now; `all=true` also tells what kept the others from a result.",
    response_class=Response,
    responses={
        200: {
            "description": "`{custom_id, job_id, result}`, or with `error` for `result`.",
            "content": {JSON_LINES: {"schema": {"type": "string"}, "example": json.dumps(batch_documents.OUTPUT_LINE)}},
        },
        **problems("batch_not_found", "invalid_options"),
    },
)
async def batch_output(
    batch_id: BatchId, request: Request, everything: Annotated[bool, Query(alias="all")] = False
) -> Response:
    more: tuple[ItemState, ...] = ("failed", "canceled") if everything else ()
    return await _lines(request, batch_id, ("succeeded", *more))


@router.get(
    "/{batch_id}/errors",
    operation_id="batch_errors",
    name="batch_errors",
    summary="What failed, a line of JSON for each item, in the order in which they came",
    response_class=Response,
    responses={
        200: {
            "description": "`{custom_id, job_id, error}`.",
            "content": {JSON_LINES: {"schema": {"type": "string"}, "example": json.dumps(batch_documents.ERROR_LINE)}},
        },
        **problems("batch_not_found"),
    },
)
async def batch_errors(batch_id: BatchId, request: Request) -> Response:
    return await _lines(request, batch_id, ("failed", "canceled"))


@router.delete(
    "/{batch_id}",
    operation_id="delete_batch",
    status_code=204,
    summary="Forgets a finished batch",
    description="Its jobs stay until their own time is over.",
    responses=problems("batch_not_found", "job_not_finished"),
)
async def delete_batch(batch_id: BatchId, request: Request) -> Response:
    state = state_of(request)
    batch = await _find(request, batch_id, await caller_of(request, "submit"))
    if not batch.finished:
        raise JobNotFinished(f"batch {batch_id} is {batch.state}; one that has ended can be deleted")
    await state.ask(BatchShelf(state.records).forget, batch)
    return Response(status_code=204)


async def _lines(request: Request, batch_id: str, wanted: Collection[ItemState]) -> Response:
    batch = await _find(request, batch_id, await caller_of(request, "read"))
    told = batch_documents.lines(state_of(request), batch, wanted)
    return StreamingResponse(told, headers={"Cache-Control": "no-store"}, media_type=JSON_LINES)


async def _find(request: Request, batch_id: str, caller: Caller) -> Batch:
    if not cursors.JOB_ID.fullmatch(batch_id):
        raise BatchNotFound(f"no batch {batch_id[:64]!r}")
    state = state_of(request)
    return await state.ask(BatchShelf(state.records).find, batch_id, caller.seen_owner)


def links_of(request: Request, batch: Batch) -> dict[str, str]:
    def url(route: str) -> str:
        return str(request.app.url_path_for(route, batch_id=batch.id).make_absolute_url(request.base_url))

    routes = {"self": "get_batch", "output": "batch_output", "errors": "batch_errors", "cancel": "cancel_batch"}
    return {name: url(route) for name, route in routes.items()}
