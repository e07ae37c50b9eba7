"""A Docker engine in; the images built, the stack run, hurt and taken down, and a table of what was seen, out.

    python -m tests.containers.run --output benchmarks/results/containers.md        as `make containers` does

Exits with 1 if anything did not hold. Where no engine can be started it says so, and that is no failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.containers import images
from tests.containers.engine import NoEngineError, engine
from tests.containers.stack import ROOT, Stack, eventually
from training.marionette import benchmark
from training.marionette.benchmark import Plan

LEASE_S = 15.0
BUILD = ("build", "api", "worker")


class Table:
    def __init__(self) -> None:
        self._rows: list[str] = []

    def step(self, what: str, do: Callable[[], str]) -> None:
        began_s = time.monotonic()
        found = do()
        self._rows.append(f"| {what} | {found} | {time.monotonic() - began_s:.1f} |")
        print(self._rows[-1], flush=True)

    @property
    def text(self) -> str:
        return "\n".join(["| step | what was seen | seconds |", "|---|---|--:|", *self._rows]) + "\n"


def run(data: Path, video: bytes) -> str:
    table = Table()
    with engine(data) as environment:
        found: dict[str, str] = {}
        table.step("images to start from", lambda: _named(found, images.find(environment)))
        with Stack(environment, found) as stack:
            for what, do in steps(stack, video):
                table.step(what, do)
        left = Stack(environment, found)
        table.step("all taken down", lambda: _nothing_left(left))
    return table.text


def steps(stack: Stack, video: bytes) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("images built", lambda: _built(stack)),
        ("redis, api, a worker and prometheus up", lambda: _up(stack)),
        ("nothing runs as root, or can write to its image", lambda: _confined(stack)),
        ("a video in, segments out", lambda: _answered(stack, video)),
        ("the worker killed amid a job", lambda: _worker_killed(stack, video)),
        ("redis restarted while jobs wait and run", lambda: _redis_restarted(stack, video)),
        ("three workers", lambda: _scaled(stack, video)),
        ("prometheus sees api and workers", lambda: _scraped(stack)),
        ("a worker asked to end amid a job", lambda: _worker_stopped(stack, video)),
    ]


def _named(into: dict[str, str], found: dict[str, str]) -> str:
    into.update(found)
    return ", ".join(found.values())


def _built(stack: Stack) -> str:
    stack.compose(*BUILD)
    sizes = {name: int(stack.docker("image", "inspect", "-f", "{{.Size}}", name)) for name in ("tal-api", "tal-worker")}
    inside = 'import importlib.util as u; print([n for n in ("torch", "onnxruntime") if u.find_spec(n)])'
    libraries = {
        name: stack.docker("run", "--rm", "--entrypoint", "python", name, "-c", inside).strip() for name in sizes
    }
    assert libraries == {"tal-api": "[]", "tal-worker": "['onnxruntime']"}, libraries
    return ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())


def _up(stack: Stack) -> str:
    stack.compose("up", "--detach")
    for service in ("redis", "api", "worker"):
        eventually(partial(stack.healthy, service, 1), 120, f"{service} is healthy")
    eventually(lambda: stack.api.get("/readyz").status_code == 200, 30, "a worker serves the model")
    return "healthy, /readyz 200"


def _confined(stack: Stack) -> str:
    for service in ("api", "worker"):
        (container,) = stack.containers(service)
        about = stack.inspect(container)
        assert about["Config"]["User"] == "tal"
        assert about["HostConfig"]["ReadonlyRootfs"] is True
        assert about["HostConfig"]["CapDrop"] == ["ALL"]
    return "user tal, read-only, no capabilities"


def _answered(stack: Stack, video: bytes) -> str:
    sent = {"Content-Type": "video/mp4", "Prefer": "wait=60"}
    answered = stack.api.post("/v1/detections", content=video, headers=sent)
    assert answered.status_code == 200, answered.text
    segments = answered.json()["segments"]
    assert segments, "no segments"
    return f"200, {len(segments)} segments"


def _worker_killed(stack: Stack, video: bytes) -> str:
    """Several jobs wait, so that whenever the kill comes, it comes amid one."""
    jobs = [stack.submit(_variant(video, f"killed-{number}"))["id"] for number in range(8)]
    eventually(lambda: any(stack.job(job)["state"] == "running" for job in jobs), 60, "a job runs")
    began_s = time.monotonic()
    stack.docker("kill", *stack.containers("worker"))
    (hit,) = [job for job in jobs if stack.job(job)["state"] == "running"]
    stack.compose("up", "--detach", "worker")
    eventually(lambda: stack.job(hit)["attempts"] == 2, LEASE_S + 45, "the job is under way again")
    recovery_s = time.monotonic() - began_s
    _all_succeed(stack, jobs)
    return f"under way again after {recovery_s:.1f} s (its container's start is part of it); all 8 jobs succeeded"


def _redis_restarted(stack: Stack, video: bytes) -> str:
    jobs = [stack.submit(_variant(video, f"redis-{n}"))["id"] for n in range(6)]
    stack.compose("kill", "redis")
    stack.compose("up", "--detach", "redis")
    eventually(lambda: stack.api.get("/readyz").status_code == 200, 60, "the queue answers")
    _all_succeed(stack, jobs)
    return "6 accepted, 6 succeeded"


def _scaled(stack: Stack, video: bytes) -> str:
    stack.compose("up", "--detach", "--scale", "worker=3")
    eventually(lambda: stack.healthy("worker", 3), 120, "three workers are ready")
    jobs = [stack.submit(_variant(video, f"scaled-{n}"))["id"] for n in range(9)]
    _all_succeed(stack, jobs)
    return "healthy, 9 jobs succeeded"


def _scraped(stack: Stack) -> str:
    def seen() -> dict[str, float]:
        up = stack.query('up{job=~"api|worker"} == 1')
        return up if len(up) == 4 else {}

    eventually(seen, 60, "prometheus scrapes one API and three workers")
    done = stack.query('sum(tal_jobs_total{status="succeeded"})')
    accepted = stack.query("sum(tal_jobs_submitted_total)")
    assert sum(done.values()) > 0, done
    assert sum(accepted.values()) > 0, accepted
    return f"4 targets up, {sum(done.values()):.0f} jobs done by the workers that are alive"


def _worker_stopped(stack: Stack, video: bytes) -> str:
    job = _running_job(stack, video, "stopped")
    for container in stack.containers("worker"):
        stack.docker("stop", "--time", "90", container)
    found = stack.job(job)
    stack.compose("up", "--detach", "--scale", "worker=1")
    done = eventually(lambda: _ended(stack, job), 180, "the job is done")
    assert (done["state"], done["attempts"]) == ("succeeded", 1), done
    return f"{found['state']} when its worker had ended, then succeeded; one attempt used"


def _nothing_left(stack: Stack) -> str:
    left = stack.docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=taltest").split()
    volumes = stack.docker("volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project=taltest").split()
    assert not left, left
    assert not volumes, volumes
    return "no container, no volume"


def _running_job(stack: Stack, video: bytes, name: str) -> str:
    job: str = stack.submit(_variant(video, name))["id"]
    eventually(lambda: stack.job(job)["state"] == "running", 60, "the job runs")
    return job


def _all_succeed(stack: Stack, jobs: list[str]) -> None:
    states = [eventually(partial(_ended, stack, job), 180, f"job {job} is done")["state"] for job in jobs]
    assert set(states) == {"succeeded"}, states


def _ended(stack: Stack, job: str) -> dict[str, Any] | None:
    found = stack.job(job)
    return found if found["done"] else None


def _variant(video: bytes, name: str) -> bytes:
    """Another file with the same pictures, so that no kept features answer for it: a box that players pass over."""
    content = name.encode()
    return video + (8 + len(content)).to_bytes(4, "big") + b"free" + content


def render(folder: Path) -> bytes:
    """A video that takes a worker some seconds."""
    benchmark.generate(folder, Plan(train=0, val=0, test=4, seed=3))
    return min((folder / "videos").glob("*.mp4")).read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the table here")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "build" / "containers", help="where an engine of one's own keeps its images"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = render(Path(folder))
    try:
        text = run(given.data, video)
    except NoEngineError as error:
        print(f"skipped: {error}")
        return 0
    except (AssertionError, RuntimeError) as error:
        traceback.print_exception(error)
        print("did not hold", file=sys.stderr)
        return 1
    if given.output:
        given.output.write_text(f"# Containers\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
