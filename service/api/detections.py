"""A video and what is wanted of it in; a job, and its answer where that comes in time, out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service import configured
from service.api import grants, models, remote_videos, schemas, submission_forms, uploads
from service.api.access import Caller, caller_of
from service.api.error_responses import code_status, problem
from service.api.results import read_result
from service.api.state import ApiState, state_of
from service.api.webhooks import check_webhook
from service.errors import (
    ArtifactNotFound,
    InvalidOptions,
    MalformedRequest,
    QueueUnavailable,
    TalError,
    Unavailable,
    UnsupportedMedia,
    VideoError,
    VideoNotFound,
)
from service.jobs.job import FINISHED, Job, JobRequest, StoredVideo
from service.jobs.queue import Idempotency
from service.pipeline import segments, video

router = APIRouter(prefix="/v1", tags=["detections"])
KEY = re.compile(r"[\x21-\x7e]{1,255}")
RETRY_AFTER_S = "2"
KNOWN_VIDEOS = 10_000
EVERYBODY = Caller()


@dataclass(frozen=True)
class Patience:
    """How long an answer is waited for; `applied` is the preference that was heeded."""

    wait_s: float
    applied: str | None = None


@router.post(
    "/detections",
    operation_id="detect",
    summary="Which actions happen in a video",
    description=submission_forms.DESCRIPTION,
    openapi_extra=submission_forms.REQUEST,
    responses=submission_forms.ANSWERS,
    response_class=Response,
)
async def detect(request: Request) -> Response:
    state, caller = state_of(request), await caller_of(request, "submit")
    patience = read_preference(request, state)
    idempotency_key = caller.own_key(read_key(request))
    wanted = schemas.read_query(request.query_params)
    await state.admit(idempotency_key)
    stored, given = await take_video(request, state, caller, wanted, idempotency_key)
    job_request = replace(await compose(state, stored, given), owner=caller.owner)
    # A model that is named and the same one by default are one request.
    asked = fingerprint(stored, {**given, "model": job_request.model})
    submission = await state.submit(job_request, Idempotency(idempotency_key, asked) if idempotency_key else None)
    answer = await wait_for(request, state, submission.job, patience)
    if submission.replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer


async def take_video(
    request: Request, state: ApiState, caller: Caller, wanted: dict[str, Any], key: str | None
) -> tuple[StoredVideo, dict[str, Any]]:
    """The video, stored and looked at, and everything that was asked of it."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        reference, given = schemas.read_body(await uploads.read_small(request, state.config.upload_silence_s))
        given = schemas.merge(given, wanted)
        await check(state, given)
        return await find_video(state, reference, key, caller), given
    if kind not in {"multipart/form-data", "application/octet-stream"} and not kind.startswith("video/"):
        raise UnsupportedMedia(
            f"a body of type {kind[:100]!r}; accepted: multipart/form-data, video/*, application/octet-stream, "
            "application/json"
        )
    await check(state, wanted)
    state.check_looks()
    upload = await uploads.receive(request, state, form=kind == "multipart/form-data")
    given = schemas.merge(schemas.read_options(upload.options), wanted) if upload.options is not None else wanted
    stored = await look_at(state, upload.artifact.key, upload.name, upload.artifact.size_bytes)
    await grants.give_owner(state, caller.owner, stored)
    return stored, given


async def find_video(
    state: ApiState, reference: schemas.VideoReference, key: str | None = None, caller: Caller = EVERYBODY
) -> StoredVideo:
    if (reference.id is None) == (reference.url is None):
        raise InvalidOptions("video names either the id of a stored video or a url")
    if reference.url is not None:
        fetched = await remote_videos.receive(state, reference.url, key)
        stored = await look_at(state, fetched.artifact.key, fetched.name, fetched.artifact.size_bytes)
        await grants.give_owner(state, caller.owner, stored)
        return stored
    assert reference.id is not None  # noqa: S101  # one of the two
    grant = await grants.require(state, caller, reference.id)
    return await look_at(state, reference.id, grant.video.name if grant.video else "video", None)


async def look_at(state: ApiState, key: str, name: str, size_bytes: int | None) -> StoredVideo:
    """`size_bytes` is known of a video that has just come; if it turns out to be none, it is not kept."""
    try:
        path: Path = await state.ask(state.store.path, "video", key)
    except ArtifactNotFound:
        raise VideoNotFound(f"no video {key} is stored here; upload it again") from None
    if (duration_s := state.durations_s.get(key)) is None:
        state.check_looks()
        async with state.looks:
            duration_s = state.durations_s.get(key)  # another request may have looked meanwhile
            if duration_s is None:
                duration_s = state.durations_s[key] = await _duration_s(
                    state, path, name, None if size_bytes is None else key
                )
    return StoredVideo(key, name, size_bytes or path.stat().st_size, duration_s)


