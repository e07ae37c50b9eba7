"""A webhook that a submission names in, checked; the messages that webhooks were sent, and another attempt, out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service import configured
from service.api import cursors, examples
from service.api.access import Caller, caller_of
from service.api.answers import MessageDocument, MessageList
from service.api.problem_documents import problems
from service.api.schemas import job_document
from service.api.state import state_of
from service.egress.requests import UrlDeniedError
from service.errors import JobNotFound, MessageNotFound, QueueUnavailable, WebhookDenied
from service.jobs.job import Job
from service.jobs.queue import JobQueue
from service.jobs.records import Record, Records
from service.settings import Settings
from service.webhooks import message
from service.webhooks.message import KIND, Message, MessageState

router = APIRouter(prefix="/v1/webhooks/messages", tags=["webhooks"])
# A page that finds little looks through no more, and says where the next one goes on.
LOOKED_AT, LOOKS = 500, 4
WRITES = 10
MessageId = Annotated[
    str, Path(json_schema_extra={"pattern": f"^{message.ID_PATTERN}$"}, examples=[examples.MESSAGE["id"]])
]
JobId = Annotated[str | None, Query(pattern=f"^{cursors.JOB_ID.pattern}$")]


@dataclass(frozen=True)
class Wanted:
    limit: int
    states: frozenset[MessageState]
    job_id: str | None

    @property
    def looked_at(self) -> int:
        """At once: where nothing is left out, as many as fill a page and tell whether there are more."""
        return LOOKED_AT if self.states or self.job_id else self.limit + 1

    def has(self, one: Message) -> bool:
        return (not self.states or one.state in self.states) and self.job_id in {None, one.job_id}


def check_webhook(config: Settings, url: str | None) -> None:
    """Raises WebhookDenied, as far as it can be told before anything is sent."""
    if url is None:
        return
    if not config.webhook_secrets:
        raise WebhookDenied("this server sends no webhooks, since it has no secret to sign them with")
    try:
        configured.webhook_guard(config).check(url)
    except UrlDeniedError as error:
        raise WebhookDenied(f"webhook: {error}") from None


def event_data(job: Job) -> dict[str, Any]:
    """The job, and where its result is to be had: below the API's own URL, which only its callers know."""
    return {**job_document(job), "result_path": f"/v1/jobs/{job.id}/result" if job.state == "succeeded" else None}


@router.get(
    "",
    operation_id="list_messages",
    summary="Webhook messages, newest first",
    description="Newest first by their jobs, of one owner after the other where there are several. A page may hold "
    "fewer than `limit`, or none, while there are more: `next_cursor` is null on the last one alone.",
    response_class=Response,
    responses={
        200: {"model": MessageList, "description": "A page."},
        **problems("malformed_request", "invalid_options"),
    },
)
async def list_messages(
    request: Request,
    state: Annotated[list[MessageState] | None, Query()] = None,
    job: JobId = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
) -> Response:
    caller, api = await caller_of(request, "read"), state_of(request)
    beyond = cursors.open_record(cursor) if cursor else None
    prefix = await api.ask(_prefix, api.queue, caller, job)
    found, last = await api.ask(_page, api.records, prefix, beyond, Wanted(limit, frozenset(state or ()), job))
    more = cursors.seal_record(last) if last else None
    return JSONResponse({"messages": [message_document(one) for one in found], "next_cursor": more})


@router.get(
    "/{message_id}",
    operation_id="get_message",
    summary="A webhook message as it stands",
    response_class=Response,
    responses={200: {"model": MessageDocument, "description": "The message."}, **problems("message_not_found")},
)
async def get_message(message_id: MessageId, request: Request) -> Response:
    caller, api = await caller_of(request, "read"), state_of(request)
    return JSONResponse(message_document(await api.ask(_find, api.records, caller, message_id)))


@router.post(
    "/{message_id}/redeliver",
    operation_id="redeliver_message",
    status_code=202,
    summary="Sends a webhook message again",
    description="At once, under the same `webhook-id`, and then by the same schedule as a new one.",
    response_class=Response,
    responses={
        202: {"model": MessageDocument, "description": "The message, which is due now."},
        **problems("message_not_found", "webhook_denied", "storage_full"),
    },
)
async def redeliver_message(message_id: MessageId, request: Request) -> Response:
    caller, api = await caller_of(request, "submit"), state_of(request)
    found = await api.ask(_find, api.records, caller, message_id)
    check_webhook(api.config, found.url)
    return JSONResponse(message_document(await api.ask(_again, api.records, caller, found)), 202)


def message_document(one: Message) -> dict[str, Any]:
    return {
        "id": one.id,
        "job_id": one.job_id,
        "url": one.url,
        "state": one.state,
        "created_at_s": one.created_at_s,
        "expires_at_s": one.expires_at_s,
        "next_attempt_at_s": one.due_at_s,
        "attempts": [vars(attempt) for attempt in one.attempts],
        "event": one.event,
    }


def _prefix(queue: JobQueue, caller: Caller, job_id: str | None) -> str:
    """Of the records to look through; where the job is known, only its own."""
    owner = caller.seen_owner
    if owner is None and job_id is not None:
        try:
            owner = queue.get(job_id).request.owner
        except JobNotFound:
            return ""  # whose it was is known to its message alone
    if owner is None:
        return ""
    return message.prefix_of(owner) + (message.message_id(job_id, "") if job_id else "")


def _page(records: Records, prefix: str, beyond: str | None, wanted: Wanted) -> tuple[list[Message], str | None]:
    """What is wanted, and the id behind which the next page goes on."""
    found: list[Message] = []
    for record in _newest(records, prefix, beyond, wanted.looked_at):
        if record is None:
            return found, None
        if len(found) == wanted.limit:
            return found, beyond
        beyond, one = record.id, message.read(record)
        if wanted.has(one):
            found.append(one)
    return found, beyond


def _newest(records: Records, prefix: str, beyond: str | None, at_once: int) -> Iterator[Record | None]:
    """As many as one answer looks at; None behind the last that there is."""
    for _ in range(LOOKS):
        page = records.page(KIND, prefix, beyond, at_once, newest_first=True)
        yield from page
        if len(page) < at_once:
            yield None
            return
        beyond = page[-1].id


def _find(records: Records, caller: Caller, message_id: str) -> Message:
    owner = message.owner_of(message_id)
    if owner is not None and caller.sees(owner):
        record = records.get(KIND, message.prefix_of(owner) + message_id)
        if record is not None:
            return message.read(record)
    raise MessageNotFound(f"no webhook message {message_id[:200]!r}")


def _again(records: Records, caller: Caller, found: Message) -> Message:
    """Over whatever a deliverer writes meanwhile."""
    for _ in range(WRITES):
        record = records.replace(message.write(found.again(time.time())))
        if record is not None:
            return message.read(record)
        found = _find(records, caller, found.id)
    raise QueueUnavailable(f"webhook message {found.id} keeps changing; ask again")
