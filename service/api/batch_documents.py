"""Batches and their items in; the JSON documents, and the lines of JSON, that callers see out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api import examples, submission_forms
from service.api.batch_records import Batch, BatchShelf, Item, ItemState
from service.api.results import read_result
from service.api.state import ApiState
from service.api.submission_forms import BINARY
from service.errors import JobError

CHUNKS_AT_ONCE = 4
JSON_LINES = "application/x-ndjson"
EXAMPLE: dict[str, Any] = {
    "id": examples.JOB_ID,
    "name": "monday",
    "state": "in_progress",
    "done": False,
    "counts": {"total": 500, "queued": 430, "submitted": 50, "succeeded": 18, "failed": 2, "canceled": 0},
    "created_at_s": 1767000000.0,
    "finished_at_s": None,
    "expires_at_s": None,
    "links": {
        "self": f"http://localhost:8000/v1/batches/{examples.JOB_ID}",
        "output": f"http://localhost:8000/v1/batches/{examples.JOB_ID}/output",
        "errors": f"http://localhost:8000/v1/batches/{examples.JOB_ID}/errors",
        "cancel": f"http://localhost:8000/v1/batches/{examples.JOB_ID}/cancel",
    },
}
# How lines look: what was found, and what kept an item from it.
OUTPUT_LINE = {"custom_id": "a1", "job_id": examples.JOB_ID, "result": examples.RESULT}
ERROR_LINE = {
    "custom_id": "a2",
    "job_id": None,
    "error": {"code": "video_not_found", "message": f"no video {examples.VIDEO_ID} is stored here; upload it again"},
}


NAME = {"name": "name", "in": "query", "schema": {"type": "string"}, "description": "The batch's, for its readers."}
LINE = {"type": "string", "description": "Lines of JSON: a DetectionBody each, and a `custom_id`."}
LINE_EXAMPLE = json.dumps({"custom_id": "a1", **examples.BODY}) + "\n"
REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/jsonl": {"schema": LINE, "example": LINE_EXAMPLE},
            JSON_LINES: {"schema": LINE, "example": LINE_EXAMPLE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "additionalProperties": False,
                    "properties": {
                        "video": {"type": "array", "minItems": 1, "items": BINARY},
                        "options": {"$ref": "#/components/schemas/OptionsAndModel"},
                    },
                },
                "encoding": {"options": {"contentType": "application/json"}},
                "example": {"video": ["(a file)", "(another)"], "options": {"top_k": 20}},
            },
        },
    },
    "parameters": [
        *(one for one in submission_forms.REQUEST["parameters"] if one["name"] not in {"Prefer", "name"}),
        NAME,
    ],
}


class BatchCounts(BaseModel):
    """Of items; `queued` were not submitted yet, `submitted` are jobs that wait or run."""

    total: int
    queued: int
    submitted: int
    succeeded: int
    failed: int
    canceled: int


class BatchDocument(BaseModel):
    """A batch; moments are Unix times in seconds. What it left can be had until `expires_at_s`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    name: str
    state: Literal["in_progress", "canceling", "completed", "canceled"]
    done: bool
    counts: BatchCounts
    created_at_s: float
    finished_at_s: float | None
    expires_at_s: float | None
    links: dict[Literal["self", "output", "errors", "cancel"], str]


class BatchList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"batches": [EXAMPLE], "next_cursor": None}]})

    batches: list[BatchDocument]
    next_cursor: str | None = Field(description="Gives the next page; null on the last one.")


def batch_document(batch: Batch, links: Mapping[str, str]) -> dict[str, Any]:
    told = {name: batch.counts.get(name, 0) for name in ("submitted", "succeeded", "failed", "canceled")}
    return {
        "id": batch.id,
        "name": batch.name,
        "state": batch.state,
        "done": batch.finished,
        "counts": {"total": batch.total, "queued": batch.total - sum(told.values()), **told},
        "created_at_s": batch.created_at_s,
        "finished_at_s": batch.finished_at_s,
        "expires_at_s": batch.expires_at_s,
        "links": dict(links),
    }


async def lines(state: ApiState, batch: Batch, wanted: Collection[ItemState]) -> AsyncIterator[str]:
    """Of the items that are in these states by now, in the order in which they came."""
    shelf, beyond = BatchShelf(state.records), None
    while chunks := await state.ask(shelf.chunks, batch.id, beyond, CHUNKS_AT_ONCE):
        for item in (item for chunk in chunks for item in chunk.items):
            if item.state in wanted:
                told = await state.ask(output_line, state, item) if item.state == "succeeded" else error_line(item)
                yield json.dumps(told, allow_nan=False) + "\n"
        beyond = chunks[-1].number


def output_line(state: ApiState, item: Item) -> dict[str, Any]:
    """A job is kept for a time after its own end, which may be long before the batch's."""
    job_id = item.job_id or ""
    try:
        found = read_result(state, state.queue.get(job_id))
    except JobError as error:
        told = {"code": error.code, "message": f"{error}; it is no longer kept"}
        return {"custom_id": item.custom_id, "job_id": job_id, "error": told}
    return {"custom_id": item.custom_id, "job_id": job_id, "result": found}


def error_line(item: Item) -> dict[str, Any]:
    return {"custom_id": item.custom_id, "job_id": item.job_id, "error": item.error}
