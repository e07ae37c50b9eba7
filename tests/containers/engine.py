"""A folder in; a Docker engine that answers, one's own or one that is started for the while of the block, out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0


class NoEngineError(Exception):
    """No engine answers, and none can be started; says why."""


@contextmanager
def engine(data: Path) -> Iterator[Mapping[str, str]]:
    """Yields the environment under which `docker` and `docker-compose` find the engine. Its images stay in `data`."""
    if shutil.which("docker") is None:
        raise NoEngineError("there is no docker program (make container-packages)")
    if _answers(os.environ):
        yield dict(os.environ)
        return
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers, and only root can start one")
    if shutil.which("dockerd") is None:
        raise NoEngineError("no Docker engine answers, and there is no dockerd program (make container-packages)")
    # The socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="tal-docker-") as place, _started(Path(place), data) as environment:
        yield environment


@contextmanager
def _started(place: Path, data: Path) -> Iterator[Mapping[str, str]]:
    data.mkdir(parents=True, exist_ok=True)
    address = f"unix://{place}/d.sock"
    command = ["dockerd", "--data-root", str(data), "--exec-root", str(place / "exec"), "--host", address]
    with (
        (data / "dockerd.log").open("wb") as log,
        subprocess.Popen([*command, "--pidfile", str(place / "d.pid")], stdout=log, stderr=log) as daemon,
    ):
        try:
            environment = {**os.environ, "DOCKER_HOST": address}
            ends_at_s = time.monotonic() + START_S
            while not _answers(environment):
                if daemon.poll() is not None or time.monotonic() > ends_at_s:
                    said = (data / "dockerd.log").read_text(errors="replace").strip().splitlines()[-3:]
                    raise NoEngineError(f"dockerd does not start: {' | '.join(said)}")
                time.sleep(0.2)
            yield environment
        finally:
            daemon.terminate()
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _answers(environment: Mapping[str, str]) -> bool:
    asked = subprocess.run(["docker", "version"], env=dict(environment), capture_output=True, timeout=30, check=False)
    return asked.returncode == 0
