"""An address in; the API with its janitor and, if wanted, a worker process, until a signal ends them; a status out."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from service import configured, settings
from service.api import exposure, request_log, webhooks
from service.api.app import create_app
from service.api.server import Address, build
from service.jobs.janitor import Janitor
from service.runtime.session import Device

log = logging.getLogger(__name__)
JANITOR_EVERY_S = 1.0
# Beyond its drain, for a worker to hand over how its job ended.
WORKER_END_S = 60.0
WEBHOOKS_EVERY_S = 1.0
# However the API ends, the worker's standard input ends with it, and that is its order to stop.
WORKER = """
import os, signal, threading
def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGUSR1)
threading.Thread(target=end_with_parent, daemon=True).start()
from service.cli import main
main()
"""


def run(address: Address, *, worker: bool, device: Device | None, everybody: bool = False) -> int:
    """`everybody` may do everything, as with TAL_OPEN."""
    config = settings.read()
    if everybody:
        config = config.model_copy(update={"open": True})
    request_log.set_up()
    held = configured.open_backends(config)
    try:
        exposure.check(address.host, config, held.records)
    except BaseException:
        held.close()
        raise
    stop = threading.Event()
    janitor = Janitor(held.queue, held.store, held.records, configured.retention(config))
    threads = [threading.Thread(target=janitor.run_forever, args=(stop, JANITOR_EVERY_S), name="janitor")]
    if worker:
        command = [sys.executable, "-c", WORKER, "worker", *(["--device", device] if device else [])]
        keeper = WorkerKeeper(command, stop, config.drain_s)
        threads.append(threading.Thread(target=keeper.run, name="worker-keeper"))
    app = create_app(config, held, root_path=address.root_path)
    if config.webhook_secrets:
        count = app.state.api.metrics.count_webhook
        deliverer = configured.deliverer(config, held, webhooks.event_data, count)
        threads.append(threading.Thread(target=deliverer.run_forever, args=(stop, WEBHOOKS_EVERY_S), name="webhooks"))
    server = build(app, config, address)
    for sign in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has handlers of its own while it runs, and raises the signal again afterwards.
        signal.signal(sign, lambda *_: setattr(server, "should_exit", True))
    try:
        for thread in threads:
            thread.start()
        server.run()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        held.close()
    return 0 if server.started else 1


@dataclass(frozen=True)
class Pauses:
    """Before a worker starts again: each is twice the one before, until one has lived for `healthy_s`."""

    first_s: float = 1.0
    longest_s: float = 30.0
    healthy_s: float = 60.0


class WorkerKeeper:
    """Starts a worker again whenever it ends, after a pause that grows, and ends it with the API."""

    def __init__(self, command: list[str], stop: threading.Event, drain_s: float, pauses: Pauses | None = None) -> None:
        self._command, self._stop, self._drain_s = command, stop, drain_s
        self._pauses = pauses or Pauses()

    def run(self) -> None:
        pause_s = self._pauses.first_s
        while not self._stop.is_set():
            began_s = time.monotonic()
            how = self._one_life()
            if self._stop.is_set():
                return
            if time.monotonic() - began_s >= self._pauses.healthy_s:
                pause_s = self._pauses.first_s
            log.error("the worker %s; another one starts in %g s", how, pause_s)
            self._stop.wait(pause_s)
            pause_s = min(self._pauses.longest_s, pause_s * 2)

    def _one_life(self) -> str:
        """Of one worker, until it ends or has to; tells how that was."""
        try:
            # In a session of its own: an interrupt from the terminal would reach it besides our order.
            worker = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            return f"cannot be started ({error})"
        with worker:
            while worker.poll() is None and not self._stop.wait(0.2):
                pass
            if self._stop.is_set():
                self._end(worker)
        return f"ended with status {worker.returncode}"

    def _end(self, worker: subprocess.Popen[bytes]) -> None:
        if worker.stdin is not None:
            worker.stdin.close()
        try:
            worker.wait(self._drain_s + WORKER_END_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
