"""The README's section about the service runs: an answer over HTTP, and a job that outlives a worker on Redis."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.jobs.redis_server import running
from training.marionette import benchmark
from training.marionette.benchmark import Plan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")]

ROOT = Path(__file__).parents[1]
TAL = f"{shlex.quote(sys.executable)} -c 'from service.cli import main; main()'"


def blocks() -> list[list[str]]:
    """Commands of the section, without their prompts and comments."""
    found = re.findall(r"```shell\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [[line for line in block.splitlines() if line.startswith("$ ")] for block in found]
    return [[line.removeprefix("$ ").split("  #")[0].strip() for line in block] for block in lines]


class Shell:
    """What a person's shell does: variables, jobs in the background, `kill -9 %2`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replaced: dict[str, str] = {}
        self.environment = {**os.environ, "TAL_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> str:
        for text, instead in self.replaced.items():
            command = command.replace(text, instead)
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
        elif command.endswith("&"):
            line = "exec " + re.sub("^tal ", f"{TAL} ", command.removesuffix("&").strip())
            with (self.folder / f"{len(self.background)}.log").open("wb") as log:
                self.background.append(
                    subprocess.Popen(line, shell=True, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
                )
        elif job := re.fullmatch(r"kill -9 %(\d)", command):
            self.background[int(job[1]) - 1].kill()
            self.background[int(job[1]) - 1].wait()
        else:
            line = re.sub("^curl ", "curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors ", command)
            return self._finish(re.sub("^tal ", f"{TAL} ", line))
        return ""

    def log(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    def _finish(self, line: str) -> str:
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    opened = Shell(folder)
    try:
        yield opened
    finally:
        for process in opened.background:
            process.terminate()
        for process in opened.background:
            process.wait(120)  # its drain, and what a worker may take beyond


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    benchmark.generate(folder, Plan(train=0, val=0, test=1, seed=3))
    return next((folder / "videos").iterdir())


def test_a_video_that_is_posted_comes_back_as_segments(tmp_path: Path, clip: Path) -> None:
    port = free_port()
    shutil.copy(clip, tmp_path / "clip.mp4")
    with shell(tmp_path) as person:
        serve, post = blocks()[0]
        person.run(serve.replace("tal serve", f"tal serve --port {port}"))
        answer = json.loads(person.run(post.replace("8000", port)))
    assert set(answer) >= {"id", "video", "model", "segments", "timings", "warnings"}
    assert answer["model"]["name"] == "marionette"
    assert all(0 <= segment["start_s"] < segment["end_s"] for segment in answer["segments"])


@pytest.mark.needs_redis
def test_a_job_goes_on_when_its_worker_is_killed(tmp_path: Path, clip: Path) -> None:
    port = free_port()
    shutil.copy(clip, tmp_path / "long.mp4")
    (tmp_path / "redis").mkdir()
    with running(tmp_path / "redis") as url, shell(tmp_path) as person:
        person.replaced = {"redis://127.0.0.1:6379/0": url, "8000": port, "tal serve": f"tal serve --port {port}"}
        person.environment["TAL_LEASE_S"] = "2"
        export, serve, one, two, post, kill, watch = blocks()[1]
        for command in (export, serve, one):
            person.run(command)
        wait_for(lambda: "ready" in person.log(1))
        job = json.loads(person.run(post))
        wait_for(lambda: "taken" in person.log(1))
        person.run(kill)  # the only worker so far, so that it is surely the one with the job
        person.run(two)
        person.replaced["ID"] = job["id"]
        assert "succeeded" in person.run(watch)
        assert job["id"] in person.log(2)


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
