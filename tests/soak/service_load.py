"""Does the service refuse in order when too much comes, and does its memory stay flat? Real processes, tiny videos.

    python -m tests.soak.service_load --redis       as `make soak` does: jobs in a file, then in Redis

Prints tables; exits with 1 when a request got no answer or one that is not foreseen, a refusal named no pause, an
accepted job was lost, or a process kept growing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.deployment import Deployment
from tests.service.jobs import redis_server
from tests.soak import rising_load, steady_load
from tests.soak.rising_load import Step
from tests.soak.steady_load import Memory

QUEUED_JOBS = 8
WAIT_S = 2.0
STEP_S = 10.0
REQUESTS = 10_000


@dataclass(frozen=True)
class Load:
    backend: str
    steps: list[Step]
    memory: Memory

    @property
    def violations(self) -> list[str]:
        found = [one for step in self.steps for one in step.violations] + self.memory.violations
        return found if self.steps[-1].refused else [*found, "no rate was refused"]

    def text(self) -> str:
        return f"## Jobs in {self.backend}\n\n{rising_load.table(self.steps)}\n\n{steady_load.table(self.memory)}\n"


@contextlib.contextmanager
def deployed(folder: Path, redis: bool) -> Iterator[Deployment]:
    """One API and one worker, as they are shipped."""
    (folder / "redis").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server.running(folder / "redis")) if redis else None
        limits = {"max_queued_jobs": QUEUED_JOBS, "wait_s": WAIT_S}
        yield stack.enter_context(Deployment(folder, url, **limits)).start(workers=1, faulty=False)


def measure(
    folder: Path, redis: bool, step_s: float, requests: int, rates_per_s: Sequence[float] = rising_load.RATES_PER_S
) -> Load:
    with deployed(folder, redis) as service:
        steps = rising_load.rise(service, step_s, rates_per_s)
        return Load("Redis" if redis else "a file", steps, steady_load.hold(service, requests))


def report(loads: list[Load], requests: int) -> str:
    tables = "\n".join(load.text() for load in loads)
    return f"""# The service under load

`python -m tests.soak.service_load --redis`: one API process and one worker process on {os.cpu_count()} cores that other
programs and the sender share, a tiny model, videos of 24 frames. At most {QUEUED_JOBS} jobs may wait, and a request
waits {WAIT_S:g} s.

Rising load: each rate is kept up whatever the answers, each video is new. 429: the queue is full; 503: too many new
videos wait to be looked at. Every refusal says when to come again.

Memory: {requests} submissions, looks, results, lists and bad requests; medians of resident memory, children included.

{tables}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", action="store_true", help="then once more with jobs in Redis")
    parser.add_argument("--step-s", type=float, default=STEP_S, help="how long each rate lasts")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--output", type=Path, help="write the tables to this file, too")
    chosen = parser.parse_args()
    loads = []
    for redis in (False, True)[: 1 + chosen.redis]:
        with tempfile.TemporaryDirectory() as folder:
            loads.append(measure(Path(folder), redis, chosen.step_s, chosen.requests))
    text = report(loads, chosen.requests)
    print(text, *(one for load in loads for one in load.violations), sep="\n")
    if chosen.output:
        chosen.output.write_text(text)
    return 1 if any(load.violations for load in loads) else 0


if __name__ == "__main__":
    sys.exit(main())
