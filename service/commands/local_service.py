"""Settings of its own in; a service on this machine, API and worker, for as long as a command needs it, out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service import settings as config
from service.client import Client
from service.errors import ServerUnreachable

START_S, POLL_S, END_S = 300.0, 0.2, 30.0
# What would lead it to the queue, the files and the keys of another service.
SHARED = {"TAL_REDIS_URL", "TAL_SERVER", "TAL_STORE", "TAL_STORE_CACHE", "TAL_OPEN"}
OWN_HOME = "offline"
LISTENING = "listening on "
# A job that is cut off is handed back, and the next run goes on with it.
DRAIN_S = 2


@contextmanager
def local_service(settings: Mapping[str, str], device: str | None = None) -> Iterator[str]:
    """Its URL, once it would do a job. It ends with the block, and, however this process ends, with it."""
    from service.api.serving import WORKER  # noqa: PLC0415  (loads what no other command needs)

    command = [sys.executable, "-c", WORKER, "serve", "--port", "0"]
    command += ["--device", device] if device else []
    kept = {name: value for name, value in os.environ.items() if name not in SHARED}
    environment = {**kept, "TAL_HOME": str(_own_home()), "TAL_DRAIN_S": str(DRAIN_S), **settings}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # an interrupt from the terminal is ours to pass on
    ) as child:
        log = Log(child)
        try:
            yield _ready(child, log)
        finally:
            _end(child)
            log.join()


class Log(threading.Thread):
    """Reads what the service says, so that it never waits for a reader; the last lines are kept."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        super().__init__(name="log-of-the-service")
        self._child = child
        self.url: str | None = None
        self.last: deque[str] = deque(maxlen=20)
        self.start()

    def run(self) -> None:
        assert self._child.stderr is not None  # noqa: S101  # a pipe, as asked for
        for line in self._child.stderr:
            self.last.append(line.rstrip())
            if line.startswith(LISTENING):
                self.url = line.removeprefix(LISTENING).strip()


def _own_home() -> Path:
    """Queue and store are its own: another service's videos and keys are none of its business. Models are shared."""
    home = config.read().home.absolute()
    own = home / OWN_HOME
    own.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (own / "models").symlink_to(home / "models")
    return own


def _ready(child: subprocess.Popen[str], log: Log) -> str:
    ends_at_s = time.monotonic() + START_S
    while time.monotonic() < ends_at_s:
        if child.poll() is not None:
            log.join()
            raise ServerUnreachable(f"the service ended with status {child.returncode}: {' | '.join(log.last)[-1000:]}")
        if log.url is not None:
            with Client(log.url) as client:
                if client.ready():
                    return log.url
        time.sleep(POLL_S)
    raise ServerUnreachable(f"the service was not ready within {START_S:.0f} s: {' | '.join(log.last)[-1000:]}")


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
