"""Lines of JSON in; a batch of the service's, how far it is, and its lines of results, out."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from service.client.calls import Request, query_of
from service.client.connection import headers_of
from service.client.documents import error_in, json_of
from service.client.sync_client import Client
from service.client.uploads import Upload
from service.errors import JobNotFinished, ServerUnreachable, UnexpectedAnswer, first_line

POLL_S = 2.0


@dataclass(frozen=True)
class Batch:
    """A batch as the service told it; fields of later releases are passed over."""

    id: str
    state: str
    done: bool
    name: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    created_at_s: float = 0.0
    finished_at_s: float | None = None
    expires_at_s: float | None = None


class BatchClient(Client):
    """A service's batches, besides what `Client` does."""

    def create_batch(
        self, lines: Iterable[Mapping[str, Any]], *, name: str | None = None, idempotency_key: str | None = None
    ) -> Batch:
        """Each line is the JSON body of a detection, with a `custom_id`."""
        body = "".join(f"{json.dumps(dict(line))}\n" for line in lines).encode()
        headers = {
            "Content-Type": "application/jsonl",
            "Content-Length": str(len(body)),
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        }
        upload = Upload("batch.jsonl", len(body), io.BytesIO(body), 0)
        return self._told(Request("POST", "/v1/batches", query_of(name=name), headers, upload=upload))

    def batch(self, batch_id: str) -> Batch:
        return self._told(Request("GET", batch_path(batch_id)))

    def batches(self) -> Iterator[Batch]:
        """Newest first; the next page is asked for when it is needed."""
        cursor = None
        while True:
            request = Request("GET", "/v1/batches", query_of(cursor=cursor))
            page = json_of(self._run(self._calls.exchange(request)))
            try:
                yield from [read_batch(one) for one in page["batches"]]
            except (KeyError, TypeError):
                raise UnexpectedAnswer(f"no page of batches: {str(page)[:200]!r}") from None
            if (cursor := page.get("next_cursor")) is None:
                return

    def cancel_batch(self, batch_id: str) -> Batch:
        return self._told(Request("POST", batch_path(batch_id, "cancel")))

    def delete_batch(self, batch_id: str) -> None:
        self._run(self._calls.exchange(Request("DELETE", batch_path(batch_id))))

    def wait_for_batch(self, batch_id: str, *, timeout_s: float | None = None) -> Batch:
        """The batch at its end; raises JobNotFinished if that takes longer than `timeout_s`."""
        ends_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (batch := self.batch(batch_id)).done:
            if ends_at_s is not None and time.monotonic() >= ends_at_s:
                raise JobNotFinished(f"batch {batch_id} is still {batch.state} after {timeout_s:g} s")
            time.sleep(POLL_S)
        return batch

    def output(self, batch_id: str, *, everything: bool = False) -> Iterator[dict[str, Any]]:
        """What was found by now, in the order of the lines; with `everything`, also what failed."""
        return self._lines(Request("GET", batch_path(batch_id, "output"), [("all", "true")] if everything else []))

    def errors(self, batch_id: str) -> Iterator[dict[str, Any]]:
        return self._lines(Request("GET", batch_path(batch_id, "errors")))

    def _told(self, request: Request) -> Batch:
        return read_batch(json_of(self._run(self._calls.exchange(request))))

    def _lines(self, request: Request) -> Iterator[dict[str, Any]]:
        """Read as they come; a connection that breaks is told, since what is missing then is not known."""
        try:
            with self._http.stream("GET", request.path, params=request.query, headers=headers_of(request)) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise error_in(answer)
                for line in answer.iter_lines():
                    yield json.loads(line)
        except httpx.RequestError as error:
            raise ServerUnreachable(f"the lines of {request.path} broke off: {first_line(error)}") from error


def batch_path(batch_id: str, part: str = "") -> str:
    return "/".join(filter(None, ("/v1/batches", quote(batch_id, safe=""), part)))


def read_batch(document: Any) -> Batch:
    try:
        return Batch(**{name: document[name] for name in Batch.__dataclass_fields__ if name in document})
    except TypeError as error:
        raise UnexpectedAnswer(f"no batch document: {str(document)[:200]!r} ({error})") from None
