"""What a submission may look like and what it is answered with, as OpenAPI describes it."""

from __future__ import annotations

from typing import Any

from service.api import examples
from service.api.problem_documents import FAILURES, problems
from service.api.schemas import OptionsAndModel

DESCRIPTION = (
    "Every request is a job, which is waited for: in time, the answer is its result, or the problem that kept it from "
    "one (with `job_id`); later, it is the job, whose URL is in `Location`. Who hangs up loses nothing."
)
BINARY = {"type": "string", "format": "binary"}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes the request safe to repeat, for a day: the same key gives the same job.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
    "example": "5a0d4b3c-77a3-4bb8-8d8e-0f5e1f1c9a11",
}
PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "RFC 7240: `wait=N` waits for N seconds, within the server's limit; `respond-async` does not wait.",
    "schema": {"type": "string"},
    "example": "wait=10",
}
LOCATION = {"description": "The job's URL.", "schema": {"type": "string", "format": "uri"}}
APPLIED = {"description": "The preference that was heeded.", "schema": {"type": "string"}}
REPLAYED = {"description": "Where an earlier request had the same key.", "schema": {"const": "true"}}
JOB_HEADERS = {
    "Location": LOCATION,
    "Retry-After": {"description": "When to ask for the job, in seconds.", "schema": {"type": "integer"}},
}
WAITED_HEADERS = {"Preference-Applied": APPLIED, "Idempotency-Replayed": REPLAYED}
PROBLEMS = (
    *("malformed_request", "incomplete_upload", "upload_timeout", "model_not_found", "video_not_found"),
    *(
        "video_url_denied",
        "video_url_failed",
        "webhook_denied",
        "idempotency_mismatch",
        "job_not_found",
        "queue_full",
        "storage_full",
        "draining",
        "unavailable",
        *FAILURES,
    ),
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was found.",
        "headers": {"Location": LOCATION, **WAITED_HEADERS},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ResultDocument"}}},
    },
    202: {
        "description": "The job, which goes on.",
        "headers": {**JOB_HEADERS, **WAITED_HEADERS},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobDocument"}}},
    },
    **problems(*PROBLEMS),
}


def _query() -> list[dict[str, Any]]:
    """The options once more: a list is a parameter that is repeated."""
    described = []
    for name, field in OptionsAndModel.model_json_schema()["properties"].items():
        schema = next(one for one in field["anyOf"] if one != {"type": "null"})
        more = {"description": field["description"]} if "description" in field else {}
        described.append({"name": "tag" if name == "tags" else name, "in": "query", "schema": schema, **more})
    name = {"name": "name", "in": "query", "schema": {"type": "string"}, "description": "The video's, of a raw body."}
    return [*described, name]


REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "additionalProperties": False,
                    "properties": {"video": BINARY, "options": {"$ref": "#/components/schemas/OptionsAndModel"}},
                },
                "encoding": {"options": {"contentType": "application/json"}},
                "example": {"video": "(the file)", "options": {"top_k": 20}},
            },
            "application/octet-stream": {"schema": BINARY, "example": "(the file)"},
            "video/mp4": {"schema": BINARY, "example": "(the file)"},
            "video/*": {"schema": BINARY, "example": "(the file)"},
            "application/json": {
                "schema": {"$ref": "#/components/schemas/DetectionBody"},
                "example": examples.BODY,
            },
        },
    },
    "parameters": [*_query(), PREFER, IDEMPOTENCY_KEY],
}
