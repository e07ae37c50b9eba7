"""An API that dies while it takes a video or keeps a caller waiting; callers that repeat themselves. One job each."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from service.client import Ask
from service.jobs.queue import JobFilter
from tests.faults.deployment import START_S, Deployment, wait_until
from tests.faults.finding import Finding, Scale
from tests.faults.outages import submit
from tests.faults.promises import all_succeeded, judge

JANITOR_S = 10.0
BUSY = {429, 503}


def api_killed_in_upload(service: Deployment, scale: Scale) -> Finding:
    found = Finding("API killed amid an upload", service.backend, kills=1)
    clip, key = service.clips.fresh("upload-0"), service.new_key()
    with _half_sent(service, clip, key):
        wait_until(service.leftovers.incoming)
        service.kill("api")
    service.start_api()
    service.leftovers.age_incoming()
    try:
        wait_until(lambda: not service.leftovers.incoming(), JANITOR_S)
    except TimeoutError:
        found.broken.append("the janitor leaves the half of a video")
    with service.client() as client:
        ids = {client.submit(clip, Ask(tags=(key,), idempotency_key=key)).id for _ in range(3)}
    _is_one_job(found, service, key, ids)
    return found


def api_killed_in_wait(service: Deployment, scale: Scale) -> Finding:
    found = Finding("API killed while a caller waits", service.backend, kills=1)
    clip, key = service.clips.fresh("slow-30"), service.new_key()
    waiting = threading.Thread(target=_wait_in_vain, args=(service, clip, key, found))
    waiting.start()
    wait_until(lambda: service.queue.find(JobFilter(states=("running",), tag=key), 1))
    service.kill("api")
    waiting.join()
    service.start_api()
    answer = _post(service, clip, key)
    found.expect(answer.status_code == 200, f"the second request is answered {answer.status_code}")
    found.expect(answer.headers.get("idempotency-replayed") == "true", "the second request is not seen as one")
    _is_one_job(found, service, key, {answer.json()["id"]})
    return found


def same_key_at_once(service: Deployment, scale: Scale) -> Finding:
    found = Finding(f"{scale.same_key} requests at once under one Idempotency-Key", service.backend)
    clip, key = service.clips.fresh("plain-0"), service.new_key()
    with ThreadPoolExecutor(scale.same_key) as pool:
        answers = list(pool.map(lambda _: _post(service, clip, key, "respond-async"), range(scale.same_key)))
    for answer in answers:
        found.expect(answer.status_code in {200, 202}, f"an answer is {answer.status_code} {answer.text[:200]}")
    makers = sum("idempotency-replayed" not in answer.headers for answer in answers)
    found.expect(makers == 1, f"{makers} requests say that they made the job")
    _is_one_job(found, service, key, {answer.json().get("id") for answer in answers})
    return found


def whole_service_killed(service: Deployment, scale: Scale) -> Finding:
    """`tal serve` with the worker that it starts: neither that nor its model process outlives the API."""
    found = Finding("`tal serve` killed, with a worker of its own", service.backend, kills=1)
    service.start_api("whole", worker=True)
    member = service.members["whole"]
    wait_until(lambda: service.leads_a_ready_worker("whole"), START_S)
    ids = [submit(service, "plain-0", "whole") for _ in range(6)]
    service.kill("whole")
    found.broken += service.leftovers.orphans_of(member.name)
    jobs = service.await_end(ids)
    judge(found, service, jobs)
    all_succeeded(found, jobs)
    return found


def _is_one_job(found: Finding, service: Deployment, key: str, ids: set[str]) -> None:
    found.expect(len(ids) == 1, f"the answers name {len(ids)} jobs")
    made = [job.id for job in service.queue.find(JobFilter(tag=key), 100)]
    found.expect(set(made) == ids, f"{len(made)} jobs were made")
    jobs = service.await_end(made)
    judge(found, service, jobs)
    all_succeeded(found, jobs)
    runs = [service.runs_of(job.id) for job in jobs]
    found.expect(runs == [1], f"it ran {runs} times")


def _half_sent(service: Deployment, clip: Path, key: str) -> socket.socket:
    data, url = clip.read_bytes(), httpx.URL(service.url())
    head = f"POST /v1/detections?name={clip.name}&tag={key} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n"
    head += f"Content-Type: video/mp4\r\nIdempotency-Key: {key}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((url.host, url.port))
    connection.sendall(head.encode() + data[: len(data) // 2])
    return connection


def _wait_in_vain(service: Deployment, clip: Path, key: str, found: Finding) -> None:
    try:
        answer = _post(service, clip, key)
    except httpx.RequestError:
        return
    found.broken.append(f"the first request was answered {answer.status_code}: the API was not killed in time")


def _post(service: Deployment, clip: Path, key: str, prefer: str = "wait=30") -> httpx.Response:
    """Comes again when it is told to, as a client does."""
    headers = {"Content-Type": "video/mp4", "Idempotency-Key": key, "Prefer": prefer}
    with service.http() as http:
        query = {"name": clip.name, "tag": key}
        while True:
            answer = http.post("/v1/detections", params=query, headers=headers, content=clip.read_bytes())
            if answer.status_code not in BUSY or "retry-after" not in answer.headers:
                return answer
            time.sleep(float(answer.headers["retry-after"]))
