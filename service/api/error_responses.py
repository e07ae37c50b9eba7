"""Errors in, RFC 9457 problems out; THE table of which error has which HTTP status."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service import errors
from service.api.state import state_of
from service.errors import TalError

log = logging.getLogger(__name__)

STATUS: dict[type[TalError], int] = {
    errors.TalError: 500,
    errors.InvalidOptions: 422,
    errors.VideoError: 422,
    errors.VideoNotFound: 404,
    errors.VideoInUse: 409,
    errors.VideoUrlDenied: 422,
    errors.VideoUrlFailed: 422,
    errors.UnsupportedMedia: 415,
    errors.NoVideoStream: 422,
    errors.CorruptVideo: 422,
    errors.ZeroFrames: 422,
    errors.VideoTooLong: 413,
    errors.VideoTooLarge: 413,
    errors.FrameTooLarge: 413,
    errors.VideoTooSmall: 422,
    errors.DecodeTimeout: 422,
    errors.DecodeOutOfMemory: 422,
    errors.DecoderCrashed: 422,
    errors.RequestError: 400,
    errors.MalformedRequest: 400,
    errors.IncompleteUpload: 400,
    errors.UploadTimeout: 408,
    errors.NotAcceptable: 406,
    errors.IdempotencyMismatch: 422,
    errors.ProtocolMismatch: 412,
    errors.UploadNotFound: 404,
    errors.OffsetMismatch: 409,
    errors.ChecksumMismatch: 460,
    errors.BatchNotFound: 404,
    errors.WebhookDenied: 422,
    errors.MessageNotFound: 404,
    errors.AccessError: 403,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.JobError: 500,
    errors.JobNotFound: 404,
    errors.JobNotFinished: 409,
    errors.ResultNotThere: 404,
    errors.JobTimeout: 504,
    errors.DeadlinePassed: 504,
    errors.WorkerCrashed: 500,
    errors.WorkerStalled: 500,
    errors.WorkerOutOfMemory: 500,
    errors.LeaseLost: 409,
    errors.Unavailable: 503,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.StorageFull: 507,
    errors.Draining: 503,
    errors.QueueUnavailable: 503,
    errors.DeploymentError: 500,
    errors.QueueUnfit: 500,
    errors.StoreMismatch: 500,
    errors.ServerError: 502,
    errors.ServerUnreachable: 502,
    errors.UnexpectedAnswer: 502,
    errors.ArtifactNotFound: 410,
    errors.ModelError: 500,
    errors.ModelNotFound: 404,
    errors.InvalidBundle: 500,
    errors.DeviceUnavailable: 500,
    errors.InferenceFailed: 500,
    errors.WeightsMismatch: 500,
    errors.ExportFailed: 500,
}
BY_CODE = {kind.code: status for kind, status in STATUS.items()}
PAUSED = {429, 503, 507}  # the statuses of what may pass
MEDIA_TYPE = "application/problem+json"
METHOD_NOT_ALLOWED = 405
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "malformed_request"}
# Codes that no error of ours stands behind.
OTHERS = {"job_canceled": 409, **{code: status for status, code in HTTP_CODES.items()}}


def status_of(error: TalError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def code_status(code: str) -> int:
    """Of a code of a later release, which a worker may already have given a job, it is 500."""
    return BY_CODE.get(code) or OTHERS.get(code, 500)


# RFC 9110's words; Python's own were older ones before 3.13.
# 460 is tus's own.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content", 460: "Checksum Mismatch"}


def title_of(status: int) -> str:
    return TITLES.get(status) or HTTPStatus(status).phrase


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    findings: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    body = {
        "type": f"urn:tal:problem:{code}",
        "title": title_of(status),
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "errors": list(findings),
        "request_id": getattr(request.state, "request_id", None),
        **more,
    }
    pause = {"Retry-After": str(state_of(request).admission.pause_s)} if status in PAUSED else {}
    return JSONResponse(body, status, {**pause, **(headers or {})}, MEDIA_TYPE)


def of_error(request: Request, error: TalError) -> JSONResponse:
    status = status_of(error)
    if status >= 500 and not error.retryable:
        log.error("%s %s: %s [%s]", request.method, request.url.path, error, error.code)
    request.state.error_code = error.code
    findings = error.findings if isinstance(error, errors.InvalidOptions) else ()
    return problem(request, status, error.code, str(error), findings=findings, headers=_headers(error))


def _headers(error: TalError) -> dict[str, str]:
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(math.ceil(error.wait_s))} if isinstance(error, errors.RateLimited) else {}


def install(app: FastAPI) -> None:
    """Every error leaves as a problem, those of the framework too; what is not foreseen, through `Observed`."""
    app.add_exception_handler(TalError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TalError)  # noqa: S101  # as registered
    return of_error(request, error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    findings = [{"where": list(one["loc"]), "message": one["msg"]} for one in error.errors()]
    said = "; ".join(f"{'.'.join(map(str, one['where']))}: {one['message']}" for one in findings)
    return problem(request, 422, "invalid_options", said, findings=findings)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTP_CODES.get(error.status_code, "request_error")
    said = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed(request)))
    return problem(request, error.status_code, code, said, headers=headers)


def _allowed(request: Request) -> set[str]:
    """The framework names the methods of the first route with this path alone."""
    found = (route for route in state_of(request).routes if route.matches(request.scope)[0] is Match.PARTIAL)
    return set().union(*(route.methods or () for route in found))


def unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, 500, "internal", "the service failed; its log says why, under this request's id")
