"""Requests of tus 1.0.0 in; uploads that go on after any interruption, and the videos that they become, out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.api import examples, grants, part_intake, tus_headers, upload_documents
from service.api.access import Caller, caller_of
from service.api.detections import look_at
from service.api.error_responses import METHOD_NOT_ALLOWED, of_error
from service.api.problem_documents import problems
from service.api.state import ApiState, state_of
from service.api.upload_documents import UploadDocument, upload_document
from service.errors import Draining, OffsetMismatch, ProtocolMismatch, StorageFull, TalError, UploadNotFound, VideoError
from service.jobs.partial_uploads import PartialUpload, PartialUploads
from service.settings import MIB

UploadId = Annotated[str, Path(json_schema_extra={"pattern": "^[0-9a-f]{32}$"}, examples=[examples.UPLOAD_ID])]


class TusRoute(APIRoute):
    """Tells the protocol's version with every answer, errors too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answered = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                answer = await answered(request)
            except TalError as error:
                answer = of_error(request, error)
                if isinstance(error, ProtocolMismatch):
                    answer.headers["Tus-Version"] = tus_headers.VERSION
            if tus_headers.is_resumable(request):
                answer.headers["Tus-Resumable"] = tus_headers.VERSION
            return answer

        return handle


router = APIRouter(prefix="/v1/videos/uploads", tags=["videos"], route_class=TusRoute)


async def create(request: Request, state: ApiState, caller: Caller) -> Response:
    """A `POST` on the collection of videos."""
    tus_headers.check_version(request)
    length_bytes = tus_headers.read_length(request, limit_bytes(state))
    metadata, name = tus_headers.read_metadata(request)
    with_part = tus_headers.has_part(request)
    if with_part:
        tus_headers.check_part(request)
    await state.admit(None)
    await _check_room(state, length_bytes)
    upload = await state.ask(partial_uploads(state).begin, caller.owner, name, length_bytes, metadata)
    if with_part:
        upload = await _first_part(request, state, upload)
    url = request.app.url_path_for("get_upload", upload_id=upload.id).make_absolute_url(request.base_url)
    return JSONResponse(upload_document(upload), 201, {"Location": str(url), **tus_headers.progress(upload)})


@router.options(
    "/{upload_id}",
    operation_id="upload_options",
    summary="What of tus is offered",
    status_code=204,
    responses=upload_documents.OPTIONS_ANSWERS,
)
async def upload_options(upload_id: UploadId, request: Request) -> Response:  # noqa: ARG001
    return Response(status_code=204, headers=tus_headers.options(limit_bytes(state_of(request))))


