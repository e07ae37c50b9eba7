"""A running service and rates of submission in; how each was answered, and how fast, out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.faults.deployment import Deployment

TIMEOUT_S = 60.0
RATES_PER_S = (1, 2, 4, 8, 16, 32, 64)
REFUSALS = {429, 503}
CONNECTION = "no answer"


@dataclass
class Step:
    """What one rate came to; `lost` are accepted jobs that did not succeed."""

    rate_per_s: float
    answers: Counter[int | str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    unadvised: int = 0
    lost: int = 0

    @property
    def sent(self) -> int:
        return self.answers.total()

    @property
    def refused(self) -> int:
        return sum(self.answers[status] for status in REFUSALS)

    @property
    def other(self) -> int:
        return self.sent - self.refused - self.answers[200] - self.answers[202]

    @property
    def violations(self) -> list[str]:
        told = [(self.other, f"unforeseen answers: {dict(self.answers)}"), (self.unadvised, "refusals without a pause")]
        told += [(self.lost, "accepted jobs did not succeed")]
        return [f"{self.rate_per_s:g}/s: {count} {what}" for count, what in told if count]

    def percentile_s(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent))


def rise(service: Deployment, step_s: float, rates_per_s: Sequence[float]) -> list[Step]:
    """Goes on until nearly all that is sent is refused; each rate begins with an empty queue."""
    steps: list[Step] = []
    for rate_per_s in rates_per_s:
        clips = [service.clips.fresh().read_bytes() for _ in range(round(rate_per_s * step_s))]
        step = asyncio.run(_send(service.url(), rate_per_s, clips))
        step.lost = sum(job.state != "succeeded" for job in service.await_end(step.jobs))
        steps.append(step)
        if step.refused > 0.9 * step.sent:
            break
    return steps


async def _send(url: str, rate_per_s: float, clips: Sequence[bytes]) -> Step:
    """At the moments that the rate says, however long the answers take."""
    step, began_s = Step(rate_per_s), time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as http, asyncio.TaskGroup() as group:
        for number, clip in enumerate(clips):
            await asyncio.sleep(max(0.0, began_s + number / rate_per_s - time.monotonic()))
            group.create_task(_submit(http, clip, step))
    return step


async def _submit(http: httpx.AsyncClient, clip: bytes, step: Step) -> None:
    began_s = time.monotonic()
    try:
        answer = await http.post("/v1/detections", content=clip, headers={"Content-Type": "video/mp4"})
    except httpx.HTTPError as error:
        step.answers[f"{CONNECTION}: {type(error).__name__}"] += 1
        return
    step.seconds.append(time.monotonic() - began_s)
    step.answers[answer.status_code] += 1
    if answer.status_code in {200, 202}:
        step.jobs.append(answer.json()["id"])
    elif answer.status_code in REFUSALS and not answer.headers.get("retry-after", "").isdigit():
        step.unadvised += 1


def table(steps: Sequence[Step]) -> str:
    lines = [
        "| sent per s | sent | 200 | 202 | 429 | 503 | other | p50 | p99 | accepted and lost |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for step in steps:
        counts = " | ".join(str(step.answers[status]) for status in (200, 202, 429, 503))
        times = f"{step.percentile_s(50):.2f} s | {step.percentile_s(99):.2f} s"
        lines.append(f"| {step.rate_per_s:g} | {step.sent} | {counts} | {step.other} | {times} | {step.lost} |")
    return "\n".join(lines)
