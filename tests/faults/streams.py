"""A stream of events that is cut again and again: whoever goes on behind the last one sees each event once."""

from __future__ import annotations

import random

from tests.faults.deployment import Deployment
from tests.faults.finding import Finding, Scale
from tests.faults.outages import submit
from tests.faults.promises import all_succeeded, judge


def cut_streams(service: Deployment, scale: Scale) -> Finding:
    found = Finding("an event stream cut at random and gone on with", service.backend)
    chance = random.Random(12)
    job_id = submit(service, "slow-20")
    seen: list[str] = []
    with service.http() as http:
        while found.kills < scale.stream_cuts:
            part = _read(http, job_id, seen[-1] if seen else None, chance.randrange(1, 4))
            if not part:
                break
            seen += part
            found.kills += 1
        seen += _read(http, job_id, seen[-1], 100_000)
    job = service.await_end([job_id])[0]
    told = [event.id for event in service.events(job_id)]
    found.expect(len(set(seen)) == len(seen), "an event came twice")
    found.expect(seen == told, f"{len(seen)} events came, {len(told)} happened")
    found.expect(found.kills >= min(6, scale.stream_cuts), f"only {found.kills} cuts")
    judge(found, service, [job])
    all_succeeded(found, [job])
    return found


def _read(http, job_id: str, after: str | None, at_most: int) -> list[str]:
    """The ids of the next events, each once it has come whole; then the connection is dropped."""
    ids: list[str] = []
    headers = {"Last-Event-ID": after} if after else {}
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        event_id = None
        for line in answer.iter_lines():
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            if not line and event_id:
                ids.append(event_id)
                event_id = None
            if len(ids) >= at_most:
                break
    return ids
