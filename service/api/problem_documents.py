"""Codes of errors in; how OpenAPI describes the problems with these codes, by status and with examples, out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.api import examples
from service.api.error_responses import MEDIA_TYPE, code_status, title_of

SAID = {
    "invalid_options": "top_k: Input should be greater than or equal to 1",
    "video_not_found": f"no video {examples.VIDEO_ID} is stored here; upload it again",
    "video_in_use": f"a job that has not finished needs the video {examples.VIDEO_ID}",
    "video_url_denied": "this server fetches no videos from URLs; upload the video instead",
    "video_url_failed": "example.org answered 302; redirects are not followed",
    "unsupported_media": "clip.mp4 is not a video container that is read",
    "no_video_stream": "clip.mp4 has no video stream",
    "corrupt_video": "clip.mp4: nothing in it can be decoded",
    "zero_frames": "clip.mp4 holds no frame",
    "video_too_long": "the video lasts 90000.0 s; accepted are up to 21600 s",
    "video_too_large": "the body has 80000000000 bytes; a video has at most 68719476736",
    "frame_too_large": "a frame is 30000x20000 px; accepted are up to 67108864 pixels",
    "video_too_small": "the video is 64x48 px; at least 112x112 are needed",
    "decode_timeout": "the decoder made no progress for 30 s",
    "decode_out_of_memory": "decoding needs more than the 4294967296 bytes allowed",
    "decoder_crashed": "the decoder process ended with signal 11",
    "malformed_request": "the form has no part 'video'",
    "incomplete_upload": "the connection ended before the body did",
    "upload_timeout": "nothing came for 30 s",
    "protocol_mismatch": "Tus-Resumable '0.2.2' is not spoken; 1.0.0 is",
    "upload_not_found": f"no upload {examples.UPLOAD_ID!r}, or it has expired; begin a new one",
    "offset_mismatch": "the upload stands at 1048576 bytes, and the part begins at 524288",
    "checksum_mismatch": "the part's sha1 is not the one that Upload-Checksum names; send it again",
    "not_acceptable": "format 'png'; there are: json, jsonl, csv, activitynet, vtt, srt",
    "idempotency_mismatch": "the idempotency key 'a1' was used before, for another request; take a new key",
    "webhook_denied": "this server sends no webhooks, since it has no secret to sign them with",
    "message_not_found": f"no webhook message '{examples.MESSAGE['id']}'",
    "job_not_found": f"no job '{examples.JOB_ID}'",
    "job_not_finished": f"job {examples.JOB_ID} is running; it has a result once it has succeeded",
    "job_canceled": "the job is canceled",
    "result_not_there": f"job {examples.JOB_ID} has no result",
    "job_timeout": "the attempt ran for longer than 3600 s",
    "deadline_passed": "the deadline passed before the job was done",
    "worker_crashed": "the process that ran the model died with signal 9, 3 times",
    "worker_stalled": "the process that ran the model made no progress for 300 s",
    "worker_out_of_memory": "the process that ran the model grew beyond 8589934592 bytes",
    "inference_failed": "the model's graph failed",
    "model_not_found": "no model 'i3d'; there are: marionette",
    "invalid_bundle": "the model's folder was changed or damaged",
    "queue_full": "10000 jobs wait already, and at most 10000 may",
    "storage_full": "512 MiB are free in the artifact store; at least 1024 are needed",
    "batch_not_found": f"no batch '{examples.JOB_ID}'",
    "unauthenticated": "this service needs an API key, as `Authorization: Bearer tal_...` or `X-API-Key: tal_...`",
    "forbidden": "this needs the scope 'submit', and the API key 0a1b2c3d4e has read",
    "rate_limited": "the API key 0a1b2c3d4e allows 5 requests per second, and 20 at once; ask again in 0.2 s",
    "draining": "this server is about to end; ask again",
    "unavailable": "16 new videos wait to be looked at already; send it again later",
    "queue_unavailable": "the job queue does not answer",
    "internal": "the service failed; its log says why, under this request's id",
}

# What can come wherever a caller's key and the queue are asked.
ANY = ("unauthenticated", "forbidden", "rate_limited", "queue_unavailable", "internal")
UNAUTHENTICATED = 401
CHALLENGE = {"WWW-Authenticate": {"description": "RFC 6750.", "schema": {"const": "Bearer"}}}
# What a job can have failed of, told to who waits for it.
FAILURES = (
    *("invalid_options", "unsupported_media", "no_video_stream", "corrupt_video", "zero_frames", "video_too_long"),
    *("video_too_large", "frame_too_large", "video_too_small", "decode_timeout", "decode_out_of_memory"),
    *("decoder_crashed", "job_canceled", "result_not_there", "job_timeout", "deadline_passed", "worker_crashed"),
    *("worker_stalled", "worker_out_of_memory", "inference_failed", "invalid_bundle"),
)


class Finding(BaseModel):
    where: list[str | int]
    message: str


class Problem(BaseModel):
    """RFC 9457; `code` is stable, `request_id` is also in the logs."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[Finding]
    request_id: str | None
    job_id: str = ""


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """`responses` for a route that can give these, and what any route can give."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys((*codes, *ANY)):
        status = code_status(code)
        found = by_status.setdefault(status, _described(status))
        found["content"][MEDIA_TYPE]["examples"][code] = {"value": example(code)}
    for found in by_status.values():
        found["description"] += ": " + ", ".join(f"`{code}`" for code in found["content"][MEDIA_TYPE]["examples"])
    return by_status


def example(code: str) -> dict[str, Any]:
    status = code_status(code)
    return {
        "type": f"urn:tal:problem:{code}",
        "title": title_of(status),
        "status": status,
        "detail": SAID[code],
        "instance": "/v1/detections",
        "code": code,
        "errors": [],
        "request_id": "5f0c1e7a9b3d4c2886aa10ef77d95b31",
    }


def _described(status: int) -> dict[str, Any]:
    pause = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {
        "description": title_of(status),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
        **({"headers": pause} if status in {429, 503, 507} else {}),
        **({"headers": CHALLENGE} if status == UNAUTHENTICATED else {}),
    }