@router.head(
    "/{upload_id}",
    operation_id="upload_offset",
    summary="Where an upload goes on",
    description="Ends a part that is still being sent: whoever asks is about to go on.",
    status_code=200,
    response_class=Response,
    openapi_extra={"parameters": [upload_documents.TUS_RESUMABLE]},
    responses=upload_documents.head_answers("upload_not_found", "protocol_mismatch", *upload_documents.FINISH_PROBLEMS),
)
async def upload_offset(upload_id: UploadId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    tus_headers.check_version(request)
    await part_intake.interrupt(state, (await _find(state, caller, upload_id)).id)
    upload = await complete(state, await _find(state, caller, upload_id))
    metadata = {"Upload-Metadata": upload.metadata} if upload.metadata else {}
    headers = {"Upload-Length": str(upload.length_bytes), "Cache-Control": "no-store", **metadata}
    return Response(headers={**headers, **tus_headers.progress(upload)})


@router.get(
    "/{upload_id}",
    operation_id="get_upload",
    name="get_upload",
    summary="How far an upload is, and the video that it became",
    response_class=Response,
    responses={
        200: {"model": UploadDocument, "description": "The upload."},
        **problems("upload_not_found", *upload_documents.FINISH_PROBLEMS),
    },
)
async def get_upload(upload_id: UploadId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "read")
    upload = await complete(state, await _find(state, caller, upload_id))
    return JSONResponse(upload_document(upload), headers={"Cache-Control": "no-store"})


@router.patch(
    "/{upload_id}",
    operation_id="continue_upload",
    summary="The next part of an upload",
    description="Begins where the last part ended. Of a body that breaks off, what came is kept, unless a checksum "
    "was given. The last part is answered once the video was stored and looked at.",
    status_code=204,
    openapi_extra=upload_documents.PATCH_REQUEST,
    responses={**upload_documents.PROGRESS_ANSWERS, **problems(*upload_documents.PATCH_PROBLEMS)},
)
async def continue_upload(upload_id: UploadId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    tus_headers.check_version(request)
    tus_headers.check_part(request)
    offset_bytes = tus_headers.read_offset(request)
    upload = await _find(state, caller, upload_id)
    if offset_bytes != upload.offset_bytes:
        raise OffsetMismatch(f"the upload stands at {upload.offset_bytes} bytes, and the part begins at {offset_bytes}")
    if state.draining:
        raise Draining("this server is about to end; go on with another one")
    upload = await part_intake.receive(request, state, partial_uploads(state), upload)
    return Response(status_code=204, headers=tus_headers.progress(await complete(state, upload)))


@router.delete(
    "/{upload_id}",
    operation_id="end_upload",
    summary="Forgets an upload; the video of one that is done stays",
    status_code=204,
    openapi_extra={"parameters": [upload_documents.TUS_RESUMABLE]},
    responses=problems("upload_not_found", "protocol_mismatch", "storage_full"),
)
async def end_upload(upload_id: UploadId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    tus_headers.check_version(request)
    await state.ask(partial_uploads(state).drop, await _find(state, caller, upload_id))
    return Response(status_code=204)


@router.post("/{upload_id}", include_in_schema=False)
async def overridden(upload_id: UploadId, request: Request) -> Response:
    """For clients whose way here lets neither PATCH nor DELETE through."""
    meant = {"PATCH": continue_upload, "DELETE": end_upload, "HEAD": upload_offset}.get(tus_headers.method_of(request))
    if meant is None:
        raise HTTPException(METHOD_NOT_ALLOWED)
    return await meant(upload_id, request)


async def complete(state: ApiState, upload: PartialUpload) -> PartialUpload:
    """Makes a video of an upload whose bytes are all there; whoever asks goes on where a crash ended it."""
    if upload.done or upload.left_bytes:
        return upload
    lock = state.completing.setdefault(upload.id, anyio.Lock())
    async with lock:
        partial = partial_uploads(state)
        upload = await state.ask(partial.get, upload.id)
        if upload.done:
            return upload
        if upload.video is None:
            upload = await state.ask(partial.assemble, upload)
        await _look(state, partial, upload)
        return await state.ask(partial.finish, upload)


async def _look(state: ApiState, partial: PartialUploads, upload: PartialUpload) -> None:
    """What is no video ends its upload."""
    assert upload.video is not None  # noqa: S101  # as assembled
    try:
        stored = await look_at(state, upload.video, upload.name, upload.length_bytes)
    except VideoError as error:
        if not error.retryable:
            await state.ask(partial.drop, upload)
        raise
    await grants.give(state, upload.owner, stored)


async def _first_part(request: Request, state: ApiState, upload: PartialUpload) -> PartialUpload:
    """Nobody knows the upload yet: where this fails, it is gone again."""
    try:
        return await complete(state, await part_intake.receive(request, state, partial_uploads(state), upload))
    except BaseException:
        with anyio.CancelScope(shield=True):
            await state.ask(_forget, partial_uploads(state), upload.id)
        raise


def _forget(partial: PartialUploads, upload_id: str) -> None:
    with contextlib.suppress(UploadNotFound):
        partial.drop(partial.get(upload_id))


def partial_uploads(state: ApiState) -> PartialUploads:
    return PartialUploads(state.records, state.store, state.config.keep_parts_s)


def limit_bytes(state: ApiState) -> int:
    return state.config.max_video_mib * MIB


async def _check_room(state: ApiState, length_bytes: int) -> None:
    """For all of it, so that nobody is stopped half-way; what others upload meanwhile is not known."""
    room_bytes = await state.ask(state.store.free_bytes) - state.config.min_free_disk_mib * MIB
    if room_bytes < length_bytes:
        raise StorageFull(f"{length_bytes} bytes are announced, and the artifact store has room for {room_bytes}")


async def _find(state: ApiState, caller: Caller, upload_id: str) -> PartialUpload:
    upload: PartialUpload = await state.ask(partial_uploads(state).get, upload_id[:64])
    if not caller.sees(upload.owner):
        raise UploadNotFound(f"no upload {upload_id!r}, or it has expired; begin a new one")
    return upload
