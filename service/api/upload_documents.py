"""The documents of videos and of uploads, and how OpenAPI describes the requests that make them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api import examples
from service.api.problem_documents import problems
from service.api.submission_forms import BINARY
from service.api.tus_headers import ALGORITHMS, CONTENT_TYPE, VERSION
from service.jobs.job import StoredVideo
from service.jobs.partial_uploads import PartialUpload


class VideoDocument(BaseModel):
    """A stored video; `expires_at_s` (Unix time) moves on with every use, and no job loses the video that it needs."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.VIDEO]})

    id: str = Field(description="The sha256 of its bytes; detections name it.")
    name: str
    size_bytes: int
    duration_s: float
    expires_at_s: float


class UploadDocument(BaseModel):
    """A resumable upload; `expires_at_s` (Unix time) moves on with every part."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.UPLOAD]})

    id: str
    state: Literal["receiving", "done"]
    name: str
    offset_bytes: int
    length_bytes: int
    expires_at_s: float
    video_id: str | None = Field(description="Once it is done.")


# Every answer about a video can tell of these once it is looked at.
LOOK_PROBLEMS = (
    *("unsupported_media", "no_video_stream", "corrupt_video", "zero_frames", "video_too_long", "video_too_large"),
    *("frame_too_large", "video_too_small", "decode_timeout", "decode_out_of_memory", "decoder_crashed"),
    *("storage_full", "unavailable"),
)
FINISH_PROBLEMS = ("video_not_found", *LOOK_PROBLEMS)
PATCH_PROBLEMS = (
    *("malformed_request", "incomplete_upload", "upload_timeout", "upload_not_found", "offset_mismatch"),
    *("protocol_mismatch", "checksum_mismatch", "draining", *FINISH_PROBLEMS),
)
CREATE_PROBLEMS = (
    *("malformed_request", "incomplete_upload", "upload_timeout", "invalid_options", "protocol_mismatch"),
    *("upload_not_found", "offset_mismatch", "checksum_mismatch", "queue_full", "draining", *FINISH_PROBLEMS),
)


def _header(name: str, description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    shown = {} if example is None else {"example": example}
    return {"name": name, "in": "header", "description": description, "schema": schema, **shown}


TEXT = {"type": "string"}
BYTES = {"type": "integer", "minimum": 0}
TUS_RESUMABLE = {**_header("Tus-Resumable", "The version of tus.", {"const": VERSION}, VERSION), "required": True}
UPLOAD_OFFSET = {**_header("Upload-Offset", "Where the part begins.", BYTES, 0), "required": True}
UPLOAD_CHECKSUM = _header(
    "Upload-Checksum",
    f"Of the part: {', '.join(ALGORITHMS)}, a space, base64.",
    TEXT,
    "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
)
CREATION = (
    _header("Tus-Resumable", "Makes the request the beginning of a resumable upload.", {"const": VERSION}),
    _header("Upload-Length", "Of the whole video, in bytes; of a resumable upload.", {**BYTES, "minimum": 1}),
    _header("Upload-Metadata", "`filename` and its base64, and others; of a resumable upload.", TEXT),
    UPLOAD_CHECKSUM,
)
NAME = {"name": "name", "in": "query", "schema": TEXT, "description": "The video's, of a raw body."}
UPLOAD_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "additionalProperties": False,
                    "properties": {"video": BINARY},
                },
                "example": {"video": "(the file)"},
            },
            **{
                kind: {"schema": BINARY, "example": "(the file)"}
                for kind in ("application/octet-stream", "video/mp4", "video/*", CONTENT_TYPE)
            },
        },
    },
    "parameters": [NAME, *CREATION],
}
PATCH_REQUEST: dict[str, Any] = {
    "requestBody": {"required": True, "content": {CONTENT_TYPE: {"schema": BINARY, "example": "(the part)"}}},
    "parameters": [TUS_RESUMABLE, UPLOAD_OFFSET, UPLOAD_CHECKSUM],
}
PROGRESS_HEADERS: dict[str, Any] = {
    "Upload-Offset": {"description": "Where the next part begins.", "schema": BYTES},
    "Upload-Expires": {"description": "When what came is removed, as HTTP dates are.", "schema": TEXT},
    "Upload-Video-Id": {"description": "The video that it became, once it is done.", "schema": TEXT},
}
OFFERED: dict[str, Any] = {
    "Tus-Version": {"description": "The versions that are spoken.", "schema": TEXT},
    "Tus-Extension": {"description": "What is offered of it.", "schema": TEXT},
    "Tus-Max-Size": {"description": "The longest upload, in bytes.", "schema": BYTES},
    "Tus-Checksum-Algorithm": {"description": "For `Upload-Checksum`.", "schema": TEXT},
}
OPTIONS_ANSWERS: dict[int | str, dict[str, Any]] = {204: {"description": "Its headers tell.", "headers": OFFERED}}
PROGRESS_ANSWERS: dict[int | str, dict[str, Any]] = {
    204: {"description": "What came is kept.", "headers": PROGRESS_HEADERS}
}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "model": VideoDocument | UploadDocument,
        "description": "The video; or a resumable upload, whose URL is in `Location`.",
        "headers": {
            "Location": {"description": "Of the video or the upload.", "schema": {**TEXT, "format": "uri"}},
            **PROGRESS_HEADERS,
        },
    }
}


def head_answers(*codes: str) -> dict[int | str, dict[str, Any]]:
    told = {"Upload-Length": {"description": "Of the whole.", "schema": BYTES}, **PROGRESS_HEADERS}
    return {200: {"description": "Its headers tell.", "headers": told}, **problems(*codes)}


def video_document(stored: StoredVideo, expires_at_s: float) -> dict[str, Any]:
    return {
        "id": stored.key,
        "name": stored.name,
        "size_bytes": stored.size_bytes,
        "duration_s": stored.duration_s,
        "expires_at_s": expires_at_s,
    }


def upload_document(upload: PartialUpload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "state": "done" if upload.done else "receiving",
        "name": upload.name,
        "offset_bytes": upload.offset_bytes,
        "length_bytes": upload.length_bytes,
        "expires_at_s": upload.expires_at_s,
        "video_id": upload.video if upload.done else None,
    }
