"""docker-compose.yml and the environment of an engine in; the running stack, and what it does when it is asked, out."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Stack:
    """Everything of it, volumes too, is gone after the block."""

    def __init__(self, environment: Mapping[str, str], images: Mapping[str, str]) -> None:
        ports = {"TAL_PORT": str(_free_port()), "PROMETHEUS_PORT": str(_free_port())}
        self._environment = {**environment, **images, **ports}
        self._compose = _compose_command(self._environment)
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{ports['TAL_PORT']}", timeout=60)
        self._prometheus = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.compose("logs", "--tail", "40", check=False))
        self.api.close()
        self.compose("down", "--volumes", "--timeout", "5", check=False)

    def compose(self, *arguments: str, check: bool = True) -> str:
        command = [*self._compose, "--project-name", "taltest", "--file", "docker-compose.yml", *arguments]
        return self._run(command, check=check)

    def docker(self, *arguments: str) -> str:
        return self._run(["docker", *arguments], check=True)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return found

    def healthy(self, service: str, count: int) -> bool:
        states = [self.inspect(one)["State"] for one in self.containers(service)]
        return sum(state.get("Health", {}).get("Status") == "healthy" for state in states) == count

    def submit(self, video: bytes, **headers: str) -> dict[str, Any]:
        sent = {"Content-Type": "video/mp4", "Prefer": "respond-async", **headers}
        answered = self.api.post("/v1/detections", content=video, headers=sent)
        answered.raise_for_status()
        document: dict[str, Any] = answered.json()
        return document

    def job(self, job_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").json()
        return document

    def query(self, text: str) -> dict[str, float]:
        """A query of Prometheus: its values by instance."""
        answered = httpx.get(f"{self._prometheus}/api/v1/query", params={"query": text}, timeout=10)
        found = answered.json()["data"]["result"]
        return {one["metric"].get("instance", ""): float(one["value"][1]) for one in found}

    def _run(self, command: list[str], *, check: bool) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout


def eventually(condition: Callable[[], T], within_s: float, what: str) -> T:
    ends_at_s = time.monotonic() + within_s
    while True:
        try:
            if found := condition():
                return found
        except (httpx.HTTPError, KeyError, RuntimeError):
            pass  # not there yet
        if time.monotonic() > ends_at_s:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.3)


def _compose_command(environment: Mapping[str, str]) -> list[str]:
    asked = subprocess.run(["docker", "compose", "version"], env=dict(environment), capture_output=True, check=False)
    if asked.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise RuntimeError("neither `docker compose` nor docker-compose is there (make container-packages)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
