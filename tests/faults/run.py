"""A scale in; every fault tried on real processes, and a table of what became of the promises, out.

    python -m tests.faults.run --scale full --output benchmarks/results/faults.md        as `make faults` does

Exits with 1 if any promise broke.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.faults.api_deaths import api_killed_in_upload, api_killed_in_wait, same_key_at_once, whole_service_killed
from tests.faults.batches import deaths_amid_a_batch
from tests.faults.cancels import random_cancels
from tests.faults.deployment import Deployment
from tests.faults.finding import FULL, TENTH, Finding, Scale, table
from tests.faults.full_disk import disk_full
from tests.faults.killing import random_kills
from tests.faults.outages import redis_killed, redis_paused
from tests.faults.promises import clean_end
from tests.faults.restarts import rolling_restart
from tests.faults.streams import cut_streams
from tests.faults.worker_ends import (
    held_interpreter,
    hung_decoder,
    poison,
    sigterm_amid_a_job,
    stopped_supervisor,
)
from tests.service.jobs.redis_server import RedisServer

Alone = Callable[[Path, "str | None", Scale], Finding]
Shared = Callable[[Deployment, Scale], Finding]

# Those that want a service of their own, and those that one service can go through in turn.
ALONE: tuple[Alone, ...] = (random_kills, rolling_restart, disk_full)
SHARED: tuple[Shared, ...] = (
    *(api_killed_in_upload, api_killed_in_wait, same_key_at_once, sigterm_amid_a_job, poison, hung_decoder),
    *(held_interpreter, stopped_supervisor, random_cancels, cut_streams, deaths_amid_a_batch, whole_service_killed),
)
OUTAGES = (redis_killed, redis_paused)
DRAIN_S = 0.5


@contextmanager
def shared_service(folder: Path, redis_url: str | None, scale: Scale) -> Iterator[Deployment]:
    settings = {"drain_s": DRAIN_S, "max_attempts": scale.max_attempts}
    with Deployment(folder, redis_url, **settings) as service:
        yield service.start()


def try_all(folder: Path, scale: Scale) -> Iterator[Finding]:
    for backend in ("sqlite", "redis"):
        for fault in ALONE:
            with _backend(folder / f"{fault.__name__}-{backend}", backend) as (place, url):
                yield tried(fault.__name__, backend, partial(fault, place, url, scale))
        with (
            _backend(folder / f"shared-{backend}", backend) as (place, url),
            shared_service(place, url, scale) as service,
        ):
            for shared in SHARED:
                yield tried(shared.__name__, backend, partial(shared, service, scale))
            after = Finding("what all of these left behind", backend)
            clean_end(after, service)
            yield after
    for outage in OUTAGES:
        yield tried(outage.__name__, "redis", partial(outage, folder / outage.__name__, scale))


def tried(name: str, backend: str, trial: Callable[[], Finding]) -> Finding:
    """A trial that cannot be made to its end is a promise broken, and the next one is made all the same."""
    try:
        return trial()
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Finding(name, backend, broken=[f"the trial broke off: {error!r}"[:300]])


@contextmanager
def _backend(folder: Path, backend: str) -> Iterator[tuple[Path, str | None]]:
    place, data = folder / "service", folder / "redis"
    place.mkdir(parents=True)
    if backend == "sqlite":
        yield place, None
        return
    data.mkdir()
    with RedisServer(data) as server:
        yield place, server.url


def report(findings: Sequence[Finding], scale: str, seconds: float) -> str:
    """Written after every trial, so that one which is stopped leaves what it knows."""
    told = f"Written by `make faults` (scale: {scale}, {seconds / 60:.0f} minutes on {os.cpu_count()} cores)"
    return f"# Faults\n\n{told}; docs/faults.md says what each line tries.\n\n{table(findings)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=("full", "tenth"), default="full")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends all processes of the trial, too
    findings, began_s = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tal-faults-") as folder:
        for found in try_all(Path(folder), FULL if arguments.scale == "full" else TENTH):
            findings.append(found)
            print(f"{found.fault} ({found.backend}): {found.verdict}", file=sys.stderr, flush=True)
            if arguments.output:
                arguments.output.write_text(report(findings, arguments.scale, time.monotonic() - began_s), "utf-8")
    print(table(findings))
    return 1 if any(found.broken for found in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
