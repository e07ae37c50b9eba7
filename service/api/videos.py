"""A video in, by one body or by a resumable upload; its id, under which detections can name it, out."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from service.api import examples, grants, resumable_uploads, tus_headers, upload_documents, uploads
from service.api.access import caller_of
from service.api.detections import look_at
from service.api.problem_documents import problems
from service.api.state import ApiState, state_of
from service.api.upload_documents import VideoDocument, video_document
from service.errors import ArtifactNotFound, InvalidOptions, UnsupportedMedia, VideoInUse, VideoNotFound
from service.jobs.job import StoredVideo

router = APIRouter(prefix="/v1/videos", tags=["videos"], route_class=resumable_uploads.TusRoute)
SHA256 = re.compile("[0-9a-f]{64}")
FORM = "multipart/form-data"
VideoId = Annotated[str, Path(json_schema_extra={"pattern": f"^{SHA256.pattern}$"}, examples=[examples.VIDEO_ID])]


@router.post(
    "",
    operation_id="upload_video",
    status_code=201,
    summary="Stores a video for later detections",
    description="As the body, raw or as a form; or, with `Tus-Resumable`, by tus 1.0.0: then the request begins an "
    "upload, whose parts are sent to the URL in `Location`.",
    openapi_extra=upload_documents.UPLOAD_REQUEST,
    responses={**upload_documents.CREATED, **problems(*upload_documents.CREATE_PROBLEMS)},
    response_class=Response,
)
async def upload_video(request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    if tus_headers.is_resumable(request):
        return await resumable_uploads.create(request, state, caller)
    stored = await _receive(request, state)
    expires_at_s = await grants.give(state, caller.owner, stored)
    url = request.app.url_path_for("get_video", video_id=stored.key).make_absolute_url(request.base_url)
    return JSONResponse(video_document(stored, expires_at_s), 201, {"Location": str(url)})


@router.options(
    "",
    operation_id="video_options",
    summary="What of tus is offered",
    status_code=204,
    responses=upload_documents.OPTIONS_ANSWERS,
)
async def video_options(request: Request) -> Response:
    headers = tus_headers.options(resumable_uploads.limit_bytes(state_of(request)))
    return Response(status_code=204, headers=headers)


@router.get(
    "/{video_id}",
    operation_id="get_video",
    name="get_video",
    summary="What is known of a stored video",
    description="Counts as a use, which puts off its removal.",
    response_class=Response,
    responses={
        200: {"model": VideoDocument, "description": "The video."},
        **problems("video_not_found", *upload_documents.LOOK_PROBLEMS),
    },
)
async def get_video(video_id: VideoId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "read")
    _check_id(video_id)
    grant = await grants.require(state, caller, video_id)
    await _touch(state, video_id)
    stored = grant.video or await look_at(state, video_id, "video", None)
    return JSONResponse(video_document(stored, grant.expires_at_s), headers={"Cache-Control": "no-store"})


@router.delete(
    "/{video_id}",
    operation_id="delete_video",
    status_code=204,
    summary="Removes a stored video, unless a job needs it",
    description="Where others uploaded the same bytes, these stay theirs.",
    responses=problems("video_not_found", "video_in_use", "storage_full"),
)
async def delete_video(video_id: VideoId, request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    _check_id(video_id)
    await grants.require(state, caller, video_id)
    await _touch(state, video_id)
    alone = await grants.is_alone(state, caller, video_id)
    needed: set[str] = await state.ask(state.queue.references, [video_id])
    if alone and needed:
        raise VideoInUse(f"a job that has not finished needs the video {video_id}; cancel it, or wait for its end")
    await grants.withdraw(state, caller, video_id)
    if alone:
        with contextlib.suppress(ArtifactNotFound):  # another request was faster
            await state.ask(state.store.delete, "video", video_id)
    return Response(status_code=204)


async def _receive(request: Request, state: ApiState) -> StoredVideo:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in {FORM, "application/octet-stream"} and not kind.startswith("video/"):
        raise UnsupportedMedia(
            f"a body of type {kind[:100]!r}; accepted: {FORM}, video/*, application/octet-stream, and, with "
            f"Tus-Resumable, {tus_headers.CONTENT_TYPE}"
        )
    if unknown := set(request.query_params) - {"name"}:
        raise InvalidOptions(f"unknown query parameters: {', '.join(sorted(unknown))[:200]}; there is: name")
    await state.admit(None)
    state.check_looks()
    upload = await uploads.receive(request, state, form=kind == FORM)
    if upload.options is not None:
        raise InvalidOptions("options belong to a detection; the form of a video has the part 'video' alone")
    return await look_at(state, upload.artifact.key, upload.name, upload.artifact.size_bytes)


async def _touch(state: ApiState, video_id: str) -> None:
    try:
        await state.ask(state.store.touch, "video", video_id)
    except ArtifactNotFound:
        raise VideoNotFound(f"no video {video_id} is stored here; upload it again") from None


def _check_id(video_id: str) -> None:
    if not SHA256.fullmatch(video_id):
        raise VideoNotFound(f"no video {video_id[:64]!r} is stored here; ids are 64 hexadecimal digits")
