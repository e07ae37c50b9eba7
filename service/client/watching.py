"""Events of a job in, line by line; progress to whoever asked for it out, and what to ask next after a break."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import httpx

from service.client.calls import Calls, Request, Steps, job_path
from service.client.documents import FINISHED, Job, json_of, read_job
from service.errors import JobNotFinished, TalError
from service.localization import Progress

# The service sends a comment more often than this while nothing happens.
SILENCE_S = 45.0
SILENT_STREAMS = 3
POLL_S, SOONEST_S = 3.0, 0.2

OnProgress = Callable[[Progress], None]


class Watch:
    """One wait for a job's end: listens to its events, and asks for the job itself whenever they break off.

    A stream goes on behind the last event that was seen. Where none is to be had, the job is polled.
    """

    def __init__(self, calls: Calls, job_id: str, on_progress: OnProgress | None, timeout_s: float | None) -> None:
        self._calls = calls
        self._job_id = job_id
        self._on_progress = on_progress or (lambda _: None)
        self._timeout_s = timeout_s
        self._ends_at_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._last_event: str | None = None
        self._etag: str | None = None
        self._job: Job | None = None
        self._reported: Progress | None = None
        self._silent = 0
        self._fields: dict[str, str] = {}

    @property
    def listening(self) -> bool:
        return self._silent < SILENT_STREAMS

    def request(self) -> Request:
        after = {"Last-Event-ID": self._last_event} if self._last_event else {}
        return Request("GET", job_path(self._job_id, "events"), headers={"Accept": "text/event-stream", **after})

    def silence_s(self) -> float:
        return max(0.1, min(SILENCE_S, self._ends_at_s - time.monotonic()))

    def accepts(self, answer: httpx.Response) -> bool:
        """Whether it is a stream of events; it counts as a silent one until an event comes."""
        self._fields = {}
        self._silent += 1
        return answer.status_code == 200 and answer.headers.get("content-type", "").startswith("text/event-stream")

    def feed(self, line: str) -> bool:
        """Takes one line of the stream; True once the job is at its end, or the time is up."""
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return self._time_is_up()
        fields, self._fields = self._fields, {}
        return self._take(fields) if "data" in fields else False

    def poll(self) -> Steps[Job]:
        """The job as it is, cheaply where it has not changed; raises JobNotFinished when the time is up."""
        headers = {"If-None-Match": self._etag} if self._etag else {}
        request = Request("GET", job_path(self._job_id), headers=headers)
        try:
            answer = yield from self._calls.exchange(request, self._ends_at_s)
        except TalError as error:
            if error.retryable and self._timeout_s is not None:
                raise self._not_finished(f"could not be asked for: {error}") from error
            raise
        if answer.status_code != 304 or self._job is None:
            self._job, self._etag = read_job(json_of(answer)), answer.headers.get("etag")
            self._report(self._job.progress)
        if self._time_is_up() and not self._job.finished:
            raise self._not_finished(f"is still {self._job.state}")
        return self._job

    def pause_s(self) -> float:
        """Short at first, longer the less is told."""
        pause_s = min(POLL_S, SOONEST_S * 2.0**self._silent)
        if not self.listening:
            self._silent += 1
        return min(pause_s, self.silence_s())

    def _take(self, fields: dict[str, str]) -> bool:
        self._silent = 0
        self._last_event = fields.get("id", self._last_event)
        data = _object(fields["data"])
        if {"stage", "done", "total"} <= data.keys():
            self._report(Progress(str(data["stage"]), float(data["done"]), float(data["total"])))
        return data.get("state") in FINISHED or self._time_is_up()

    def _report(self, progress: Progress | None) -> None:
        if progress is not None and progress != self._reported:
            self._reported = progress
            self._on_progress(progress)

    def _time_is_up(self) -> bool:
        return time.monotonic() >= self._ends_at_s

    def _not_finished(self, what: str) -> JobNotFinished:
        return JobNotFinished(f"within {self._timeout_s:g} s, job {self._job_id} {what}")


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
