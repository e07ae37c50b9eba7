"""A running service and a number of requests of every sort in; the memory of its processes over them out."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import psutil

from service.settings import MIB
from tests.faults.deployment import Deployment

AT_ONCE = 8
SAMPLES = 200
GROWTH, SLACK_BYTES = 1.10, 4 * MIB
KNOWN = {200, 202, 304, 400, 404, 406, 409, 415, 422, 429}
Sent = Callable[["Caller"], Awaitable[httpx.Response]]


@dataclass
class Memory:
    """Resident bytes of each place, sampled at even steps of the requests."""

    samples: dict[str, list[int]] = field(default_factory=dict)
    answers: Counter[int | str] = field(default_factory=Counter)
    lost: int = 0

    def quarter_bytes(self, place: str, number: int) -> float:
        taken = self.samples[place]
        return statistics.median(taken[number * len(taken) // 4 : (number + 1) * len(taken) // 4])

    @property
    def violations(self) -> list[str]:
        found = [f"{self.lost} accepted jobs did not succeed"] if self.lost else []
        if unknown := {status: count for status, count in self.answers.items() if status not in KNOWN}:
            found.append(f"unforeseen answers: {unknown}")
        for place in self.samples:
            second, last = self.quarter_bytes(place, 1), self.quarter_bytes(place, 3)
            if last > GROWTH * second + SLACK_BYTES:
                found.append(f"{place} grew from {second / MIB:.1f} to {last / MIB:.1f} MiB")
        return found


class Caller:
    """Sends one request after the other; each sort knows what the ones before left."""

    def __init__(self, http: httpx.AsyncClient, video: str, chance: random.Random) -> None:
        self.http, self.video, self.chance = http, video, chance
        self.jobs: list[str] = []

    def some_job(self) -> str:
        return self.chance.choice(self.jobs[-200:])

    async def submit(self) -> httpx.Response:
        asked = {"video": {"id": self.video}, "options": {"top_k": self.chance.randint(1, 50)}}
        answer = await self.http.post("/v1/detections", json=asked, headers={"Prefer": "respond-async"})
        if answer.status_code in {200, 202}:
            self.jobs.append(answer.json()["id"])
        return answer

    async def submit_and_wait(self) -> httpx.Response:
        asked = {"video": {"id": self.video}, "priority": "high"}
        answer = await self.http.post("/v1/detections", json=asked, headers={"Prefer": "wait=1"})
        if answer.status_code in {200, 202}:
            self.jobs.append(answer.json()["id"])
        return answer

    async def look(self) -> httpx.Response:
        return await self.http.get(f"/v1/jobs/{self.some_job()}")

    async def look_again(self) -> httpx.Response:
        first = await self.look()
        return await self.http.get(first.request.url, headers={"If-None-Match": first.headers["etag"]})

    async def result(self) -> httpx.Response:
        form = self.chance.choice(["json", "csv", "vtt", "activitynet"])
        return await self.http.get(f"/v1/jobs/{self.some_job()}/result", params={"format": form})

    async def page(self) -> httpx.Response:
        return await self.http.get("/v1/jobs", params={"limit": self.chance.randint(1, 50)})

    async def nonsense(self) -> httpx.Response:
        bad = [b"{", b"[]", b'{"video": {"id": "x"}}', b'{"video": {}}', self.chance.randbytes(1000)]
        return await self.http.post(
            "/v1/detections",
            content=self.chance.choice(bad),
            headers={"Content-Type": self.chance.choice(["application/json", "text/plain"])},
        )

    async def stranger(self) -> httpx.Response:
        return await self.http.get(f"/v1/jobs/{self.chance.randbytes(16).hex()}")


MIX: dict[Sent, int] = {
    Caller.submit: 10,
    Caller.submit_and_wait: 3,
    Caller.look: 30,
    Caller.look_again: 15,
    Caller.result: 20,
    Caller.page: 8,
    Caller.nonsense: 8,
    Caller.stranger: 6,
}


def hold(service: Deployment, requests: int, seed: int = 0) -> Memory:
    memory = Memory({place: [] for place in service.members})
    jobs = asyncio.run(_hold(service, requests, memory, random.Random(seed)))
    memory.lost = sum(job.state != "succeeded" for job in service.await_end(jobs))
    return memory


async def _hold(service: Deployment, requests: int, memory: Memory, chance: random.Random) -> list[str]:
    clip = service.clips.fresh().read_bytes()
    async with httpx.AsyncClient(base_url=service.url(), timeout=60.0) as http:
        first = await http.post("/v1/detections", content=clip, headers={"Content-Type": "video/mp4"})
        caller = Caller(http, first.json()["video"]["id"], chance)
        caller.jobs.append(first.json()["id"])
        numbers = iter(range(requests))

        async def send() -> None:
            for number in numbers:
                sort = chance.choices(list(MIX), list(MIX.values()))[0]
                try:
                    memory.answers[(await sort(caller)).status_code] += 1
                except httpx.HTTPError as error:
                    memory.answers[f"no answer: {type(error).__name__}"] += 1
                if number % max(1, requests // SAMPLES) == 0:
                    for place, member in service.members.items():
                        memory.samples[place].append(resident_bytes(member.pid))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(send())
    return caller.jobs


def resident_bytes(pid: int) -> int:
    """Of a process and those of its children that stay, such as the one that runs models; decoders come and go."""
    process = psutil.Process(pid)
    return sum(_rss(one) for one in [process, *process.children()])


def _rss(process: psutil.Process) -> int:
    try:
        return 0 if "decode_child" in " ".join(process.cmdline()) else int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def table(memory: Memory) -> str:
    lines = ["| process | first quarter | second | third | last |", "|---|---:|---:|---:|---:|"]
    for place in memory.samples:
        quarters = " | ".join(f"{memory.quarter_bytes(place, number) / MIB:.1f} MiB" for number in range(4))
        lines.append(f"| {place} | {quarters} |")
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(memory.answers.items(), key=str))
    return "\n".join([*lines, "", f"Answers: {answers}. Accepted jobs that did not succeed: {memory.lost}."])