def _discard(state: ApiState, key: str) -> None:
    """No job can need it, whoever sent it."""
    with contextlib.suppress(ArtifactNotFound, Unavailable):
        if key not in state.queue.references([key]):
            state.store.delete("video", key)


async def _duration_s(state: ApiState, path: Path, name: str, new_key: str | None) -> float:
    try:
        info = await state.ask(video.probe, path, configured.decoding(state.config).limits)
    except TalError as error:
        if new_key and isinstance(error, VideoError) and not error.retryable:
            await state.ask(_discard, state, new_key)
        raise type(error)(str(error).replace(path.name, name)) from None
    if len(state.durations_s) >= KNOWN_VIDEOS:
        state.durations_s.clear()
    return info.duration_s


async def check(state: ApiState, given: dict[str, Any]) -> str:
    """The model's name; what no answer could satisfy is refused."""
    check_webhook(state.config, given.get("webhook"))
    name = str(given.get("model") or await state.ask(models.default_name, state.config))
    described = models.require(await state.ask(models.known_models, state), name)
    segments.check_options(_options(given).detect_options(), tuple(described["labels"]))
    return name


async def compose(state: ApiState, stored: StoredVideo, given: dict[str, Any]) -> JobRequest:
    model = await check(state, given)
    options = _options(given)
    if options.start_s is not None and stored.duration_s and options.start_s >= stored.duration_s:
        raise InvalidOptions(f"start_s is {options.start_s}, and the video ends at {stored.duration_s:g} s")
    return JobRequest(
        video=stored,
        model=model,
        options=options.detect_options(),
        priority=options.priority or "normal",
        tags=tuple(dict.fromkeys(options.tags or ())),
        timeout_s=min(options.timeout_s or state.config.job_timeout_s, state.config.job_timeout_s),
        deadline_at_s=time.time() + options.deadline_s if options.deadline_s else None,
        webhook=options.webhook,
    )


def _options(given: dict[str, Any]) -> schemas.Options:
    return schemas.Options.model_validate({name: value for name, value in given.items() if name != "model"})


def fingerprint(stored: StoredVideo, given: dict[str, Any]) -> str:
    asked = json.dumps([stored.key, given], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(asked.encode()).hexdigest()


def read_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise MalformedRequest("Idempotency-Key has 1 to 255 visible ASCII characters")
    return key


def read_preference(request: Request, state: ApiState) -> Patience:
    """RFC 7240; preferences that are not known are passed over, as it says."""
    given = [part.strip().lower() for line in request.headers.getlist("prefer") for part in re.split("[,;]", line)]
    for one in given:  # with respond-async besides, it says how long the answer may be waited for
        if match := re.fullmatch(r"wait\s*=\s*\"?(\d{1,9})\"?", one):
            wait_s = min(float(match[1]), state.config.max_wait_s)
            return Patience(wait_s, f"wait={wait_s:g}")
    if "respond-async" in given:
        return Patience(0.0, "respond-async")
    return Patience(min(state.config.wait_s, state.config.max_wait_s))


async def wait_for(request: Request, state: ApiState, job: Job, patience: Patience) -> Response:
    """The answer where it comes in time, else the job; who hangs up meanwhile loses nothing."""
    ends_at_s = time.monotonic() + patience.wait_s
    while not job.finished and await state.watch.changed(job.id, job.version, ends_at_s - time.monotonic()):
        try:
            job = await state.ask(state.queue.get, job.id)
        except QueueUnavailable:
            break  # the job is accepted, whatever became of it since
    answer = await answer_of(request, state, job)
    if patience.applied:
        answer.headers["Preference-Applied"] = patience.applied
    return answer


async def answer_of(request: Request, state: ApiState, job: Job) -> Response:
    location = {"Location": str(request.app.url_path_for("get_job", job_id=job.id).make_absolute_url(request.base_url))}
    if job.state == "succeeded":
        return JSONResponse(await state.ask(read_result, state, job), 200, location)
    if job.state in FINISHED:
        code = job.failure.code if job.failure else {"expired": "deadline_passed"}.get(job.state, "job_canceled")
        said = job.failure.message if job.failure else f"the job is {job.state}"
        return problem(request, code_status(code), code, said, headers=location, job_id=job.id)
    return JSONResponse(schemas.job_document(job), 202, {**location, "Retry-After": RETRY_AFTER_S})
