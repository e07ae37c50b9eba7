"""A job in; its result's document, in the form that was asked for, out."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any, cast

from fastapi import Request

from service import formats
from service.api.state import ApiState
from service.errors import ArtifactNotFound, JobNotFinished, NotAcceptable, ResultNotThere
from service.formats import Format
from service.jobs.job import Job

MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "activitynet": "application/vnd.activitynet+json",
    "vtt": "text/vtt; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
}
RESULT_FORMS: dict[str, Any] = {
    **{kind.split(";")[0]: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()},
    "application/json": {"schema": {"$ref": "#/components/schemas/ResultDocument"}},
    "application/vnd.activitynet+json": {"schema": {"type": "object", "required": ["version", "results"]}},
}


def read_result(state: ApiState, job: Job) -> dict[str, Any]:
    """Raises JobNotFinished or ResultNotThere."""
    if not job.finished:
        raise JobNotFinished(f"job {job.id} is {job.state}; it has a result once it has succeeded")
    stored = state.queue.result(job.id)
    if stored.text is not None:
        text = stored.text
    elif stored.key is not None:
        try:
            text = state.store.path("result", stored.key).read_text("utf-8")
        except (ArtifactNotFound, FileNotFoundError):
            raise ResultNotThere(f"the result of job {job.id} is no longer kept") from None
    else:
        raise ResultNotThere(f"job {job.id} has no result")
    document = json.loads(text)
    named = {"id": job.request.video.key, **document["video"], "name": job.request.video.name}
    return {**document, "id": job.id, "video": named}


def chosen_format(request: Request) -> str:
    """By the query, else by the Accept header."""
    given = request.query_params.get("format")
    if given is not None:
        if given not in MEDIA_TYPES:
            raise NotAcceptable(f"format {given[:50]!r}; there are: {', '.join(MEDIA_TYPES)}")
        return given
    accepted = accepted_kinds(request.headers.get("accept") or "*/*")
    for kind in accepted:
        for form, media_type in MEDIA_TYPES.items():
            if fnmatchcase(media_type.split(";")[0], kind):
                return form
    raise NotAcceptable(
        f"none of {', '.join(accepted)[:200]} is on offer; there are: {', '.join(MEDIA_TYPES.values())}"
    )


def accepted_kinds(header: str) -> list[str]:
    """What is wanted, most of all first; a quality of 0 means that it is not."""
    found: list[tuple[float, str]] = []
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            found.append((float(quality), kind))
        except ValueError:
            found.append((0.0, kind))
    return [kind for quality, kind in sorted(found, key=lambda one: -one[0]) if quality > 0]


def written(document: dict[str, Any], form: str) -> str:
    if form == "json":
        return json.dumps(document, ensure_ascii=False, allow_nan=False)
    return formats.write([formats.from_document(document)], cast("Format", form))
